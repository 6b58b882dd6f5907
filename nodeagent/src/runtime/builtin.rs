//! The built-in runtime: asks the node's supervisor, and starts one when none answers.
//!
//! One socket carries all calls; replies and exits come back in any order. When the supervisor dies, another is started at
//! once, which takes its containers over and has the exits of those that ended meanwhile.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::Interest,
    net::{UnixStream, unix::pipe},
    sync::{broadcast, mpsc, oneshot},
};

use super::{Container, ContainerState, Error, Exec, ExecSession, Runtime, Sandbox, Usage};
use crate::supervisor::{
    SOCKET,
    connection::Connection,
    protocol::{Call, Failure, Message, Reply, Request, decode, encode},
};

mod terminal;

/// Exits that a slow receiver may be behind.
const EXITS_BUFFERED: usize = 1024;
/// Changes of a terminal's size that may wait.
const RESIZES_BUFFERED: usize = 8;

/// Where the supervisor is, and how it is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its folder: socket, state, root filesystems.
    pub dir: PathBuf,
    /// The program that is the supervisor when called with `supervisor --dir DIR --cgroup-root PATH`.
    pub exe: PathBuf,
    /// Arguments before `supervisor`; empty for the `orlop` binary.
    pub exe_args: Vec<String>,
    /// Path of the node's cgroup below the hierarchies' roots, `/orlop/NODE`.
    pub cgroup_root: String,
}

impl Config {
    /// With this very program as the supervisor.
    pub fn new(dir: impl Into<PathBuf>, cgroup_root: impl Into<String>) -> Config {
        let exe = PathBuf::from("/proc/self/exe");
        Config { dir: dir.into(), exe, exe_args: Vec::new(), cgroup_root: cgroup_root.into() }
    }
}

/// A connection to the supervisor. Cheap to clone.
#[derive(Clone)]
pub struct Builtin {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    exits: broadcast::Sender<ContainerState>,
    /// What the supervisor keeps for us, for the next one.
    kept: Mutex<HashMap<String, Vec<OwnedFd>>>,
    /// Shut down: no supervisor is started any more.
    ended: AtomicBool,
}

/// One socket, as long as it lasts.
struct Link {
    socket: UnixStream,
    state: Mutex<LinkState>,
}

struct LinkState {
    connection: Connection,
    next_sequence: u64,
    /// None when the link is broken.
    waiting: Option<HashMap<u64, oneshot::Sender<Answer>>>,
    execs: HashMap<u64, oneshot::Sender<Result<i32, Error>>>,
    /// Execs that ended before their start was known here.
    early: HashMap<u64, i32>,
}

type Answer = (Result<Reply, Failure>, Vec<OwnedFd>);

impl Builtin {
    /// Connects to the supervisor of the folder; starts it when none answers.
    ///
    /// # Errors
    /// [`Error::Supervisor`] when it cannot be started.
    pub async fn connect(config: Config) -> Result<Builtin, Error> {
        let (exits, _) = broadcast::channel(EXITS_BUFFERED);
        let runtime = Builtin {
            inner: Arc::new(Inner {
                config,
                link: tokio::sync::Mutex::new(None),
                exits,
                kept: Mutex::new(HashMap::new()),
                ended: AtomicBool::new(false),
            }),
        };
        runtime.link("connect").await?;
        // What earlier agents had no time to delete.
        delete_below(runtime.inner.config.dir.join("trash"));
        Ok(runtime)
    }

