//! A server that keeps its state in etcd.

use anyhow::{Result, ensure};
use e2e::{Server, manifest, server::Etcd, stage::PATIENCE};

/// Kind, name and uid of everything that a Deployment makes.
const ALL: [&str; 3] = [
    "get",
    "deployments,replicasets,pods",
    "-o=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.spec.replicas}{\"\\n\"}{end}",
];

#[test]
fn a_deployment_is_kept_in_etcd_and_outlives_crashes_of_both() -> Result<()> {
    let mut etcd = Etcd::start()?;
    let mut server = Server::start(&["--etcd-servers", &etcd.url()])?;
    server.kubectl(&["create", "deployment", "web", "--image=orlop.dev/testapp:1", "--replicas=1"])?;
    let changes = server.follow(&[
        "get",
        "deployments",
        "--watch",
        "-o=jsonpath={.metadata.name} wants {.spec.replicas}{\"\\n\"}",
    ])?;
    changes.line_with("web wants 1", PATIENCE)?;
    server.kubectl_with_input(&["apply", "-f", "-"], &manifest::web("other", 2, "one"))?;
    changes.line_with("other wants 2", PATIENCE)?;
    server.kubectl_with_input(&["apply", "-f", "-"], &manifest::web("other", 3, "one"))?;
    changes.line_with("other wants 3", PATIENCE)?;
    server.until("the ReplicaSets and pods are made", |s| Ok(s.kubectl(&ALL)?.lines().count() == 2 + 2 + 4))?;
    let keys = etcd.keys()?;
    for key in ["deployments/default/web", "deployments/default/other", "replicasets/default/other-"] {
        ensure!(keys.contains(key), "{key} is not in etcd:\n{keys}");
    }
    let before = server.kubectl(&ALL)?;

    server.kill()?;
    server.resume()?;
    let after = server.kubectl(&ALL)?;
    ensure!(before == after, "{before}\nbecame by a crash of the server\n{after}");

    etcd.kill()?;
    etcd.resume()?;
    server.until("the server works with etcd again", |s| {
        Ok(s.kubectl(&["create", "configmap", "again", "--request-timeout=5s"]).is_ok())
    })?;
    let after = server.kubectl(&ALL)?;
    ensure!(before == after, "{before}\nbecame by a crash of etcd\n{after}");

    server.kubectl(&["delete", "deployments", "--all"])?;
    server.until("what the Deployments made is gone", |s| Ok(s.kubectl(&ALL)?.is_empty()))
}
