//! Server: the supervisor's one loop over everything that can happen.
//!
//! Sources are agents' sockets, the streams of containers, children on their way to their program, and signals. Nothing
//! in here blocks on a container or an agent.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::SystemTime,
};

use nix::sys::{
    signalfd::SignalFd,
    wait::{WaitPidFlag, WaitStatus, waitpid},
};
use rustix::{
    event::{Timespec, epoll},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, accept_with, recvmsg},
};

use super::{
    cgroup::Cgroups,
    connection::Connection,
    container::{Born, Container},
    protocol::{Call, Failure, Message, Reply, decode, encode},
    sandbox::Sandbox,
};
use crate::{
    resident::Program,
    runtime::{ContainerState, Exit},
};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 64;
/// Wait before a log is tried again whose disk was full, seconds.
const LOG_RETRY_SECONDS: i64 = 1;
/// Nothing has happened for so long: the supervisor rests.
const REST_SECONDS: i64 = 3;
/// Largest failure that a child reports, bytes.
const REPORT_MAX: usize = 64 * 1024;

/// Everything that the supervisor knows.
pub(super) struct Server {
    pub(super) dir: PathBuf,
    pub(super) cgroups: Cgroups,
    epoll: OwnedFd,
    listener: OwnedFd,
    signals: SignalFd,
    sources: HashMap<u64, Source>,
    next_token: u64,
    connections: HashMap<u64, Connection>,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, Container>,
    starting: HashMap<u64, Starting>,
    /// By pid.
    execs: HashMap<i32, Exec>,
    pub(super) removals: Vec<Removal>,
    pub(super) next_exec: u64,
    /// Descriptors of agents, by name.
    pub(super) kept: HashMap<String, Vec<OwnedFd>>,
    program: Program,
    ended: bool,
}

#[derive(Clone)]
pub(super) enum Source {
    Listener,
    Signals,
    Connection,
    Output {
        container: String,
    },
    Starting,
    /// The first process of a container that we are not the parent of.
    Adopted {
        container: String,
    },
}

/// Who waits for an answer.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    pub(super) connection: u64,
    pub(super) sequence: u64,
}

/// A child on its way to its program.
struct Starting {
    born: Born,
    what: What,
    asker: Asker,
    terminal: Option<OwnedFd>,
    failure: Option<Failure>,
}

pub(super) enum What {
    Container(Box<Container>),
    Exec(u64),
}

/// A process beside a container's first.
struct Exec {
    number: u64,
    connection: u64,
}

/// A sandbox, or all of them, whose containers are being killed.
pub(super) struct Removal {
    /// None for all, and the supervisor's end.
    pub(super) sandbox: Option<String>,
    pub(super) asker: Option<Asker>,
}

impl Server {
    pub(super) fn new(dir: PathBuf, cgroups: Cgroups, listener: OwnedFd, signals: SignalFd) -> io::Result<Server> {
        let mut server = Server {
            dir,
            cgroups,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listener,
            signals,
            sources: HashMap::new(),
            next_token: 0,
            connections: HashMap::new(),
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            starting: HashMap::new(),
            execs: HashMap::new(),
            removals: Vec::new(),
            next_exec: 1,
            kept: HashMap::new(),
            program: Program::mapped()?,
            ended: false,
        };
        server.next_token = 2;
        for (token, source) in [(1, Source::Listener), (2, Source::Signals)] {
            let fd = if token == 1 { server.listener.as_fd() } else { server.signals.as_fd() };
            epoll::add(&server.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
            server.sources.insert(token, source);
        }
        Ok(server)
    }

    pub(super) fn watch(&mut self, fd: BorrowedFd<'_>, source: Source) -> io::Result<u64> {
        self.next_token += 1;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(self.next_token), epoll::EventFlags::IN)?;
        self.sources.insert(self.next_token, source);
        Ok(self.next_token)
    }

