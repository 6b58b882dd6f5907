//! Several servers on machines of their own, to be broken: each has a network, a disk of a few megabytes and a process.
//!
//! ```text
//!  clients, kubectl: 172.31.0.1 ── bridge ──┬── 172.31.0.11  a: orlop server on a small tmpfs
//!                                           ├── 172.31.0.12  b
//!                                           └── 172.31.0.13  c
//! ```
//!
//! All of it is namespaces; the machine that tests run on sees none of the addresses and none of the disks.

use std::{
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cli::up::{Host, Isolation};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

use crate::stage::{Following, PATIENCE, Said, newest_kubectl, program, run};
use crate::wait;

pub mod cut;
pub mod machine;

pub use cut::{Cut, Way};
pub use machine::Machine;

/// Where clients are, and the first machine's address.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
const FIRST: u8 = 11;

/// What servers are called.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How long a user's command may wait for a server.
const ASKING: Duration = Duration::from_secs(10);

/// The machines. Dropped, all of it is gone.
pub struct Rack {
    wire: Host,
    machines: Vec<Machine>,
    kubectl: PathBuf,
    folder: TempDir,
}

/// One line of `orlop server members`.
#[derive(Clone, Debug)]
pub struct Row {
    /// The member's id.
    pub id: String,
    /// What its server is called.
    pub name: String,
    /// leader, follower or learner.
    pub role: String,
}

impl Rack {
    /// Starts so many servers, the first alone and then one after the other with a vote. On a thread that ends with the rack: it gets mounts of its own.
    pub fn raise(servers: usize) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("keep mounts to itself")?;
        let folder = tempfile::Builder::new().prefix("orlop-rack-").tempdir().context("make a folder for servers")?;
        let wire = Host::new("wire", Isolation::Network)?;
        wire.run(|| netd::underlay::lay(CLIENTS))??;
        let mut rack = Self { wire, machines: Vec::new(), kubectl: newest_kubectl()?, folder };
        for _ in 0..servers {
            let at = rack.add()?;
            rack.until_voting(at)?;
        }
        Ok(rack)
    }

    /// Starts another server, which joins the others, and waits until it serves. Its place among the machines.
    pub fn add(&mut self) -> Result<usize> {
        let at = self.join(0)?;
        self.until_ready(at)?;
        Ok(at)
    }

    /// Starts another server, which joins the others through one of them. It is not waited for.
    pub fn join(&mut self, through: usize) -> Result<usize> {
        let at = self.machines.len();
        let address = Ipv4Addr::new(172, 31, 0, FIRST + u8::try_from(at).context("count the machines")?);
        let name = NAMES.get(at).context("there are more machines than names")?;
        let host = Host::new(name, Isolation::Network)?;
        let (cable, network) = (format!("to-{name}"), host.network().try_clone_to_owned().context("name a network")?);
        self.wire.run(move || netd::underlay::plug(&cable, network.as_fd()))??;
        host.run(move || netd::underlay::configure(address, CLIENTS))??;
        let joins = match self.machines.get(through) {
            Some(other) => vec!["--join".to_owned(), other.url(), "--token".to_owned(), other.server_token()?],
            None => Vec::new(),
        };
        let mut machine = Machine::new(name, address, host, self.folder.path(), joins)?;
        machine.start()?;
        self.machines.push(machine);
        Ok(at)
    }

    /// Waits until a server serves. One that ends meanwhile is started again, as whoever watches over it would.
    pub fn until_back(&mut self, at: usize) -> Result<()> {
        self.until("the server is back", |rack| {
            rack.machines[at].start_if_ended()?;
            rack.serves(at)
        })
    }

    /// Waits until a server that joins has a vote. One that ends meanwhile, as it found no leader, is started again.
    pub fn until_joined(&mut self, at: usize) -> Result<()> {
        self.until("the server has joined", |rack| {
            rack.machines[at].start_if_ended()?;
            let name = rack.machines[at].name();
            let running = rack.running();
            let told = running.iter().filter(|other| **other != at).find_map(|other| rack.members(*other).ok());
            Ok(told.is_some_and(|rows| rows.iter().any(|row| row.name == name && row.role != "learner")))
        })?;
        self.until_ready(at)
    }

    /// Has a server removed for good, by whichever of the others can.
    pub fn remove(&mut self, at: usize) -> Result<()> {
        let name = self.machines[at].name().to_owned();
        self.until("the server is removed", |rack| {
            for other in rack.running().into_iter().filter(|other| *other != at) {
                let Ok(rows) = rack.members(other) else { continue };
                let Some(row) = rows.iter().find(|row| row.name == name) else { return Ok(true) };
                // What came of it is looked up when there is no answer.
                if rack.manage(other, &["remove", &row.id]).is_ok() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Waits until a server has ended by itself.
    pub fn until_ended(&mut self, at: usize) -> Result<()> {
        self.until("the server has ended", |rack| rack.machines[at].has_ended())
    }

    /// Has a machine lose what it and the others say to each other in these directions, and nothing else any more. Clients
    /// reach it still.
    pub fn cut_off(&self, at: usize, ways: &[Way]) -> Result<()> {
        let peers = self.machines.iter().enumerate().filter(|(other, _)| *other != at);
        let cuts = peers.flat_map(|(_, other)| ways.iter().map(|way| Cut { peer: other.address(), way: *way }));
        self.machines[at].cut(&cuts.collect::<Vec<_>>())
    }

    /// Has clients and a machine lose what they say to each other, as when it has lost power.
    pub fn hide(&self, at: usize) -> Result<()> {
        self.machines[at].cut(&[Way::In, Way::Out].map(|way| Cut { peer: CLIENTS, way }))
    }

    /// All machines, in the order in which they were added.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// One of them, to be broken.
    pub fn machine(&mut self, at: usize) -> &mut Machine {
        &mut self.machines[at]
    }

    /// Where clients are: sockets that are opened on this host, and by threads that were started on it, reach all machines.
    pub fn clients(&self) -> &Host {
        &self.wire
    }

    /// The places of those whose process runs.
    pub fn running(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|at| self.machines[*at].runs()).collect()
    }

    /// Runs kubectl as the administrator of one server, whatever comes of it.
    pub fn kubectl(&self, at: usize, args: &[&str]) -> Result<Said> {
        let mut command = Command::new(&self.kubectl);
        command.arg(format!("--request-timeout={}s", ASKING.as_secs())).args(args);
        self.command(at, command)
    }

    fn command(&self, at: usize, mut command: Command) -> Result<Said> {
        self.administrate(at, &mut command);
        self.wire.run(move || run(&mut command, ""))
    }

    fn administrate(&self, at: usize, command: &mut Command) {
        let home = self.folder.path();
        command.env("KUBECONFIG", self.machines[at].kubeconfig()).env("HOME", home).env("LC_ALL", "C");
    }

    /// Starts an `orlop` that goes on, as the administrator of one server.
    pub fn follow(&self, at: usize, args: &[&str]) -> Result<Following> {
        let mut command = Command::new(program()?);
        self.administrate(at, command.args(args));
        self.wire.run(move || Following::start(&mut command))?
    }

    /// Who is a member, as one server tells.
    pub fn members(&self, at: usize) -> Result<Vec<Row>> {
        self.manage(at, &["members"])
    }

    /// Runs `orlop server` with these words; it must succeed, and shows the members.
    pub fn manage(&self, at: usize, words: &[&str]) -> Result<Vec<Row>> {
        let mut command = Command::new(program()?);
        command.arg("server").args(words);
        let said = self.command(at, command)?;
        ensure!(said.ok, "orlop server {} on {}: {}{}", words.join(" "), self.machines[at].name(), said.out, said.err);
        let rows = said.out.lines().skip(1).map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let mut next = || words.next().with_context(|| format!("a line of members is short: {line}"));
            let (id, name, _status) = (next()?, next()?, next()?);
            Ok(Row { id, name, role: next()? })
        });
        rows.collect()
    }

    /// The place of the machine that leads, as one of these tells; none while none of them knows one.
    pub fn leader(&self, asked: &[usize]) -> Option<usize> {
        let told = asked.iter().find_map(|at| {
            let rows = self.members(*at).ok()?;
            rows.into_iter().find(|row| row.role == "leader")
        })?;
        self.machines.iter().position(|machine| machine.name() == told.name)
    }

    /// Waits until one of `asked` knows a leader that `wanted` takes; its place.
    pub fn until_led(&mut self, asked: &[usize], wanted: impl Fn(usize) -> bool) -> Result<usize> {
        let mut found = None;
        self.until("there is such a leader", |rack| {
            found = rack.leader(asked).filter(|at| wanted(*at));
            Ok(found.is_some())
        })?;
        found.context("invariant: a condition that holds has been looked at")
    }

    /// Waits until a server serves its API.
    pub fn until_ready(&mut self, at: usize) -> Result<()> {
        self.until(&format!("server {} is ready", self.machines[at].name().to_owned()), |rack| {
            rack.machines[at].check_runs()?;
            rack.serves(at)
        })
    }

    fn serves(&self, at: usize) -> Result<bool> {
        Ok(self.machines[at].kubeconfig().exists() && self.kubectl(at, &["get", "--raw", "/readyz"])?.ok)
    }

    fn until_voting(&mut self, at: usize) -> Result<()> {
        self.until("the server has a vote", |rack| {
            let name = rack.machines[at].name();
            Ok(rack.members(0)?.iter().any(|row| row.name == name && row.role != "learner"))
        })
    }

    /// Waits until `condition` holds; an error of its ends the story.
    pub fn until(&mut self, what: &str, condition: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        wait::until(self, what, PATIENCE, condition, |rack| rack.logs())
    }

    /// The last things that all servers have said.
    pub fn logs(&self) -> String {
        let told = self.machines.iter().map(|machine| format!("-- {}\n{}\n", machine.name(), machine.last_words()));
        told.collect()
    }

    /// A folder of the rack's own, on the disk of the machine that tests run on.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
