//! The main job: `orlop apply -f service.yaml` runs a service on three nodes.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context, Result, ensure};
use e2e::{
    Stage, manifest,
    stage::{PATIENCE, house},
    story::{Setting, Story, tell},
};

const STORIES: &[Story] = &[
    ("the_guestbook_is_applied_and_answers_on_every_node", the_guestbook_answers),
    ("a_new_version_rolls_out_and_is_undone", a_new_version_rolls_out_and_is_undone),
    ("a_service_is_scaled_and_described", a_service_is_scaled_and_described),
    ("configuration_reaches_the_container", configuration_reaches_the_container),
    ("logs_are_followed_and_commands_run", logs_are_followed_and_commands_run),
    ("objects_are_deleted_with_what_they_own", objects_are_deleted_with_what_they_own),
];

fn main() -> ExitCode {
    tell(Setting { nodes: 3, server_args: &[] }, STORIES)
}

fn the_guestbook_answers(stage: &mut Stage) -> Result<()> {
    // its names are of the default namespace
    stage.namespace = "default".into();
    let file = house().join("manifests/guestbook.yaml");
    let file = file.to_str().context("a path that is text")?;
    let said = stage.orlop(&["apply", "-f", file])?;
    ensure!(said.contains("deployment.apps/web created"), "{said}");
    for name in ["deployment/web", "deployment/backend"] {
        let said = stage.orlop(&["rollout", "status", name])?;
        ensure!(said.contains("successfully rolled out"), "{said}");
    }
    let nodes: Vec<_> = stage.cluster.nodes().iter().map(|n| n.address).collect();
    for (index, address) in nodes.iter().enumerate() {
        let to = SocketAddr::from((*address, 30080));
        stage.until("the node port answers with the backend's words", PATIENCE, |s| {
            Ok(s.get_on_node(index, to, "/backend").is_ok_and(|body| body.contains("backend-1")))
        })?;
    }
    let pods = stage.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"])?;
    let spread: std::collections::BTreeSet<_> = pods.split_whitespace().collect();
    ensure!(spread.len() == 3, "three replicas should be on three nodes, not on {pods}");
    let again = stage.orlop(&["apply", "-f", file])?;
    ensure!(again.lines().all(|l| l.ends_with(" unchanged")), "applying the same again changed something:\n{again}");
    stage.orlop(&["delete", "-f", file])?;
    ensure!(stage.try_orlop(&["get", "deployment", "web"], "").err.contains("NotFound"), "web is still there");
    Ok(())
}

fn a_new_version_rolls_out_and_is_undone(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::web("web", 3, "one"))?;
    stage.orlop(&["rollout", "status", "deploy/web"])?;
    stage.apply(&manifest::web("web", 3, "two"))?;
    stage.orlop(&["rollout", "status", "deploy/web"])?;
    let versions = "{.items[*].spec.containers[0].env[0].value}";
    stage.until("only the new version runs", PATIENCE, |s| {
        Ok(s.field("pods", versions)?.split(' ').all(|v| v == "two"))
    })?;
    let history = stage.orlop(&["rollout", "history", "deploy/web"])?;
    ensure!(history.lines().count() == 4, "two revisions expected:\n{history}");
    let said = stage.orlop(&["rollout", "undo", "deploy/web"])?;
    ensure!(said.contains("deployment.apps/web rolled back"), "{said}");
    stage.orlop(&["rollout", "status", "deploy/web"])?;
    stage.until("the first version is back", PATIENCE, |s| {
        Ok(s.field("pods", versions)?.split(' ').all(|v| v == "one"))
    })?;
    let before = stage.field("pods", "{.items[*].metadata.name}")?;
    stage.orlop(&["rollout", "restart", "deploy/web"])?;
    stage.orlop(&["rollout", "status", "deploy/web"])?;
    stage.until("all pods are new", PATIENCE, |s| {
        Ok(!s.field("pods", "{.items[*].metadata.name}")?.split(' ').any(|p| before.contains(p)))
    })
}

