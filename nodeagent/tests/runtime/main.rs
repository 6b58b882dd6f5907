//! The built-in runtime against real containers. Needs root; each test has a mount namespace, a folder and a cgroup
//! subtree of its own, and looks afterwards whether anything is left. All of them run once more in a virtual machine whose
//! kernel has version 2 of control groups.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod machine;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nodeagent::runtime::{
    Container, ContainerState, Error, Exec, Exit, Mount, Resources, Runtime, Sandbox,
    builtin::{Builtin, Config},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(30);
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Default capabilities of containers (containerd's).
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

struct Node {
    folder: tempfile::TempDir,
    config: Config,
    runtime: Builtin,
    layer: PathBuf,
}

impl Node {
    async fn new() -> Node {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("tests of the runtime need root");
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
        )
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer");
        fs::create_dir_all(layer.join("bin")).unwrap();
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n").unwrap();
        fs::copy("/usr/bin/busybox", layer.join("bin/busybox")).expect("busybox-static is installed");
        for name in [
            "sh", "cat", "echo", "sleep", "ls", "id", "hostname", "mknod", "mount", "stty", "seq", "dd", "touch",
            "head", "pwd", "env", "tty", "readlink", "grep",
        ] {
            symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        symlink("/etc", layer.join("outside")).unwrap();
        let exe = PathBuf::from(env!("CARGO_BIN_EXE_supervisor"));
        let name = format!("/orlop-test-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let config = Config { exe, ..Config::new(folder.path().join("state"), name) };
        let runtime = Builtin::connect(config.clone()).await.unwrap();
        runtime
            .create_sandbox(&Sandbox { uid: "pod".into(), hostname: "web-0".into(), ..Sandbox::default() })
            .await
            .unwrap();
        Node { folder, config, runtime, layer }
    }

    fn container(&self, id: &str, script: &str) -> Container {
        Container {
            id: id.into(),
            sandbox: "pod".into(),
            name: id.into(),
            layers: vec![self.layer.clone()],
            args: vec!["sh".into(), "-c".into(), script.into()],
            cwd: "/".into(),
            capabilities: CAPABILITIES.map(str::to_owned).into(),
            masked: true,
            log: self.log_path(id),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            ..Container::default()
        }
    }

    fn log_path(&self, id: &str) -> PathBuf {
        self.folder.path().join("logs").join(id).join("0.log")
    }

    /// What it printed, without times and tags.
    fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.log_path(id)).unwrap();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned() + "\n").collect()
    }

    async fn ended(&self, id: &str) -> Exit {
        let deadline = Instant::now() + DEADLINE;
        let mut exits = self.runtime.exits();
        loop {
            if let Some(exit) = self.state(id).await.and_then(|state| state.exit) {
                return exit;
            }
            assert!(Instant::now() < deadline, "{id} does not end");
            tokio::time::timeout(DEADLINE, exits.recv()).await.expect("an exit").unwrap();
        }
    }

    async fn state(&self, id: &str) -> Option<ContainerState> {
        self.runtime.list().await.unwrap().into_iter().find(|container| container.id == id)
    }

    /// Runs a script to its end and returns its exit and what it printed.
    async fn run(&self, container: &Container) -> (Exit, String) {
        self.runtime.start(container).await.unwrap();
        (self.ended(&container.id).await, self.log(&container.id))
    }

    async fn exec(&self, id: &str, exec: Exec, input: &[u8]) -> (i32, String, String) {
        let mut session = self.runtime.exec(id, &exec).await.unwrap();
        if let Some(mut stdin) = session.stdin.take() {
            stdin.write_all(input).await.unwrap();
            if exec.tty {
                // Closing would not end a terminal's input; it is kept until the output ends.
                session.stdin = Some(stdin);
            }
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        session.stdout.read_to_end(&mut out).await.unwrap();
        if let Some(mut stderr) = session.stderr {
            stderr.read_to_end(&mut err).await.unwrap();
        }
        let code = tokio::time::timeout(DEADLINE, session.exit).await.unwrap().unwrap().unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    async fn wait_for_log(&self, id: &str, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !fs::read_to_string(self.log_path(id)).unwrap_or_default().contains(text) {
            assert!(Instant::now() < deadline, "{text} is not printed");
            tokio::task::yield_now().await;
        }
    }

    fn supervisor_pid(&self) -> i32 {
        let socket = std::os::unix::net::UnixStream::connect(self.config.dir.join("supervisor.sock")).unwrap();
        rustix::net::sockopt::socket_peercred(&socket).unwrap().pid.as_raw_nonzero().get()
    }

    /// Ends it, and looks what is left.
    async fn finish(self) {
        self.runtime.shutdown().await.unwrap();
        assert!(self.runtime.list().await.is_err(), "no supervisor is started any more");
        let name = self.config.cgroup_root.trim_matches('/').to_owned();
        for controller in ["cpu", "cpuacct", "memory", "pids"] {
            assert!(!Path::new("/sys/fs/cgroup").join(controller).join(&name).exists(), "cgroup {controller} is left");
        }
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let state = self.config.dir.display().to_string();
        assert!(!mounts.contains(&state), "mounts are left: {mounts}");
        for folder in ["containers", "sandboxes"] {
            assert_eq!(fs::read_dir(self.config.dir.join(folder)).unwrap().count(), 0, "{folder} are left");
        }
    }
}

/// A test that fails must not leave its containers.
impl Drop for Node {
    fn drop(&mut self) {
        let socket = self.config.dir.join("supervisor.sock");
        if std::thread::panicking() && socket.exists() {
            eprintln!(
                "supervisor.log: {}",
                fs::read_to_string(self.config.dir.join("supervisor.log")).unwrap_or_default()
            );
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(self.supervisor_pid()),
                nix::sys::signal::Signal::SIGTERM,
            )
            .ok();
        }
    }
}

