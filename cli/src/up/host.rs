//! A host made of namespaces: its own network, mounts, processes, IPC and host name, on this kernel.
//!
//! A thread lives in the namespaces for as long as the host exists; whatever is to happen "on the host" (start a program,
//! open a socket) is handed to that thread. The first program that it starts is PID 1 of the host: killing it is cutting
//! the host's power, and the kernel then takes down everything that ran there.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Command},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

type Job = Box<dyn FnOnce() + Send>;

/// What a host has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Its network alone: where the server lives.
    Network,
    /// Network, mounts, processes, IPC and host name: a node.
    Machine,
}

impl Isolation {
    fn flags(self) -> CloneFlags {
        let network = CloneFlags::CLONE_NEWNET;
        match self {
            Self::Network => network,
            Self::Machine => {
                network
                    | CloneFlags::CLONE_NEWNS
                    | CloneFlags::CLONE_NEWPID
                    | CloneFlags::CLONE_NEWIPC
                    | CloneFlags::CLONE_NEWUTS
            }
        }
    }
}

/// A host made of namespaces. Dropping it ends its thread; what it started goes on until killed.
pub struct Host {
    name: String,
    jobs: mpsc::Sender<Job>,
    network: OwnedFd,
}

impl Host {
    /// Makes the namespaces.
    pub fn new(name: &str, isolation: Isolation) -> Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, entered) = mpsc::channel();
        let host_name = name.to_owned();
        thread::Builder::new()
            .name(format!("host-{name}"))
            .spawn(move || {
                let network = enter(&host_name, isolation);
                let failed = network.is_err();
                if ready.send(network).is_err() || failed {
                    return;
                }
                for job in inbox {
                    job();
                }
            })
            .context("start a host's thread")?;
        let network = entered.recv().context("enter a host's namespaces")?.with_context(|| {
            format!("make the namespaces of {name} (this needs root, or CAP_SYS_ADMIN in a user namespace)")
        })?;
        Ok(Self { name: name.to_owned(), jobs, network })
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// Does `work` on the host, and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            // whoever asked may have gone: then nobody wants the result
            drop(done.send(work()));
        });
        self.jobs.send(job).map_err(|_| anyhow!("host {} is gone", self.name))?;
        result.recv().with_context(|| format!("work on host {}", self.name))
    }

    /// Starts a program on the host. Its death signal is bound to the host's thread, so that it never outlives us.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(move || command.spawn())?.with_context(|| format!("start {program} on host {}", self.name))
    }
}

/// Moves the calling thread into new namespaces.
fn enter(name: &str, isolation: Isolation) -> io::Result<OwnedFd> {
    unshare(isolation.flags())?;
    if isolation == Isolation::Machine {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        nix::unistd::sethostname(name)?;
    }
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}
