//! Unmodified kubectl, the machine's newest and Debian's, does what its users do every day.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use e2e::{
    Stage, manifest,
    stage::{Following, PATIENCE, debian_kubectl},
    story::{Setting, Story, tell},
};

const STORIES: &[Story] = &[
    ("kubectl_lists_what_the_server_has", lists_what_there_is),
    ("kubectl_applies_edits_and_rolls_back", applies_edits_and_rolls_back),
    ("kubectl_applies_on_the_servers_side", applies_on_the_servers_side),
    ("kubectl_follows_logs_and_runs_commands", follows_logs_and_runs_commands),
    ("kubectl_watches_tables", watches_tables),
    ("kubectl_drains_a_node", drains_a_node),
    ("debians_kubectl_does_the_same", debians_does_the_same),
];

fn main() -> ExitCode {
    tell(Setting { nodes: 2, server_args: &[] }, STORIES)
}

fn lists_what_there_is(stage: &mut Stage) -> Result<()> {
    let resources = stage.kubectl(&["api-resources"])?;
    for kind in api::kinds::KINDS {
        ensure!(resources.contains(kind.kind), "{} is not in\n{resources}", kind.kind);
    }
    ensure!(stage.kubectl(&["version"])?.contains("Server Version"), "version");
    let nodes = stage.kubectl(&["get", "nodes", "-o", "wide"])?;
    ensure!(nodes.starts_with("NAME     STATUS   ROLES") && nodes.contains("KERNEL-VERSION"), "{nodes}");
    let said = stage.kubectl(&["describe", "node", "node-1"])?;
    ensure!(said.contains("Allocatable:") && said.contains("MemoryPressure"), "{said}");
    ensure!(stage.try_kubectl(&["auth", "can-i", "create", "pods"]).out.contains("yes"), "can-i");
    Ok(())
}

fn applies_edits_and_rolls_back(stage: &mut Stage) -> Result<()> {
    ensure!(stage.apply(&manifest::web("web", 2, "one"))?.contains("deployment.apps/web created"), "created");
    ensure!(stage.apply(&manifest::web("web", 2, "one"))?.contains("unchanged"), "unchanged");
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    let table = stage.kubectl(&["get", "deploy"])?;
    ensure!(table.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE") && table.contains("2/2"), "{table}");
    stage.kubectl(&[
        "patch",
        "deploy/web",
        "-p",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"MORE","value":"x"}]}]}}}}"#,
    ])?;
    let names = stage.field("deploy/web", "{.spec.template.spec.containers[0].env[*].name}")?;
    ensure!(
        names.contains("MORE") && names.contains("VERSION"),
        "a strategic merge keeps what it does not name: {names}"
    );
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    stage.kubectl(&["rollout", "undo", "deploy/web"])?;
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    ensure!(!stage.field("deploy/web", "{.spec.template.spec.containers[0].env[*].name}")?.contains("MORE"), "undone");
    stage.kubectl(&["label", "deploy/web", "tier=front"])?;
    ensure!(stage.kubectl(&["get", "deploy", "-l", "tier=front", "-o", "name"])? == "deployment.apps/web\n", "labels");
    stage.kubectl(&["scale", "deploy/web", "--replicas=1"])?;
    stage.kubectl(&["wait", "deploy/web", "--for=jsonpath={.status.replicas}=1", "--timeout=60s"])?;
    let mut edit = stage.command(&std::path::PathBuf::from("kubectl"));
    let said = e2e::stage::run(
        edit.env("KUBE_EDITOR", "sed -i s/replicas:.1/replicas:\\ 2/").args(["edit", "deploy/web"]),
        "",
    );
    ensure!(said.ok && said.out.contains("edited"), "{said:?}");
    stage.kubectl(&["rollout", "restart", "deploy/web"])?;
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    let said = stage.kubectl(&["describe", "deploy/web"])?;
    ensure!(said.contains("NewReplicaSet:") && said.contains("ScalingReplicaSet"), "{said}");
    stage.kubectl(&["delete", "deploy/web", "--wait"])?;
    stage.kubectl(&["create", "deployment", "made", "--image=orlop.dev/testapp:1"])?;
    stage.kubectl(&["rollout", "status", "deploy/made", "--timeout=90s"]).map(drop)
}

fn applies_on_the_servers_side(stage: &mut Stage) -> Result<()> {
    let web = manifest::web("web", 1, "one");
    let said = stage.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &web);
    ensure!(said.ok && said.out.contains("serverside-applied"), "{said:?}");
    let managers = stage.kubectl(&[
        "get",
        "deploy/web",
        "-o",
        "jsonpath={.metadata.managedFields[*].manager}",
        "--show-managed-fields",
    ])?;
    ensure!(managers.contains("kubectl"), "managers are {managers}");
    let said = stage.kubectl_with_input(
        &["apply", "--server-side", "--dry-run=server", "-f", "-"],
        &manifest::web("web", 3, "one"),
    );
    ensure!(said.ok, "{said:?}");
    ensure!(stage.field("deploy/web", "{.spec.replicas}")? == "1", "a dry run changed something");
    let said = stage.kubectl_with_input(&["diff", "-f", "-"], &manifest::web("web", 3, "one"));
    ensure!(said.code == Some(1) && said.out.contains("+  replicas: 3"), "{said:?}");
    Ok(())
}

