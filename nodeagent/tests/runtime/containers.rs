//! Containers: what starts, runs, prints and ends.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Instant};

use nodeagent::runtime::{Container, Error, Exec, Mount, Resources, Runtime};

use crate::node::{DEADLINE, Node, sh};

#[tokio::test]
async fn a_container_runs_prints_and_exits() {
    let node = Node::new().await;
    let mut exits = node.runtime.exits();
    let (exit, log) =
        node.run(&node.container("c", "echo out; echo err >&2; hostname; echo $HOME; pwd; exit 42")).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (42, 0, false));
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["/", "/root", "err", "out", "web-0"]);
    let raw = fs::read_to_string(node.log_path("c")).unwrap();
    assert!(raw.contains(" stdout F out\n") && raw.contains(" stderr F err\n"), "{raw}");
    assert_eq!(exits.recv().await.unwrap().id, "c");
    let again = node.runtime.start(&node.container("c", "")).await.unwrap();
    assert!(again.exit.is_some(), "starting is idempotent");
    node.runtime.remove("c").await.unwrap();
    node.runtime.remove("c").await.unwrap();
    assert!(node.state("c").await.is_none());
    node.runtime.remove_sandbox("pod").await.unwrap();
    node.runtime.remove_sandbox("pod").await.unwrap();
    assert!(node.runtime.sandboxes().await.unwrap().is_empty());
    node.finish().await;
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let node = Node::new().await;
    fs::write(node.layer.join("bin/data"), "no program").unwrap();
    fs::write(node.layer.join("bin/garbage"), "\u{1}\u{2}").unwrap();
    fs::set_permissions(node.layer.join("bin/garbage"), fs::Permissions::from_mode(0o755)).unwrap();
    let table: [(&[&str], &str); 5] = [
        (&["nope"], "exec: \"nope\": executable file not found in $PATH"),
        (&["/nope"], "exec: \"/nope\": stat /nope: no such file or directory"),
        (&["data"], "exec: \"data\": permission denied"),
        (&["/bin/garbage"], "exec /bin/garbage: exec format error"),
        (&[], "no command specified"),
    ];
    for (args, why) in table {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let error = node.runtime.start(&Container { args, ..node.container("c", "") }).await.unwrap_err();
        assert!(matches!(&error, Error::Start { why: said, .. } if said == why), "{error}");
        assert!(node.state("c").await.is_none());
    }
    let unknown = node.runtime.start(&Container { sandbox: "none".into(), ..node.container("c", "") }).await;
    assert!(matches!(unknown, Err(Error::NotFound { what: "sandbox", .. })));
    let evil = node.runtime.start(&Container { id: "../x".into(), ..node.container("c", "") }).await;
    assert!(matches!(evil, Err(Error::Start { .. })));
    let volume =
        Mount { source: "/nowhere".into(), target: "/v".into(), readonly: false, propagation: Default::default() };
    let missing = node.runtime.start(&Container { mounts: vec![volume], ..node.container("c", "") }).await.unwrap_err();
    assert!(missing.to_string().contains("/nowhere does not exist"), "{missing}");
    assert_eq!(fs::read_dir(node.config.dir.join("containers")).unwrap().count(), 0);
    node.finish().await;
}

#[tokio::test]
async fn limits_hold() {
    let node = Node::new().await;
    let resources = Resources { memory_limit: Some(16 << 20), ..Resources::default() };
    let eat = Container { resources, ..node.container("oom", "exec dd if=/dev/zero of=/dev/null bs=64M count=1") };
    let (exit, _) = node.run(&eat).await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    let resources =
        Resources { pids_limit: Some(5), cpu_limit_millis: Some(500), cpu_shares: Some(102), ..Resources::default() };
    let script = "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us cpu/cpu.shares || cat cpu.max cpu.weight; for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo never";
    let (exit, log) = node.run(&Container { resources, ..node.container("pids", script) }).await;
    assert_ne!(exit.code, 0);
    assert!(log.contains("50000\n102\n") || log.contains("50000 100000\n4\n"), "limits of either version: {log}");
    assert!(!log.contains("never"), "{log}");
    node.runtime.start(&node.container("use", "sleep 60 & sleep 60")).await.unwrap();
    let usage = node.runtime.usage("use").await.unwrap();
    assert!(usage.cpu_nanos > 0 && usage.memory_bytes > 0 && (1..=3).contains(&usage.pids), "{usage:?}");
    node.finish().await;
}

