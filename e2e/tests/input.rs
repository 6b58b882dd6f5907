//! Bad input: each mistake is named, and nothing is half done.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Stage, manifest,
    stage::PATIENCE,
    story::{Setting, Story, tell},
};

const STORIES: &[Story] = &[
    ("mistakes_in_manifests_are_named", mistakes_in_manifests_are_named),
    ("immutable_and_conflicting_changes_are_refused", refused_changes),
    ("images_that_cannot_be_had_say_why", images_that_cannot_be_had),
    ("a_command_that_is_not_in_the_image_says_so", commands_that_are_not_there),
    ("a_pod_that_no_node_can_hold_says_why_per_node", no_node_can_hold),
    ("a_port_in_use_is_named_and_taken_when_it_is_free", port_in_use),
    ("forged_credentials_and_oversized_bodies_are_refused", forged_and_oversized),
];

fn main() -> ExitCode {
    tell(Setting { nodes: 1, server_args: &[] }, STORIES)
}

/// What `orlop apply` and `kubectl apply` say about a manifest; both must refuse.
fn refusals(stage: &Stage, manifest: &str) -> Result<(String, String)> {
    let ours = stage.try_orlop(&["apply", "-f", "-"], manifest);
    let theirs = stage.kubectl_with_input(&["apply", "--server-side", "-f", "-"], manifest);
    ensure!(!ours.ok && !theirs.ok, "accepted:\n{manifest}\n{ours:?}\n{theirs:?}");
    Ok((ours.err, theirs.err))
}

fn mistakes_in_manifests_are_named(stage: &mut Stage) -> Result<()> {
    let cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n";
    let said = stage.try_orlop(&["apply", "-f", "-"], &format!("{cm}---\nkind: Pod\nmetadata:\n  name: a\n   b: c\n"));
    ensure!(!said.ok && said.err.contains("standard input:8:"), "line and column: {}", said.err);
    ensure!(!stage.try_kubectl(&["get", "configmap", "good"]).ok, "half of the file was applied");
    let web = manifest::web("web", 1, "one");
    let cases = [
        (web.replace("replicas: 1", "replica: 1"), "unknown field \"spec.replica\""),
        (web.replace("replicas: 1", "replicas: one"), "spec.replicas of type int32"),
        (web.replace("containers:\n      - name", "containers:\n        name"), "spec.template.spec.containers"),
        (web.replace("metadata: {name: web}", "metadata: {name: Web_1}"), "metadata.name"),
        (web.replace("containerPort: 8080", "containerPort: 80800"), "ports[0].containerPort"),
        (web.replace("matchLabels: {app: web}", "matchLabels: {app: other}"), "selector"),
        (manifest::pod("a", &["serve"], "  volumes: [{name: v, configMap: {}}]\n"), "volumes[0]"),
    ];
    for (manifest, expected) in cases {
        let (ours, theirs) = refusals(stage, &manifest)?;
        ensure!(ours.contains(expected) && theirs.contains(expected), "{expected:?} is not in\n{ours}\n{theirs}");
    }
    let (ours, theirs) = refusals(stage, "apiVersion: v1\nkind: Gizmo\nmetadata: {name: a}\n")?;
    ensure!(ours.contains("no kind \"Gizmo\" in version \"v1\""), "{ours}");
    ensure!(theirs.contains("no matches for kind \"Gizmo\" in version \"v1\""), "{theirs}");
    let duplicate = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: a, x: b}\n";
    let said = stage.try_orlop(&["apply", "-f", "-"], duplicate);
    ensure!(!said.ok && said.err.contains("standard input:4:14: duplicate"), "{}", said.err);
    let path = format!("/api/v1/namespaces/{}/configmaps?fieldValidation=Strict", stage.namespace);
    let body = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "a", "x": "b"}}"#;
    let said = stage.kubectl_with_input(&["create", "--raw", &path, "-f", "-"], body);
    ensure!(!said.ok && said.err.contains("duplicate field \"data.x\""), "{}", said.err);
    Ok(())
}

