//! What an embedded store does when it is opened again, in particular when the disk is not as it was left.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use store::{Backend, Embedded, Error, Event, Op, Options, Range, Txn, WatchFrom, Window};

async fn put(store: &Embedded, key: &str, value: &str) -> u64 {
    leased(store, key, value, 0).await
}

async fn leased(store: &Embedded, key: &str, value: &str, lease: i64) -> u64 {
    let put = Op::Put { key: key.to_owned().into(), value: value.to_owned().into(), lease };
    store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap().revision
}

async fn get(store: &Embedded, key: &str) -> Option<String> {
    let mut reply = store.range(Range::key(key.to_owned())).await.unwrap();
    reply.entries.pop().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

fn open(dir: &Path) -> Result<Embedded, Error> {
    Embedded::open(dir, Options { sync: false, ..Options::default() })
}

/// Small files, so that a test passes many of them.
fn small() -> Options {
    Options { sync: false, segment_bytes: 16 << 10, snapshot_bytes: 64 << 10, ..Options::default() }
}

fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect();
    paths.sort();
    paths
}

/// A log that was written to until key `c`, and where the record of that last write begins and ends.
async fn log_with_three_writes() -> (Vec<u8>, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let path = files(dir.path(), "log-").remove(0);
    put(&store, "a", "first").await;
    put(&store, "b", "second").await;
    let before = fs::read(&path).unwrap();
    // Longer than a sector, and with zeros at its end.
    put(&store, "c", &format!("{}\0\0\0\0", "third".repeat(105))).await;
    let after = fs::read(&path).unwrap();
    store.close().await;
    let start = before.iter().zip(&after).position(|(before, after)| before != after).unwrap();
    let end = after.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert!(end - start > 520, "the last record is {start}..{end}");
    (after, start, end)
}

fn dir_with_log(log: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log-0000000000000001"), log).unwrap();
    dir
}

