//! Clients of etcd's API, on another machine than the servers: what they ask for, are told and see becomes a history.
//!
//! Each asks one thing after the other. Some wander: of one server for a while and then of another. Some are loyal, one to each of
//! the first servers: so that writes through a whole server never wait for one that is broken. A call that takes too long is
//! given up: whether it was done is not known then, and it is not repeated. Beside that wanderers watch, and resume where they
//! were when their watch ends.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use e2e::{Rack, rack::Machine};
use futures::StreamExt;
use store::{
    Backend, Error, Etcd, EtcdTls, LeaseId, Revision, WatchFrom,
    check::{
        Clock, History, Nanos, Recorder, Request,
        load::{Load, PREFIX},
    },
    kv::prefix_end,
    sim::dice::Dice,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// How many wander.
const WANDERERS: u64 = 5;

/// Who asks when the others have come to rest.
const LAST: u64 = 100;

/// The least time between two calls of one client. Histories are to be long, and their check not to take longer than they.
const PACE: Duration = Duration::from_millis(15);

/// How long a client waits for an answer: longer than a new leader takes to be found.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a wanderer goes elsewhere though it was answered, per mille.
const WANDERS: u64 = 50;

/// How long a watcher waits for news before it looks elsewhere.
const SILENCE: Duration = Duration::from_secs(1);

/// What a load calls a lease of nobody's, and one that nobody has: of the servers' own leases one may have the other's id.
const NO_LEASE: (LeaseId, LeaseId) = (1, LeaseId::MAX);

/// The shortest lease, seconds: of a shorter one etcd's API makes one of this.
const LEAST_TTL: i64 = 2;

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

#[derive(Default)]
struct Shared {
    /// The newest revision that anyone was told of.
    newest: AtomicU64,
    /// Calls that were answered.
    answered: AtomicU64,
    /// Writes that were acknowledged.
    written: AtomicU64,
}

impl Clients {
    /// Connects to every server of a rack.
    pub fn connect(rack: &Rack) -> Result<Self> {
        // The threads of the runtime are where this one is.
        let runtime = rack.clients().run(|| Builder::new_multi_thread().worker_threads(2).enable_all().build())?;
        let runtime = runtime.context("start a runtime for clients")?;
        let started = Instant::now();
        let clock: Clock = Arc::new(move || Nanos::try_from(started.elapsed().as_nanos()).unwrap_or(Nanos::MAX));
        let (doors, stop) = (watch::Sender::new(Vec::new()), CancellationToken::new());
        let recorder = Recorder::new(Arc::new(store::Memory::new()), clock.clone());
        let (shared, tasks) = (Arc::default(), Vec::new());
        let clients = Self { runtime, recorder, clock, doors, shared, stop, tasks };
        rack.machines().iter().try_for_each(|machine| clients.admit(machine))?;
        Ok(clients)
    }

    /// Connects to one more server.
    pub fn admit(&self, machine: &Machine) -> Result<()> {
        let (url, tls) = credentials(&machine.data())?;
        let name = machine.name().to_owned();
        let door = self.run(async move { Etcd::connect(&[url], Some(tls)).await })?;
        let door = door.with_context(|| format!("connect to etcd's API of server {name}"))?;
        self.doors.send_modify(|doors| doors.push(Arc::new(door)));
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
        let loyal = (0..servers).map(Some);
        let homes = (0..WANDERERS).map(|_| None).chain(loyal);
        for (number, home) in (1..).zip(homes) {
            let client = Client {
                number,
                home,
                doors: self.doors.subscribe(),
                recorder: self.recorder.client(number),
                shared: self.shared.clone(),
                leases: 0,
            };
            let (load, watching) = (Load::new(number, dice.fork()), dice.fork());
            self.let_work(client.clone().work(load));
            if home.is_none() {
                self.let_work(client.watch(watching));
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

/// One of them.
#[derive(Clone)]
struct Client {
    number: u64,
    /// The server that it is loyal to.
    home: Option<usize>,
    doors: watch::Receiver<Vec<Arc<dyn Backend>>>,
    recorder: Recorder,
    shared: Arc<Shared>,
    /// Leases that it asked for.
    leases: i64,
}

impl Client {
    /// A way to a server: to any, or to its own.
    fn door(&self, dice: &mut Dice) -> Recorder {
        let doors = self.doors.borrow();
        let any = usize::try_from(dice.within(0..doors.len() as u64)).unwrap_or(0);
        self.recorder.of(doors[self.home.unwrap_or(any)].clone())
    }

    /// Asks one thing after the other.
    async fn work(mut self, mut load: Load) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut door = self.door(load.dice());
        loop {
            pace.tick().await;
            let request = load.next(self.shared.newest.load(Ordering::Relaxed));
            let answered = timeout(PATIENCE, self.ask(&door, request, &mut load)).await;
            match answered {
                Ok(Ok(())) => drop(self.shared.answered.fetch_add(1, Ordering::Relaxed)),
                Ok(Err(_)) | Err(_) => door = self.door(load.dice()),
            }
            if load.dice().chance(WANDERS) {
                door = self.door(load.dice());
            }
        }
    }

    async fn ask(&mut self, door: &Recorder, request: Request, load: &mut Load) -> Result<(), Error> {
        let lease = |id| if id == NO_LEASE.0 { NO_LEASE.1 } else { id };
        match request {
            // What a member happens to have of the past proves nothing; and the past is wanted, to tell what others wrote.
            Request::Range(range) if range.revision != 0 => Ok(()),
            Request::Compact(_) => Ok(()),
            Request::Range(range) => door.range(range).await.map(|reply| self.learned(reply.revision)),
            Request::Txn(txn) => {
                let writes = !txn.reads_only();
                let reply = door.txn(txn).await?;
                self.learned(reply.revision);
                self.shared.written.fetch_add(u64::from(writes), Ordering::Relaxed);
                Ok(())
            }
            Request::Grant { ttl, .. } => {
                // One that nobody else chooses: the servers' own leases are not in the history.
                self.leases += 1;
                let id = LeaseId::try_from(self.number).unwrap_or(0) << 40 | self.leases;
                door.grant_as(id, ttl.max(LEAST_TTL)).await.map(|id| load.granted(id))
            }
            Request::KeepAlive(id) => door.keep_alive(lease(id)).await.map(drop),
            Request::Revoke(id) => door.revoke(lease(id)).await,
        }
    }

    fn learned(&self, revision: Revision) {
        self.shared.newest.fetch_max(revision, Ordering::Relaxed);
    }

    /// Watches, now here and now there, and misses nothing.
    async fn watch(self, mut dice: Dice) {
        let start = bytes::Bytes::from_static(PREFIX.as_bytes());
        let half = bytes::Bytes::from(format!("{PREFIX}4"));
        let end = if dice.chance(500) { prefix_end(&start) } else { half };
        let mut from = WatchFrom::Now;
        let mut pace = interval(PACE);
        loop {
            pace.tick().await;
            let door = self.door(&mut dice);
            let opened = timeout(PATIENCE, door.watch(start.clone(), end.clone(), from)).await;
            let Ok(Ok(mut stream)) = opened else { continue };
            while let Ok(Some(Ok(batch))) = timeout(SILENCE, stream.next()).await {
                let next = batch.revision + 1;
                from = match from {
                    WatchFrom::Revision(before) => WatchFrom::Revision(before.max(next)),
                    WatchFrom::Now => WatchFrom::Revision(next),
                };
                if dice.chance(30) {
                    break;
                }
            }
        }
    }
}
