//! A count that may be a share: `maxSurge: 25%` (upstream's `apimachinery/pkg/util/intstr`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Why a share cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A string without a per cent sign.
    #[error("invalid type: string is not a percentage")]
    NotPercent,
    /// Something else than a number before the per cent sign.
    #[error("invalid value {0:?}: not a number before the %")]
    NotNumber(String),
}

/// Which way a share that is no whole number rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the larger count (`maxSurge`).
    Up,
    /// To the smaller count (`maxUnavailable`).
    Down,
}

/// The count that `value` means for a total.
pub fn resolve(value: &IntOrString, total: i32, round: Round) -> Result<i32, Error> {
    let percent = match value {
        IntOrString::Int(count) => return Ok(*count),
        IntOrString::String(text) => text
            .strip_suffix('%')
            .ok_or(Error::NotPercent)
            .and_then(|number| number.parse::<i32>().map_err(|_| Error::NotNumber(text.clone())))?,
    };
    let share = i64::from(percent) * i64::from(total);
    let count = match round {
        Round::Up => share.div_euclid(100) + i64::from(share.rem_euclid(100) != 0),
        Round::Down => share.div_euclid(100),
    };
    Ok(i32::try_from(count).unwrap_or(if count < 0 { i32::MIN } else { i32::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_as_asked() {
        let share = |text: &str| IntOrString::String(text.into());
        assert_eq!(resolve(&IntOrString::Int(7), 3, Round::Up), Ok(7));
        assert_eq!(resolve(&share("25%"), 10, Round::Up), Ok(3));
        assert_eq!(resolve(&share("25%"), 10, Round::Down), Ok(2));
        assert_eq!(resolve(&share("100%"), i32::MAX, Round::Down), Ok(i32::MAX));
        assert_eq!(resolve(&share("25"), 10, Round::Up), Err(Error::NotPercent));
        assert_eq!(resolve(&share("x%"), 10, Round::Up), Err(Error::NotNumber("x%".into())));
    }
}
