//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// A run of failures: 0, then `first`, doubling up to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    delay: Duration,
}

/// A container that ran this long has recovered: its next restart comes at once.
pub const RECOVERED: Duration = Duration::from_secs(600);

impl Backoff {
    /// Upstream's for containers and image pulls: 10 s doubling to 5 min.
    pub const fn crash() -> Self {
        Self { first: Duration::from_secs(10), most: Duration::from_secs(300), delay: Duration::ZERO }
    }

    /// For what is likely to heal by itself, such as a ConfigMap that is about to be created: 1 s doubling to 30 s.
    pub const fn retry() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(30), delay: Duration::ZERO }
    }

    /// What one waits now.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// One more try is made: the next wait is longer. Returns it.
    pub fn grow(&mut self) -> Duration {
        self.delay = if self.delay.is_zero() { self.first } else { (self.delay * 2).min(self.most) };
        self.delay
    }

    /// A container ended after it ran that long.
    pub fn ended_after(&mut self, ran: Duration) {
        if ran >= RECOVERED {
            self.delay = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_longer_each_time_and_recover() {
        let mut backoff = Backoff::crash();
        assert_eq!(backoff.delay(), Duration::ZERO, "the first restart is immediate");
        let waits: Vec<_> = (0..7).map(|_| backoff.grow().as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        backoff.ended_after(Duration::from_secs(599));
        assert_eq!(backoff.delay().as_secs(), 300);
        backoff.ended_after(RECOVERED);
        assert_eq!(backoff.delay(), Duration::ZERO);
    }
}
