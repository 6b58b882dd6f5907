//! The loop around a member: threads, channels and the clock, and nothing that decides.
//!
//! A member alone does its own writing here: its one slow step is `fdatasync`, and nobody else is to be heard meanwhile.
//! Whatever arrives during one is proposed together after it and shares the next: under load the batches grow by themselves,
//! and alone a write waits for nobody. With others there is a thread that writes, for heartbeats and reads must not wait for
//! the disk.
//!
//! At rest nothing runs in a member alone: there are no ticks; the loop sleeps until a proposal or the next lease's end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::directory::Directory;
use super::disk::Disk;
use super::engine::{Engine, Shared, Turn};
use super::member::{Answer, Done, Reply, TICK, Token, chain};
use super::message::Envelope;
use super::pace::Pace;
use super::proposals::Proposal;
use super::snapshot;
use super::writer::Writer;
use crate::backend::Error;
use crate::members::{Member, MemberId};
use crate::mvcc::Millis;

/// Most bytes of commands made durable at once.
const BATCH_BYTES: usize = 4 << 20;

/// How long a leader that closes waits until another one leads.
const HANDOVER: Millis = 1_000;

/// Where the answer to a call goes.
pub(crate) type Answered = oneshot::Sender<Result<Reply, Error>>;

/// What the loop is told.
pub(crate) enum Input {
    Propose(Call),
    Read(Answered),
    /// A message from another member, and its share of the memory for those that wait.
    Deliver(Envelope, Option<OwnedSemaphorePermit>),
    /// What was sent to a member is lost, maybe.
    Unreachable(MemberId),
    /// What a job came to, and the bytes of the log after it.
    Done(Done, u64),
    /// The background writer is done: bytes on disk.
    Snapshotted(Result<u64, Error>),
    /// Another member is to lead.
    Transfer(MemberId),
    Close,
}

/// A proposal, and who waits for what becomes of it.
pub(crate) struct Call {
    pub(crate) proposal: Proposal,
    pub(crate) reply: Answered,
    /// Its share of the memory for what waits.
    pub(crate) room: OwnedSemaphorePermit,
}

/// Where messages to other members go.
pub(crate) trait Post: Send {
    /// Sends one, or drops it.
    fn post(&mut self, envelope: Envelope);

    /// Where everyone is from now on.
    fn addresses(&mut self, members: &[Member]);
}

/// For a member that was told of no way to reach others.
pub(crate) struct Nowhere;

impl Post for Nowhere {
    fn post(&mut self, envelope: Envelope) {
        tracing::debug!(to = envelope.to, "a message to a member that cannot be reached was dropped");
    }

    fn addresses(&mut self, _: &[Member]) {}
}

/// Who does the jobs.
enum Hands {
    /// The loop itself.
    Own(Directory),
    Thread(Writer),
}

/// What has come and is to be proposed together.
struct Batch {
    calls: Vec<Call>,
    bytes: usize,
    /// Nobody has said that it is the last.
    open: bool,
}

struct Waiting {
    reply: Answered,
    room: Option<OwnedSemaphorePermit>,
}

/// The loop. See the module.
pub(crate) struct Node {
    engine: Engine,
    /// None only while they change.
    hands: Option<Hands>,
    disk: Arc<dyn Disk>,
    inbox: Receiver<Input>,
    outbox: Sender<Input>,
    post: Box<dyn Post>,
    waiting: HashMap<Token, Waiting>,
    /// The token given last.
    token: Token,
    started: Instant,
    pace: Pace,
    next_tick: Millis,
    /// Changes of the members that `post` has been told of; none yet at first.
    told: Option<u64>,
    snapshot: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn new(
        (engine, directory): (Engine, Directory),
        disk: Arc<dyn Disk>,
        (inbox, outbox): (Receiver<Input>, Sender<Input>),
        post: Box<dyn Post>,
    ) -> Self {
        let mut node = Self {
            engine,
            hands: Some(Hands::Own(directory)),
            disk,
            inbox,
            outbox,
            post,
            waiting: HashMap::new(),
            token: 0,
            started: Instant::now(),
            pace: Pace::default(),
            next_tick: 0,
            told: None,
            snapshot: None,
        };
        node.settle();
        node
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.engine.shared()
    }

