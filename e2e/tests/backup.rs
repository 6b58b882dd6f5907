//! Backups of a cluster at work, and what comes out of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use e2e::{
    Server, Stage, manifest,
    server::Etcd,
    stage::{PATIENCE, run},
    story::{Setting, Story, tell},
};

const STORIES: &[Story] = &[
    ("a_lost_cluster_comes_back_with_its_nodes_and_pods", a_lost_cluster_comes_back),
    ("a_backup_under_load_is_of_one_moment", a_backup_under_load),
    ("state_moves_from_the_embedded_store_to_etcd_and_back", state_moves),
    ("backups_are_made_on_a_schedule_and_the_oldest_go", backups_on_a_schedule),
];

fn main() -> ExitCode {
    tell(Setting { nodes: 1, server_args: &[] }, STORIES)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

/// Everything that somebody may have made in a namespace, whoever wrote it and when.
const ALL: [&str; 3] = [
    "get",
    "deployments,services,configmaps,secrets,serviceaccounts",
    "-o=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.metadata.resourceVersion} {.spec} {.data}{\"\\n\"}{end}",
];

/// What the machine's disk held is gone; only the backup is left. Nodes and credentials are as they were.
fn a_lost_cluster_comes_back(stage: &mut Stage) -> Result<()> {
    stage.apply(&(manifest::web("web", 2, "one") + "---" + &manifest::service("web")))?;
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    let (file, ids) = (stage.folder().join("cluster.backup"), "jsonpath={.items[*].metadata.uid}");
    let pods = stage.kubectl(&["get", "pods", "-o", ids])?;
    let said = stage.orlop(&["backup", text(&file)?])?;
    ensure!(said.contains("objects as of revision"), "{said}");
    let data = stage.folder().join("data");
    let before = stage.kubectl(&["get", "services", "web", "-o", "yaml"])?;
    // known to clients, and lost with the disk: later revisions must not be taken for these
    for index in 0..20 {
        stage.kubectl(&["create", "configmap", &format!("late-{index}")])?;
    }
    stage.cluster.kill_server()?;
    for lost in ["store", "pki"] {
        fs::remove_dir_all(data.join(lost)).with_context(|| format!("lose {lost}"))?;
    }
    let said = stage.orlop(&["restore", text(&file)?, "--data-dir", text(&data)?])?;
    ensure!(said.contains("restored"), "{said}");
    let again = stage.try_orlop(&["restore", text(&file)?, "--data-dir", text(&data)?], "");
    ensure!(!again.ok && again.err.contains("is there already"), "{again:?}");
    stage.cluster.start_server()?;
    stage.until("the server is ready", PATIENCE, |s| Ok(s.try_kubectl(&["get", "--raw", "/readyz"]).ok))?;
    ensure!(stage.kubectl(&["get", "services", "web", "-o", "yaml"])? == before, "the Service is another");
    stage.until("the node renews its lease again", PATIENCE, |s| {
        let ready = s.field("node/node-1", "{.status.conditions[?(@.type==\"Ready\")].status}")?;
        let renewed = s.kubectl(&[
            "get",
            "lease",
            "-n",
            "kube-node-lease",
            "node-1",
            "-o",
            "jsonpath={.metadata.resourceVersion}",
        ])?;
        Ok(ready == "True" && renewed.parse::<u64>().is_ok_and(|revision| revision > 1_000_000_000))
    })?;
    ensure!(stage.kubectl(&["get", "pods", "-o", ids])? == pods, "pods were replaced");
    ensure!(stage.try_kubectl(&["get", "configmap", "late-0"]).err.contains("not found"), "the lost is lost");
    // and it works: what is changed reaches the node, which watches on
    stage.kubectl(&["scale", "deploy/web", "--replicas=3"])?;
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"]).map(drop)
}

/// Two numbers are raised together, in one transaction each time; in any backup they are equal.
fn a_backup_under_load(stage: &mut Stage) -> Result<()> {
    let pair = |number: usize| {
        let map = |name: &str| {
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{number: n{number}}}\n")
        };
        // far from each other in the order of keys, with much between
        map("a-first") + "---\n" + &map("z-last")
    };
    for index in 0..5 {
        let filler = "x".repeat(400_000);
        let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m-{index}}}\ndata: {{a: {filler}}}\n");
        let said = stage.try_orlop(&["apply", "-f", "-"], &map);
        ensure!(said.ok, "{}", said.err);
    }
    let over = Arc::new(AtomicBool::new(false));
    let program = e2e::stage::program()?;
    let writer = {
        let mut command = stage.command(&program);
        command.args(["apply", "--atomic", "-f", "-"]);
        let over = over.clone();
        thread::spawn(move || {
            let mut written = 0;
            while !over.load(Ordering::Acquire) {
                written += usize::from(run(&mut command, &pair(written)).ok);
            }
            written
        })
    };
    let folder = stage.folder().to_owned();
    let backups = (0..6).map(|index| {
        let file = folder.join(format!("load-{index}.backup"));
        stage.orlop(&["backup", text(&file)?])?;
        Ok(file)
    });
    let backups: Result<Vec<PathBuf>> = backups.collect();
    over.store(true, Ordering::Release);
    let written = writer.join().expect("the writer does not panic");
    let mut numbers = Vec::new();
    for file in backups? {
        ensure!(stage.orlop(&["backup", "--verify", text(&file)?])?.contains("whole"), "it is whole");
        let data = folder.join("unpacked");
        stage.orlop(&["restore", text(&file)?, "--data-dir", text(&data)?])?;
        let server = Server::start_on(&data, &[])?;
        let number = |name: &str| {
            let path = ["get", "configmap", "-n", &stage.namespace, name, "-o", "jsonpath={.data.number}"];
            Ok::<_, anyhow::Error>(server.try_kubectl(&path, "").out)
        };
        let (first, last) = (number("a-first")?, number("z-last")?);
        ensure!(first == last, "{first} and {last} were never there together");
        numbers.push(first);
        drop(server);
        fs::remove_dir_all(&data).context("remove a restored cluster")?;
    }
    numbers.dedup();
    ensure!(written > 5 && numbers.len() > 1, "nothing was written meanwhile: {written}, {numbers:?}");
    // a flipped bit is found, and nothing is made of it
    let file = folder.join("load-0.backup");
    let mut bytes = fs::read(&file).context("read a backup")?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, bytes).context("damage a backup")?;
    let said = stage.try_orlop(&["backup", "--verify", text(&file)?], "");
    ensure!(!said.ok && said.err.contains("damaged at byte"), "{said:?}");
    let data = folder.join("damaged");
    let said = stage.try_orlop(&["restore", text(&file)?, "--data-dir", text(&data)?], "");
    ensure!(!said.ok && !data.exists(), "{said:?}");
    Ok(())
}

