//! The same random requests to this store and to etcd, from a seed: the answers are the same, field by field, but for the ids
//! of cluster and member and raft's term.

use std::fmt::Debug;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions,
    PutOptions, ResponseHeader, SortOrder, SortTarget, Txn, TxnOp, WatchFilterType, WatchOptions,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::etcd;
use crate::served::Served;

/// Requests for each seed.
const STEPS: usize = 250;

/// Watches for each seed.
const WATCHES: usize = 12;

const SEEDS: std::ops::Range<u64> = 0..3;

const DEADLINE: Duration = Duration::from_secs(20);

/// One request that both are sent.
#[derive(Clone, Debug)]
enum Step {
    Get(Vec<u8>, GetOptions),
    Put(Vec<u8>, Vec<u8>, PutOptions),
    Delete(Vec<u8>, DeleteOptions),
    Txn(Txn),
    Compact(i64),
    Grant(i64),
    Revoke(i64),
    TimeToLive(i64),
    Leases,
    KeepAlive(i64),
}

/// Makes requests up, around what there is.
struct Dice {
    random: StdRng,
    revision: i64,
    compacted: i64,
}

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        self.random.random_range(0..bound)
    }

    fn one_in(&mut self, bound: u32) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(u32::try_from(from.len()).unwrap()) as usize].clone()
    }

    fn key(&mut self) -> Vec<u8> {
        self.pick(&["a", "ab", "b", "ba", "c", "d", "e"]).into()
    }

    /// A revision near those that exist; seldom one to come.
    fn a_revision(&mut self) -> i64 {
        (self.revision - i64::from(self.below(12)) + i64::from(self.below(3) / 2)).max(0)
    }

    /// Leases have ids of their own; the seventh is never granted.
    fn lease(&mut self) -> i64 {
        i64::from(self.below(7)) + 101
    }

    fn value(&mut self) -> Vec<u8> {
        self.pick(&["", "x", "xy", "y", "z"]).into()
    }

    fn get(&mut self) -> (Vec<u8>, GetOptions) {
        let mut options = GetOptions::new();
        options = match self.below(5) {
            0 => options,
            1 => options.with_prefix(),
            2 => options.with_from_key(),
            3 => options.with_all_keys(),
            _ => options.with_range(self.key()),
        };
        if self.one_in(3) {
            options = options.with_limit(i64::from(self.below(4)));
        }
        if self.one_in(3) {
            options = options.with_revision(self.a_revision());
        }
        if self.one_in(3) {
            let target = self.pick(&[
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ]);
            options = options.with_sort(target, self.pick(&[SortOrder::None, SortOrder::Ascend, SortOrder::Descend]));
        }
        if self.one_in(6) {
            options = options.with_min_mod_revision(self.a_revision()).with_max_create_revision(self.a_revision());
        }
        if self.one_in(8) {
            options = options.with_keys_only();
        }
        if self.one_in(8) {
            options = options.with_count_only();
        }
        (self.key(), options)
    }

    fn put(&mut self) -> (Vec<u8>, Vec<u8>, PutOptions) {
        let (mut options, mut value) = (PutOptions::new(), self.value());
        if self.one_in(2) {
            options = options.with_prev_key();
        }
        // Which of a lease and a key that are missing is complained of, etcd says one way for a put and another inside a
        // transaction.
        if self.one_in(4) {
            options = options.with_lease(self.lease());
        } else if self.one_in(6) {
            (options, value) = (options.with_ignore_value(), if self.one_in(8) { value } else { Vec::new() });
        }
        if self.one_in(8) {
            options = options.with_ignore_lease();
        }
        (self.key(), value, options)
    }

    fn delete(&mut self) -> (Vec<u8>, DeleteOptions) {
        let options = match self.below(6) {
            0 => DeleteOptions::new().with_range(self.key()),
            1 => DeleteOptions::new().with_prefix(),
            _ => DeleteOptions::new(),
        };
        (self.key(), if self.one_in(2) { options.with_prev_key() } else { options })
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let op = self.pick(&[CompareOp::Equal, CompareOp::NotEqual, CompareOp::Less, CompareOp::Greater]);
        let compare = match self.below(5) {
            0 => Compare::version(key, op, i64::from(self.below(4)) - 1),
            1 => Compare::create_revision(key, op, self.a_revision()),
            2 => Compare::mod_revision(key, op, if self.one_in(3) { 0 } else { self.a_revision() }),
            3 => Compare::value(key, op, self.value()),
            _ => Compare::lease(key, op, if self.one_in(2) { 0 } else { self.lease() }),
        };
        match self.below(6) {
            0 => compare.with_prefix(),
            1 => compare.with_range(self.key()),
            _ => compare,
        }
    }

    fn txn(&mut self, depth: u32) -> Txn {
        let compares: Vec<_> = (0..self.below(3)).map(|_| self.compare()).collect();
        let (success, failure) = (self.branch(4, depth), self.branch(3, depth));
        Txn::new().when(compares).and_then(success).or_else(failure)
    }

    /// Fewer than `bound` steps. At most one is a transaction itself: between several, etcd overlooks that one deletes what
    /// another has put.
    fn branch(&mut self, bound: u32, depth: u32) -> Vec<TxnOp> {
        let mut ops: Vec<_> = (0..self.below(bound)).map(|_| self.op()).collect();
        if depth > 0 && self.one_in(4) {
            let at = self.below(u32::try_from(ops.len() + 1).unwrap());
            ops.insert(at as usize, TxnOp::txn(self.txn(depth - 1)));
        }
        ops
    }

    fn op(&mut self) -> TxnOp {
        match self.below(7) {
            0..=2 => {
                let (key, value, options) = self.put();
                TxnOp::put(key, value, Some(options))
            }
            3 | 4 => {
                let (key, options) = self.get();
                TxnOp::get(key, Some(options))
            }
            _ => {
                let (key, options) = self.delete();
                TxnOp::delete(key, Some(options))
            }
        }
    }

    fn step(&mut self) -> Step {
        match self.below(100) {
            0..=24 => {
                let (key, options) = self.get();
                Step::Get(key, options)
            }
            25..=54 => {
                let (key, value, options) = self.put();
                Step::Put(key, value, options)
            }
            55..=64 => {
                let (key, options) = self.delete();
                Step::Delete(key, options)
            }
            65..=86 => Step::Txn(self.txn(2)),
            // etcd lets revisions 0 and 1 be compacted, once, though nothing is there.
            87 | 88 => Step::Compact(self.a_revision().max(2)),
            89..=92 => Step::Grant(self.lease().min(106)),
            93 | 94 => Step::Revoke(self.lease()),
            95 | 96 => Step::TimeToLive(self.lease()),
            97 => Step::Leases,
            _ => Step::KeepAlive(self.lease()),
        }
    }

    fn watch(&mut self) -> (Vec<u8>, WatchOptions, Option<WatchFilterType>) {
        let mut options = WatchOptions::new();
        options = match self.below(4) {
            0 => options,
            1 => options.with_prefix(),
            2 => options.with_from_key(),
            _ => options.with_all_keys(),
        };
        if self.one_in(2) {
            options = options.with_prev_key();
        }
        let filter = self.pick(&[None, None, Some(WatchFilterType::NoPut), Some(WatchFilterType::NoDelete)]);
        if let Some(filter) = filter {
            options = options.with_filters([filter]);
        }
        // From exactly the compacted revision etcd misses deletes (its issue 19179).
        let oldest = self.compacted + 1;
        let back = i64::from(self.below(u32::try_from((self.revision - oldest).max(1)).unwrap()));
        let start = if self.one_in(6) { self.compacted - 1 } else { self.revision - back };
        (self.key(), options.with_start_revision(start), filter)
    }
}