    /// Runs until it is told to close.
    pub(crate) fn run(mut self) {
        loop {
            let open = self.receive();
            self.turn();
            self.pace.end(self.started.elapsed());
            if !open {
                return self.close();
            }
        }
    }

    /// All that follows from what was received, and from the time.
    fn turn(&mut self) {
        let now = self.now();
        if self.engine.member().ticks() && now >= self.next_tick {
            // One at most: time in which this thread could not run is nobody's silence.
            self.next_tick = now + TICK;
            self.engine.tick(now);
        }
        self.engine.keep_house(now);
        self.settle();
        self.snapshot_if_due();
    }

    fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for something to do, and takes all of it that fits a batch. False when told to close.
    fn receive(&mut self) -> bool {
        let first = match self.patience() {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(patience) => self.inbox.recv_timeout(patience),
        };
        let mut next = match first {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        let mut batch = Batch { calls: Vec::new(), bytes: 0, open: true };
        self.gather(next.take(), &mut batch);
        // Others do not wait here: theirs are gathered while the thread that writes is busy.
        let pause = matches!(self.hands, Some(Hands::Own(_))).then(|| self.pace.pause(batch.calls.len())).flatten();
        if let Some(pause) = pause.filter(|_| batch.open) {
            // Not in `recv`: nobody is to wake this thread for each that comes. If it wakes early, the batch is smaller.
            std::thread::park_timeout(pause);
            next = self.inbox.try_recv().ok();
            self.gather(next, &mut batch);
        }
        if !batch.calls.is_empty() {
            self.pace.begin(batch.calls.len(), self.started.elapsed());
        }
        self.propose(batch.calls, batch.bytes, self.now());
        batch.open
    }

    /// Takes this and all that has come, as far as it fits a batch.
    fn gather(&mut self, mut next: Option<Input>, batch: &mut Batch) {
        let now = self.now();
        while let Some(input) = next {
            match input {
                Input::Propose(call) => {
                    batch.bytes += size(&call.proposal);
                    batch.calls.push(call);
                }
                Input::Close => {
                    batch.open = false;
                    return;
                }
                other => self.take(other, now),
            }
            if batch.bytes >= BATCH_BYTES {
                return;
            }
            next = self.inbox.try_recv().ok();
        }
    }

    fn take(&mut self, input: Input, now: Millis) {
        match input {
            Input::Read(reply) => {
                let token = self.wait(reply, None);
                self.engine.member_mut().read(token, now);
            }
            Input::Deliver(envelope, _room) => self.engine.member_mut().receive(envelope, now),
            Input::Unreachable(id) => self.engine.member_mut().unreachable(id, now),
            Input::Done(done, log_bytes) => self.engine.done(done, log_bytes, now),
            Input::Snapshotted(result) => {
                self.snapshot = None;
                self.engine.snapshotted(result);
            }
            Input::Transfer(to) => self.engine.member_mut().transfer(to, now),
            Input::Propose(call) => self.propose(vec![call], 0, now),
            Input::Close => {}
        }
    }

    /// Proposes a batch. A member alone makes sure first that there is space: so a full disk refuses it before it has begun.
    fn propose(&mut self, calls: Vec<Call>, bytes: usize, now: Millis) {
        if let (Some(Hands::Own(directory)), false) = (&mut self.hands, calls.is_empty())
            // Each entry takes less than 64 bytes beside its command.
            && let Err(error) = directory.reserve(bytes + 64 * (calls.len() + 4))
        {
            tracing::warn!(error = chain(&error), "writes are refused");
            for call in calls {
                answer(call.reply, Err(Error::Unavailable { operation: "write", why: chain(&error) }));
            }
            return;
        }
        for Call { proposal, reply, room } in calls {
            let token = self.wait(reply, Some(room));
            self.engine.member_mut().propose(token, proposal, now);
        }
    }

    fn wait(&mut self, reply: Answered, room: Option<OwnedSemaphorePermit>) -> Token {
        self.token += 1;
        self.waiting.insert(self.token, Waiting { reply, room });
        self.token
    }

    /// How long nothing may happen; none for ever.
    fn patience(&self) -> Option<Duration> {
        let tick = self.engine.member().ticks().then_some(self.next_tick);
        let wake = self.engine.next_wake().into_iter().chain(tick).min();
        wake.map(|wake| Duration::from_millis(wake.saturating_sub(self.now())))
    }

    /// Has everything sent, written and answered that can be now.
    fn settle(&mut self) {
        loop {
            let Turn { messages, jobs, answers } = self.engine.turn(self.now());
            self.tell_addresses();
            // Before anything is written: it travels meanwhile.
            messages.into_iter().for_each(|envelope| self.post.post(envelope));
            answers.into_iter().for_each(|answer| self.answer(answer));
            if jobs.is_empty() {
                return;
            }
            match &mut self.hands {
                Some(Hands::Own(directory)) => {
                    for job in &jobs {
                        let done = without_space_is_failure(directory.perform(job));
                        let log_bytes = directory.log_bytes();
                        self.engine.done(
                            done,
                            log_bytes,
                            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0),
                        );
                    }
                    self.hire();
                }
                Some(Hands::Thread(writer)) => return writer.add(jobs),
                None => return,
            }
        }
    }

