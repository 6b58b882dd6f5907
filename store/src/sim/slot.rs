//! One member in the simulation: its disk, its clock, and, while it runs, its engine.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::dice::Dice;
use super::disk::SimDisk;
use super::world::Micros;
use crate::backend::Error;
use crate::embedded::Options;
use crate::kv::Revision;
use crate::members::MemberId;
use crate::mvcc::Millis;
use crate::mvcc::history::Window;
use crate::replica::directory::Directory;
use crate::replica::disk::Disk;
use crate::replica::engine::Engine;
use crate::replica::identity::Identity;
use crate::replica::member::{Config, Job, Token};
use crate::replica::recovery;
use crate::replica::snapshot::Snapshot;
use crate::replica::wal::Layout;

/// Bytes of applied entries kept for members that are behind: little, so that snapshots are sent often.
const LOG_BYTES: u64 = 6 << 10;

/// A member.
pub(crate) struct Slot {
    pub(crate) id: MemberId,
    pub(crate) identity: Identity,
    pub(crate) disk: SimDisk,
    pub(crate) running: Option<Running>,
    /// How many lives it has had.
    pub(crate) lives: u64,
    pub(crate) clock: Clock,
    /// It does nothing until it is resumed; what is for it waits.
    pub(crate) paused: bool,
    /// How long its disk takes for a job.
    pub(crate) disk_time: Micros,
    /// Its disk is broken for good, or it was removed: it is to be replaced.
    pub(crate) lost: bool,
    /// When it is to start again, if it does not run.
    pub(crate) starts: Option<Micros>,
}

/// A member's own clock: never backwards, but at its own speed, and with leaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// World time and its own, when the speed last changed.
    since: (Micros, Micros),
    /// Thousandths of the world's speed.
    speed: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { since: (0, 0), speed: 1_000 }
    }

    fn micros(&self, world: Micros) -> Micros {
        self.since.1 + world.saturating_sub(self.since.0) * self.speed / 1_000
    }

    pub(crate) fn now(&self, world: Micros) -> Millis {
        self.micros(world) / 1_000
    }

    /// From now on at another speed, after a leap.
    pub(crate) fn change(&mut self, world: Micros, leap: Micros, speed: u64) {
        *self = Self { since: (world, self.micros(world) + leap), speed };
    }

    /// World time that passes while this clock goes on by so much.
    pub(crate) fn takes(&self, millis: Millis) -> Micros {
        millis * 1_000_000 / self.speed
    }
}

/// What a member has in memory.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    pub(crate) directory: Directory,
    pub(crate) jobs: VecDeque<Job>,
    /// A job is being done.
    pub(crate) busy: bool,
    /// A snapshot is being written.
    pub(crate) snapshot: Option<Snapshot>,
    /// Which client waits for an answer.
    pub(crate) waiting: BTreeMap<Token, usize>,
    pub(crate) token: Token,
    /// As of the last look at its state.
    pub(crate) seen: Revision,
    pub(crate) checked: u64,
}

impl Slot {
    pub(crate) fn new(identity: Identity, mut dice: Dice) -> Self {
        Self {
            id: identity.member,
            identity,
            disk: SimDisk::new(dice.fork()),
            running: None,
            lives: 0,
            clock: Clock::new(),
            paused: false,
            disk_time: 500,
            lost: false,
            starts: None,
        }
    }

    /// Starts it from what its disk holds.
    pub(crate) fn start(&mut self, dice: &mut Dice, now: Micros) -> Result<(), Error> {
        self.lives += 1;
        self.starts = None;
        let life = dice.roll();
        let options = Options {
            snapshot_bytes: 8 << 10,
            window: Window { revisions: 300, bytes: 64 << 10, age: std::time::Duration::from_secs(60), floor: 50 },
            log_bytes: LOG_BYTES,
            ..Options::default()
        };
        let config = Config { life, patience: 3_000, log_bytes: LOG_BYTES, part_bytes: 700 };
        let layout = Layout { segment_bytes: 8 << 10, ahead: 2 << 10, sync: true, seed: life };
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let recovered = recovery::recover(&disk, layout, self.identity.clone(), LOG_BYTES)?;
        let (engine, directory) = Engine::new(disk, recovered, options, config, self.clock.now(now))?;
        let seen = engine.shared().state.read().revision();
        self.running = Some(Running {
            engine,
            directory,
            jobs: VecDeque::new(),
            busy: false,
            snapshot: None,
            waiting: BTreeMap::new(),
            token: 0,
            seen,
            checked: 0,
        });
        Ok(())
    }

    /// How it is, for who has to find out why.
    pub(crate) fn describe(&self) -> String {
        let (id, lost, starts) = (self.id, self.lost, self.starts);
        let Some(running) = &self.running else {
            return format!("{id} does not run (lost: {lost}, starts {starts:?})");
        };
        let member = running.engine.member();
        let standing = member.standing();
        let members: Vec<_> = member.contacts().iter().map(|member| (member.id, member.learner)).collect();
        let jobs = (running.busy, running.jobs.len());
        format!("{id}: {standing:?} of {members:?}, jobs {jobs:?}, lost {lost}, {}", member.describe())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.is_some() && !self.paused
    }
}