    /// Kills all containers, removes cgroups, mounts and sandboxes, and ends the supervisor. Later calls fail.
    ///
    /// # Errors
    /// When something could not be removed; the supervisor has ended all the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let link = self.link("shutdown").await?;
        self.inner.ended.store(true, Ordering::Relaxed);
        let answer = link.ask(Request::Shutdown, Vec::new()).await;
        match answer.map_err(|source| self.unanswered("shutdown", source))?.0 {
            Ok(Reply::Trash(paths)) => paths.into_iter().for_each(|path| delete(path.into())),
            Ok(_) => {}
            Err(failure) => return Err(explain("shutdown", "node", failure)),
        }
        Ok(())
    }

    fn unanswered(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Supervisor { operation, socket: self.inner.config.dir.join(SOCKET), source }
    }

    async fn link(&self, operation: &'static str) -> Result<Arc<Link>, Error> {
        let mut current = self.inner.link.lock().await;
        if let Some(link) = current.as_ref().filter(|link| link.state.lock().waiting.is_some()) {
            return Ok(link.clone());
        }
        if self.inner.ended.load(Ordering::Relaxed) {
            return Err(self.unanswered(operation, io::Error::new(io::ErrorKind::NotConnected, "it was shut down")));
        }
        let lost = current.is_some();
        let link = Arc::new(self.open().await.map_err(|source| self.unanswered(operation, source))?);
        tokio::spawn(read(link.clone(), self.inner.exits.clone(), Arc::downgrade(&self.inner)));
        *current = Some(link.clone());
        drop(current);
        if lost {
            self.keep_again(&link).await;
            self.tell_missed(&link).await;
        }
        Ok(link)
    }

    /// Has the supervisor keep descriptors, as long as it or an agent lives, for the agents to come: sockets whose queues must
    /// not be lost. They take the place of earlier ones of that name.
    ///
    /// # Errors
    /// When it does not answer, or keeps too many already.
    pub async fn keep(&self, name: &str, descriptors: Vec<OwnedFd>) -> Result<(), Error> {
        let failed = |source: io::Error| super::system("share", name, &source);
        let copies = clones(&descriptors).map_err(failed)?;
        self.ask("keep", name, Request::Keep { name: name.to_owned() }, copies).await?;
        self.inner.kept.lock().insert(name.to_owned(), descriptors);
        Ok(())
    }

    /// What an earlier agent had it keep under that name; empty if nothing.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn kept(&self, name: &str) -> Result<Vec<OwnedFd>, Error> {
        self.ask("take over", name, Request::Kept { name: name.to_owned() }, Vec::new()).await.map(|(_, kept)| kept)
    }

    /// What a supervisor that is gone kept, its successor keeps.
    async fn keep_again(&self, link: &Link) {
        let kept: Vec<_> = {
            let kept = self.inner.kept.lock();
            kept.iter().map(|(name, descriptors)| (name.clone(), clones(descriptors))).collect()
        };
        for (name, copies) in kept {
            let kept = match copies {
                Ok(copies) => link.ask(Request::Keep { name: name.clone() }, copies).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = kept {
                tracing::warn!(name, %error, "the new supervisor does not keep it");
            }
        }
    }

    /// Exits that happened while nobody was connected.
    async fn tell_missed(&self, link: &Link) {
        if let Ok((Ok(Reply::Containers(containers)), _)) = link.ask(Request::List, Vec::new()).await {
            for state in containers.into_iter().filter(|state| state.exit.is_some()) {
                // Nobody listening is fine: the list has it.
                drop(self.inner.exits.send(state));
            }
        }
    }

    async fn open(&self) -> io::Result<Link> {
        let path = self.inner.config.dir.join(SOCKET);
        let socket = match std::os::unix::net::UnixStream::connect(&path) {
            Ok(socket) => socket,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                self.start().await?;
                std::os::unix::net::UnixStream::connect(&path)?
            }
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        let state = LinkState {
            connection: Connection::new(socket.try_clone()?.into()),
            next_sequence: 1,
            waiting: Some(HashMap::new()),
            execs: HashMap::new(),
            early: HashMap::new(),
        };
        Ok(Link { socket: UnixStream::from_std(socket)?, state: Mutex::new(state) })
    }

    /// Returns when the supervisor listens.
    async fn start(&self) -> io::Result<()> {
        let config = &self.inner.config;
        let output = tokio::process::Command::new(&config.exe)
            .args(&config.exe_args)
            .arg("supervisor")
            .arg("--dir")
            .arg(&config.dir)
            .args(["--cgroup-root", &config.cgroup_root])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .await?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    async fn ask(
        &self,
        operation: &'static str,
        subject: &str,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let link = self.link(operation).await?;
        let answer = link.ask(request, descriptors).await.map_err(|source| self.unanswered(operation, source))?;
        match answer {
            (Ok(reply), descriptors) => Ok((reply, descriptors)),
            (Err(failure), _) => Err(explain(operation, subject, failure)),
        }
    }

    /// A call that leaves folders to delete.
    async fn discarding(&self, operation: &'static str, subject: &str, request: Request) -> Result<(), Error> {
        if let (Reply::Trash(paths), _) = self.ask(operation, subject, request, Vec::new()).await? {
            for path in paths {
                delete(path.into());
            }
        }
        Ok(())
    }
}

fn clones(descriptors: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    descriptors.iter().map(OwnedFd::try_clone).collect()
}

impl Link {
    async fn ask(&self, request: Request, descriptors: Vec<OwnedFd>) -> io::Result<Answer> {
        let (sender, receiver) = oneshot::channel();
        let waits = {
            let mut state = self.state.lock();
            let sequence = state.next_sequence;
            state.next_sequence += 1;
            let call = encode(&Call { sequence, descriptors: descriptors.len(), request });
            state.waiting.as_mut().ok_or_else(broken)?.insert(sequence, sender);
            state.connection.send(call, descriptors)?;
            state.connection.is_waiting()
        };
        if waits {
            self.flush().await?;
        }
        receiver.await.map_err(|_| broken())
    }

    async fn flush(&self) -> io::Result<()> {
        loop {
            self.socket.writable().await?;
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                let mut state = self.state.lock();
                state.connection.flush()?;
                if state.connection.is_waiting() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the supervisor hung up")
}

/// Hands out what the supervisor says, until it hangs up; then sees to the next one, which tells what died.
async fn read(link: Arc<Link>, exits: broadcast::Sender<ContainerState>, inner: Weak<Inner>) {
    let error = listen(&link, &exits).await;
    {
        let mut state = link.state.lock();
        // Dropping the senders tells everybody who waits.
        state.waiting = None;
        state.execs.clear();
    }
    let Some(inner) = inner.upgrade().filter(|inner| !inner.ended.load(Ordering::Relaxed)) else { return };
    tracing::warn!(%error, "lost the supervisor");
    if let Err(error) = reconnect(Builtin { inner }).await {
        tracing::error!(%error, "no supervisor; the next call tries again");
    }
}

/// Boxed, as whoever reads a link may open the next.
fn reconnect(runtime: Builtin) -> futures::future::BoxFuture<'static, Result<(), Error>> {
    Box::pin(async move { runtime.link("reconnect").await.map(drop) })
}

/// Returns why it ended.
async fn listen(link: &Link, exits: &broadcast::Sender<ContainerState>) -> io::Error {
    loop {
        if let Err(error) = link.socket.readable().await {
            return error;
        }
        match link.socket.try_io(Interest::READABLE, || link.state.lock().connection.receive()) {
            Ok(true) => {}
            Ok(false) => return broken(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return error,
        }
        let mut state = link.state.lock();
        if let Err(error) = hand_out(&mut state, exits) {
            return error;
        }
    }
}

fn hand_out(state: &mut LinkState, exits: &broadcast::Sender<ContainerState>) -> io::Result<()> {
    while let Some(message) = decode(&mut state.connection.input)? {
        match message {
            Message::Reply { sequence, descriptors, reply } => {
                let descriptors = state.connection.take(descriptors)?;
                if let Some(sender) = state.waiting.as_mut().and_then(|waiting| waiting.remove(&sequence)) {
                    // Whoever asked may have given up.
                    drop(sender.send((reply, descriptors)));
                }
            }
            Message::Exited(container) => drop(exits.send(container)),
            Message::ExecExited { exec, code } => match state.execs.remove(&exec) {
                Some(sender) => drop(sender.send(Ok(code))),
                None => drop(state.early.insert(exec, code)),
            },
        }
    }
    Ok(())
}

fn explain(operation: &'static str, subject: &str, failure: Failure) -> Error {
    match failure {
        Failure::NotFound { sandbox, id } => {
            Error::NotFound { what: if sandbox { "sandbox" } else { "container" }, id }
        }
        Failure::Start(why) => Error::Start { id: subject.to_owned(), why },
        Failure::System(why) => Error::System { operation, subject: subject.to_owned(), why },
    }
}

fn unexpected(operation: &'static str, subject: &str, reply: &Reply) -> Error {
    Error::System { operation, subject: subject.to_owned(), why: format!("the supervisor answered {reply:?}") }
}

/// Deletes a folder whose content a container has made, beside everything else.
fn delete(path: PathBuf) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = delete_now(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot delete what a container left");
        }
    });
}