    /// With others there is a thread that writes.
    fn hire(&mut self) {
        if !self.engine.member().ticks() {
            return;
        }
        self.hands = match self.hands.take() {
            Some(Hands::Own(directory)) => Some(Hands::Thread(Writer::start(directory, self.outbox.clone()))),
            other => other,
        };
    }

    fn tell_addresses(&mut self) {
        let changes = self.engine.member().changes();
        if self.told != Some(changes) {
            self.told = Some(changes);
            self.post.addresses(&self.engine.member().contacts());
        }
    }

    fn answer(&mut self, (token, result): Answer) {
        if let Some(waiting) = self.waiting.remove(&token) {
            answer(waiting.reply, result);
        } else if let Err(error) = result {
            tracing::debug!(error = chain(&error), "a command of the store's own was not done");
        }
    }

    fn snapshot_if_due(&mut self) {
        let Some(snapshot) = self.engine.due_snapshot() else { return };
        let (disk, outbox) = (self.disk.clone(), self.outbox.clone());
        let thread = std::thread::Builder::new().name("store-snapshot".to_owned()).spawn(move || {
            let result = snapshot::write(&*disk, &snapshot);
            // The loop may be closing: it has joined this thread and listens no more.
            if outbox.send(Input::Snapshotted(result)).is_err() {
                tracing::debug!("a snapshot was written that nobody waited for");
            }
        });
        match thread {
            Ok(thread) => self.snapshot = Some(thread),
            Err(source) => {
                let path = self.disk.path("");
                self.engine.snapshotted(Err(Error::Disk { operation: "start a thread for", path, source }));
            }
        }
    }

    fn close(mut self) {
        self.hand_over();
        let shared = self.shared();
        shared.alone.store(false, Ordering::Release);
        shared.watchers.lock().close();
        if let Some(thread) = self.snapshot.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that wrote a snapshot panicked");
        }
        if let Some(Hands::Thread(writer)) = self.hands.take() {
            writer.close();
        }
        let waiting = std::mem::take(&mut self.waiting);
        for Waiting { reply, room } in waiting.into_values() {
            let why = "the store was closed".to_owned();
            // A read takes no room.
            let error = match room {
                Some(_) => Error::Uncertain { operation: "a write", why },
                None => Error::Unavailable { operation: "read", why },
            };
            answer(reply, Err(error));
        }
        while let Ok(input) = self.inbox.try_recv() {
            let why = "it was closed".to_owned();
            match input {
                Input::Propose(Call { reply, .. }) => {
                    answer(reply, Err(Error::Unavailable { operation: "write", why }))
                }
                Input::Read(reply) => answer(reply, Err(Error::Unavailable { operation: "read", why })),
                _ => {}
            }
        }
        let mut standing = shared.standing.borrow().to_owned();
        standing.leader = 0;
        shared.standing.send_replace(standing);
        shared.ended.send_if_modified(|ended| ended.replace("it was closed".to_owned()).is_none());
    }

    /// A leader that leaves lets another lead first: so nobody has to find out that it is gone.
    fn hand_over(&mut self) {
        let Some(successor) = self.engine.member().successor().filter(|_| self.engine.member().leads()) else { return };
        let deadline = self.now() + HANDOVER;
        let now = self.now();
        self.engine.member_mut().transfer(successor, now);
        self.turn();
        while self.engine.member().leads() && self.now() < deadline {
            self.receive();
            self.turn();
        }
    }
}

