//! When a write waits for company. Pure: it is told the time.
//!
//! What comes while a batch is being written shares the next; that alone makes batches as large as a slow disk needs. On a fast
//! one they stay small, and each pays for a write and for waking threads. So where calls come so densely that others will
//! follow within the time of a batch, the next one waits that long: nobody's call takes longer than two batches, as it might
//! anyway, and half as many are written. A call that comes alone waits for nobody.

use std::time::Duration;

/// Calls that must be expected to come within the time of a batch.
const COMPANY: f64 = 2.0;

/// Calls with which a batch is large enough not to wait.
const ENOUGH: usize = 32;

/// Longest wait.
const LONGEST: Duration = Duration::from_millis(1);

/// How calls have come lately, and how long a batch has taken.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Calls a second.
    rate: f64,
    batch: Duration,
    /// When the last batch was begun.
    last: Duration,
    under_way: bool,
}

impl Pace {
    /// How long a batch of so many calls waits for more.
    pub(crate) fn pause(&self, calls: usize) -> Option<Duration> {
        let wait = self.batch.min(LONGEST);
        ((1..ENOUGH).contains(&calls) && self.rate * wait.as_secs_f64() >= COMPANY).then_some(wait)
    }

    /// A batch of so many calls is begun.
    pub(crate) fn begin(&mut self, calls: usize, now: Duration) {
        let since = now.saturating_sub(self.last).max(Duration::from_micros(1));
        (self.last, self.under_way) = (now, true);
        self.rate = f64::midpoint(self.rate, calls as f64 / since.as_secs_f64());
    }

    /// It is done, if there was one.
    pub(crate) fn end(&mut self, now: Duration) {
        if std::mem::take(&mut self.under_way) {
            self.batch = (self.batch + now.saturating_sub(self.last)) / 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Duration = Duration::from_micros(300);

    /// What pauses there are when batches of so many calls follow each other at once.
    fn pauses(pace: &mut Pace, calls: usize, batches: u32) -> Option<Duration> {
        for _ in 0..batches {
            let now = pace.last + WRITE;
            pace.end(now);
            pace.begin(calls, now);
        }
        pace.pause(calls)
    }

    #[test]
    fn whoever_comes_alone_or_in_a_crowd_waits_for_nobody() {
        let mut pace = Pace::default();
        assert_eq!(pace.pause(1), None, "nothing is known yet");
        assert_eq!(pauses(&mut pace, 1, 50), None, "one client, as fast as the disk");
        assert!(pauses(&mut pace, 3, 50).is_some_and(|wait| wait.abs_diff(WRITE) < Duration::from_micros(5)));
        assert_eq!(pauses(&mut pace, ENOUGH, 50), None);
        assert_eq!(pauses(&mut pace, 1, 8), None, "the crowd is gone");
    }

    #[test]
    fn a_slow_disk_is_not_waited_for_as_long_again() {
        let mut pace = Pace::default();
        for _ in 0..20 {
            let now = pace.last + Duration::from_millis(20);
            pace.end(now);
            pace.begin(20, now);
        }
        assert_eq!(pace.pause(20), None, "less than two more come in the longest wait");
        assert_eq!(pace.pause(0), None);
    }
}
