//! The world: members, clients, network and time, in one thread. What happens next is whatever is due first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use prost::Message as _;

use super::client::Client;
use super::dice::Dice;
use super::nemesis::Nemesis;
use super::network::Network;
use super::slot::{Running, Slot};
use super::truth::{Truth, checksum};
use super::witness::{self, Witness};
use super::{Plan, Report};
use crate::backend::Error;
use crate::kv::Revision;
use crate::members::{Member, MemberId};
use crate::replica::directory;
use crate::replica::identity::Identity;
use crate::replica::member::{Answer, Done, TICK};
use crate::replica::message::Envelope;
use crate::replica::mix;
use crate::replica::proposals::Proposal;
use crate::replica::snapshot;

/// Time in the world, microseconds since it began.
pub(crate) type Micros = u64;

/// Clients.
const CLIENTS: usize = 4;

/// Names the cluster.
const CLUSTER: u64 = 77;

/// How long until a job for which there was no space is tried again.
const TRY_AGAIN: Micros = 200_000;

/// Something that is due.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A member's next tick, in one of its lives.
    Tick(MemberId, u64),
    /// A message arrives.
    Deliver(MemberId, Vec<u8>),
    /// A member's disk has done the job at the head of its queue.
    JobDone(MemberId, u64),
    /// A member's snapshot is written.
    Snapshot(MemberId, u64),
    /// A member sees that its connection to another broke.
    Broken(MemberId, MemberId),
    /// A member starts.
    Start(MemberId),
    /// A client does something, or gives up waiting.
    Client(usize),
    /// The nemesis thinks of something.
    Nemesis,
    /// It takes back something that it did.
    Relief(u64),
    /// The operator looks after the members.
    Operator,
}

/// See the module.
pub(crate) struct World {
    pub(crate) now: Micros,
    pub(crate) dice: Dice,
    pub(crate) slots: BTreeMap<MemberId, Slot>,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    pub(crate) truth: Truth,
    pub(crate) nemesis: Nemesis,
    pub(crate) members: usize,
    /// When clients come to rest.
    pub(crate) rest: Micros,
    /// The newest revision that any client was told of.
    pub(crate) told: Revision,
    /// Where the clients' doings are checked: what is wrong, if anything is.
    pub(crate) wrong: Option<String>,
    /// Only the clients see what is wrong.
    blind: bool,
    pub(crate) witness: Witness,
    due: BinaryHeap<Reverse<(Micros, u64, Box<Order>)>>,
    /// Happenings so far that were made due.
    sequence: u64,
    /// Checksum of everything that has happened.
    digest: u64,
}

/// A happening, which has no order of its own.
#[derive(Debug)]
struct Order(Happening);