fn size(proposal: &Proposal) -> usize {
    match proposal {
        Proposal::Command(command) => command.len(),
        // Names and URLs, within their limits.
        Proposal::Change(_) => 128 << 10,
    }
}

/// Space is seen to before anything is proposed. Raft's own records are small; if not even those fit, nothing does.
fn without_space_is_failure(done: Done) -> Done {
    match done {
        Done::Full(error) => Done::Failed(error),
        other => other,
    }
}

fn answer(reply: Answered, result: Result<Reply, Error>) {
    if reply.send(result).is_err() {
        tracing::trace!("nobody waits for an answer any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    use bytes::Bytes;
    use tokio::sync::Semaphore;

    use crate::embedded::Options;
    use crate::kv::{Op, Range, Txn};
    use crate::mvcc::{Action, codec};
    use crate::replica::identity::Identity;
    use crate::replica::member::Config;
    use crate::replica::recovery::recover;
    use crate::replica::wal::Layout;
    use crate::sim::dice::Dice;
    use crate::sim::disk::SimDisk;

    fn alone(disk: &SimDisk) -> (Node, Sender<Input>) {
        let known = vec![Member { id: 1, ..Member::default() }];
        let birth = Identity { cluster: 7, member: 1, founder: true, known };
        let layout = Layout { segment_bytes: 1 << 20, ahead: 64 << 10, sync: true, seed: 1 };
        let config = Config { life: 1, patience: 1_000, log_bytes: 0, part_bytes: 1 << 10 };
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let recovered = recover(&disk, layout, birth, 0).unwrap();
        let engine = Engine::new(disk.clone(), recovered, Options::default(), config, 0).unwrap();
        let (inbox, inputs) = channel();
        (Node::new(engine, disk, (inputs, inbox.clone()), Box::new(Nowhere)), inbox)
    }

    fn put(inbox: &Sender<Input>, key: &'static str) -> oneshot::Receiver<Result<Reply, Error>> {
        let put = Op::Put { key: key.into(), value: "v".into(), lease: 0 };
        let proposal = Proposal::Command(codec::encode(&Action::Txn(Txn { success: vec![put], ..Txn::default() })));
        let (reply, answered) = oneshot::channel();
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        inbox.send(Input::Propose(Call { proposal, reply, room })).unwrap();
        answered
    }

    #[test]
    fn after_a_failed_write_nothing_is_written_and_all_is_read() {
        let disk = SimDisk::new(Dice::new(1));
        let (mut node, inbox) = alone(&disk);
        let turn = |node: &mut Node, key| {
            let answered = put(&inbox, key);
            assert!(node.receive());
            node.turn();
            answered.blocking_recv().unwrap()
        };
        turn(&mut node, "before").unwrap();
        disk.cut_power();
        let uncertain = turn(&mut node, "during");
        assert!(matches!(uncertain, Err(Error::Uncertain { .. })), "{uncertain:?}");
        let refused = turn(&mut node, "after");
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
        let shared = node.shared();
        assert!(shared.alone.load(Ordering::Acquire), "nobody else can know more");
        let all = Range { start: Bytes::new(), end: Bytes::from_static(&[0]), ..Range::default() };
        assert_eq!(shared.state.read().range(&all).unwrap().count, 1, "what was written before is read");
        drop(node);
        disk.restore_power();
        let (node, _inbox) = alone(&disk);
        assert!(node.shared().state.read().range(&Range::key("before")).unwrap().count == 1);
    }

    #[test]
    fn everything_that_waits_is_one_record() {
        let disk = SimDisk::new(Dice::new(1));
        let (mut node, inbox) = alone(&disk);
        let records = |node: &Node| match &node.hands {
            Some(Hands::Own(directory)) => directory.records(),
            _ => panic!("a member alone does its own writing"),
        };
        let before = records(&node);
        let answers: Vec<_> = ["a", "b", "c", "d"].into_iter().map(|key| put(&inbox, key)).collect();
        assert!(node.receive());
        node.turn();
        for answered in answers {
            assert!(answered.blocking_recv().unwrap().is_ok());
        }
        assert_eq!(records(&node) - before, 1);
        assert_eq!(node.shared().state.read().revision(), 5, "an empty store is at 1");
    }
}