fn refused_changes(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::web("web", 1, "one"))?;
    let patch =
        r#"{"spec":{"selector":{"matchLabels":{"app":"other"}},"template":{"metadata":{"labels":{"app":"other"}}}}}"#;
    let said = stage.try_kubectl(&["patch", "deploy/web", "--type=merge", "-p", patch]);
    ensure!(!said.ok && said.err.contains("spec.selector") && said.err.contains("immutable"), "{}", said.err);
    let stale = stage.kubectl(&["get", "deploy/web", "-o", "yaml"])?;
    stage.kubectl(&["label", "deploy/web", "touched=yes"])?;
    let said = stage.kubectl_with_input(&["replace", "-f", "-"], &stale);
    ensure!(!said.ok && said.err.contains("the object has been modified"), "{}", said.err);
    let said = stage.kubectl_with_input(
        &["apply", "--server-side", "--field-manager=other", "-f", "-"],
        &manifest::web("web", 5, "one"),
    );
    ensure!(!said.ok && said.err.contains("conflict") && said.err.contains(".spec.replicas"), "{}", said.err);
    ensure!(stage.field("deploy/web", "{.spec.replicas}")? == "1", "a refused change was made");
    Ok(())
}

fn waiting_reason(stage: &Stage, pod: &str) -> Result<String> {
    stage.field(
        pod,
        "{.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}",
    )
}

fn images_that_cannot_be_had(stage: &mut Stage) -> Result<()> {
    let gone = manifest::pod("gone", &["serve"], "").replace("orlop.dev/testapp:1", "127.0.0.1:9/nothing:1");
    stage.apply(&gone)?;
    stage.until("it says why", PATIENCE, |s| {
        let said = waiting_reason(s, "pod/gone")?;
        Ok(said.starts_with("ErrImagePull") || said.starts_with("ImagePullBackOff"))
    })?;
    let events = stage.kubectl(&["describe", "pod/gone"])?;
    ensure!(events.contains("Failed to pull image") && events.contains("127.0.0.1:9"), "{events}");
    stage.apply(&manifest::pod("bad", &["serve"], "").replace("orlop.dev/testapp:1", "case/UPPER:1"))?;
    stage.until("a bad name is called one", PATIENCE, |s| {
        Ok(waiting_reason(s, "pod/bad")?.starts_with("InvalidImageName"))
    })?;
    let registry = registry_of_lies(stage)?;
    let (unknown, wrong) = (format!("{registry}/unknown:1"), format!("{registry}/wrong@sha256:{}", "0".repeat(64)));
    for (pod, image, expected) in [("unknown", &unknown, "not found"), ("wrong", &wrong, "digest")] {
        stage.apply(&manifest::pod(pod, &["serve"], "").replace("orlop.dev/testapp:1", image))?;
        stage.until("it backs off and says why", PATIENCE, |s| {
            let said = waiting_reason(s, &format!("pod/{pod}"))?;
            let backs_off =
                said.starts_with(&format!("ImagePullBackOff: Back-off pulling image {image:?}: ErrImagePull"));
            ensure!(!backs_off || said.contains(expected), "{expected:?} is not in {said}");
            Ok(backs_off)
        })?;
    }
    stage.kubectl(&["delete", "pod", "gone", "bad", "unknown", "wrong"]).map(drop)
}

/// A registry on the node's own loopback that knows one manifest, and answers with it whatever digest it is asked for.
fn registry_of_lies(stage: &Stage) -> Result<SocketAddr> {
    const MANIFEST: &str = r#"{"schemaVersion": 2, "config": {}, "layers": []}"#;
    let host = stage.cluster.nodes()[0].host();
    let listener = host.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?.context("listen on the node")?;
    let address = listener.local_addr().context("ask for an address")?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut asked = String::new();
            // a client that goes away early has its answer
            drop(BufReader::new(&stream).read_line(&mut asked));
            let (status, body) =
                if asked.contains("/v2/unknown/") { ("404 Not Found", "{}") } else { ("200 OK", MANIFEST) };
            let body = if asked.starts_with("HEAD") { "" } else { body };
            let head = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\nConnection: close";
            drop(write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    Ok(address)
}

fn commands_that_are_not_there(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::pod("nope", &["serve"], "    command: [/nope]\n"))?;
    stage.until("the pod has failed", PATIENCE, |s| {
        let said = s.kubectl(&["describe", "pod/nope"])?;
        Ok(said.contains("no such file or directory") || said.contains("not found"))
    })
}

