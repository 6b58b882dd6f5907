//! Container: its files, its streams and its log, from start to removal.
//!
//! Its standard output and error are FIFOs in its folder, which it holds open for reading too: while there is no supervisor
//! they fill, and the next one reads on where the last one stopped.

use std::{
    fs, io,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::Timestamp;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use super::{
    cgroup::Cgroups,
    executor::{self, Plan},
    log::{Log, Partial},
    protocol::{Failure, Recorded},
    sandbox::Sandbox,
    sys,
};
use crate::runtime::{Container as Spec, ContainerState, Exit};

/// Most bytes read from a pipe at once: what a pipe holds.
const READ_MAX: usize = 64 * 1024;

/// Streams that go into the log; files of the same names in its folder.
const OUTPUTS: [&str; 2] = ["stdout", "stderr"];

/// A container that was started.
pub(super) struct Container {
    pub(super) state: ContainerState,
    folder: PathBuf,
    log: Log,
    pub(super) outputs: Vec<Output>,
    /// The first process of one that an earlier supervisor started; we are the parent of all others.
    pub(super) process: Option<OwnedFd>,
    /// The log could not be written and waits for room.
    pub(super) stalled: bool,
}

/// One of its streams.
pub(super) struct Output {
    name: &'static str,
    pub(super) pipe: OwnedFd,
    pub(super) token: u64,
    partial: Partial,
}

/// A child that has not executed its program yet.
pub(super) struct Born {
    pub(super) pid: i32,
    /// Where it says why it cannot, and sends its terminal; closed by the exec.
    pub(super) channel: OwnedFd,
}

impl Container {
    /// Makes its folder and cgroup and clones its first process.
    pub(super) fn start(
        folder: &Path,
        mountpoint: &Path,
        cgroups: &Cgroups,
        sandbox: &Sandbox,
        spec: &Spec,
    ) -> Result<(Container, Born), Failure> {
        let failed = |operation: &'static str| {
            let id = spec.id.clone();
            move |e: io::Error| Failure::system(operation, id, e)
        };
        for name in ["upper", "work"] {
            fs::create_dir_all(folder.join(name)).map_err(failed("make the folder of"))?;
        }
        let text = serde_json::to_vec(spec).map_err(|e| failed("record")(e.into()))?;
        replace(&folder.join("spec.json"), &text).map_err(failed("record"))?;
        let path = Path::new(&spec.sandbox).join(&spec.id);
        cgroups.create(&path, &spec.resources).map_err(failed("limit"))?;
        let log = Log::open(&spec.log, spec.log_max_bytes, spec.log_max_files).map_err(failed("open the log of"))?;
        let (child, outputs) = streams(spec, folder).map_err(failed("make streams of"))?;
        let plan = Plan {
            container: spec,
            joins: cgroups.joins(&path),
            cgroups: cgroups.folders(&path),
            namespaces: sandbox.namespaces(),
            upper: folder.join("upper"),
            work: folder.join("work"),
            mountpoint: mountpoint.to_owned(),
            shm: sandbox.shm(),
        };
        let namespaces = libc::CLONE_NEWNS | if sandbox.spec.host_pid { 0 } else { libc::CLONE_NEWPID };
        let born =
            born(namespaces, child, |stdio, channel| executor::init(&plan, stdio, channel)).map_err(failed("clone"))?;
        let state = ContainerState {
            id: spec.id.clone(),
            sandbox: spec.sandbox.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            pid: born.pid,
            started_at: SystemTime::now(),
            exit: None,
        };
        let container = Container { state, folder: folder.to_owned(), log, outputs, process: None, stalled: false };
        Ok((container, born))
    }

    /// One that an earlier supervisor started, as it was recorded.
    pub(super) fn restore(folder: &Path) -> io::Result<Container> {
        let recorded: Recorded = serde_json::from_slice(&fs::read(folder.join("state.json"))?)?;
        let spec = spec(folder)?;
        let log = Log::open(&spec.log, spec.log_max_bytes, spec.log_max_files)?;
        let (state, folder) = (recorded.state, folder.to_owned());
        Ok(Container { state, folder, log, outputs: Vec::new(), process: None, stalled: false })
    }

    /// Takes it over: it still runs, and `process` is its first one.
    ///
    /// # Errors
    /// When its streams cannot be read again: a terminal ended with its supervisor.
    pub(super) fn adopt(&mut self, process: OwnedFd) -> io::Result<()> {
        self.outputs = OUTPUTS.into_iter().map(|name| output(&self.folder, name)).collect::<io::Result<_>>()?;
        self.process = Some(process);
        Ok(())
    }

    /// Its specification, which is kept on disk only.
    pub(super) fn spec(&self) -> io::Result<Spec> {
        spec(&self.folder)
    }

    /// Takes the terminal that its process opened.
    pub(super) fn take_terminal(&mut self, pipe: OwnedFd, token: u64) {
        self.outputs.push(Output { name: "stdout", pipe, token, partial: Partial::default() });
    }

    /// Writes its state, whole or not at all.
    pub(super) fn record(&self) -> io::Result<()> {
        let recorded = Recorded { state: self.state.clone(), recorded_at: SystemTime::now() };
        replace(&self.folder.join("state.json"), &serde_json::to_vec(&recorded)?)
    }

    /// Reads one stream once into the log. False when the stream has ended.
    pub(super) fn read(&mut self, token: u64, buffer: &mut [u8]) -> bool {
        let Some(at) = self.outputs.iter().position(|output| output.token == token) else { return false };
        let output = &mut self.outputs[at];
        let now = Timestamp::now();
        match rustix::io::read(&output.pipe, &mut *buffer) {
            Ok(count) if count > 0 => {
                self.log.append(output.name, &mut output.partial, &buffer[..count], now);
                self.stalled = self.log.flush().is_err();
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            // A terminal ends with EIO.
            Ok(_) | Err(_) => {
                self.log.end(output.name, &mut output.partial, now);
                self.stalled = self.log.flush().is_err();
                self.outputs.remove(at);
                false
            }
        }
    }

    /// Tries again to write a log that waits for room.
    pub(super) fn retry(&mut self) {
        self.stalled = self.log.flush().is_err();
    }

    /// Its first process has ended: reads what is left in the pipes and records the exit.
    pub(super) fn ended(&mut self, exit: Exit) -> io::Result<()> {
        let mut buffer = vec![0; READ_MAX];
        while let Some(output) = self.outputs.first_mut() {
            match rustix::io::read(&output.pipe, &mut buffer) {
                Ok(count) if count > 0 => {
                    self.log.append(output.name, &mut output.partial, &buffer[..count], Timestamp::now());
                }
                Err(Errno::INTR) => {}
                // Also when somebody else still holds the pipe: nobody of this container does.
                Ok(_) | Err(_) => {
                    self.log.end(output.name, &mut output.partial, Timestamp::now());
                    self.outputs.remove(0);
                }
            }
        }
        self.stalled = self.log.flush().is_err();
        self.state.exit = Some(exit);
        self.record()
    }
}

fn spec(folder: &Path) -> io::Result<Spec> {
    Ok(serde_json::from_slice(&fs::read(folder.join("spec.json"))?)?)
}

/// What a container without a terminal gets as its streams, and the ends that are read here.
fn streams(spec: &Spec, folder: &Path) -> io::Result<(executor::Stdio, Vec<Output>)> {
    if spec.tty {
        return Ok((None, Vec::new()));
    }
    // Nobody writes yet into one that is wanted; held open on both ends it never ends.
    let stdin = match spec.stdin {
        true => fifo(folder, "stdin")?,
        false => rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
    };
    let [out, err] = OUTPUTS.map(|name| Ok::<_, io::Error>((fifo(folder, name)?, output(folder, name)?)));
    let ((out, first), (err, second)) = (out?, err?);
    Ok((Some([stdin, out, err]), vec![first, second]))
}

/// A new FIFO, open on both ends.
fn fifo(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let path = folder.join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    Ok(rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
}

/// The end of it that is read here.
fn output(folder: &Path, name: &'static str) -> io::Result<Output> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let pipe = rustix::fs::open(folder.join(name), flags, Mode::empty())?;
    Ok(Output { name, pipe, token: 0, partial: Partial::default() })
}

/// Clones a child that runs `become_program`, which returns only if it failed; the child says so and ends.
pub(super) fn born(
    namespaces: i32,
    stdio: executor::Stdio,
    become_program: impl FnOnce(executor::Stdio, std::os::fd::BorrowedFd<'_>) -> Result<std::convert::Infallible, Failure>,
) -> io::Result<Born> {
    let (channel, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let pid = sys::clone(namespaces)?;
    if pid == 0 {
        drop(channel);
        // Streams that are lower than 3 by chance would be overwritten by each other; these never are, as the
        // supervisor keeps its own three.
        let Err(failure) = become_program(stdio, std::os::fd::AsFd::as_fd(&theirs));
        let text = serde_json::to_vec(&failure).unwrap_or_default();
        rustix::net::send(&theirs, &text, rustix::net::SendFlags::NOSIGNAL).ok();
        sys::exit_now(127);
    }
    rustix::io::ioctl_fionbio(&channel, true)?;
    Ok(Born { pid, channel })
}

/// Replaces a file as a whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    fs::rename(&fresh, path)
}