impl PartialEq for Order {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Order {}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut dice = Dice::new(plan.seed);
        let ids = 1..=plan.members as MemberId;
        let known: Vec<Member> = ids.map(|id| Member { id, peer_urls: vec![url(id)], ..Member::default() }).collect();
        let slots = known.iter().map(|member| {
            let identity = Identity { cluster: CLUSTER, member: member.id, founder: true, known: known.clone() };
            (member.id, Slot::new(identity, dice.fork()))
        });
        let slots = slots.collect();
        let clients = (0..CLIENTS).map(|id| Client::new(id, dice.fork())).collect();
        let mut world = Self {
            now: 0,
            network: Network::new(dice.fork()),
            nemesis: Nemesis::new(dice.fork()),
            dice,
            slots,
            clients,
            truth: Truth::default(),
            members: plan.members,
            rest: Micros::MAX,
            told: 0,
            wrong: None,
            blind: plan.blind,
            witness: Witness::default(),
            due: BinaryHeap::new(),
            sequence: 0,
            digest: 0,
        };
        for id in 1..=plan.members as MemberId {
            world.soon(0, Happening::Start(id));
        }
        for client in 0..CLIENTS {
            world.soon(100_000, Happening::Client(client));
        }
        world.soon(1_000_000, Happening::Nemesis);
        world.soon(700_000, Happening::Operator);
        world
    }

    /// Makes something due after a while.
    pub(crate) fn soon(&mut self, after: Micros, happening: Happening) {
        self.sequence += 1;
        self.due.push(Reverse((self.now + after, self.sequence, Box::new(Order(happening)))));
    }

    /// Something is wrong; the first such thing is what is reported.
    pub(crate) fn blame(&mut self, why: impl Into<String>) {
        if self.blind {
            return;
        }
        let now = self.now;
        self.wrong.get_or_insert_with(|| format!("after {} ms: {}", now / 1_000, why.into()));
    }

    fn note(&mut self, what: u64) {
        self.digest = mix(self.digest ^ what);
    }

    /// Lets things happen until then, or until something is wrong.
    pub(crate) fn run_until(&mut self, end: Micros) {
        while self.wrong.is_none()
            && let Some(Reverse((at, sequence, _))) = self.due.peek()
            && *at <= end
        {
            (self.now, _) = (*at, sequence);
            if let Some(Reverse((at, sequence, order))) = self.due.pop() {
                self.note(at ^ sequence << 32);
                self.happen(order.0);
            }
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick(id, life) => self.tick(id, life),
            Happening::Deliver(to, bytes) => self.deliver(to, bytes),
            Happening::JobDone(id, life) => self.job_done(id, life),
            Happening::Snapshot(id, life) => self.snapshot_done(id, life),
            Happening::Broken(id, other) => {
                self.with(id, |running, now| running.engine.member_mut().unreachable(other, now));
            }
            Happening::Start(id) => self.start(id),
            Happening::Client(client) => self.client(client),
            Happening::Nemesis => self.mischief(),
            Happening::Relief(number) => self.relieve(number),
            Happening::Operator => self.operate(),
        }
    }

    /// Whether a happening is for the life that a member is living; one that is paused gets it later.
    fn lives(&mut self, id: MemberId, life: u64, again: impl FnOnce() -> Happening) -> bool {
        let Some(slot) = self.slots.get(&id) else { return false };
        if slot.running.is_none() || slot.lives != life {
            return false;
        }
        if slot.paused {
            self.soon(20_000, again());
            return false;
        }
        true
    }

    fn tick(&mut self, id: MemberId, life: u64) {
        if !self.lives(id, life, || Happening::Tick(id, life)) {
            return;
        }
        let now = self.now;
        let mut takes = 0;
        if let Some(slot) = self.slots.get_mut(&id) {
            takes = slot.clock.takes(TICK);
            let local = slot.clock.now(now);
            if let Some(running) = &mut slot.running {
                running.engine.tick(local);
            }
        }
        self.soon(takes, Happening::Tick(id, life));
        self.drive(id);
    }

    fn deliver(&mut self, to: MemberId, bytes: Vec<u8>) {
        let Some(slot) = self.slots.get(&to) else { return };
        if slot.paused {
            return self.soon(20_000, Happening::Deliver(to, bytes));
        }
        self.note(u64::from(crc32fast::hash(&bytes)));
        let Ok(envelope) = Envelope::decode(&bytes[..]) else { return self.blame("a message cannot be read") };
        self.with(to, |running, now| running.engine.member_mut().receive(envelope, now));
    }

    /// Does something to a member that runs, and all that follows.
    pub(crate) fn with<T>(&mut self, id: MemberId, act: impl FnOnce(&mut Running, u64) -> T) -> Option<T> {
        let slot = self.slots.get_mut(&id)?;
        let local = slot.clock.now(self.now);
        let done = act(slot.running.as_mut()?, local);
        self.drive(id);
        Some(done)
    }

    fn job_done(&mut self, id: MemberId, life: u64) {
        if !self.lives(id, life, || Happening::JobDone(id, life)) {
            return;
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let local = slot.clock.now(self.now);
        let Some(running) = slot.running.as_mut() else { return };
        running.busy = false;
        let Some(job) = directory::next(&mut running.jobs) else { return };
        let done = running.directory.perform(&job);
        if !slot.disk.has_power() {
            return self.crash(id);
        }
        let full = matches!(done, Done::Full(_));
        let failed = matches!(done, Done::Failed(_));
        let log_bytes = running.directory.log_bytes();
        running.engine.done(done, log_bytes, local);
        if full {
            running.jobs.push_front(job);
            running.busy = true;
            self.soon(TRY_AGAIN, Happening::JobDone(id, life));
        } else if failed {
            // What does not fail by itself here is what was made to fail: it starts again, as a supervisor would see to.
            self.nemesis.count("disk failed");
            return self.crash(id);
        }
        self.drive(id);
    }

    fn snapshot_done(&mut self, id: MemberId, life: u64) {
        if !self.lives(id, life, || Happening::Snapshot(id, life)) {
            return;
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(running) = slot.running.as_mut() else { return };
        let Some(snapshot) = running.snapshot.take() else { return };
        let written = snapshot::write(&slot.disk, &snapshot);
        if !slot.disk.has_power() {
            return self.crash(id);
        }
        running.engine.snapshotted(written);
        self.drive(id);
    }

    /// Has everything sent, written and answered that follows from what a member was told.
    fn drive(&mut self, id: MemberId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(running) = slot.running.as_mut() else { return };
        let (local, life) = (slot.clock.now(self.now), slot.lives);
        running.engine.keep_house(local);
        let turn = running.engine.turn(local);
        running.jobs.extend(turn.jobs);
        let begins = !running.busy && !running.jobs.is_empty();
        running.busy |= begins;
        if running.snapshot.is_none() {
            running.snapshot = running.engine.due_snapshot();
            if running.snapshot.is_some() {
                let takes = slot.disk_time * 10;
                self.soon(takes, Happening::Snapshot(id, life));
            }
        }
        if begins {
            let takes = self.slots.get(&id).map_or(0, |slot| slot.disk_time);
            let takes = takes + self.dice.within(0..takes.max(1));
            self.soon(takes, Happening::JobDone(id, life));
        }
        for envelope in turn.messages {
            self.send(id, &envelope);
        }
        self.look(id);
        for answer in turn.answers {
            self.answer(id, answer);
        }
        let stopped = |running: &Running| running.engine.member().stopped().map(str::to_owned);
        if let Some(why) = self.slots.get(&id).and_then(|slot| slot.running.as_ref()).and_then(stopped) {
            self.stopped(id, &why);
        }
    }

    /// A member takes no part any more.
    fn stopped(&mut self, id: MemberId, why: &str) {
        if !why.contains("was removed") {
            self.blame(format!("member {id} stopped: {why}"));
        }
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.lost = true;
        }
        self.crash(id);
    }

    fn send(&mut self, from: MemberId, envelope: &Envelope) {
        let bytes = envelope.encode_to_vec();
        for takes in self.network.passage(from, envelope.to) {
            self.soon(takes, Happening::Deliver(envelope.to, bytes.clone()));
        }
    }

    /// Compares a member's state with what others said before it, and lets clients look at their watches.
    fn look(&mut self, id: MemberId) {
        let Some(running) = self.slots.get_mut(&id).and_then(|slot| slot.running.as_mut()) else { return };
        let shared = running.engine.shared();
        let state = shared.state.read();
        let applied = running.engine.member().applied().0;
        let mut wrong = None;
        if state.revision() < running.seen {
            wrong = Some(format!("member {id} went back from revision {} to {}", running.seen, state.revision()));
        }
        if state.revision() > running.seen {
            let fresh = state.changes_from(running.seen + 1);
            wrong = wrong.or_else(|| fresh.filter_map(|revised| self.truth.revision(revised).err()).next());
            running.seen = state.revision();
        }
        // All look at the same entries, so that they have something to compare.
        if applied > running.checked && applied.is_multiple_of(4) {
            running.checked = applied;
            wrong = wrong.or(self.truth.state(applied, &state).err());
        }
        drop(state);
        if let Some(why) = wrong {
            self.blame(format!("member {id}: {why}"));
        }
        self.look_at_watches(id);
    }

    fn answer(&mut self, id: MemberId, (token, result): Answer) {
        let running = self.slots.get_mut(&id).and_then(|slot| slot.running.as_mut());
        if let Some(client) = running.and_then(|running| running.waiting.remove(&token)) {
            self.note(token ^ u64::from(result.is_ok()));
            self.answered(client, id, result);
        }
    }

    /// A member ends, without a word; what its disk has not synced is in doubt.
    pub(crate) fn crash(&mut self, id: MemberId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.disk.cut_power();
        slot.paused = false;
        let Some(running) = slot.running.take() else { return };
        let clients: Vec<usize> = running.waiting.into_values().collect();
        // A process that ends breaks its connections; a machine that ends does not.
        if self.dice.chance(500) {
            for other in self.up() {
                let after = self.dice.within(100..20_000);
                self.soon(after, Happening::Broken(other, id));
            }
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let after = self.dice.within(10_000..3_000_000);
        slot.starts = Some(self.now + after);
        if !slot.lost {
            self.soon(after, Happening::Start(id));
        }
        for client in clients {
            let why = "the member crashed".to_owned();
            self.answered(client, id, Err(Error::Uncertain { operation: "anything", why }));
        }
        self.lose_watches(id);
    }

    fn start(&mut self, id: MemberId) {
        let (now, members) = (self.now, self.members);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.running.is_some() || slot.lost {
            return;
        }
        slot.disk.restore_power();
        match slot.start(&mut self.dice, now) {
            Ok(()) => {
                let life = slot.lives;
                self.soon(1_000, Happening::Tick(id, life));
                self.drive(id);
            }
            Err(Error::Corrupt { path, offset, why }) => {
                slot.lost = true;
                if !self.nemesis.flipped.contains(&id) {
                    let path = path.display();
                    self.blame(format!("member {id} of {members} is corrupt for no reason: {path} at {offset}: {why}"));
                }
            }
            Err(error) => {
                // The fuse may have burnt down amid the start.
                let gone = !slot.disk.has_power();
                if gone {
                    self.soon(50_000, Happening::Start(id));
                } else {
                    self.blame(format!("member {id} does not start: {error}"));
                }
            }
        }
    }

    /// Members that run.
    pub(crate) fn up(&self) -> Vec<MemberId> {
        self.slots.values().filter(|slot| slot.is_up()).map(|slot| slot.id).collect()
    }

    /// The member that leads in the newest term, if one does.
    pub(crate) fn leader(&self) -> Option<MemberId> {
        let running = self.slots.values().filter_map(|slot| Some((slot.id, slot.running.as_ref()?)));
        let leading = running.filter(|(_, running)| running.engine.member().leads());
        leading.max_by_key(|(_, running)| running.engine.member().standing().term).map(|(id, _)| id)
    }

    /// Proposes something for which nobody waits.
    pub(crate) fn propose(&mut self, id: MemberId, proposal: Proposal) {
        self.with(id, |running, now| running.engine.member_mut().propose(0, proposal, now));
    }

    /// A new member, which has never run.
    pub(crate) fn add_slot(&mut self, id: MemberId, known: Vec<Member>) {
        let identity = Identity { cluster: CLUSTER, member: id, founder: false, known };
        let slot = Slot::new(identity, self.dice.fork());
        self.slots.insert(id, slot);
        self.soon(10_000, Happening::Start(id));
    }

    /// Everything works again: all members are there, agree, and have seen all that anyone was told of.
    pub(crate) fn check_peace(&mut self) {
        let roster = self.roster();
        let voters = roster.iter().filter(|member| !member.learner).count();
        // The operator may have added one more than it had to: it asks again when it hears nothing.
        if voters < self.members || self.leader().is_none() {
            let told = self.slots.values().map(Slot::describe).collect::<Vec<_>>().join("\n  ");
            return self.blame(format!("it does not recover: {:?} leads\n  {told}", self.leader()));
        }
        if !self.agrees() || self.truth.newest() < self.told {
            let told = self.slots.values().map(Slot::describe).collect::<Vec<_>>().join("\n  ");
            self.blame(format!("members do not converge, and {} was told of\n  {told}", self.told));
        }
    }

    /// Whether all members have applied the same and hold the same.
    pub(crate) fn agrees(&self) -> bool {
        let state = |member: &Member| {
            let running = self.slots.get(&member.id)?.running.as_ref()?;
            let sum = checksum(&running.engine.shared().state.read());
            Some((running.engine.member().applied(), sum))
        };
        let states: Vec<_> = self.roster().iter().map(state).collect();
        states.iter().all(|state| state.is_some() && *state == states[0])
    }

    pub(crate) fn report(self, plan: &Plan) -> Report {
        let operations = self.clients.iter().map(|client| client.done).sum();
        let clocks = !self.nemesis.counts.contains_key("clock");
        Report {
            seed: plan.seed,
            digest: self.digest,
            simulated: std::time::Duration::from_micros(self.now),
            faults: self.nemesis.counts,
            operations,
            revisions: self.truth.newest(),
            wrong: self.wrong,
            rules: witness::rules(clocks),
            history: self.witness.into_history(),
        }
    }
}

/// Where a member is reached.
pub(crate) fn url(id: MemberId) -> String {
    format!("sim://{id}")
}
