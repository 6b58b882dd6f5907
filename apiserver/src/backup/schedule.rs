//! Backups on a schedule: made by the server itself into a folder, and the oldest removed.
//!
//! What is there is the record: a restarted server goes on from the newest file, and one that was down when a backup was due
//! makes it at once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::body::Body;
use http::{Request, header};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::json;
use store::backup;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    parts::{self, Parts},
    reply,
    service::Local,
    user::{MASTERS, User},
};

/// What the names of backups begin and end with; time and revision stand between.
const PREFIX: &str = "orlop-";
const SUFFIX: &str = ".backup";
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// Pause after a backup that could not be made.
const RETRY: Duration = Duration::from_secs(60);

/// When and where.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The folder; made when there is none.
    pub dir: PathBuf,
    /// Between two backups.
    pub every: Duration,
    /// How many stay.
    pub keep: usize,
}

/// Makes backups when they are due, until the shutdown.
pub async fn run(parts: Arc<Parts>, schedule: Schedule, shutdown: CancellationToken) {
    let mut failing = false;
    loop {
        let pause = if failing { RETRY } else { pause(&schedule, Timestamp::now()) };
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        let Some(made) = shutdown.run_until_cancelled(make(&parts, &schedule)).await else { return };
        match made {
            Ok(path) => {
                parts.backups.made.store(parts::now().as_second(), Ordering::Relaxed);
                tracing::info!(path = %path.display(), "made a backup");
                failing = false;
            }
            Err(error) => {
                parts.backups.failed.fetch_add(1, Ordering::Relaxed);
                let why = chain(&error);
                tracing::error!(dir = %schedule.dir.display(), %why, "no backup was made");
                // said once for as long as it goes on
                if !std::mem::replace(&mut failing, true) {
                    complain(&parts, &format!("no backup was made in {}: {why}", schedule.dir.display())).await;
                }
            }
        }
    }
}

fn chain(error: &backup::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// How long until the next is due: a folder without backups has one due now.
fn pause(schedule: &Schedule, now: Timestamp) -> Duration {
    let names = names(&schedule.dir).unwrap_or_default();
    let Some(newest) = names.last().and_then(|name| time_of(name)) else { return Duration::ZERO };
    let passed = Duration::try_from(now.duration_since(newest)).unwrap_or_default();
    schedule.every.saturating_sub(passed)
}

async fn make(parts: &Parts, schedule: &Schedule) -> Result<PathBuf, backup::Error> {
    let dir = &schedule.dir;
    let failed = |operation| move |source| backup::Error::File { operation, path: dir.clone(), source };
    fs::create_dir_all(dir).map_err(failed("create"))?;
    let time = parts::now().to_zoned(TimeZone::UTC).strftime(TIME).to_string();
    for old in leftovers(dir).map_err(failed("list"))? {
        fs::remove_file(dir.join(old)).map_err(failed("remove a file in"))?;
    }
    // its revision is only known when it has begun
    let unnamed = dir.join(format!("{PREFIX}{time}"));
    let written = backup::save(&unnamed, super::stream(parts), |_| {}).await?;
    let revision = written.head.map_or(0, |head| head.revision);
    let path = dir.join(format!("{PREFIX}{time}-{revision}{SUFFIX}"));
    fs::rename(&unnamed, &path).map_err(failed("name a file in"))?;
    for old in superfluous(names(dir).map_err(failed("list"))?, schedule.keep) {
        fs::remove_file(dir.join(old)).map_err(failed("remove a file in"))?;
    }
    Ok(path)
}

/// The names of the backups in a folder, oldest first. Other files are none of ours.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        names.extend(name.to_str().filter(|name| time_of(name).is_some()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// What a server that was killed had not given its name yet.
fn leftovers(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let unnamed = |name: &&str| {
            let name = name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial")).unwrap_or(name);
            name.strip_prefix(PREFIX).and_then(read_time).is_some()
        };
        found.extend(name.to_str().filter(unnamed).map(str::to_owned));
    }
    Ok(found)
}

fn read_time(text: &str) -> Option<Timestamp> {
    Some(DateTime::strptime(TIME, text).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn time_of(name: &str) -> Option<Timestamp> {
    let (time, revision) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
    revision.parse::<u64>().ok()?;
    read_time(time)
}

/// All but the newest.
fn superfluous(mut names: Vec<String>, keep: usize) -> Vec<String> {
    names.truncate(names.len().saturating_sub(keep.max(1)));
    names
}

/// Says in the API that there is no backup.
async fn complain(parts: &Arc<Parts>, text: &str) {
    let now = parts::now().to_string();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "backup-", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Namespace", "name": "default"},
        "reason": "BackupFailed",
        "message": text,
        "type": "Warning",
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": "orlop-server"},
    });
    let service = Local::new(Arc::clone(parts), Some(Arc::new(User::new("system:apiserver", &[MASTERS]))));
    let request = Request::builder().method("POST").uri("/api/v1/namespaces/default/events");
    let request = request.header(header::CONTENT_TYPE, reply::JSON).body(Body::from(event.to_string()));
    let Ok(request) = request else { return };
    if let Ok(response) = service.oneshot(request).await
        && !response.status().is_success()
    {
        tracing::debug!(code = %response.status(), "the failure was not noted as an Event");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_the_next_is_due_after_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let schedule = Schedule { dir: dir.path().into(), every: Duration::from_secs(3_600), keep: 2 };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(pause(&schedule, at("2026-01-01T12:00:00Z")), Duration::ZERO, "there is none yet");
        for name in [
            "orlop-20260101T110000Z-999.backup",
            "orlop-20260101T113000Z-1000.backup",
            "orlop-20251231T235959Z-7.backup",
            "notes.txt",
            "orlop-yesterday.backup",
            "orlop-20260101T110000Z",
            ".orlop-20260101T110001Z.partial",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(pause(&schedule, at("2026-01-01T12:00:00Z")), Duration::from_secs(1_800));
        assert_eq!(pause(&schedule, at("2026-01-02T12:00:00Z")), Duration::ZERO);
        let old = superfluous(names(dir.path()).unwrap(), schedule.keep);
        assert_eq!(old, ["orlop-20251231T235959Z-7.backup"]);
        let mut left = leftovers(dir.path()).unwrap();
        left.sort();
        assert_eq!(left, [".orlop-20260101T110001Z.partial", "orlop-20260101T110000Z"]);
    }
}
