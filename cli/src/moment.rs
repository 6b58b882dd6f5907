//! Moments, durations and sizes, as users write them on a command line.

use std::time::Duration;

use api::quantity::Quantity;
use jiff::{SpanRelativeTo, Timestamp, civil::DateTime, tz::TimeZone};

/// A moment of the past: `1234` (a revision), `10m` (so long ago), `2026-01-02T03:04:05Z`, or a time without a zone, which is
/// this machine's. Returned as the API's path has it.
pub fn parse(text: &str) -> Result<String, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse::<u64>() {
            Ok(revision) if revision > 0 => Ok(revision.to_string()),
            Ok(_) | Err(_) => Err("a revision is a number from 1 on".into()),
        };
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.to_string());
    }
    if let Ok(ago) = duration(text) {
        let time = Timestamp::now() - ago;
        return Ok(time.to_string());
    }
    let local = text.parse::<DateTime>().ok().and_then(|time| time.to_zoned(TimeZone::system()).ok());
    local.map(|time| time.timestamp().to_string()).ok_or_else(|| {
        "expected a revision (1234), how long ago (10m, 2h30m, 1d) or a time (2026-01-02T03:04:05Z)".into()
    })
}

/// A length of time: `90s`, `2h30m`, `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 90s, 2h30m or 7d".to_owned();
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let exact = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(exact).map_err(|_| wrong())
}

/// A number of bytes: `64Mi`, `1G`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let quantity: Quantity = text.parse().map_err(|error: api::quantity::Error| error.to_string())?;
    u64::try_from(quantity.units()).map_err(|_| "must not be negative".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_revisions_times_or_how_long_ago() {
        assert_eq!(parse("17").as_deref(), Ok("17"));
        assert_eq!(parse("2026-01-02T03:04:05+01:00").as_deref(), Ok("2026-01-02T02:04:05Z"));
        let ago: Timestamp = parse("1h30m").unwrap().parse().unwrap();
        let passed = Timestamp::now().duration_since(ago).as_secs();
        assert!((5400..5460).contains(&passed), "{passed}");
        assert!(parse("2026-01-02T03:04").is_ok());
        for wrong in ["0", "yesterday", "", "10 parsecs"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_have_days_and_sizes_have_suffixes() {
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("-5m").is_err() && duration("5").is_err());
        assert_eq!(bytes("64Mi"), Ok(64 << 20));
        assert!(bytes("-1").is_err());
    }
}
