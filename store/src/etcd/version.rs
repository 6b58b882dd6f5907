//! Which etcd it is, where that matters.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions};

/// How long a member may take to tell its version.
const WITHIN: Duration = Duration::from_secs(3);

/// Major, minor and patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version([u32; 3]);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        // What follows a dash names a build.
        let mut numbers = text.split('-').next()?.split('.').map(|number| number.parse().ok());
        Some(Self([numbers.next()??, numbers.next()??, numbers.next()??]))
    }

    /// A request for progress is answered when the events before it have been sent.
    /// Source: the changelogs of etcd 3.4.25 and 3.5.8.
    pub(super) fn tells_progress(self) -> bool {
        self >= Self([3, 5, 8]) || (self >= Self([3, 4, 25]) && self < Self([3, 5, 0]))
    }
}

/// The oldest version among the members that can be reached.
pub(super) async fn oldest(endpoints: &[String], options: &ConnectOptions) -> Option<Version> {
    let versions = endpoints.iter().map(|endpoint| async move {
        let asked = async {
            let mut member = Client::connect([endpoint], Some(options.clone())).await.ok()?;
            Version::parse(member.status().await.ok()?.version())
        };
        tokio::time::timeout(WITHIN, asked).await.ok().flatten()
    });
    futures::future::join_all(versions).await.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_asked_only_of_versions_that_answer_it_in_step() {
        let cases = [
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.4.99", true),
            ("3.5.0", false),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.5.21-rc.1", true),
            ("3.6.0", true),
            ("4.0.0", true),
        ];
        for (text, tells) in cases {
            assert_eq!(Version::parse(text).map(Version::tells_progress), Some(tells), "{text}");
        }
        assert_eq!(Version::parse("unknown"), None);
    }
}
