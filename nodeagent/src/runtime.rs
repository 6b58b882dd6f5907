//! What the agent needs of a container runtime: the verbs on sandboxes and containers.
//!
//! # Guarantees that every runtime keeps
//! * Containers and their log writers outlive the agent: after a restart [`Runtime::list`] shows the same processes.
//! * An exit is never lost: an exited container is listed with its exit until it is removed.
//! * Verbs are idempotent.

pub mod builtin;
pub mod fake;

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use tokio::sync::mpsc;

/// Where a sandbox keeps what its containers share: IPC and UTS namespaces, and the cgroup parent.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sandbox {
    /// The pod's uid.
    pub uid: String,
    /// What `hostname` prints; empty leaves the node's.
    pub hostname: String,
    /// The pod's network namespace; none shares the node's.
    pub netns: Option<PathBuf>,
    /// Share the node's IPC namespace.
    pub host_ipc: bool,
    /// Share the node's PID namespace.
    pub host_pid: bool,
    /// Limits of the pod as a whole.
    pub resources: Resources,
    /// Kernel parameters of the sandbox's namespaces.
    pub sysctls: BTreeMap<String, String>,
}

/// Limits of a cgroup; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// Relative weight, as `cpu.shares` of v1 (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Milli-CPUs at most (`cpu.cfs_quota_us` over 100 ms, `cpu.max`).
    pub cpu_limit_millis: Option<u64>,
    /// Bytes at most.
    pub memory_limit: Option<u64>,
    /// Processes at most.
    pub pids_limit: Option<u64>,
}

/// A file or folder of the node shown in a container.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// On the node. Opened without following links out of a volume by whoever made it.
    pub source: PathBuf,
    /// In the container; resolved inside its root, never outside.
    pub target: PathBuf,
    /// Not writable in the container.
    pub readonly: bool,
    /// Later mounts of the node show up in the container (`HostToContainer`).
    pub propagation: Propagation,
}

/// Upstream's `mountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    /// Neither way.
    #[default]
    None,
    /// From the node to the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// Everything needed to start a container; decided before, so that starting makes no choices.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Container {
    /// `<pod uid>/<name>/<attempt>` without slashes: one path segment, unique on the node.
    pub id: String,
    /// The sandbox it lives in.
    pub sandbox: String,
    /// Name in the pod.
    pub name: String,
    /// 0 for the first start, one more for each restart.
    pub attempt: u32,
    /// Layers of the root filesystem, lowest first; read-only folders of the image store.
    pub layers: Vec<PathBuf>,
    /// What runs, absolute or found in `PATH` of `env` inside the container.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Working directory; made when missing.
    pub cwd: PathBuf,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Volumes, in order.
    pub mounts: Vec<Mount>,
    /// Capability names without `CAP_`, all of bounding, effective and permitted sets.
    pub capabilities: Vec<String>,
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// The root filesystem cannot be written.
    pub readonly_root: bool,
    /// `no_new_privs` is set.
    pub no_new_privileges: bool,
    /// System calls are filtered, as upstream's `RuntimeDefault` says; not with `privileged`.
    #[serde(default)]
    pub seccomp: bool,
    /// Proc paths hidden and made read-only; empty with `procMount: Unmasked`.
    pub masked: bool,
    /// Limits.
    pub resources: Resources,
    /// -1000 to 1000; best effort, may be refused by the machine.
    pub oom_score_adj: i32,
    /// Where the log goes, CRI format, rotated by the runtime.
    pub log: PathBuf,
    /// A log file is rotated when it is larger, bytes.
    pub log_max_bytes: u64,
    /// Log files kept, the current one included.
    pub log_max_files: u32,
    /// The container gets a terminal (`tty: true`).
    pub tty: bool,
    /// Standard input stays open (`stdin: true`); otherwise it is `/dev/null`.
    pub stdin: bool,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when killed by one.
    pub code: i32,
    /// The signal that killed it, or 0.
    pub signal: i32,
    /// The kernel killed something in it for want of memory.
    pub oom_killed: bool,
    /// When.
    pub at: SystemTime,
}

/// A container as the runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContainerState {
    /// As given.
    pub id: String,
    /// As given.
    pub sandbox: String,
    /// As given.
    pub name: String,
    /// As given.
    pub attempt: u32,
    /// Of its first process, in the node's PID namespace; 0 when it never started.
    pub pid: i32,
    /// When its first process was started.
    pub started_at: SystemTime,
    /// How it ended; none while it runs.
    pub exit: Option<Exit>,
}

/// A process beside the container's first.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exec {
    /// What runs.
    pub args: Vec<String>,
    /// On a terminal of its own.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
}

/// A running [`Exec`]. Dropping it hangs up (the process gets SIGHUP with a terminal, EOF and broken pipes without).
pub struct ExecSession {
    /// Bytes for its standard input; dropped or empty send closes it.
    pub stdin: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    /// Its standard output, or the terminal.
    pub stdout: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
    /// Its standard error; none on a terminal.
    pub stderr: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    /// Columns and rows of the terminal, whenever they change.
    pub resize: mpsc::Sender<(u16, u16)>,
    /// Its exit code.
    pub exit: tokio::sync::oneshot::Receiver<Result<i32, Error>>,
}

/// What a container uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// CPU time so far, nanoseconds.
    pub cpu_nanos: u64,
    /// Memory charged, less inactive file pages, bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Why a runtime could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for names nothing.
    #[error("no {what} {id}")]
    NotFound {
        /// `container` or `sandbox`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The container's own fault: no such command, bad user, a target that is no folder. Upstream's `RunContainerError`.
    #[error("cannot start container {id}: {why}")]
    Start {
        /// The container.
        id: String,
        /// Why, for the user: `exec: "nope": executable file not found in $PATH`.
        why: String,
    },
    /// The node's fault.
    #[error("cannot {operation} {subject}: {why}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// What the system said.
        why: String,
    },
    /// The supervisor does not answer.
    #[error("supervisor at {socket} does not answer to {operation}")]
    Supervisor {
        /// What was tried.
        operation: &'static str,
        /// Where it should listen.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The system's refusal, as the node's fault.
fn system(operation: &'static str, subject: &str, source: &std::io::Error) -> Error {
    Error::System { operation, subject: subject.to_owned(), why: source.to_string() }
}

/// A container runtime.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// All containers that were started and not removed, with their exits.
    async fn list(&self) -> Result<Vec<ContainerState>, Error>;

    /// Makes what the pod's containers share.
    async fn create_sandbox(&self, sandbox: &Sandbox) -> Result<(), Error>;

    /// Kills what is left in it and removes it with all its containers (not their logs).
    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error>;

    /// Uids of all sandboxes.
    async fn sandboxes(&self) -> Result<Vec<String>, Error>;

    /// Starts a container; returns when its program was executed or could not be.
    async fn start(&self, container: &Container) -> Result<ContainerState, Error>;

    /// Sends a signal to the container's first process; `SIGKILL` to all of its processes. Ok when it has ended already.
    async fn signal(&self, id: &str, signal: i32) -> Result<(), Error>;

    /// Forgets an exited container and removes its root filesystem (not its log).
    async fn remove(&self, id: &str) -> Result<(), Error>;

    /// Starts a process in a running container.
    async fn exec(&self, id: &str, exec: &Exec) -> Result<ExecSession, Error>;

    /// What it uses.
    async fn usage(&self, id: &str) -> Result<Usage, Error>;

    /// Exits as they happen, from now on. A receiver that lags must [`Runtime::list`] again.
    fn exits(&self) -> tokio::sync::broadcast::Receiver<ContainerState>;
}
