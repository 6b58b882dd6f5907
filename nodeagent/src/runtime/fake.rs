//! A runtime that runs nothing: it records what was asked and plays containers as told.
//!
//! For the agent's own tests, and for hollow nodes, which are agents without a runtime. Containers stay up until
//! [`Fake::exit`]; [`Fake::fail_next`] scripts failures.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::{AtomicI32, Ordering},
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt as _,
    sync::{broadcast, mpsc, oneshot},
};

use super::{Container, ContainerState, Error, Exec, ExecSession, Exit, Runtime, Sandbox, Usage};

/// Exits that a slow receiver may be behind.
const EXITS_BUFFERED: usize = 1024;
/// Calls that are remembered; a hollow node forgets older ones.
const CALLS_MAX: usize = 10_000;

/// What was asked of the fake, with its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Runtime::create_sandbox`], with all that was given.
    CreateSandbox(Sandbox),
    /// [`Runtime::remove_sandbox`].
    RemoveSandbox(String),
    /// [`Runtime::start`], with all that was given.
    Start(Box<Container>),
    /// [`Runtime::signal`].
    Signal(String, i32),
    /// [`Runtime::remove`].
    Remove(String),
    /// [`Runtime::exec`].
    Exec(String, Exec),
}

/// What an exec in the fake answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecAnswer {
    /// Written to its standard output.
    pub stdout: Vec<u8>,
    /// Its exit code.
    pub code: i32,
}

/// See the module.
pub struct Fake {
    state: Mutex<State>,
    exits: broadcast::Sender<ContainerState>,
    next_pid: AtomicI32,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Call>,
    sandboxes: BTreeSet<String>,
    containers: BTreeMap<String, ContainerState>,
    failures: BTreeMap<&'static str, VecDeque<Error>>,
    answers: BTreeMap<String, ExecAnswer>,
    ignore_term: bool,
}

impl Default for Fake {
    fn default() -> Self {
        Fake::new()
    }
}

impl Fake {
    /// Empty, and all goes well.
    pub fn new() -> Fake {
        let (exits, _) = broadcast::channel(EXITS_BUFFERED);
        Fake { state: Mutex::default(), exits, next_pid: AtomicI32::new(1000) }
    }

    /// The next call of this verb (`start`, `create_sandbox`, …) fails so; several are used up in turn.
    pub fn fail_next(&self, verb: &'static str, error: Error) {
        self.state.lock().failures.entry(verb).or_default().push_back(error);
    }

    /// What was asked so far, oldest first; forgotten afterwards.
    pub fn take_calls(&self) -> Vec<Call> {
        self.state.lock().calls.drain(..).collect()
    }

    /// Every exec whose arguments, joined by spaces, are `command` answers so; others succeed without a word.
    pub fn answer_exec(&self, command: &str, answer: ExecAnswer) {
        self.state.lock().answers.insert(command.to_owned(), answer);
    }

    /// From now on, containers end on SIGKILL only.
    pub fn ignore_term(&self) {
        self.state.lock().ignore_term = true;
    }

    /// Ends a container; false if there is none that runs.
    pub fn exit(&self, id: &str, code: i32, oom_killed: bool, at: SystemTime) -> bool {
        self.end(id, Exit { code, signal: 0, oom_killed, at })
    }

    fn end(&self, id: &str, exit: Exit) -> bool {
        let ended = {
            let mut state = self.state.lock();
            let Some(container) = state.containers.get_mut(id).filter(|container| container.exit.is_none()) else {
                return false;
            };
            container.exit = Some(exit);
            container.clone()
        };
        // Nobody listening is fine: the exit is in the list.
        drop(self.exits.send(ended));
        true
    }