fn state_moves(stage: &mut Stage) -> Result<()> {
    let folder = stage.folder().to_owned();
    let (there, back) = (folder.join("there.backup"), folder.join("back.backup"));
    let etcd = Etcd::start()?;
    let data = folder.join("with-etcd");
    let server = Server::start(&[])?;
    server.kubectl(&["create", "deployment", "web", "--image=orlop.dev/testapp:1", "--replicas=0"])?;
    server.kubectl(&["create", "secret", "generic", "key", "--from-literal=a=b"])?;
    let before = server.kubectl(&ALL)?;
    run_fine(&mut server.orlop(&["backup", text(&there)?])?)?;
    run_fine(&mut server.orlop(&[
        "restore",
        text(&there)?,
        "--data-dir",
        text(&data)?,
        "--etcd-servers",
        &etcd.url(),
    ])?)?;
    drop(server);
    ensure!(etcd.keys()?.contains("deployments/default/web"), "it is not in etcd");
    let server = Server::start_on(&data, &["--etcd-servers", &etcd.url()])?;
    let versions = |text: &str| -> Vec<String> {
        let words = text.lines().map(|l| l.split(' ').enumerate().filter(|(i, _)| *i != 2).map(|(_, w)| w.to_owned()));
        words.map(|words| words.collect::<Vec<_>>().join(" ")).collect()
    };
    ensure!(versions(&before) == versions(&server.kubectl(&ALL)?), "objects changed on the way to etcd");
    run_fine(&mut server.orlop(&["backup", text(&back)?])?)?;
    let again = run(
        &mut server.orlop(&[
            "restore",
            text(&there)?,
            "--data-dir",
            text(&folder.join("x"))?,
            "--etcd-servers",
            &etcd.url(),
        ])?,
        "",
    );
    ensure!(!again.ok && again.err.contains("restore into an empty cluster"), "{again:?}");
    let in_etcd = server.kubectl(&ALL)?;
    drop(server);
    let data = folder.join("without-etcd");
    run_fine(stage.command(&e2e::stage::program()?).args(["restore", text(&back)?, "--data-dir", text(&data)?]))?;
    let server = Server::start_on(&data, &[])?;
    ensure!(in_etcd == server.kubectl(&ALL)?, "objects changed on the way back");
    Ok(())
}

fn backups_on_a_schedule(stage: &mut Stage) -> Result<()> {
    let dir = stage.folder().join("backups");
    let words = ["--backup-dir", text(&dir)?, "--backup-every", "1s", "--backup-keep", "2"];
    let mut server = Server::start(&words)?;
    let names = || -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(&dir) else { return Ok(Vec::new()) };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<_> = names.collect::<std::io::Result<_>>().context("list backups")?;
        names.retain(|name| name.ends_with(".backup"));
        names.sort();
        Ok(names)
    };
    server.until("a backup is there", |_| Ok(!names()?.is_empty()))?;
    let first = names()?.remove(0);
    server.until("the first is gone and two are there", |_| {
        let names = names()?;
        Ok(names.len() == 2 && !names.contains(&first))
    })?;
    let metrics = server.kubectl(&["get", "--raw", "/metrics"])?;
    ensure!(metrics.contains("orlop_backup_failures_total 0"), "{metrics}");
    // where the folder was is a file: nothing can be made there
    fs::remove_dir_all(&dir).context("remove the backups")?;
    fs::write(&dir, "").context("put a file in their place")?;
    server.until("the failure is an Event", |server| {
        let events = server.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
        Ok(events.contains("BackupFailed"))
    })
}

fn run_fine(command: &mut std::process::Command) -> Result<()> {
    let said = run(command, "");
    ensure!(said.ok, "{}{}", said.out, said.err);
    Ok(())
}
