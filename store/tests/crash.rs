//! Real processes, killed with -9 while they write, and a real disk that is full.
//!
//! Without libtest's harness: the test starts itself again as the process that is killed.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]
#![allow(clippy::print_stdout, reason = "what was acknowledged is told to the parent on stdout")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use store::{Backend, Embedded, Error, Op, Options, Range, Txn};

/// How often the writer is killed.
const KILLS: u64 = 25;

/// Writers in the process.
const CLIENTS: u64 = 4;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["write", dir] => runtime.block_on(write(Path::new(dir))),
        ["fill", dir] => runtime.block_on(fill(Path::new(dir))),
        _ => {
            runtime.block_on(acknowledged_writes_survive_kill());
            println!("test acknowledged_writes_survive_kill ... ok");
            a_full_disk_refuses_writes_and_loses_none();
            println!("test a_full_disk_refuses_writes_and_loses_none ... ok");
        }
    }
}

/// Small files, so that kills also hit the making of segments and snapshots.
fn options() -> Options {
    Options { segment_bytes: 128 << 10, snapshot_bytes: 256 << 10, ..Options::default() }
}

/// What the writer's n-th write of a key holds: any other bytes are not one of its writes.
fn value(count: u64) -> String {
    let filler = char::from(b'a' + u8::try_from(count % 26).unwrap());
    format!("{count}:{}", filler.to_string().repeat(usize::try_from(count * 37 % 3000).unwrap()))
}

async fn put(store: &Embedded, key: &str, value: String) -> Result<u64, Error> {
    let put = Op::Put { key: key.to_owned().into(), value: value.into(), lease: 0 };
    store.txn(Txn { success: vec![put], ..Txn::default() }).await.map(|reply| reply.revision)
}

/// What each key holds: which write of it, and its revision.
async fn contents(store: &Embedded) -> BTreeMap<String, (u64, u64)> {
    let reply = store.range(Range::prefix("k")).await.unwrap();
    let entries = reply.entries.into_iter().map(|entry| {
        let text = String::from_utf8(entry.value.to_vec()).unwrap();
        let count = text.split(':').next().unwrap().parse().unwrap();
        assert_eq!(text, value(count), "a value that was never written");
        (String::from_utf8(entry.key.to_vec()).unwrap(), (count, entry.mod_revision))
    });
    entries.collect()
}

/// The process that is killed: writes for ever, and says what was acknowledged.
async fn write(dir: &Path) {
    let store = Arc::new(Embedded::open(dir, options()).unwrap());
    let held = contents(&store).await;
    let start = held.values().map(|(count, _)| *count).max().unwrap_or(0);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                for count in start + 1.. {
                    let key = format!("k{client}.{}", count % 40);
                    let revision = put(&store, &key, value(count)).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "{key} {count} {revision}").unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

async fn acknowledged_writes_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut newest = 0;
    for round in 0..KILLS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .arg("write")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Killed after a different number of writes each time, and at whatever it is just doing then.
        let enough = usize::try_from(20 + round * 7919 % 700).unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut told: Vec<String> = lines.by_ref().take(enough).map(Result::unwrap).collect();
        writer.kill().unwrap();
        told.extend(lines.map_while(Result::ok));
        writer.wait().unwrap();
        assert!(told.len() >= enough, "round {round}: the writer stopped by itself after {}", told.len());
        for line in told {
            // The last line may be cut by the kill.
            let words: Vec<_> = line.split(' ').collect();
            let [key, count, revision] = words[..] else { continue };
            let (Ok(count), Ok(revision)) = (count.parse::<u64>(), revision.parse::<u64>()) else { continue };
            acknowledged.insert(key.to_owned(), (count, revision));
        }
        let store = Embedded::open(dir.path(), options()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let held = contents(&store).await;
        for (key, (count, revision)) in &acknowledged {
            let found = held.get(key);
            let kept = found.is_some_and(|(held, at)| held >= count && at >= revision);
            assert!(kept, "round {round}: {key} was acknowledged as write {count} at {revision}, but is {found:?}");
        }
        let revision = store.status().await.unwrap().revision;
        let last = acknowledged.values().map(|(_, revision)| *revision).max().unwrap();
        assert!(revision >= last && revision >= newest, "round {round}: {revision} after {last} and {newest}");
        newest = revision;
        store.close().await;
    }
}

/// In a mount namespace of its own: a disk of a few megabytes.
fn a_full_disk_refuses_writes_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=6m tmpfs \"$1\" && exec \"$0\" fill \"$1\"";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

async fn fill(dir: &Path) {
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let path = dir.join("store");
    // No snapshot: it would make room.
    let options = || Options { segment_bytes: 1 << 20, snapshot_bytes: 1 << 30, ..Options::default() };
    let store = Embedded::open(&path, options()).unwrap();
    let mut count = 0;
    let refused = loop {
        match put(&store, &format!("k{count}"), value(count)).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 10_000, "the disk was never full");
    };
    assert!(matches!(&refused, Error::Unavailable { why, .. } if why.contains("No space left")), "{refused}");
    assert!(put(&store, "k-late", value(count)).await.is_err(), "it is still full");
    let held = contents(&store).await;
    assert_eq!(held.len() as u64, count, "reads go on, and nothing is half done");
    assert_eq!(store.status().await.unwrap().revision, count + 1);

    std::fs::remove_file(&ballast).unwrap();
    let revision = put(&store, "k-after", value(7)).await.unwrap();
    assert_eq!(revision, count + 2, "writes go on when there is space");
    store.close().await;
    let store = Embedded::open(&path, options()).unwrap();
    assert_eq!(contents(&store).await.len() as u64, count + 1);
    store.close().await;
}