    fn called(&self, verb: &'static str, call: Option<Call>) -> Result<(), Error> {
        let mut state = self.state.lock();
        if let Some(call) = call {
            if state.calls.len() == CALLS_MAX {
                state.calls.pop_front();
            }
            state.calls.push_back(call);
        }
        match state.failures.get_mut(verb).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Runtime for Fake {
    async fn list(&self) -> Result<Vec<ContainerState>, Error> {
        self.called("list", None)?;
        Ok(self.state.lock().containers.values().cloned().collect())
    }

    async fn create_sandbox(&self, sandbox: &Sandbox) -> Result<(), Error> {
        self.called("create_sandbox", Some(Call::CreateSandbox(sandbox.clone())))?;
        self.state.lock().sandboxes.insert(sandbox.uid.clone());
        Ok(())
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error> {
        self.called("remove_sandbox", Some(Call::RemoveSandbox(uid.to_owned())))?;
        let mut state = self.state.lock();
        state.sandboxes.remove(uid);
        state.containers.retain(|_, container| container.sandbox != uid);
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<String>, Error> {
        self.called("sandboxes", None)?;
        Ok(self.state.lock().sandboxes.iter().cloned().collect())
    }

    async fn start(&self, container: &Container) -> Result<ContainerState, Error> {
        self.called("start", Some(Call::Start(Box::new(container.clone()))))?;
        let mut state = self.state.lock();
        if !state.sandboxes.contains(&container.sandbox) {
            return Err(Error::NotFound { what: "sandbox", id: container.sandbox.clone() });
        }
        let started = state.containers.entry(container.id.clone()).or_insert_with(|| ContainerState {
            id: container.id.clone(),
            sandbox: container.sandbox.clone(),
            name: container.name.clone(),
            attempt: container.attempt,
            pid: self.next_pid.fetch_add(1, Ordering::Relaxed),
            started_at: SystemTime::now(),
            exit: None,
        });
        Ok(started.clone())
    }

    async fn signal(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.called("signal", Some(Call::Signal(id.to_owned(), signal)))?;
        if !self.state.lock().containers.contains_key(id) {
            return Err(Error::NotFound { what: "container", id: id.to_owned() });
        }
        let ignored = self.state.lock().ignore_term && signal == libc::SIGTERM;
        if matches!(signal, libc::SIGTERM | libc::SIGKILL) && !ignored {
            self.end(id, Exit { code: 128 + signal, signal, oom_killed: false, at: SystemTime::now() });
        }
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), Error> {
        self.called("remove", Some(Call::Remove(id.to_owned())))?;
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn exec(&self, id: &str, exec: &Exec) -> Result<ExecSession, Error> {
        self.called("exec", Some(Call::Exec(id.to_owned(), exec.clone())))?;
        let answer = {
            let state = self.state.lock();
            match state.containers.get(id) {
                Some(container) if container.exit.is_none() => {}
                _ => return Err(Error::NotFound { what: "container", id: id.to_owned() }),
            }
            state.answers.get(&exec.args.join(" ")).cloned().unwrap_or_default()
        };
        let (mut output, stdout) = tokio::io::duplex(answer.stdout.len().max(1));
        output.write_all(&answer.stdout).await.map_err(|source| super::system("write the answer of", id, &source))?;
        let (done, exit) = oneshot::channel();
        drop(done.send(Ok(answer.code)));
        let (resize, _) = mpsc::channel(1);
        Ok(ExecSession {
            stdin: exec.stdin.then(|| Box::new(tokio::io::sink()) as _),
            stdout: Box::new(stdout),
            stderr: (!exec.tty).then(|| Box::new(tokio::io::empty()) as _),
            resize,
            exit,
        })
    }

    async fn usage(&self, id: &str) -> Result<Usage, Error> {
        self.called("usage", None)?;
        match self.state.lock().containers.get(id) {
            Some(_) => Ok(Usage::default()),
            None => Err(Error::NotFound { what: "container", id: id.to_owned() }),
        }
    }

    fn exits(&self) -> broadcast::Receiver<ContainerState> {
        self.exits.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plays_a_container_from_start_to_removal() {
        let fake = Fake::new();
        let mut exits = fake.exits();
        let container = Container { id: "c".into(), sandbox: "s".into(), ..Container::default() };
        assert!(matches!(fake.start(&container).await, Err(Error::NotFound { what: "sandbox", .. })));
        fake.create_sandbox(&Sandbox { uid: "s".into(), ..Sandbox::default() }).await.unwrap();
        fake.fail_next("start", Error::Start { id: "c".into(), why: "no".into() });
        assert!(matches!(fake.start(&container).await, Err(Error::Start { .. })));
        let first = fake.start(&container).await.unwrap();
        assert_eq!(fake.start(&container).await.unwrap(), first, "starting is idempotent");
        fake.signal("c", libc::SIGTERM).await.unwrap();
        assert_eq!(exits.recv().await.unwrap().exit.unwrap().code, 143);
        assert!(fake.list().await.unwrap()[0].exit.is_some());
        fake.remove_sandbox("s").await.unwrap();
        assert!(fake.list().await.unwrap().is_empty());
        assert_eq!(fake.take_calls().len(), 7);
    }

    #[tokio::test]
    async fn an_exec_answers_as_told() {
        use tokio::io::AsyncReadExt as _;
        let fake = Fake::new();
        fake.create_sandbox(&Sandbox { uid: "s".into(), ..Sandbox::default() }).await.unwrap();
        fake.start(&Container { id: "c".into(), sandbox: "s".into(), ..Container::default() }).await.unwrap();
        fake.answer_exec("cat /x", ExecAnswer { stdout: b"hello".to_vec(), code: 3 });
        let exec = Exec { args: vec!["cat".into(), "/x".into()], ..Exec::default() };
        let mut session = fake.exec("c", &exec).await.unwrap();
        let mut output = String::new();
        session.stdout.read_to_string(&mut output).await.unwrap();
        assert_eq!((output.as_str(), session.exit.await.unwrap().unwrap()), ("hello", 3));
    }
}