fn sh(script: &str) -> Exec {
    Exec { args: vec!["sh".into(), "-c".into(), script.into()], ..Exec::default() }
}

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
async fn containers_of_a_pod_share_names_and_memory_but_not_processes() {
    let node = Node::new().await;
    node.runtime.start(&node.container("a", "echo shared > /dev/shm/x; echo ready; sleep 1000")).await.unwrap();
    node.wait_for_log("a", "ready").await;
    let (_, log) = node.run(&node.container("b", "cat /dev/shm/x; hostname; ls -d /proc/[0-9]* | grep -c .")).await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..2], ["shared", "web-0"]);
    assert!(lines[2].parse::<u32>().unwrap() <= 4, "{log}");
    node.finish().await;
}

#[tokio::test]
async fn exec_runs_beside_the_container() {
    let node = Node::new().await;
    node.runtime
        .start(&Container { env: vec![("A".into(), "b".into())], ..node.container("c", "echo 1 > /mine; sleep 1000") })
        .await
        .unwrap();
    let (code, out, err) = node.exec("c", sh("cat /mine; echo $A; hostname; echo oops >&2; exit 7"), b"").await;
    assert_eq!((code, out.as_str(), err.as_str()), (7, "1\nb\nweb-0\n", "oops\n"));
    let (code, out, _) = node.exec("c", Exec { stdin: true, ..sh("cat") }, b"through\n").await;
    assert_eq!((code, out.as_str()), (0, "through\n"));
    let missing = node.runtime.exec("c", &Exec { args: vec!["nope".into()], ..Exec::default() }).await.err().unwrap();
    assert!(missing.to_string().contains("executable file not found in $PATH"), "{missing}");
    let (code, out, _) = node.exec("c", Exec { tty: true, ..sh("tty; echo $((6*7)); exit 5") }, b"").await;
    assert_eq!((code, out.as_str()), (5, "/dev/pts/0\r\n42\r\n"));
    let session =
        node.runtime.exec("c", &Exec { tty: true, stdin: true, ..sh("sleep 0.2; stty size; cat") }).await.unwrap();
    session.resize.send((120, 40)).await.unwrap();
    let mut stdout = session.stdout;
    let mut seen = String::new();
    while !seen.contains("40 120") {
        let mut bytes = [0; 256];
        let count = tokio::time::timeout(DEADLINE, stdout.read(&mut bytes)).await.unwrap().unwrap();
        assert!(count > 0, "{seen}");
        seen += std::str::from_utf8(&bytes[..count]).unwrap();
    }
    // Hanging up ends it.
    drop((stdout, session.stdin, session.resize));
    let code = tokio::time::timeout(DEADLINE, session.exit).await.unwrap().unwrap().unwrap();
    assert_eq!(code, 128 + libc::SIGHUP);
    node.runtime.signal("c", libc::SIGKILL).await.unwrap();
    node.ended("c").await;
    assert!(node.runtime.exec("c", &sh("true")).await.is_err());
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
async fn a_terminal_of_its_own() {
    let node = Node::new().await;
    let (exit, log) = node.run(&Container { tty: true, ..node.container("c", "tty; echo x >&2; exit 4") }).await;
    assert!(fs::read_to_string(node.log_path("c")).unwrap().contains("x\r\n"), "as terminals print");
    assert_eq!((exit.code, log.as_str()), (4, "/dev/pts/0\nx\n"));
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

#[tokio::test]
async fn a_sandbox_goes_with_all_that_runs_in_it() {
    let node = Node::new().await;
    for id in ["a", "b", "c"] {
        node.runtime.start(&node.container(id, "trap '' TERM; touch /made; sleep 1000")).await.unwrap();
    }
    node.runtime.remove_sandbox("pod").await.unwrap();
    assert!(node.runtime.list().await.unwrap().is_empty());
    let broken = Sandbox { uid: "net".into(), netns: Some("/nowhere".into()), ..Sandbox::default() };
    assert!(node.runtime.create_sandbox(&broken).await.unwrap_err().to_string().contains("/nowhere"));
    let plain = node.folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    let broken = Sandbox { uid: "net".into(), netns: Some(plain), ..Sandbox::default() };
    let error = node.runtime.create_sandbox(&broken).await.unwrap_err().to_string();
    assert!(error.contains("it is none"), "{error}");
    let sysctl =
        Sandbox { uid: "s".into(), sysctls: [("kernel.panic".into(), "1".into())].into(), ..Sandbox::default() };
    assert!(node.runtime.create_sandbox(&sysctl).await.is_err());
    let sysctl =
        Sandbox { uid: "s".into(), sysctls: [("kernel.shmmni".into(), "77".into())].into(), ..Sandbox::default() };
    node.runtime.create_sandbox(&sysctl).await.unwrap();
    let (_, log) =
        node.run(&Container { sandbox: "s".into(), ..node.container("d", "cat /proc/sys/kernel/shmmni") }).await;
    assert_eq!(log, "77\n");
    node.finish().await;
}

/// Which of the two versions of control groups this machine has, the other one would go untested.
#[test]
fn the_same_holds_on_one_hierarchy_of_control_groups() {
    let this = "the_same_holds_on_one_hierarchy_of_control_groups";
    let console = machine::run(&["--skip", this], Path::new(env!("CARGO_BIN_EXE_supervisor")));
    let controllers = console.lines().find(|line| line.starts_with("controllers: "));
    let controllers = controllers.unwrap_or_else(|| panic!("the machine does not start:\n{console}"));
    for needed in ["cpu", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|word| word == needed), "{controllers}");
    }
    assert!(console.contains("the program ended with 0"), "{console}");
}
