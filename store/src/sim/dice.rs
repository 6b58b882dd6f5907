//! Random numbers from a seed: the same seed, the same numbers.

use std::ops::Range;

use crate::replica::mix;

/// A sequence of numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// Another sequence, which shares nothing with what this one goes on to roll.
    pub fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// One of a range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.roll() % (range.end - range.start).max(1)
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.roll() % 1_000 < per_mille
    }

    /// One of these; none of none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let at = usize::try_from(self.within(0..of.len() as u64)).ok()?;
        of.get(at).copied()
    }
}