#[tokio::test]
async fn a_write_torn_at_any_byte_is_cut_off_and_the_rest_is_there() {
    let (log, start, end) = log_with_three_writes().await;
    for cut in start..=end {
        let mut zeroed = log.clone();
        zeroed[cut..].fill(0);
        for torn in [&zeroed, &log[..cut]] {
            let dir = dir_with_log(torn);
            let store = open(dir.path()).unwrap_or_else(|error| panic!("cut at {cut} of {start}..{end}: {error}"));
            assert_eq!(get(&store, "a").await.as_deref(), Some("first"), "cut at {cut}");
            assert_eq!(get(&store, "b").await.as_deref(), Some("second"), "cut at {cut}");
            assert_eq!(get(&store, "c").await.is_some(), cut == end, "cut at {cut} of {start}..{end}");
            let revision = put(&store, "d", "after").await;
            assert_eq!(revision, if cut == end { 5 } else { 4 });
            store.close().await;
            // What follows the cut is as good as any other record; looked at now and then, for it takes long.
            if cut % 32 == 0 {
                let store = open(dir.path()).unwrap_or_else(|error| panic!("again, cut at {cut}: {error}"));
                assert_eq!(get(&store, "d").await.as_deref(), Some("after"), "cut at {cut}");
                store.close().await;
            }
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found_and_nothing_is_served() {
    let (log, _, end) = log_with_three_writes().await;
    for byte in 0..end {
        let mut flipped = log.clone();
        flipped[byte] ^= 1 << (byte % 8);
        let dir = dir_with_log(&flipped);
        let error = open(dir.path()).err().unwrap_or_else(|| panic!("byte {byte} was flipped and nobody saw"));
        assert!(matches!(error, Error::Corrupt { .. }), "byte {byte}: {error}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_snapshot_or_a_missing_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), small()).unwrap();
    let value = "x".repeat(1000);
    for i in 0.. {
        put(&store, &format!("key-{}", i % 50), &value).await;
        // Until there is something before and behind the newest segment.
        if i > 400 && files(dir.path(), "log-").len() >= 3 {
            break;
        }
    }
    store.close().await;
    let snapshot = files(dir.path(), "snapshot-").pop().expect("a snapshot was made");
    let good = fs::read(&snapshot).unwrap();
    for byte in (0..good.len()).step_by(997).chain(good.len() - 8..good.len()) {
        let mut flipped = good.clone();
        flipped[byte] ^= 0x10;
        fs::write(&snapshot, &flipped).unwrap();
        let error = open(dir.path()).err().unwrap_or_else(|| panic!("byte {byte} was flipped and nobody saw"));
        assert!(matches!(error, Error::Corrupt { .. }), "byte {byte}: {error}");
    }
    for cut in [0, 8, good.len() / 2, good.len() - 8, good.len() - 1] {
        fs::write(&snapshot, &good[..cut]).unwrap();
        assert!(matches!(open(dir.path()).err(), Some(Error::Corrupt { .. })), "cut at {cut}");
    }
    fs::write(&snapshot, &good).unwrap();

    let logs = files(dir.path(), "log-");
    let snapshot = files(dir.path(), "snapshot-").pop().unwrap();
    for missing in logs[..logs.len() - 1].iter().chain([&snapshot]) {
        let aside = dir.path().join("aside");
        fs::rename(missing, &aside).unwrap();
        match open(dir.path()) {
            Err(Error::Corrupt { .. }) => {}
            Err(other) => panic!("{}: {other}", missing.display()),
            Ok(_) => panic!("{} is missing and nobody saw", missing.display()),
        }
        fs::rename(&aside, missing).unwrap();
    }
    let store = open(dir.path()).unwrap();
    assert_eq!(get(&store, "key-49").await, Some(value));
    store.close().await;
}

#[tokio::test]
async fn the_log_is_trimmed_behind_snapshots_and_history_survives() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), small()).unwrap();
    for i in 0..1000 {
        put(&store, &format!("key-{}", i % 10), &format!("{i}{}", "x".repeat(500))).await;
    }
    let (disk, status) = (fs_bytes(dir.path()), store.status().await.unwrap());
    store.close().await;
    // What was logged is half a megabyte; each file takes a megabyte because zeros are written ahead.
    assert!(files(dir.path(), "log-").len() < 16, "{:?}", files(dir.path(), "log-"));
    assert_eq!(files(dir.path(), "snapshot-").len(), 1);
    assert!(status.disk_bytes > 0 && status.disk_bytes <= disk, "{} of {disk}", status.disk_bytes);

    let store = Embedded::open(dir.path(), small()).unwrap();
    let past = store.range(Range { revision: 16, ..Range::prefix("key-") }).await.unwrap();
    assert_eq!((past.count, past.revision), (10, 1001));
    assert!(past.entries[4].value.starts_with(b"14x"), "{:?}", past.entries[4]);
    let mut stream = store.watch("key-3".into(), "".into(), WatchFrom::Revision(500)).await.unwrap();
    let batch = stream.next().await.unwrap().unwrap();
    assert_eq!(batch.events.len(), 50);
    let Event::Put { entry, prev: Some(prev) } = &batch.events[0] else { panic!("{:?}", batch.events[0]) };
    assert_eq!((entry.mod_revision, prev.mod_revision, entry.version), (505, 495, 51));
    store.close().await;
}

fn fs_bytes(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let error = open(dir.path()).err().expect("it is locked");
    assert!(matches!(&error, Error::Unavailable { why, .. } if why.contains("another process")), "{error}");
    store.close().await;
    open(dir.path()).expect("it is free again").close().await;
}

#[tokio::test]
async fn leases_outlive_a_restart_and_still_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let (short, long) = (store.grant(1).await.unwrap(), store.grant(3600).await.unwrap());
    leased(&store, "short", "x", short).await;
    leased(&store, "long", "x", long).await;
    store.close().await;
    let store = open(dir.path()).unwrap();
    let mut stream = store.watch("short".into(), "".into(), WatchFrom::Revision(1)).await.unwrap();
    let deleted = async {
        while let Some(batch) = stream.next().await {
            if batch.unwrap().events.iter().any(|event| matches!(event, Event::Delete { .. })) {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), deleted).await.unwrap());
    assert_eq!(get(&store, "long").await.as_deref(), Some("x"));
    assert_eq!(store.keep_alive(long).await.unwrap(), 3600);
    assert!(matches!(store.keep_alive(short).await, Err(Error::LeaseNotFound(_))));
    store.close().await;
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut stream = store.watch("a".into(), "".into(), WatchFrom::Now).await.unwrap();
    put(&store, "a", "1").await;
    store.close().await;
    let told = stream.next().await.unwrap().unwrap();
    assert_eq!(told.events.len(), 1, "what happened before is still told");
    assert!(matches!(stream.next().await, Some(Err(Error::Unavailable { .. }))));
    assert!(stream.next().await.is_none());
    let put = Op::Put { key: "a".into(), value: "2".into(), lease: 0 };
    let refused = store.txn(Txn { success: vec![put], ..Txn::default() }).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_watcher_that_sleeps_is_cut_off_and_the_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options { watcher_limit: 10, ..small() }).unwrap();
    let mut sleepy = store.watch("a".into(), "b".into(), WatchFrom::Now).await.unwrap();
    let mut elsewhere = store.watch("b".into(), "c".into(), WatchFrom::Now).await.unwrap();
    for i in 0..30 {
        put(&store, &format!("a{i}"), "x").await;
    }
    assert!(matches!(sleepy.next().await, Some(Err(Error::Slow { limit: 10 }))));
    assert!(sleepy.next().await.is_none());
    elsewhere.next().await.unwrap().unwrap();
    put(&store, "b", "x").await;
    let batch = elsewhere.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.revision), (1, 32));
    store.close().await;
}

#[tokio::test]
async fn progress_is_told_on_request_and_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut stream = store.watch("quiet".into(), "".into(), WatchFrom::Now).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().revision, 1);
    let revision = put(&store, "loud", "x").await;
    store.request_progress().await.unwrap();
    let told = stream.next().await.unwrap().unwrap();
    assert_eq!((told.events.len(), told.revision), (0, revision));
    let revision = put(&store, "loud", "y").await;
    let told = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((told.events.len(), told.revision), (0, revision));
    store.close().await;
}

#[tokio::test]
async fn history_is_kept_within_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let window = Window { revisions: 100, floor: 10, ..Window::default() };
    let store = Embedded::open(dir.path(), Options { window, ..small() }).unwrap();
    for i in 0..500 {
        put(&store, "a", &i.to_string()).await;
    }
    let status = store.status().await.unwrap();
    assert!((387..=402).contains(&status.compacted), "{status:?}");
    let old = store.watch("a".into(), "".into(), WatchFrom::Revision(100)).await.err().expect("it is gone");
    assert!(matches!(old, Error::Compacted { asked: 100, oldest } if oldest == status.compacted), "{old}");
    store.close().await;
}

#[tokio::test]
async fn a_full_store_refuses_puts_and_takes_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options { max_bytes: 1000, ..small() }).unwrap();
    put(&store, "a", &"x".repeat(1000)).await;
    let another = Op::Put { key: "b".into(), value: "x".into(), lease: 0 };
    let refused = store.txn(Txn { success: vec![another], ..Txn::default() }).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    let delete = Op::Delete { start: "a".into(), end: "".into() };
    store.txn(Txn { success: vec![delete], ..Txn::default() }).await.unwrap();
    put(&store, "b", "x").await;
    store.close().await;
}
