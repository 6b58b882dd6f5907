//! How fast the embedded store writes, beside what the disk alone can do.
//!
//! `cargo run --release -p store --example puts [DIR]`: for 1, 16 and 64 clients the p50 and p99 of a put of 2 KiB, and puts
//! per second; beside them those of `fdatasync` on a preallocated file in the same folder, in turns with
//! the puts of the one client (for the disk has its moods), and before those of many.
//! Last, what is left of a put when it does not wait for the disk.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use store::{Backend, Embedded, Op, Options, Txn};

/// How long each number of clients is measured.
const PERIOD: Duration = Duration::from_secs(3);

/// Bytes of a value.
const VALUE: usize = 2 << 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let dir = Path::new(&base).join(format!("puts-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let store = Arc::new(Embedded::open(&dir.join("store"), Options::default())?);
    let floor = Arc::new(Floor::new(&dir)?);
    show("1 client", tokio::spawn(put(store.clone(), 0, Some(floor.clone()))).await??);
    show("fdatasync", floor.times.lock().drain(..).collect());
    for clients in [16, 64] {
        let start = Instant::now();
        while start.elapsed() < PERIOD {
            floor.measure()?;
        }
        show("fdatasync", floor.times.lock().drain(..).collect());
        let tasks: Vec<_> = (0..clients).map(|client| tokio::spawn(put(store.clone(), client, None))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await??);
        }
        show(&format!("{clients} clients"), times);
    }
    store.close().await;
    let unsynced = Options { sync: false, ..Options::default() };
    let store = Arc::new(Embedded::open(&dir.join("unsynced"), unsynced)?);
    show("1, no sync", tokio::spawn(put(store.clone(), 0, None)).await??);
    store.close().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn show(what: &str, mut times: Vec<Duration>) {
    let rate = times.len() as f64 / PERIOD.as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    println!("{what:<10} p50 {:>7.0?} p99 {:>7.0?} {rate:>7.0}/s", at(50), at(99));
}

async fn put(store: Arc<Embedded>, client: usize, floor: Option<Arc<Floor>>) -> std::io::Result<Vec<Duration>> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < PERIOD {
        let before = Instant::now();
        let key = format!("/registry/pods/default/{client}-{}", times.len() % 1000);
        let put = Op::Put { key: key.into(), value: vec![b'x'; VALUE].into(), lease: 0 };
        let done = store.txn(Txn { success: vec![put], ..Txn::default() }).await;
        done.map_err(std::io::Error::other)?;
        times.push(before.elapsed());
        if let Some(floor) = &floor {
            let floor = floor.clone();
            tokio::task::spawn_blocking(move || floor.measure()).await??;
        }
    }
    Ok(times)
}

/// What the disk alone does: overwriting and syncing, in a file that has its blocks already.
struct Floor {
    file: File,
    times: Mutex<Vec<Duration>>,
}

impl Floor {
    fn new(dir: &Path) -> std::io::Result<Self> {
        let file = File::create(dir.join("floor"))?;
        file.write_all_at(&vec![0; 4 << 20], 0)?;
        file.sync_all()?;
        Ok(Self { file, times: Mutex::default() })
    }

    fn measure(&self) -> std::io::Result<()> {
        let mut times = self.times.lock();
        let before = Instant::now();
        self.file.write_all_at(&[1; VALUE], (times.len() % 2048 * VALUE) as u64)?;
        self.file.sync_data()?;
        times.push(before.elapsed());
        Ok(())
    }
}
