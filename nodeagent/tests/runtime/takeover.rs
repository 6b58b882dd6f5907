//! Containers outlive the agent and the supervisor, and what does not is told.

use std::{fs, path::Path};

use nodeagent::runtime::{Container, Runtime, Sandbox, builtin::Builtin};

use crate::node::{DEADLINE, Node, sh};

#[tokio::test]
async fn containers_outlive_the_agent() {
    let node = Node::new().await;
    node.runtime.start(&node.container("c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.001; done")).await.unwrap();
    let before = node.state("c").await.unwrap();
    for _ in 0..5 {
        let agent = Builtin::connect(node.config.clone()).await.unwrap();
        assert_eq!(agent.list().await.unwrap(), std::slice::from_ref(&before));
        // Another supervisor for the same folder steps back.
        let done = std::process::Command::new(&node.config.exe)
            .args(["supervisor", "--cgroup-root", &node.config.cgroup_root, "--dir"])
            .arg(&node.config.dir)
            .status();
        assert!(done.unwrap().success());
    }
    node.runtime.signal("c", libc::SIGKILL).await.unwrap();
    node.ended("c").await;
    let lines: Vec<u32> = node.log("c").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(lines, (1..=lines.len() as u32).collect::<Vec<_>>());
    node.finish().await;
}

fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Whether this kernel tells how a process ended to those that are not its parent.
fn tells_ends() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[tokio::test]
async fn containers_outlive_the_supervisor() {
    let node = Node::new().await;
    node.runtime.start(&node.container("ended", "exit 6")).await.unwrap();
    node.ended("ended").await;
    let count = "i=0; trap 'exit 7' TERM; while :; do i=$((i+1)); echo $i; echo $i >&2; sleep 0.001; done";
    node.runtime.start(&node.container("c", count)).await.unwrap();
    let before = node.state("c").await.unwrap();
    node.wait_for_log("c", "10\n").await;
    for _ in 0..3 {
        let old = node.supervisor_pid();
        kill(old, nix::sys::signal::Signal::SIGKILL);
        let last: u32 = node.log("c").lines().last().unwrap().parse().unwrap();
        // another one is started without anybody asking, and reads on
        node.wait_for_log("c", &format!(" {}\n", last + 10)).await;
        assert_eq!(node.state("c").await.unwrap(), before, "the same process goes on");
        assert_ne!(node.supervisor_pid(), old);
    }
    // everything works as before
    let (code, out, _) = node.exec("c", sh("hostname; echo $$ > /tmp-file; cat /tmp-file"), b"").await;
    assert!(code == 0 && out.starts_with("web-0\n"), "{out}");
    assert!(node.runtime.usage("c").await.unwrap().pids >= 1);
    let (exit, log) = node.run(&node.container("next", "hostname; exit 9")).await;
    assert_eq!((exit.code, log.as_str()), (9, "web-0\n"));
    let mut exits = node.runtime.exits();
    node.runtime.signal("c", libc::SIGTERM).await.unwrap();
    let exit = node.ended("c").await;
    let expected = if tells_ends() { (7, 0) } else { (137, libc::SIGKILL) };
    assert_eq!((exit.code, exit.signal), expected);
    assert_eq!(tokio::time::timeout(DEADLINE, exits.recv()).await.unwrap().unwrap().id, "c");
    assert_eq!(node.ended("ended").await.code, 6);
    // not one line is lost, on either stream
    let text = fs::read_to_string(node.log_path("c")).unwrap();
    for stream in [" stdout F ", " stderr F "] {
        let lines: Vec<u32> = text
            .lines()
            .filter_map(|line| line.split_once(stream))
            .map(|(_, number)| number.parse().unwrap())
            .collect();
        assert!(lines.len() >= 40 && lines.iter().copied().eq(1..=lines.len() as u32), "{stream}: {lines:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_gone_and_told() {
    let node = Node::new().await;
    let terminal = Container { tty: true, ..node.container("tty", "trap '' HUP; sleep 1000") };
    let on_terminal = node.runtime.start(&terminal).await.unwrap();
    let beside = node.runtime.start(&node.container("beside", "sleep 1000")).await.unwrap();
    let mut exits = node.runtime.exits();
    kill(node.supervisor_pid(), nix::sys::signal::Signal::SIGKILL);
    let told = tokio::time::timeout(DEADLINE, exits.recv()).await.unwrap().unwrap();
    assert_eq!((told.id.as_str(), told.exit.map(|exit| exit.code)), ("tty", Some(137)));
    assert!(!Path::new("/proc").join(on_terminal.pid.to_string()).join("root/bin").exists());
    assert_eq!(node.state("beside").await.unwrap(), beside);
    // one that dies while nobody looks counts as killed
    let supervisor = node.supervisor_pid();
    kill(supervisor, nix::sys::signal::Signal::SIGSTOP);
    kill(beside.pid, nix::sys::signal::Signal::SIGKILL);
    kill(supervisor, nix::sys::signal::Signal::SIGKILL);
    let told = tokio::time::timeout(DEADLINE, exits.recv()).await.unwrap().unwrap();
    assert_eq!((told.id.as_str(), told.exit.map(|exit| exit.code)), ("beside", Some(137)));
    node.finish().await;
}

#[tokio::test]
async fn what_a_power_cut_left_is_told_and_can_be_removed() {
    let node = Node::new().await;
    let netns = node.folder.path().join("netns");
    fs::write(&netns, "").unwrap();
    rustix::mount::mount_bind("/proc/self/ns/net", &netns).unwrap();
    let sandbox = Sandbox { uid: "cut".into(), netns: Some(netns.clone()), ..Sandbox::default() };
    node.runtime.create_sandbox(&sandbox).await.unwrap();
    let container = Container { sandbox: "cut".into(), ..node.container("c", "trap '' HUP PIPE; sleep 1000") };
    let state = node.runtime.start(&container).await.unwrap();
    let mut exits = node.runtime.exits();
    let supervisor = node.supervisor_pid();
    kill(supervisor, nix::sys::signal::Signal::SIGSTOP);
    // with the power, all processes and mounts are gone: what the mounts lay on is seen again
    kill(state.pid, nix::sys::signal::Signal::SIGKILL);
    rustix::mount::unmount(&netns, rustix::mount::UnmountFlags::DETACH).unwrap();
    kill(supervisor, nix::sys::signal::Signal::SIGKILL);
    // the next supervisor tells what died
    let told = tokio::time::timeout(DEADLINE, exits.recv()).await.unwrap().unwrap();
    assert_eq!((told.name.as_str(), told.exit.map(|exit| exit.code)), ("c", Some(137)));
    assert!(node.runtime.sandboxes().await.unwrap().contains(&"cut".to_owned()));
    rustix::mount::mount_bind("/proc/self/ns/net", &netns).unwrap();
    node.runtime.create_sandbox(&sandbox).await.unwrap();
    let (exit, _) = node.run(&Container { sandbox: "cut".into(), ..node.container("again", "exit 9") }).await;
    assert_eq!(exit.code, 9);
    node.runtime.remove_sandbox("cut").await.unwrap();
    assert!(node.runtime.list().await.unwrap().iter().all(|state| state.sandbox != "cut"));
    node.finish().await;
}