fn a_service_is_scaled_and_described(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::web("web", 1, "one"))?;
    stage.apply(&manifest::service("web"))?;
    let said = stage.orlop(&["scale", "deploy/web", "--replicas=4"])?;
    ensure!(said.contains("deployment.apps/web scaled"), "{said}");
    stage.orlop(&["rollout", "status", "deploy/web"])?;
    stage.until("all four are endpoints", PATIENCE, |s| {
        let ready = s.field("endpointslices", "{.items[*].endpoints[*].conditions.ready}")?;
        Ok(ready.split(' ').filter(|r| *r == "true").count() == 4)
    })?;
    let wide = stage.orlop(&["get", "pods", "-o", "wide"])?;
    ensure!(wide.starts_with("NAME") && wide.contains("NOMINATED NODE") && wide.contains("Running"), "{wide}");
    let names = stage.orlop(&["get", "deploy,svc", "-o", "name"])?;
    ensure!(names == "deployment.apps/web\nservice/web\n", "{names}");
    let text = stage.orlop(&["describe", "deploy/web"])?;
    ensure!(text.contains("ScalingReplicaSet") && text.contains("Available"), "{text}");
    let said = stage.orlop(&["wait", "deploy/web", "--for", "condition=Available"])?;
    ensure!(said.contains("deployment.apps/web condition met"), "{said}");
    Ok(())
}

fn configuration_reaches_the_container(stage: &mut Stage) -> Result<()> {
    stage.kubectl(&["create", "configmap", "settings", "--from-literal=colour=green"])?;
    stage.kubectl(&["create", "secret", "generic", "vault", "--from-literal=password=hunter2"])?;
    let more = r"
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: vault, key: password}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: BOTH, value: $(COLOUR)-$(PASSWORD)}
    volumeMounts:
    - {name: settings, mountPath: /etc/settings}
    - {name: vault, mountPath: /etc/vault}
    - {name: scratch, mountPath: /scratch}
  initContainers:
  - name: prepare
    image: orlop.dev/testapp:1
    args: [write, /scratch/prepared]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: vault, secret: {secretName: vault}}
  - {name: scratch, emptyDir: {}}
";
    stage.apply(&manifest::pod("reader", &["serve"], more))?;
    stage.kubectl(&["wait", "pod/reader", "--for=condition=Ready", "--timeout=60s"])?;
    let env = stage.orlop(&["exec", "reader", "--", "/testapp", "env"])?;
    for line in ["COLOUR=green", "PASSWORD=hunter2", "BOTH=green-hunter2", "NODE=node-"] {
        ensure!(env.contains(line), "{line} is not in\n{env}");
    }
    for (file, content) in [("/etc/settings/colour", "green"), ("/etc/vault/password", "hunter2")] {
        let said = stage.orlop(&["exec", "reader", "--", "/testapp", "cat", file])?;
        ensure!(said.trim() == content, "{file} holds {said:?}");
    }
    stage.orlop(&["exec", "reader", "--", "/testapp", "cat", "/scratch/prepared"])?;
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let token = stage.orlop(&["exec", "reader", "--", "/testapp", "cat", token])?;
    ensure!(token.split('.').count() == 3, "not a token: {token}");
    Ok(())
}

fn logs_are_followed_and_commands_run(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::pod("talker", &["print", "3"], ""))?;
    stage.until("it is done", PATIENCE, |s| Ok(s.field("pod/talker", "{.status.phase}")? == "Succeeded"))?;
    let all = stage.orlop(&["logs", "talker", "-f"])?;
    ensure!(all.lines().count() == 3, "three lines expected:\n{all}");
    ensure!(stage.orlop(&["logs", "talker", "--tail", "1"])?.lines().count() == 1, "--tail");
    stage.apply(&manifest::pod("server", &["serve"], ""))?;
    stage.orlop(&["wait", "pod/server", "--for", "condition=Ready"])?;
    let said = stage.try_orlop(&["exec", "server", "--", "/testapp", "exit", "7"], "");
    ensure!(said.code == Some(7), "the command's exit code should be ours: {said:?}");
    let said = stage.try_orlop(&["exec", "-i", "server", "--", "/testapp", "cat"], "to its end");
    ensure!(said.ok && said.out == "to its end", "{said:?}");
    let said = stage.try_orlop(&["exec", "server", "--", "/nope"], "");
    ensure!(!said.ok && !said.err.is_empty(), "a command that is not there: {said:?}");
    Ok(())
}

fn objects_are_deleted_with_what_they_own(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::web("web", 2, "one"))?;
    stage.orlop(&["rollout", "status", "deploy/web"])?;
    stage.orlop(&["delete", "deploy/web"])?;
    stage.until("its ReplicaSet and pods are gone", PATIENCE, |s| {
        Ok(s.orlop(&["get", "replicasets,pods", "-o", "name"])?.is_empty())
    })
}
