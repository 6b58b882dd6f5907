//! PID 1 of a node made of namespaces: gives it its own `/proc` and `/run`, keeps the agent running, reaps orphans.
//!
//! Single-threaded; it holds nothing, so that it can be killed at any time: that is the node losing its power.

use std::{
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// An agent that dies is started again, but not more often than this.
const RESTART_INTERVAL: Duration = Duration::from_millis(500);

/// Dies with the process that started this one, however that ends.
pub fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("bind this process to its parent")
}

/// Runs `agent` (the words of an `orlop` command line) as the node's service until SIGTERM.
pub fn run(agent: &[String]) -> Result<ExitCode> {
    die_with_parent()?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("block signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("open a signalfd")?;
    prepare_mounts()?;
    let mut service = Service::start(agent)?;
    loop {
        let timeout = service.wait_before_restart();
        match wait_signal(&signals, timeout)? {
            Some(Signal::SIGTERM) => return Ok(ExitCode::SUCCESS),
            // Ctrl-C reaches the whole terminal; whoever started us decides what it means
            Some(_) | None => service.reap()?,
        }
    }
}

fn prepare_mounts() -> Result<()> {
    let none = None::<&str>;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), safe, none).context("mount the node's /proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
        .context("mount the node's /run")
}

/// The next of `signals`, or none when `timeout` passed first.
fn wait_signal(signals: &SignalFd, timeout: Option<Duration>) -> Result<Option<Signal>> {
    let mut polled = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let millis = timeout.map_or(PollTimeout::NONE, |t| PollTimeout::try_from(t).unwrap_or(PollTimeout::MAX));
    match poll(&mut polled, millis) {
        Ok(0) | Err(Errno::EINTR) => return Ok(None),
        Ok(_) => {}
        Err(errno) => return Err(errno).context("wait for a signal"),
    }
    let info = signals.read_signal().context("read a signal")?;
    Ok(info.and_then(|i| Signal::try_from(i.ssi_signo.cast_signed()).ok()))
}

/// The agent, and when it was started last.
struct Service<'a> {
    words: &'a [String],
    child: Option<Child>,
    started: Instant,
}

impl<'a> Service<'a> {
    fn start(words: &'a [String]) -> Result<Self> {
        Ok(Self { words, child: Some(spawn(words)?), started: Instant::now() })
    }

    /// How long until a dead agent may be started again; none while it lives.
    fn wait_before_restart(&self) -> Option<Duration> {
        self.child.is_none().then(|| RESTART_INTERVAL.saturating_sub(self.started.elapsed()))
    }

    /// Reaps all that ended; starts the agent again when it is its time.
    fn reap(&mut self) -> Result<()> {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    if self.child.as_ref().is_some_and(|c| c.id().cast_signed() == pid.as_raw()) {
                        self.child = None;
                    }
                }
                Ok(_) | Err(Errno::ECHILD) => break,
                Err(errno) => return Err(errno).context("reap a process"),
            }
        }
        if self.wait_before_restart().is_some_and(|d| d.is_zero()) {
            *self = Self::start(self.words)?;
        }
        Ok(())
    }
}

fn spawn(words: &[String]) -> Result<Child> {
    let exe = std::env::current_exe().unwrap_or_else(|_| Path::new("/proc/self/exe").to_owned());
    Command::new(exe).args(words).spawn().context("start the agent")
}
