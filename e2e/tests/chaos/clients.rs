//! Clients of etcd's API, on another machine than the servers: what they ask for, are told and see becomes a history.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use anyhow::{Context, Result};
use e2e::{Rack, rack::Machine};
use store::{
    Backend, Etcd, EtcdTls,
    check::{Clock, History, Nanos, Recorder, load::Load},
    sim::dice::Dice,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Role, Shared};

/// How many wander.
const WANDERERS: u64 = 5;

/// How many only read from each server.
const READERS: usize = 2;

/// Who asks when the others have come to rest.
const LAST: u64 = 100;

/// Clients, and what they share.
pub struct Clients {
    runtime: Runtime,
    recorder: Recorder,
    clock: Clock,
    doors: watch::Sender<Vec<Arc<dyn Backend>>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Connects to every server of a rack.
    pub fn connect(rack: &Rack) -> Result<Self> {
        // The threads of the runtime are where this one is.
        let runtime = rack.clients().run(|| Builder::new_multi_thread().worker_threads(2).enable_all().build())?;
        let runtime = runtime.context("start a runtime for clients")?;
        let started = Instant::now();
        let clock: Clock = Arc::new(move || Nanos::try_from(started.elapsed().as_nanos()).unwrap_or(Nanos::MAX));
        let doors = rack.machines().iter().map(|machine| runtime.block_on(connect(&runtime, machine)));
        let doors = doors.collect::<Result<Vec<_>>>()?;
        let first = doors.first().context("a rack without servers")?.clone();
        let recorder = Recorder::new(first, clock.clone());
        let (doors, stop) = (watch::Sender::new(doors), CancellationToken::new());
        Ok(Self { runtime, recorder, clock, doors, shared: Arc::default(), stop, tasks: Vec::new() })
    }

    /// Connects to one more server.
    pub fn admit(&self, machine: &Machine) -> Result<()> {
        let door = self.runtime.block_on(connect(&self.runtime, machine))?;
        self.doors.send_modify(|doors| doors.push(door));
        Ok(())
    }

    /// Forgets a server, the one that was admitted last.
    pub fn dismiss_last(&self) {
        self.doors.send_modify(|doors| drop(doors.pop()));
    }

    /// Lets them begin, as a seed decides.
    pub fn begin(&mut self, seed: u64) {
        let mut dice = Dice::new(seed);
        let servers = self.doors.borrow().len();
        let roles = (0..WANDERERS).map(|_| Role::Wanders);
        let roles = roles.chain((0..servers).map(Role::Loyal));
        let roles = roles.chain((0..servers * READERS).map(|reader| Role::Reads(reader % servers)));
        for (number, role) in (1..).zip(roles) {
            let client = Client {
                number,
                role,
                doors: self.doors.subscribe(),
                recorder: self.recorder.client(number),
                shared: self.shared.clone(),
                leases: 0,
            };
            let (load, other) = (Load::new(number, dice.fork()), dice.fork());
            match role {
                Role::Reads(_) => self.let_work(client.read(other)),
                Role::Loyal(_) => self.let_work(client.work(load)),
                Role::Wanders => {
                    self.let_work(client.clone().work(load));
                    self.let_work(client.watch(other));
                }
            }
        }
    }

    fn let_work(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.push(self.runtime.spawn(async move { stop.run_until_cancelled(work).await.unwrap_or_default() }));
    }

    /// Has them come to rest.
    pub fn stop(&mut self) -> Result<()> {
        self.stop.cancel();
        let tasks = std::mem::take(&mut self.tasks);
        tasks.into_iter().try_for_each(|task| self.runtime.block_on(task)).context("a client panicked")
    }

    /// Does something where the clients are.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.runtime.block_on(self.runtime.spawn(work)).context("a client panicked")
    }

    /// Lets something go on where the clients are.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Waits for what was let go on.
    pub fn join<T>(&self, task: JoinHandle<T>) -> Result<T> {
        self.runtime.block_on(task).context("a client panicked")
    }

    /// Every server, each recorded as asked by a client that has no other number.
    pub fn recorded_doors(&self) -> Vec<Recorder> {
        self.doors.borrow().iter().map(|door| self.recorder.client(LAST).of(door.clone())).collect()
    }

    /// Every server, unrecorded.
    pub fn doors(&self) -> Vec<Arc<dyn Backend>> {
        self.doors.borrow().clone()
    }

    /// The history's clock.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The moment, on it.
    pub fn now(&self) -> Nanos {
        (self.clock)()
    }

    /// How many writes were acknowledged.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// How many calls were answered.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// What was recorded until now.
    pub fn history(&self) -> History {
        self.recorder.history()
    }
}

/// A way to a server, on the threads of this runtime.
async fn connect(runtime: &Runtime, machine: &Machine) -> Result<Arc<dyn Backend>> {
    let (url, tls) = credentials(&machine.data())?;
    let connecting = runtime.spawn(async move { Etcd::connect(&[url], Some(tls)).await });
    let door = connecting.await.context("a client panicked")?;
    Ok(Arc::new(door.with_context(|| format!("connect to etcd's API of server {}", machine.name()))?))
}

/// What `etcd.env` in a server's folder says: where its etcd's API is, and how to be let in.
fn credentials(data: &Path) -> Result<(String, EtcdTls)> {
    let text = std::fs::read_to_string(data.join("etcd.env")).context("read etcd.env")?;
    let value = |name: &str| -> Result<String> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        let (_, value) =
            lines.find(|(key, _)| *key == name).with_context(|| format!("etcd.env does not say {name}"))?;
        Ok(value.trim_matches('\'').to_owned())
    };
    let file = |name| -> Result<Vec<u8>> {
        let path = value(name)?;
        std::fs::read(&path).with_context(|| format!("read {path}"))
    };
    let (ca, cert, key) = (file("ETCDCTL_CACERT")?, file("ETCDCTL_CERT")?, file("ETCDCTL_KEY")?);
    Ok((value("ETCDCTL_ENDPOINTS")?, EtcdTls { ca, cert, key }))
}