    /// Runs until it is told to end.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut rests = false;
        while !self.ended {
            let stalled = self.containers.values().any(|container| container.stalled);
            let timeout = match (stalled, rests) {
                (true, _) => Some(Timespec { tv_sec: LOG_RETRY_SECONDS, tv_nsec: 0 }),
                (false, false) => Some(Timespec { tv_sec: REST_SECONDS, tv_nsec: 0 }),
                (false, true) => None,
            };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if events.is_empty() && !rests {
                // What was done needed much of the program; waiting needs little.
                self.program.release();
            }
            rests = events.is_empty();
            for event in &events {
                self.dispatch(event.data.u64(), event.flags, &mut buffer)?;
            }
            self.retry_logs()?;
        }
        Ok(())
    }

    fn dispatch(&mut self, token: u64, flags: epoll::EventFlags, buffer: &mut [u8]) -> io::Result<()> {
        // An earlier event of this round may have closed it.
        let Some(source) = self.sources.get(&token).cloned() else { return Ok(()) };
        match source {
            Source::Listener => self.accept()?,
            Source::Signals => self.signalled()?,
            Source::Connection => {
                if self.talk(token, flags).is_err() {
                    self.sources.remove(&token);
                    self.connections.remove(&token);
                }
            }
            Source::Output { container } => {
                if let Some(container) = self.containers.get_mut(&container)
                    && container.read(token, buffer)
                {
                    if container.stalled {
                        self.pause(token, true)?;
                    }
                    return Ok(());
                }
                self.sources.remove(&token);
            }
            Source::Starting => self.proceed(token),
            Source::Adopted { container } => self.adopted_ended(token, &container, flags)?,
        }
        Ok(())
    }

    /// Stops or goes on reading a stream while its log waits for room on the disk.
    fn pause(&mut self, token: u64, paused: bool) -> io::Result<()> {
        let flags = if paused { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        let outputs = self.containers.values().flat_map(|container| &container.outputs);
        for output in outputs.filter(|output| output.token == token) {
            epoll::modify(&self.epoll, &output.pipe, epoll::EventData::new_u64(token), flags)?;
        }
        Ok(())
    }

    fn retry_logs(&mut self) -> io::Result<()> {
        let mut resumed = Vec::new();
        for container in self.containers.values_mut().filter(|container| container.stalled) {
            container.retry();
            if !container.stalled {
                resumed.extend(container.outputs.iter().map(|output| output.token));
            }
        }
        resumed.into_iter().try_for_each(|token| self.pause(token, false))
    }

    fn accept(&mut self) -> io::Result<()> {
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => {
                let token = self.watch(socket.as_fd(), Source::Connection)?;
                self.connections.insert(token, Connection::new(socket));
                Ok(())
            }
            // The agent is gone already, or there are too many: the next one may have more luck.
            Err(_) => Ok(()),
        }
    }

    fn talk(&mut self, token: u64, flags: epoll::EventFlags) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        if flags.contains(epoll::EventFlags::OUT) {
            connection.flush()?;
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            match connection.receive() {
                Ok(true) => {}
                Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        while let Some(connection) = self.connections.get_mut(&token) {
            let Some(call) = decode::<Call>(&mut connection.input)? else { break };
            let descriptors = connection.take(call.descriptors)?;
            self.asked(Asker { connection: token, sequence: call.sequence }, call.request, descriptors);
        }
        self.interest(token)
    }

    /// Waits for room in a socket only when something waits for it.
    fn interest(&mut self, token: u64) -> io::Result<()> {
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let mut flags = epoll::EventFlags::IN;
        if connection.is_waiting() {
            flags |= epoll::EventFlags::OUT;
        }
        Ok(epoll::modify(&self.epoll, connection, epoll::EventData::new_u64(token), flags)?)
    }

    pub(super) fn reply(&mut self, asker: Asker, reply: Result<Reply, Failure>, descriptors: Vec<OwnedFd>) {
        let message = Message::Reply { sequence: asker.sequence, descriptors: descriptors.len(), reply };
        self.send(asker.connection, &message, descriptors);
    }

    fn send(&mut self, token: u64, message: &Message, descriptors: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        // An agent that is gone will list when it comes back.
        if connection.send(encode(message), descriptors).is_err() || self.interest(token).is_err() {
            self.sources.remove(&token);
            self.connections.remove(&token);
        }
    }

    /// A child was cloned: its answer comes when it executes its program or cannot.
    pub(super) fn started(&mut self, born: Born, what: What, asker: Asker) -> io::Result<()> {
        let token = self.watch(born.channel.as_fd(), Source::Starting)?;
        self.starting.insert(token, Starting { born, what, asker, terminal: None, failure: None });
        Ok(())
    }

    /// Reads what a child says; at the end it has become its program, or failed.
    fn proceed(&mut self, token: u64) {
        let Some(starting) = self.starting.get_mut(&token) else { return };
        loop {
            let mut bytes = vec![0; REPORT_MAX];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received =
                match recvmsg(&starting.born.channel, &mut [io::IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
                    Ok(received) => received.bytes,
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                    Err(_) => 0,
                };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                    starting.terminal = descriptors.next();
                }
            }
            match &bytes[..received] {
                [] => break,
                b"t" => {}
                report => {
                    let failure = serde_json::from_slice(report);
                    starting.failure =
                        Some(failure.unwrap_or_else(|e| Failure::system("understand", "report of a child", e)));
                }
            }
        }
        self.sources.remove(&token);
        if let Some(starting) = self.starting.remove(&token) {
            self.executed(starting);
        }
    }

    fn executed(&mut self, starting: Starting) {
        let Starting { born, what, asker, terminal, failure } = starting;
        match (what, failure) {
            (What::Container(container), None) => self.container_executed(container, terminal, asker),
            (What::Container(container), Some(failure)) => {
                self.discard(&container.state);
                self.reply(asker, Err(failure), Vec::new());
                self.finish_removals();
            }
            (What::Exec(number), None) => {
                self.execs.insert(born.pid, Exec { number, connection: asker.connection });
                self.reply(asker, Ok(Reply::ExecStarted { exec: number }), terminal.into_iter().collect());
            }
            (What::Exec(_), Some(failure)) => self.reply(asker, Err(failure), Vec::new()),
        }
    }

    fn container_executed(&mut self, mut container: Box<Container>, terminal: Option<OwnedFd>, asker: Asker) {
        let state = container.state.clone();
        let prepared = (|| {
            if let Some(terminal) = terminal {
                rustix::io::ioctl_fionbio(&terminal, true)?;
                container.take_terminal(terminal, 0);
            }
            container.record()?;
            self.watch_outputs(&mut container)
        })();
        match prepared {
            Ok(()) => {
                self.containers.insert(state.id.clone(), *container);
                self.reply(asker, Ok(Reply::Started(state)), Vec::new());
            }
            Err(error) => {
                // Without a record it must not run: it is killed, and reaped as nobody's.
                self.kill(&state);
                self.discard(&state);
                self.reply(asker, Err(Failure::system("record", &state.id, error)), Vec::new());
                self.finish_removals();
            }
        }
    }

    /// Reads a container's streams from now on.
    pub(super) fn watch_outputs(&mut self, container: &mut Container) -> io::Result<()> {
        for output in &mut container.outputs {
            output.token = self.watch(output.pipe.as_fd(), Source::Output { container: container.state.id.clone() })?;
        }
        Ok(())
    }

    /// Hears of nothing but a source's end from now on.
    pub(super) fn mute(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::empty())?)
    }

    pub(super) fn forget_source(&mut self, token: u64) {
        self.sources.remove(&token);
    }

    /// Containers on their way to their program.
    pub(super) fn on_their_way(&self) -> impl Iterator<Item = &ContainerState> {
        self.starting.values().filter_map(|starting| match &starting.what {
            What::Container(container) => Some(&container.state),
            What::Exec(_) => None,
        })
    }

    fn signalled(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo as i32 == libc::SIGTERM {
                self.remove_when_dead(Removal { sandbox: None, asker: None });
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.reaped(pid.as_raw(), code, 0),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.reaped(pid.as_raw(), 128 + signal as i32, signal as i32)
                }
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn reaped(&mut self, pid: i32, code: i32, signal: i32) {
        // Its report may not have been read yet; it is complete, as its writer is dead.
        let starting = self.starting.iter().find(|(_, starting)| starting.born.pid == pid).map(|(token, _)| *token);
        if let Some(token) = starting {
            self.proceed(token);
        }
        if let Some(exec) = self.execs.remove(&pid) {
            self.send(exec.connection, &Message::ExecExited { exec: exec.number, code }, Vec::new());
            return;
        }
        let running = |container: &&Container| container.state.pid == pid && container.state.exit.is_none();
        if let Some(id) = self.containers.values().find(running).map(|container| container.state.id.clone()) {
            self.first_ended(&id, Exit { code, signal, oom_killed: false, at: SystemTime::now() });
        }
    }

    /// A container's first process has ended: so does all else in it.
    pub(super) fn first_ended(&mut self, id: &str, mut exit: Exit) {
        let Some(container) = self.containers.get(id) else { return };
        let path = super::verbs::cgroup_path(&container.state);
        self.cgroups.kill(&path);
        exit.oom_killed = self.cgroups.oom_killed(&path);
        self.exited(id, exit);
    }

    pub(super) fn exited(&mut self, id: &str, exit: Exit) {
        let Some(container) = self.containers.get_mut(id) else { return };
        for output in &container.outputs {
            self.sources.remove(&output.token);
        }
        container.process = None;
        if let Err(error) = container.ended(exit) {
            super::note(format_args!("cannot record the exit of {id}: {error}"));
        }
        let state = container.state.clone();
        self.announce(&state);
        self.finish_removals();
    }

    fn announce(&mut self, state: &ContainerState) {
        let tokens: Vec<u64> = self.connections.keys().copied().collect();
        for token in tokens {
            self.send(token, &Message::Exited(state.clone()), Vec::new());
        }
    }

    /// Ends the loop after this round.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }
}