#[tokio::test]
async fn signals_reach_and_kill_ends_all() {
    let node = Node::new().await;
    node.runtime
        .start(&node.container("polite", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"))
        .await
        .unwrap();
    node.wait_for_log("polite", "up").await;
    node.runtime.signal("polite", libc::SIGTERM).await.unwrap();
    assert_eq!(node.ended("polite").await.code, 3);
    node.runtime.signal("polite", libc::SIGTERM).await.unwrap();
    node.runtime.start(&node.container("deaf", "trap '' TERM; sleep 1000 & sleep 1000")).await.unwrap();
    node.runtime.signal("deaf", libc::SIGTERM).await.unwrap();
    assert!(node.runtime.remove("deaf").await.is_err(), "it runs");
    node.runtime.signal("deaf", libc::SIGKILL).await.unwrap();
    let exit = node.ended("deaf").await;
    assert_eq!((exit.code, exit.signal), (137, libc::SIGKILL));
    assert!(matches!(node.runtime.signal("none", 9).await, Err(Error::NotFound { .. })));
    node.finish().await;
}

#[tokio::test]
async fn many_layers_lie_on_each_other() {
    let node = Node::new().await;
    let mut layers = vec![node.layer.clone()];
    for number in 0..150 {
        let layer = node.folder.path().join(format!("a-layer-with-quite-a-long-name-as-digests-are-{number}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("top"), format!("{number}\n")).unwrap();
        fs::write(layer.join(format!("only-{number}")), "").unwrap();
        layers.push(layer);
    }
    let (_, log) = node.run(&Container { layers, ..node.container("c", "cat /top; ls / | grep -c only-") }).await;
    assert_eq!(log, "149\n150\n");
    node.finish().await;
}

#[tokio::test]
async fn users_can_open_their_streams_and_find_what_they_expect() {
    let node = Node::new().await;
    let script = "echo again > /dev/stdout; echo $HOSTNAME $PATH $TERM";
    let (_, log) = node.run(&Container { uid: 1000, ..node.container("c", script) }).await;
    assert_eq!(log, "again\nweb-0 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
    node.runtime.start(&node.container("e", "sleep 1000")).await.unwrap();
    let (_, out, _) = node.exec("e", Exec { tty: true, ..sh("echo $TERM") }, b"").await;
    assert_eq!(out, "xterm\r\n");
    node.finish().await;
}

#[tokio::test]
async fn many_start_run_and_go_at_once() {
    let node = Node::new().await;
    let open = || fs::read_dir(format!("/proc/{}/fd", node.supervisor_pid())).unwrap().count();
    let before = open();
    let containers: Vec<Container> = (0..40)
        .map(|number| node.container(&format!("c{number}"), &format!("echo {number}; exec sleep 1000")))
        .collect();
    let started = futures::future::join_all(containers.iter().map(|container| node.runtime.start(container))).await;
    assert!(started.iter().all(Result::is_ok), "{started:?}");
    for (number, container) in containers.iter().enumerate() {
        node.wait_for_log(&container.id, &format!(" F {number}\n")).await;
    }
    // Some are still on their way when their sandbox goes.
    let late: Vec<Container> = (0..10).map(|number| node.container(&format!("late{number}"), "sleep 1000")).collect();
    let starts = futures::future::join_all(late.iter().map(|container| node.runtime.start(container)));
    let (_, removed) = futures::join!(starts, node.runtime.remove_sandbox("pod"));
    removed.unwrap();
    assert!(node.runtime.list().await.unwrap().is_empty());
    let deadline = Instant::now() + DEADLINE;
    while open() > before {
        assert!(Instant::now() < deadline, "{} descriptors leak", open() - before);
    }
    node.finish().await;
}

#[tokio::test]
async fn logs_rotate_and_lose_nothing() {
    let node = Node::new().await;
    let container = Container { log_max_bytes: 100_000, log_max_files: 100, ..node.container("c", "seq 1 20000") };
    node.runtime.start(&container).await.unwrap();
    node.ended("c").await;
    let folder = node.log_path("c").parent().unwrap().to_owned();
    let rotated = fs::read_dir(&folder).unwrap().count();
    assert!(rotated > 5, "{rotated}");
    let mut numbers = Vec::new();
    for at in (0..rotated).rev() {
        let path = if at == 0 { folder.join("0.log") } else { folder.join(format!("0.log.{at}")) };
        let text = fs::read_to_string(path).unwrap();
        numbers.extend(text.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()));
    }
    assert_eq!(numbers, (1..=20000).collect::<Vec<_>>());
    node.finish().await;
}
