//! A container's log, as `kubectl logs` asks for it: the CRI lines without their prefixes, followed across rotation.

mod follow;
mod line;
mod notify;

use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

pub use follow::copy;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on until the container ends.
    pub follow: bool,
    /// Of the start before this one.
    pub previous: bool,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// Only this many bytes.
    pub limit_bytes: Option<u64>,
    /// Only this stream: `stdout` or `stderr`.
    pub stream: Option<String>,
}

/// The query makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {value:?} of {option}")]
pub struct Invalid {
    option: &'static str,
    value: String,
}

impl Options {
    /// From a query's pairs (upstream's PodLogOptions).
    pub fn parse(pairs: &[(String, String)], now: Timestamp) -> Result<Self, Invalid> {
        let mut options = Self::default();
        for (key, value) in pairs {
            let invalid = |option| Invalid { option, value: value.clone() };
            let number = |option| value.parse::<u64>().map_err(|_| invalid(option));
            let flag = matches!(value.as_str(), "true" | "1" | "True" | "");
            match key.as_str() {
                "follow" => options.follow = flag,
                "previous" => options.previous = flag,
                "timestamps" => options.timestamps = flag,
                "tailLines" => options.tail_lines = Some(number("tailLines")?),
                "limitBytes" => options.limit_bytes = Some(number("limitBytes")?),
                "sinceSeconds" => {
                    let seconds = std::time::Duration::from_secs(number("sinceSeconds")?);
                    options.since = Some(now.checked_sub(seconds).map_err(|_| invalid("sinceSeconds"))?);
                }
                "sinceTime" => options.since = Some(value.parse().map_err(|_| invalid("sinceTime"))?),
                "stream" if value == "All" || value.is_empty() => {}
                "stream" if matches!(value.as_str(), "Stdout" | "Stderr") => {
                    options.stream = Some(value.to_ascii_lowercase());
                }
                "stream" => return Err(invalid("stream")),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// A log that is asked for.
#[derive(Debug)]
pub struct Request {
    /// The current file.
    pub path: PathBuf,
    /// What is asked for.
    pub options: Options,
    /// Becomes true when the container has ended: its log is complete then.
    pub ended: watch::Receiver<bool>,
    /// Where the bytes go; closed when nobody reads any more.
    pub out: mpsc::Sender<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_as_kubectl_sends_them() {
        let now: Timestamp = "2026-11-22T16:00:00Z".parse().unwrap();
        let parse = |text: &str| {
            let pairs: Vec<_> = text.split('&').filter_map(|p| p.split_once('=')).collect();
            let pairs: Vec<_> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            Options::parse(&pairs, now)
        };
        let options = parse("follow=true&tailLines=5&sinceSeconds=60&timestamps=true").unwrap();
        assert!(options.follow && options.timestamps && options.tail_lines == Some(5));
        assert_eq!(options.since.unwrap().to_string(), "2026-11-22T15:59:00Z");
        assert_eq!(parse("tailLines=-1").unwrap_err().to_string(), "invalid value \"-1\" of tailLines");
    }
}