fn follows_logs_and_runs_commands(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::pod("talker", &["print", "1000", "20"], ""))?;
    stage.kubectl(&["wait", "pod/talker", "--for=condition=Ready", "--timeout=60s"])?;
    let follow = Following::start(stage.command(&std::path::PathBuf::from("kubectl")).args(["logs", "-f", "talker"]))?;
    follow.line_with("40", PATIENCE)?;
    let said = stage.kubectl_with_input(&["exec", "-i", "talker", "--", "/testapp", "cat"], "through standard input");
    ensure!(said.ok && said.out == "through standard input", "{said:?}");
    let said = stage.try_kubectl(&["exec", "talker", "--", "/testapp", "exit", "5"]);
    ensure!(said.code == Some(5), "{said:?}");
    let said = stage.try_kubectl(&["logs", "talker", "--previous"]);
    ensure!(
        !said.ok && said.err.contains("previous terminated container \"main\" in pod \"talker\" not found"),
        "{said:?}"
    );
    // script(1) gives kubectl the terminal that -t needs
    let mut script = stage.command(&std::path::PathBuf::from("script"));
    let words = format!("kubectl --namespace {} exec -it talker -- /testapp tty", stage.namespace);
    let mut plain = std::process::Command::new("script");
    for (key, value) in script.get_envs() {
        plain.env(key, value.unwrap_or_default());
    }
    script = plain;
    let said = e2e::stage::run(script.args(["-qec", &words, "/dev/null"]), "");
    ensure!(said.ok && said.out.contains("a terminal"), "{said:?}");
    Ok(())
}

fn watches_tables(stage: &mut Stage) -> Result<()> {
    let watch = Following::start(stage.command(&std::path::PathBuf::from("kubectl")).args(["get", "pods", "-w"]))?;
    stage.apply(&manifest::pod("seen", &["serve"], ""))?;
    let line = watch.line_with("Running", PATIENCE).context("the watch shows the pod running")?;
    ensure!(line.split_whitespace().count() >= 5, "a row of the table: {line}");
    stage.kubectl(&["delete", "pod", "seen"])?;
    watch.line_with("Terminating", PATIENCE).map(drop)
}

fn drains_a_node(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::web("web", 3, "one"))?;
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    let said = stage.try_kubectl(&["drain", "node-2", "--ignore-daemonsets", "--timeout=90s"]);
    ensure!(said.ok && said.out.contains("evicting pod"), "{said:?}");
    ensure!(stage.kubectl(&["get", "node", "node-2"])?.contains("Ready,SchedulingDisabled"), "cordoned");
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    let places = stage.field("pods", "{.items[*].spec.nodeName}")?;
    ensure!(places == "node-1 node-1 node-1", "pods are on {places}");
    stage.kubectl(&["uncordon", "node-2"]).map(drop)
}

fn debians_does_the_same(stage: &mut Stage) -> Result<()> {
    let newest = std::path::PathBuf::from("kubectl");
    stage.use_kubectl(&debian_kubectl()?);
    let told = (|| {
        lists_what_there_is(stage)?;
        ensure!(stage.apply(&manifest::web("old", 2, "one"))?.contains("created"), "created");
        stage.kubectl(&["rollout", "status", "deploy/old", "--timeout=90s"])?;
        ensure!(stage.apply(&manifest::web("old", 2, "two"))?.contains("configured"), "configured");
        stage.kubectl(&["rollout", "status", "deploy/old", "--timeout=90s"])?;
        stage.kubectl(&["rollout", "undo", "deploy/old"])?;
        let unknown = manifest::web("bad", 1, "one").replace("replicas", "replica");
        let said = stage.kubectl_with_input(&["apply", "-f", "-"], &unknown);
        ensure!(!said.ok && said.err.contains("unknown field \"replica\""), "it validates by OpenAPI v2: {said:?}");
        let pod = stage.field("pods", "{.items[0].metadata.name}")?;
        let said = stage.kubectl(&["exec", &pod, "--", "/testapp", "env"]).context("exec over SPDY")?;
        ensure!(said.contains("VERSION="), "{said}");
        let said = stage.kubectl_with_input(&["exec", "-i", &pod, "--", "/testapp", "cat"], "over SPDY");
        ensure!(said.out == "over SPDY", "{said:?}");
        let said = stage.try_kubectl(&["exec", &pod, "--", "/testapp", "exit", "5"]);
        ensure!(said.code == Some(5), "{said:?}");
        stage.kubectl(&["logs", &pod])?;
        stage.kubectl(&["describe", "deploy/old"])?;
        stage.kubectl(&["scale", "deploy/old", "--replicas=0"])?;
        stage.kubectl(&["delete", "deploy/old"]).map(drop)
    })();
    stage.use_kubectl(&newest);
    told
}