/// An answer: its revision, and all else that it says.
fn told<T: Debug>(answer: Result<T, Error>, header: impl FnOnce(&mut T) -> Option<ResponseHeader>) -> (i64, String) {
    match answer {
        Ok(mut answer) => {
            let header = header(&mut answer).expect("an answer has a header");
            (header.revision(), format!("{answer:?}"))
        }
        Err(Error::GRpcStatus(status)) => (0, format!("{:?} {}", status.code(), status.message())),
        Err(error) => panic!("no answer: {error}"),
    }
}

async fn ask(client: &mut Client, step: Step) -> (i64, String) {
    match step {
        Step::Get(key, options) => told(client.get(key, Some(options)).await, |reply| reply.take_header()),
        Step::Put(key, value, options) => {
            told(client.put(key, value, Some(options)).await, |reply| reply.take_header())
        }
        Step::Delete(key, options) => told(client.delete(key, Some(options)).await, |reply| reply.take_header()),
        Step::Txn(txn) => told(client.txn(txn).await, |reply| reply.take_header()),
        Step::Compact(revision) => told(client.compact(revision, None).await, |reply| reply.take_header()),
        Step::Grant(id) => {
            // Each ends at another time, so that there is one order.
            let options = LeaseGrantOptions::new().with_id(id);
            told(client.lease_grant(id * 100, Some(options)).await, |reply| reply.take_header())
        }
        Step::Revoke(id) => told(client.lease_revoke(id).await, |reply| reply.take_header()),
        Step::Leases => told(client.leases().await, |reply| reply.take_header()),
        Step::TimeToLive(id) => {
            let options = LeaseTimeToLiveOptions::new().with_keys();
            let mut reply = client.lease_time_to_live(id, Some(options)).await.unwrap();
            let mut keys = reply.keys().to_vec();
            keys.sort();
            let gone = reply.ttl() < 0;
            let told = format!("{} {} {gone} {keys:?}", reply.id(), reply.granted_ttl());
            (reply.take_header().unwrap().revision(), told)
        }
        Step::KeepAlive(id) => match client.lease_keep_alive(id).await {
            Ok((mut keeper, mut answers)) => {
                keeper.keep_alive().await.unwrap();
                told(answers.message().await.map(Option::unwrap), |reply| reply.take_header())
            }
            Err(error) => (0, error.to_string()),
        },
    }
}

