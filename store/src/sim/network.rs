//! The network between members: late, lossy, out of order, twice, and cut in two.

use std::collections::BTreeSet;

use super::dice::Dice;
use super::world::Micros;
use crate::members::MemberId;

/// How messages fare.
pub(crate) struct Network {
    dice: Dice,
    /// From whom to whom nothing passes.
    cut: BTreeSet<(MemberId, MemberId)>,
    pub(crate) weather: Weather,
}

/// How bad it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Of a thousand messages so many are lost, and so many come twice.
    pub(crate) lost: u64,
    pub(crate) twice: u64,
    /// How long one takes, at most.
    pub(crate) slowest: Micros,
}

impl Weather {
    pub(crate) const FAIR: Self = Self { lost: 0, twice: 0, slowest: 2_000 };
}

impl Network {
    pub(crate) fn new(dice: Dice) -> Self {
        Self { dice, cut: BTreeSet::new(), weather: Weather::FAIR }
    }

    /// Nothing passes this way any more.
    pub(crate) fn cut(&mut self, from: MemberId, to: MemberId) {
        self.cut.insert((from, to));
    }

    /// Everything passes everywhere.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// How long each copy of a message takes; none for one that is lost.
    pub(crate) fn passage(&mut self, from: MemberId, to: MemberId) -> Vec<Micros> {
        if self.cut.contains(&(from, to)) || self.dice.chance(self.weather.lost) {
            return Vec::new();
        }
        let copies = 1 + u64::from(self.dice.chance(self.weather.twice));
        (0..copies).map(|_| self.dice.within(200..self.weather.slowest)).collect()
    }
}
