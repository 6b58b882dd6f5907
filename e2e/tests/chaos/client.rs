//! One client: what it does beside its seeded load, and how long it waits.
//!
//! Each asks one thing after the other. Some wander: of one server for a while and then of another. Some are loyal, one to each of
//! the first servers: so that writes through a whole server never wait for one that is broken. A call that takes too long is
//! given up: whether it was done is not known then, and it is not repeated. Beside that wanderers watch, and resume where they
//! were when their watch ends. And some only read, each from one server, and have no patience: one that was cut off or stood
//! still is always asked something that was called after others had written elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use store::{
    Backend, Error, LeaseId, Op, Range, Revision, Txn, WatchFrom,
    check::{
        Recorder, Request,
        load::{self, Load, PREFIX},
    },
    kv::prefix_end,
    sim::dice::Dice,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

/// The least time between two calls of one client. Histories are to be long, and their check not to take longer than they.
const PACE: Duration = Duration::from_millis(15);

/// How long a client waits for an answer: longer than a new leader takes to be found.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a wanderer goes elsewhere though it was answered, per mille.
const WANDERS: u64 = 50;

/// The least time between two calls of one that only reads, and how long it waits.
const READING: Duration = Duration::from_millis(30);
const IMPATIENCE: Duration = Duration::from_millis(200);

/// How long a watcher waits for news before it looks elsewhere.
const SILENCE: Duration = Duration::from_secs(1);

/// What a load calls a lease of nobody's, and one that nobody has: of the servers' own leases one may have the other's id.
const NO_LEASE: (LeaseId, LeaseId) = (1, LeaseId::MAX);

/// The shortest lease, seconds: of a shorter one etcd's API makes one of this.
const LEAST_TTL: i64 = 2;

/// What clients tell each other.
#[derive(Default)]
pub struct Shared {
    /// The newest revision that anyone was told of.
    newest: AtomicU64,
    /// Calls that were answered.
    pub answered: AtomicU64,
    /// Writes that were acknowledged.
    pub written: AtomicU64,
}

/// What one does. Servers are named by their places.
#[derive(Clone, Copy)]
pub enum Role {
    /// Asks all, and watches.
    Wanders,
    /// Asks one.
    Loyal(usize),
    /// Only reads, from one.
    Reads(usize),
}

/// One of them.
#[derive(Clone)]
pub struct Client {
    /// Its own.
    pub number: u64,
    /// What it does.
    pub role: Role,
    /// The ways to the servers.
    pub doors: watch::Receiver<Vec<Arc<dyn Backend>>>,
    /// Writes down what it is told.
    pub recorder: Recorder,
    /// What it tells others.
    pub shared: Arc<Shared>,
    /// Leases that it asked for.
    pub leases: i64,
}

impl Client {
    /// A way to a server: to any, or to its own.
    fn door(&self, dice: &mut Dice) -> Recorder {
        let doors = self.doors.borrow();
        let at = match self.role {
            Role::Wanders => usize::try_from(dice.within(0..doors.len() as u64)).unwrap_or(0),
            Role::Loyal(home) | Role::Reads(home) => home,
        };
        self.recorder.of(doors[at].clone())
    }

    /// Reads one key after the other.
    pub async fn read(self, mut dice: Dice) {
        let mut pace = interval(READING);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (door, keys) = (self.door(&mut dice), load::keys().collect::<Vec<_>>());
        loop {
            pace.tick().await;
            let key = keys[usize::try_from(dice.within(0..keys.len() as u64)).unwrap_or(0)].clone();
            // What came of it is in the history.
            drop(timeout(IMPATIENCE, door.range(Range::key(key))).await);
        }
    }

    /// Asks one thing after the other.
    pub async fn work(mut self, mut load: Load) {
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
                let txn = with_one_lease(txn);
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
    pub async fn watch(self, mut dice: Dice) {
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

/// etcd does not say which lease it did not find: so that a refusal can be judged, a transaction names one at most.
fn with_one_lease(mut txn: Txn) -> Txn {
    let mut first = 0;
    for op in &mut txn.success {
        if let Op::Put { lease, .. } = op
            && *lease != 0
        {
            first = if first == 0 { *lease } else { first };
            *lease = first;
        }
    }
    txn
}
