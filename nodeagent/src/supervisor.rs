//! Supervisor: the process that owns the containers of a node and outlives the agent.
//!
//! ```text
//! agent ── socket ──> supervisor ── clone, mount, exec ──> containers
//!                       │  ^                                  │
//!                       │  └───────── stdout, stderr ─────────┘
//!                       └─> logs, state.json
//! ```
//!
//! # Guarantees
//! * One thread, one loop; an agent that is killed, replaced or hung changes nothing for a container.
//! * The state of a container is on disk before an agent hears of it, and so is its exit.
//!
//! * A supervisor that is killed or replaced changes nothing for a container either: the next one takes it over (see
//!   [`recovery`] for the exceptions).
//!
//! # Absent
//! No async runtime, no network, no decisions: whether something is restarted is the agent's to say.

mod cgroup;
pub(crate) mod connection;
mod container;
mod executor;
mod log;
pub(crate) mod protocol;
mod recovery;
mod sandbox;
mod server;
mod sys;
mod verbs;

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::fs::{FlockOperation, Mode};

use self::{cgroup::Cgroups, server::Server};

/// Name of the socket in the supervisor's folder.
pub(crate) const SOCKET: &str = "supervisor.sock";
/// What the starter is told when the socket is open.
const READY: &str = "ready";

struct Arguments {
    dir: PathBuf,
    cgroup_root: String,
    /// Runs from a read-only mount.
    sealed: bool,
}

/// Says that the program runs from a read-only mount.
const SEALED: &str = "--sealed";

/// The program `supervisor --dir DIR --cgroup-root PATH`: starts a supervisor for the folder unless one runs, and returns
/// when it answers. To be called first thing in `main`, while the process has one thread.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let started = parse(arguments).and_then(|arguments| {
        if !arguments.sealed {
            seal();
        }
        start(&arguments)
    });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("cannot start the supervisor: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> io::Result<Arguments> {
    let (mut dir, mut cgroup_root, mut sealed) = (None, None, false);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--dir") => dir = arguments.next(),
            Some("--cgroup-root") => cgroup_root = arguments.next(),
            Some(SEALED) => sealed = true,
            _ => return Err(wrong(format!("unknown argument {}", argument.display()))),
        }
    }
    let dir = dir.ok_or_else(|| wrong("--dir is missing".into()))?;
    let cgroup_root = cgroup_root.and_then(|root| root.into_string().ok());
    let cgroup_root = cgroup_root.ok_or_else(|| wrong("--cgroup-root is missing".into()))?;
    let below = cgroup_root.trim_matches('/');
    if below.is_empty() || below.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(wrong(format!("--cgroup-root {cgroup_root:?} is no path below the root")));
    }
    Ok(Arguments { dir: std::path::absolute(PathBuf::from(dir))?, cgroup_root, sealed })
}

/// Executes this very program again from a read-only mount of its file that nobody else has: a container that gets hold
/// of its own `/proc/self/exe` while it is still ours cannot write to it (CVE-2019-5736). Returns if that cannot be done.
fn seal() {
    let sealed = || -> io::Result<()> {
        let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let program = rustix::mount::open_tree(rustix::fs::CWD, "/proc/self/exe", flags)?;
        let readonly = sys::MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..sys::MountAttributes::default() };
        sys::set_mount_attributes(program.as_fd(), readonly)?;
        let text = |text: OsString| std::ffi::CString::new(text.into_encoded_bytes()).map_err(io::Error::other);
        let mut arguments: Vec<_> = std::env::args_os().map(text).collect::<Result<_, _>>()?;
        arguments.push(text(SEALED.into())?);
        let variables: Vec<_> = std::env::vars_os()
            .map(|(name, value)| text([name, value].join(std::ffi::OsStr::new("="))))
            .collect::<Result<_, _>>()?;
        let Err(errno) =
            nix::unistd::execveat(&program, c"", &arguments, &variables, nix::fcntl::AtFlags::AT_EMPTY_PATH);
        Err(errno.into())
    };
    if let Err(error) = sealed() {
        note(format_args!("runs from a writable file: {error}"));
    }
}

fn wrong(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Detaches the supervisor and waits until it listens.
fn start(arguments: &Arguments) -> io::Result<()> {
    let (mut from_child, to_parent) = io::pipe()?;
    let child = sys::clone(0)?;
    if child == 0 {
        drop(from_child);
        detach(arguments, to_parent);
    }
    drop(to_parent);
    let mut said = String::new();
    from_child.read_to_string(&mut said)?;
    // The first child has ended by now, or is about to: its own child is the supervisor.
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).ok();
    match said.as_str() {
        READY => Ok(()),
        "" => Err(io::Error::other("it died; see supervisor.log in its folder")),
        why => Err(io::Error::other(why.to_owned())),
    }
}

/// Leaves the session of whoever started it, and becomes the supervisor as a grandchild.
fn detach(arguments: &Arguments, mut to_parent: io::PipeWriter) -> ! {
    let detached = rustix::process::setsid().map_err(io::Error::from).and_then(|_| sys::clone(0));
    match detached {
        Ok(0) => {}
        Ok(_) => sys::exit_now(0),
        Err(error) => {
            drop(write!(to_parent, "cannot detach: {error}"));
            sys::exit_now(1);
        }
    }
    match open(arguments) {
        Ok(None) => {
            drop(to_parent.write_all(READY.as_bytes()));
            sys::exit_now(0);
        }
        Ok(Some(mut server)) => {
            drop(to_parent.write_all(READY.as_bytes()));
            drop(to_parent);
            let ended = server.run();
            drop(fs::remove_file(arguments.dir.join(SOCKET)));
            if let Err(error) = ended {
                note(format_args!("supervisor ends: {error}"));
                sys::exit_now(1);
            }
            sys::exit_now(0);
        }
        Err(error) => {
            drop(write!(to_parent, "{error}"));
            sys::exit_now(1);
        }
    }
}

/// Everything before the loop; none if another supervisor has the folder.
fn open(arguments: &Arguments) -> io::Result<Option<Server>> {
    let dir = &arguments.dir;
    for folder in ["", "containers", "sandboxes", "trash", "root"] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir.join(folder))?;
    }
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("supervisor.lock"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::AGAIN) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    }
    streams(dir)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Children inherit it until their exec: a container cannot look into what is about to become one of its processes.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Best effort, as for containers.
    drop(fs::write("/proc/self/oom_score_adj", "-999"));
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let cgroups = Cgroups::detect(&arguments.cgroup_root)?;
    let socket = dir.join(SOCKET);
    // Nobody listens on it: we have the lock.
    drop(fs::remove_file(&socket));
    let listener = UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    let mut server = Server::new(dir.clone(), cgroups, OwnedFd::from(listener), signals)?;
    server.recover()?;
    // Held as long as the process lives.
    std::mem::forget(lock);
    Ok(Some(server))
}

/// Nothing of whoever started it is kept open; notes go into a file.
fn streams(dir: &Path) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let log = File::options().create(true).append(true).mode(0o600).open(dir.join("supervisor.log"))?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(nix::unistd::dup2_stderr(&log)?)
}

/// A line in the supervisor's log.
fn note(text: std::fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "{} {text}", jiff::Timestamp::now()));
}