fn no_node_can_hold(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::pod("huge", &["serve"], "    resources: {requests: {cpu: 1000}}\n"))?;
    stage.until("it says why", PATIENCE, |s| {
        Ok(s.kubectl(&["describe", "pod/huge"])?.contains("0/1 nodes are available: 1 Insufficient cpu"))
    })?;
    stage.apply(&manifest::pod("picky", &["serve"], "  nodeSelector: {disk: fast}\n"))?;
    stage.until("it says why", PATIENCE, |s| {
        Ok(s.kubectl(&["describe", "pod/picky"])?.contains("didn't match Pod's node affinity/selector"))
    })?;
    stage.kubectl(&["label", "node", "node-1", "disk=fast"])?;
    stage.until("it runs as soon as it can", PATIENCE, |s| Ok(s.field("pod/picky", "{.status.phase}")? == "Running"))
}

fn port_in_use(stage: &mut Stage) -> Result<()> {
    let port = "    ports: [{containerPort: 8080, hostPort: 7000}]\n";
    stage.apply(&manifest::pod("first", &["serve"], port))?;
    stage.until("the first runs", PATIENCE, |s| Ok(s.field("pod/first", "{.status.phase}")? == "Running"))?;
    stage.apply(&manifest::pod("second", &["serve"], port))?;
    stage.until("it says why", PATIENCE, |s| {
        let said = s.kubectl(&["describe", "pod/second"])?;
        Ok(said.contains("1 node(s) didn't have free ports for the requested pod ports"))
    })?;
    stage.kubectl(&["delete", "pod", "first"])?;
    stage.until("the second runs", PATIENCE, |s| Ok(s.field("pod/second", "{.status.phase}")? == "Running"))
}

fn forged_and_oversized(stage: &mut Stage) -> Result<()> {
    let config = std::fs::read_to_string(stage.cluster.kubeconfig())?;
    let server = config.lines().find_map(|l| l.trim().strip_prefix("server: ")).unwrap_or_default().to_owned();
    let said = e2e::stage::run(
        std::process::Command::new("curl")
            .args(["-sk", "-H", "Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.e30.AAAA"])
            .arg(format!("{server}/api/v1/pods")),
        "",
    );
    ensure!(said.out.contains("\"code\":401"), "a forged token: {said:?}");
    let said =
        e2e::stage::run(std::process::Command::new("curl").args(["-sk"]).arg(format!("{server}/api/v1/pods")), "");
    ensure!(said.out.contains("\"code\":403") || said.out.contains("\"code\":401"), "nobody: {said:?}");
    let said = stage.try_kubectl(&["create", "token", "default", "--duration=1m"]);
    ensure!(!said.ok && said.err.contains("spec.expirationSeconds"), "{}", said.err);
    let token = stage.kubectl(&["create", "token", "default"])?;
    let words: Vec<_> = token.trim().split('.').collect();
    let [head, claims, signature] = words[..] else { anyhow::bail!("no token: {token}") };
    // the signature of one token under the claims of another
    let other = stage.kubectl(&["create", "token", "default", "--duration=20m"])?;
    let other = other.trim().split('.').nth(1).context("no claims")?;
    for (claims, accepted) in [(claims, true), (other, false)] {
        let bearer = format!("Authorization: Bearer {head}.{claims}.{signature}");
        let said = e2e::stage::run(
            std::process::Command::new("curl").args(["-sk", "-H", &bearer]).arg(format!("{server}/api")),
            "",
        );
        ensure!(said.out.contains("\"code\":401") != accepted, "{said:?}");
    }
    let large = "x".repeat(4 << 20);
    let manifest = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata: {{x: {large}}}\n");
    let said = stage.kubectl_with_input(&["create", "-f", "-"], &manifest);
    ensure!(
        !said.ok && (said.err.contains("too large") || said.err.contains("TooLarge")),
        "{}",
        said.err.chars().take(300).collect::<String>()
    );
    ensure!(!stage.try_kubectl(&["get", "configmap", "large"]).ok, "it was stored");
    Ok(())
}
