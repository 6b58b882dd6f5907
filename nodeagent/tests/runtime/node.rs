//! A node without an agent: a runtime with a folder, a layer of files and a control group of its own.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nodeagent::runtime::{
    Container, ContainerState, Exec, Exit, Runtime, Sandbox,
    builtin::{Builtin, Config},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longest wait for anything.
pub const DEADLINE: Duration = Duration::from_secs(30);
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

pub struct Node {
    pub folder: tempfile::TempDir,
    pub config: Config,
    pub runtime: Builtin,
    pub layer: PathBuf,
}

impl Node {
    pub async fn new() -> Node {
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

    pub fn container(&self, id: &str, script: &str) -> Container {
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

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.folder.path().join("logs").join(id).join("0.log")
    }

    /// What it printed, without times and tags.
    pub fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.log_path(id)).unwrap();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned() + "\n").collect()
    }

    pub async fn ended(&self, id: &str) -> Exit {
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

    pub async fn state(&self, id: &str) -> Option<ContainerState> {
        self.runtime.list().await.unwrap().into_iter().find(|container| container.id == id)
    }

    /// Runs a script to its end and returns its exit and what it printed.
    pub async fn run(&self, container: &Container) -> (Exit, String) {
        self.runtime.start(container).await.unwrap();
        (self.ended(&container.id).await, self.log(&container.id))
    }

    pub async fn exec(&self, id: &str, exec: Exec, input: &[u8]) -> (i32, String, String) {
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

    pub async fn wait_for_log(&self, id: &str, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !fs::read_to_string(self.log_path(id)).unwrap_or_default().contains(text) {
            assert!(Instant::now() < deadline, "{text} is not printed");
            tokio::task::yield_now().await;
        }
    }

    pub fn supervisor_pid(&self) -> i32 {
        let socket = std::os::unix::net::UnixStream::connect(self.config.dir.join("supervisor.sock")).unwrap();
        rustix::net::sockopt::socket_peercred(&socket).unwrap().pid.as_raw_nonzero().get()
    }

    /// Ends it, and looks what is left.
    pub async fn finish(self) {
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

pub fn sh(script: &str) -> Exec {
    Exec { args: vec!["sh".into(), "-c".into(), script.into()], ..Exec::default() }
}
