//! What a container cannot reach.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Instant,
};

use nodeagent::runtime::{Container, Error, Mount, Runtime};

use crate::node::{DEADLINE, Node, sh};

#[tokio::test]
async fn the_machine_is_out_of_reach() {
    let node = Node::new().await;
    let script = "\
        echo 1 > /proc/sysrq-trigger && echo BAD sysrq
        echo 1 > /proc/sys/kernel/panic && echo BAD sysctl
        head -c1 /proc/kcore | grep -q . && echo BAD kcore
        ls /sys/firmware | grep -q . && echo BAD firmware
        touch /sys/x && echo BAD sys
        touch /sys/fs/cgroup/memory/x && echo BAD cgroup
        mount -t tmpfs x /tmp && echo BAD mount
        mknod /sda b 254 0 && head -c1 /sda >/dev/null && echo BAD device
        mknod /dev/sda b 254 0 && head -c1 /dev/sda >/dev/null && echo BAD device in dev
        echo x > /dev/null || echo BAD null
        head -c1 /dev/zero > /dev/shm/x || echo BAD shm
        [ $$ = 1 ] || echo BAD pid
        readlink /proc/1/root
        ls /proc/self/fd | grep -c . ; cat /proc/self/cgroup | grep -v ':/$' | grep -E 'memory|pids'
        grep -E 'CapEff|NoNewPrivs' /proc/self/status; echo done";
    let container = Container { no_new_privileges: true, ..node.container("c", script) };
    let (_, log) = node.run(&container).await;
    assert!(!log.contains("BAD"), "{log}");
    assert!(log.contains("CapEff:\t00000000a80425fb"), "{log}");
    assert!(log.contains("NoNewPrivs:\t1") && log.contains("done"), "{log}");
    let script = "id -u; id -G; grep CapEff /proc/self/status; echo $HOME; touch /x || echo refused";
    let user = Container {
        uid: 1000,
        gid: 1000,
        groups: vec![1000, 7],
        readonly_root: true,
        cwd: "/made/here".into(),
        ..node.container("u", script)
    };
    let (_, log) = node.run(&user).await;
    assert!(log.contains("1000\n1000 7\nCapEff:\t0000000000000000\n/home/web\n"), "{log}");
    assert!(log.contains("refused"), "{log}");
    node.finish().await;
}

#[tokio::test]
async fn volumes_stay_inside_the_root() {
    let node = Node::new().await;
    let data = node.folder.path().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), "content\n").unwrap();
    let mount = |source: PathBuf, target: &str, readonly| Mount {
        source,
        target: target.into(),
        readonly,
        propagation: Default::default(),
    };
    let mounts = vec![
        mount(data.clone(), "/made/data", false),
        mount(data.clone(), "/outside/ro", true),
        mount(data.join("file"), "/made/deep/file", false),
    ];
    let script =
        "cat /made/data/file /made/deep/file /etc/ro/file; touch /made/data/new; touch /etc/ro/x || echo refused";
    let (_, log) = node.run(&Container { mounts, ..node.container("c", script) }).await;
    assert!(log.starts_with("content\ncontent\ncontent\n") && log.contains("refused"), "{log}");
    assert!(data.join("new").exists() && !data.join("x").exists());
    assert!(!Path::new("/etc/ro").exists(), "the image's link to /etc means its own");
    for (target, why) in [
        ("/../../tmp/escape", "'..'"),
        ("/proc/self/x", "/proc/self/x"),
        ("/proc/sys", "inside /proc"),
        ("/", "root itself"),
        ("/bin/busybox/x", "ot a directory"),
    ] {
        let container = Container { mounts: vec![mount(data.clone(), target, false)], ..node.container("bad", "true") };
        let error = node.runtime.start(&container).await.expect_err(target).to_string();
        assert!(error.contains(why), "{target}: {error}");
    }
    node.finish().await;
}

#[tokio::test]
async fn the_supervisors_program_is_out_of_reach() {
    let node = Node::new().await;
    symlink("/proc/self/exe", node.layer.join("bin/self")).unwrap();
    let before = fs::read(&node.config.exe).unwrap();
    // Executes the supervisor's own file, as it would be while a container starts.
    let own = Container { args: vec!["self".into()], ..node.container("own", "") };
    match node.runtime.start(&own).await {
        Ok(_) => assert!(node.ended("own").await.code >= 0),
        Err(error) => assert!(matches!(error, Error::Start { .. }), "{error}"),
    }
    // Nobody can write to a program that runs; what a container could keep is a handle for afterwards.
    let pid = node.supervisor_pid();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let handle = rustix::fs::open(format!("/proc/{pid}/exe"), flags, rustix::fs::Mode::empty()).unwrap();
    let exe = node.config.exe.clone();
    node.finish().await;
    let deadline = Instant::now() + DEADLINE;
    let refused = loop {
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        let error = fs::File::options().write(true).open(again).unwrap_err();
        if error.raw_os_error() != Some(libc::ETXTBSY) || Instant::now() > deadline {
            break error;
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert!(fs::read(exe).unwrap() == before);
}

#[tokio::test]
async fn system_calls_are_filtered() {
    let node = Node::new().await;
    symlink("busybox", node.layer.join("bin/unshare")).unwrap();
    let script = "grep Seccomp: /proc/self/status; unshare -U true; mount -t tmpfs x /bin; echo \"$? $(id -u)\"";
    let filtered = Container { seccomp: true, ..node.container("filtered", script) };
    let (_, log) = node.run(&filtered).await;
    assert!(log.contains("Seccomp:\t2") && log.contains("unshare(0x10000000): Operation not permitted"), "{log}");
    assert!(log.ends_with("1 0\n"), "{log}");
    let (_, log) = node.run(&node.container("free", "grep Seccomp: /proc/self/status")).await;
    assert_eq!(log, "Seccomp:\t0\n");
    let admin = Container { capabilities: vec!["SYS_ADMIN".into()], ..filtered.clone() };
    let (_, log) = node.run(&Container { id: "admin".into(), log: node.log_path("admin"), ..admin }).await;
    assert!(log.contains("Seccomp:\t2") && log.ends_with("0 0\n"), "who may mount, may: {log}");
    // what runs beside it is filtered too, and a setuid program still works
    let container = Container { seccomp: true, ..node.container("long", "sleep 1000") };
    node.runtime.start(&container).await.unwrap();
    let (_, out, _) = node.exec("long", sh("grep -e Seccomp: -e NoNewPrivs /proc/self/status"), b"").await;
    assert_eq!(out, "NoNewPrivs:\t0\nSeccomp:\t2\n");
    node.finish().await;
}
