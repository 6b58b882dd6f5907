//! How long a certificate holds, and when it is time for the next one.

/// From when to when a certificate holds, seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from: i64,
    /// The last one.
    pub until: i64,
}

/// The whole of the time in which renewals are spread out.
pub const SPREAD: u16 = 1_000;

/// Most that a new certificate claims to be older than it is, seconds: for clocks that are behind.
const BACKDATED: i64 = 86_400;

impl Validity {
    /// Of a certificate that is made now and holds for so many seconds. It begins a little earlier, for clocks that are behind.
    pub fn starting(now: i64, seconds: i64) -> Self {
        Self { from: now - BACKDATED.min(seconds / 10), until: now + seconds }
    }

    /// When to get the next one: after seven to nine tenths of its life, as upstream's kubelet does, so that many nodes do
    /// not ask at once. `spread` says where in between, from 0 to [`SPREAD`].
    pub fn renewal(&self, spread: u16) -> i64 {
        let share = 7 * i64::from(SPREAD) + 2 * i64::from(spread.min(SPREAD));
        self.from + (self.until - self.from).saturating_mul(share) / (10 * i64::from(SPREAD))
    }

    /// It has run out at this time.
    pub fn has_ended(&self, now: i64) -> bool {
        now > self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_well_before_its_end_however_short_it_lives() {
        const NOW: i64 = 1_000_000_000;
        for life in [20, 3_600, 7 * 86_400, 365 * 86_400] {
            let validity = Validity::starting(NOW, life);
            let (early, late) = (validity.renewal(0), validity.renewal(SPREAD));
            assert!(NOW + life / 2 < early && early < late && late < NOW + life - life / 20, "{life}: {validity:?}");
            assert!(
                validity.from < NOW && !validity.has_ended(NOW + life) && validity.has_ended(NOW + life + 1),
                "{life}"
            );
        }
    }
}