/// All events of a watch, up to those of a put and a delete of its key that end it; or how it was cancelled.
async fn watch(client: &mut Client, key: Vec<u8>, options: WatchOptions, filter: Option<WatchFilterType>) -> String {
    let mut stream = client.watch(key.clone(), Some(options)).await.unwrap();
    let mut next = async || {
        let reply = tokio::time::timeout(DEADLINE, stream.message()).await.expect("it says something");
        reply.unwrap().expect("it goes on")
    };
    let created = next().await;
    assert!(created.created() && !created.canceled(), "{created:?}");
    let put = client.put(key.clone(), "end", None).await.unwrap().header().unwrap().revision();
    let delete = client.delete(key, None).await.unwrap().header().unwrap().revision();
    let last = if filter == Some(WatchFilterType::NoDelete) { put } else { delete };
    let (mut story, mut reached) = (String::new(), 0);
    while reached < last {
        let reply = next().await;
        if reply.canceled() {
            return format!("{story}canceled {} {}", reply.compact_revision(), reply.cancel_reason());
        }
        for event in reply.events() {
            reached = event.kv().unwrap().mod_revision();
            story += &format!("{event:?}\n");
        }
        assert!(reply.header().unwrap().revision() >= reached);
    }
    story
}

async fn compare(seed: u64, theirs: &etcd::Server) {
    let served = Served::start().await;
    let mut ours = served.client().await;
    let mut theirs = Client::connect([&theirs.plain], None).await.unwrap();
    let mut dice = Dice { random: StdRng::seed_from_u64(seed), revision: 1, compacted: 1 };
    for number in 0..STEPS {
        let step = dice.step();
        let (we, they) = (ask(&mut ours, step.clone()).await, ask(&mut theirs, step.clone()).await);
        assert_eq!(we, they, "seed {seed}, step {number}: {step:?}");
        dice.revision = dice.revision.max(we.0);
        if let (Step::Compact(revision), true) = (&step, we.0 > 0) {
            dice.compacted = *revision;
        }
    }
    for number in 0..WATCHES {
        let (key, options, filter) = dice.watch();
        let we = watch(&mut ours, key.clone(), options.clone(), filter).await;
        let they = watch(&mut theirs, key.clone(), options.clone(), filter).await;
        assert_eq!(we, they, "seed {seed}, watch {number} of {:?}: {options:?}", String::from_utf8_lossy(&key));
        dice.revision += 2;
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_etcd() {
    for seed in SEEDS {
        let theirs = etcd::Server::start();
        compare(seed, &theirs).await;
    }
}