fn delete_below(folder: PathBuf) {
    tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if let Err(error) = delete_now(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "cannot delete what a container left");
            }
        }
    });
}

fn delete_now(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = std::fs::File::open(parent)?;
    Ok(image::tree::remove(parent.as_fd(), name)?)
}

#[async_trait::async_trait]
impl Runtime for Builtin {
    async fn list(&self) -> Result<Vec<ContainerState>, Error> {
        match self.ask("list", "containers", Request::List, Vec::new()).await? {
            (Reply::Containers(containers), _) => Ok(containers),
            (other, _) => Err(unexpected("list", "containers", &other)),
        }
    }

    async fn create_sandbox(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let request = Request::CreateSandbox(sandbox.clone());
        self.ask("create sandbox", &sandbox.uid, request, Vec::new()).await.map(drop)
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error> {
        self.discarding("remove sandbox", uid, Request::RemoveSandbox(uid.to_owned())).await
    }

    async fn sandboxes(&self) -> Result<Vec<String>, Error> {
        match self.ask("list", "sandboxes", Request::Sandboxes, Vec::new()).await? {
            (Reply::Sandboxes(uids), _) => Ok(uids),
            (other, _) => Err(unexpected("list", "sandboxes", &other)),
        }
    }

    async fn start(&self, container: &Container) -> Result<ContainerState, Error> {
        let request = Request::Start(Box::new(container.clone()));
        match self.ask("start", &container.id, request, Vec::new()).await? {
            (Reply::Started(state), _) => Ok(state),
            (other, _) => Err(unexpected("start", &container.id, &other)),
        }
    }

    async fn signal(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.ask("signal", id, Request::Signal { id: id.to_owned(), signal }, Vec::new()).await.map(drop)
    }

    async fn remove(&self, id: &str) -> Result<(), Error> {
        self.discarding("remove", id, Request::Remove { id: id.to_owned() }).await
    }

    async fn exec(&self, id: &str, exec: &Exec) -> Result<ExecSession, Error> {
        let failed = |source: io::Error| super::system("make pipes for", id, &source);
        let link = self.link("exec").await?;
        let mut theirs = Vec::new();
        let (mut stdin, mut streams) = (None, None);
        if !exec.tty {
            if exec.stdin {
                let (sender, receiver) = pipe::pipe().map_err(failed)?;
                theirs.push(receiver.into_blocking_fd().map_err(failed)?);
                stdin = Some(Box::new(sender) as Box<dyn tokio::io::AsyncWrite + Send + Unpin>);
            }
            let mut output = || -> io::Result<pipe::Receiver> {
                let (sender, receiver) = pipe::pipe()?;
                theirs.push(sender.into_blocking_fd()?);
                Ok(receiver)
            };
            streams = Some((output().map_err(failed)?, output().map_err(failed)?));
        }
        let request = Request::Exec { id: id.to_owned(), exec: exec.clone() };
        let (reply, descriptors) = self.ask("exec", id, request, theirs).await?;
        let Reply::ExecStarted { exec: number } = reply else { return Err(unexpected("exec", id, &reply)) };
        let (sender, exit) = oneshot::channel();
        {
            let mut state = link.state.lock();
            match state.early.remove(&number) {
                Some(code) => drop(sender.send(Ok(code))),
                None => drop(state.execs.insert(number, sender)),
            }
        }
        let (resize, resizes) = mpsc::channel(RESIZES_BUFFERED);
        match (streams, descriptors.into_iter().next()) {
            (Some((stdout, stderr)), _) => {
                Ok(ExecSession { stdin, stdout: Box::new(stdout), stderr: Some(Box::new(stderr)), resize, exit })
            }
            (None, Some(master)) => {
                let (terminal, input) = terminal::Terminal::open(master, resizes).map_err(failed)?;
                let stdin = exec.stdin.then(|| Box::new(input) as Box<dyn tokio::io::AsyncWrite + Send + Unpin>);
                Ok(ExecSession { stdin, stdout: Box::new(terminal), stderr: None, resize, exit })
            }
            (None, None) => Err(super::system("exec", id, &io::Error::other("no terminal came"))),
        }
    }

    async fn usage(&self, id: &str) -> Result<Usage, Error> {
        match self.ask("measure", id, Request::Usage { id: id.to_owned() }, Vec::new()).await? {
            (Reply::Usage(usage), _) => Ok(usage),
            (other, _) => Err(unexpected("measure", id, &other)),
        }
    }

    fn exits(&self) -> broadcast::Receiver<ContainerState> {
        self.inner.exits.subscribe()
    }
}
