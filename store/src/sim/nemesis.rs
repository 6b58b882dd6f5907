//! Who breaks things, and the operator who puts new members in place of those that are broken for good.

use std::collections::{BTreeMap, BTreeSet};

use super::dice::Dice;
use super::network::Weather;
use super::world::{Happening, Micros, World, url};
use crate::members::{Member, MemberId};
use crate::replica::proposals::Proposal;
use crate::replica::roster::Change;

/// What it did, and what it is to take back.
pub(crate) struct Nemesis {
    dice: Dice,
    /// How often it did what.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Members whose disks had a bit flipped.
    pub(crate) flipped: BTreeSet<MemberId>,
    reliefs: BTreeMap<u64, Relief>,
    next: u64,
    /// It does no more.
    over: bool,
}

#[derive(Clone, Copy)]
enum Relief {
    Network,
    Weather,
    Pause(MemberId),
    Full(MemberId),
    Slow(MemberId),
    /// So many more cuts, each this long.
    Flap(u64, MemberId, Micros),
}

impl Nemesis {
    pub(crate) fn new(dice: Dice) -> Self {
        Self { dice, counts: BTreeMap::new(), flipped: BTreeSet::new(), reliefs: BTreeMap::new(), next: 0, over: false }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

impl World {
    /// Breaks something.
    pub(crate) fn mischief(&mut self) {
        if self.nemesis.over {
            return;
        }
        let next = self.nemesis.dice.within(50_000..1_200_000);
        self.soon(next, Happening::Nemesis);
        let up = self.up();
        let Some(victim) = self.nemesis.dice.pick(&up) else { return };
        match self.nemesis.dice.within(0..20) {
            0 | 1 => {
                self.nemesis.count("crash");
                self.crash(victim);
            }
            2..=5 => {
                self.nemesis.count("crash at a write");
                let operations = self.nemesis.dice.within(1..40);
                self.slots[&victim].disk.light_fuse(operations);
            }
            6 | 7 => self.isolate(victim),
            8 => self.flap(victim),
            9 | 10 => self.storm(),
            11 => {
                self.nemesis.count("pause");
                self.slot(victim, |slot| slot.paused = true);
                self.later(100_000..3_000_000, Relief::Pause(victim));
            }
            12 => {
                self.nemesis.count("full disk");
                self.slots[&victim].disk.set_full(true);
                self.later(100_000..4_000_000, Relief::Full(victim));
            }
            13 => {
                self.nemesis.count("slow disk");
                let takes = self.nemesis.dice.within(5_000..400_000);
                self.slot(victim, |slot| slot.disk_time = takes);
                self.later(100_000..3_000_000, Relief::Slow(victim));
            }
            14 => {
                self.nemesis.count("clock");
                let (leap, speed) = (self.nemesis.dice.within(0..5_000_000), self.nemesis.dice.within(700..1_400));
                let now = self.now;
                self.slot(victim, |slot| slot.clock.change(now, leap, speed));
            }
            15 | 16 => {
                self.nemesis.count("leader transfer");
                self.with(victim, |running, now| running.engine.member_mut().transfer(victim, now));
            }
            17 => self.retire(victim),
            18 => self.flip(victim),
            _ => {
                self.nemesis.count("all crash");
                up.into_iter().for_each(|id| self.crash(id));
            }
        }
    }

    fn slot(&mut self, id: MemberId, act: impl FnOnce(&mut super::slot::Slot)) {
        if let Some(slot) = self.slots.get_mut(&id) {
            act(slot);
        }
    }

    fn later(&mut self, after: std::ops::Range<Micros>, relief: Relief) {
        self.nemesis.next += 1;
        let (number, after) = (self.nemesis.next, self.nemesis.dice.within(after));
        self.nemesis.reliefs.insert(number, relief);
        self.soon(after, Happening::Relief(number));
    }

    pub(crate) fn relieve(&mut self, number: u64) {
        match self.nemesis.reliefs.remove(&number) {
            Some(Relief::Network) => self.network.heal(),
            Some(Relief::Weather) => self.network.weather = Weather::FAIR,
            Some(Relief::Pause(id)) => self.slot(id, |slot| slot.paused = false),
            Some(Relief::Full(id)) => self.slot(id, |slot| slot.disk.set_full(false)),
            Some(Relief::Slow(id)) => self.slot(id, |slot| slot.disk_time = 500),
            Some(Relief::Flap(left, id, every)) => {
                self.network.heal();
                if left > 0 {
                    if left % 2 == 1 {
                        self.cut_off(id, true, true);
                    }
                    self.later(every..every + 1, Relief::Flap(left - 1, id, every));
                }
            }
            None => {}
        }
    }

    /// Cuts a member off: both ways, or one.
    fn isolate(&mut self, id: MemberId) {
        let (from, to) = match self.nemesis.dice.within(0..4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        self.nemesis.count(if from && to { "partition" } else { "partition one way" });
        self.cut_off(id, from, to);
        // Sometimes two together, which are a majority of three or a minority of five.
        let others: Vec<_> = self.slots.keys().copied().filter(|other| *other != id).collect();
        if let Some(other) = self.nemesis.dice.pick(&others)
            && self.nemesis.dice.chance(300)
        {
            self.cut_off(other, from, to);
        }
        self.later(100_000..4_000_000, Relief::Network);
    }

    fn cut_off(&mut self, id: MemberId, from: bool, to: bool) {
        for other in self.slots.keys().copied().filter(|other| *other != id) {
            if from {
                self.network.cut(id, other);
            }
            if to {
                self.network.cut(other, id);
            }
        }
    }

    fn flap(&mut self, id: MemberId) {
        self.nemesis.count("flapping");
        let every = self.nemesis.dice.within(50_000..700_000);
        self.cut_off(id, true, true);
        self.later(every..every + 1, Relief::Flap(7, id, every));
    }

    fn storm(&mut self) {
        self.nemesis.count("storm");
        let dice = &mut self.nemesis.dice;
        let (lost, twice, slowest) = (dice.within(0..400), dice.within(0..300), dice.within(5_000..500_000));
        self.network.weather = Weather { lost, twice, slowest };
        self.later(200_000..4_000_000, Relief::Weather);
    }

    /// Whether all members run, and so have whole disks: one may be taken away.
    fn is_complete(&self) -> bool {
        let members = self.roster();
        let whole =
            |member: &Member| !member.learner && self.slots.get(&member.id).is_some_and(|s| s.running.is_some());
        members.len() == self.members && members.iter().all(whole)
    }

    /// A member is taken away for good, and another comes in its place.
    fn retire(&mut self, id: MemberId) {
        if self.is_complete() && self.members > 1 {
            self.nemesis.count("member replaced");
            self.slot(id, |slot| slot.lost = true);
            self.crash(id);
        }
    }

    /// A bit flips on the disk of a member that is down.
    fn flip(&mut self, id: MemberId) {
        if self.is_complete() && self.members > 1 {
            self.nemesis.count("bit flip");
            self.crash(id);
            self.slots[&id].disk.restore_power();
            if self.slots[&id].disk.flip_bit() {
                self.nemesis.flipped.insert(id);
            }
            self.slots[&id].disk.cut_power();
        }
    }

    /// The members, as who has applied most sees them.
    pub(crate) fn roster(&self) -> Vec<Member> {
        let running = self.slots.values().filter_map(|slot| slot.running.as_ref());
        let newest = running.max_by_key(|running| running.engine.member().applied().0);
        newest.map(|running| running.engine.member().contacts()).unwrap_or_default()
    }

    /// The operator removes what is lost, adds what is missing, and gives votes to those that have caught up.
    pub(crate) fn operate(&mut self) {
        self.soon(400_000, Happening::Operator);
        let (up, roster) = (self.up(), self.roster());
        let Some(through) = self.dice.pick(&up) else { return };
        for member in &roster {
            if !self.slots.contains_key(&member.id) {
                self.add_slot(member.id, roster.clone());
            }
        }
        let lost = roster.iter().find(|member| self.slots.get(&member.id).is_some_and(|slot| slot.lost));
        let learner = roster.iter().find(|member| member.learner);
        let change = match (lost, learner) {
            (Some(lost), _) => Change::Remove(lost.id),
            (None, _) if roster.len() < self.members => {
                let fresh = roster.iter().map(|member| member.id).max().unwrap_or(0) + 1000 + self.now;
                Change::Add(Member { peer_urls: vec![url(fresh)], learner: true, ..Member::default() })
            }
            (None, Some(learner)) => Change::Promote(learner.id),
            (None, None) => return,
        };
        self.propose(through, Proposal::Change(change));
    }

    /// It is over: everything works from now on, and what was down starts.
    pub(crate) fn make_peace(&mut self) {
        self.nemesis.over = true;
        self.nemesis.reliefs.clear();
        self.network.heal();
        self.network.weather = Weather::FAIR;
        let now = self.now;
        for slot in self.slots.values_mut() {
            slot.paused = false;
            slot.disk_time = 500;
            slot.disk.set_full(false);
            slot.disk.light_fuse(u64::MAX);
            slot.clock.change(now, 0, 1_000);
        }
        let down: Vec<_> = self.slots.values().filter(|slot| slot.running.is_none()).map(|slot| slot.id).collect();
        down.into_iter().for_each(|id| self.soon(1_000, Happening::Start(id)));
    }
}
