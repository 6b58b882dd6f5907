//! How fast the embedded store writes, beside what the disk alone can do.
//!
//! `cargo run --release -p store --example puts [DIR]`: for 1, 16 and 64 clients the p50 and p99 of a put of 2 KiB, and puts
//! per second; before each those of `fdatasync` on a preallocated file in the same folder, for the disk has its moods.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    for clients in [1, 16, 64] {
        let (p50, p99) = percentiles(floor(&dir)?);
        println!("fdatasync   p50 {p50:>7.0?} p99 {p99:>7.0?}");
        let tasks: Vec<_> = (0..clients).map(|client| tokio::spawn(put(store.clone(), client))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await??);
        }
        let rate = times.len() as f64 / PERIOD.as_secs_f64();
        let (p50, p99) = percentiles(times);
        println!("{clients:>2} clients  p50 {p50:>7.0?} p99 {p99:>7.0?} {rate:>7.0} puts/s");
    }
    store.close().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn put(store: Arc<Embedded>, client: usize) -> Result<Vec<Duration>, store::Error> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < PERIOD {
        let before = Instant::now();
        let key = format!("/registry/pods/default/{client}-{}", times.len() % 1000);
        let put = Op::Put { key: key.into(), value: vec![b'x'; VALUE].into(), lease: 0 };
        store.txn(Txn { success: vec![put], ..Txn::default() }).await?;
        times.push(before.elapsed());
    }
    Ok(times)
}

/// Times of overwriting and syncing, in a file that has its blocks already.
fn floor(dir: &Path) -> std::io::Result<Vec<Duration>> {
    let file = File::create(dir.join("floor"))?;
    let (start, block) = (Instant::now(), vec![1; VALUE]);
    file.write_all_at(&vec![0; 4 << 20], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    while start.elapsed() < PERIOD {
        let before = Instant::now();
        file.write_all_at(&block, (times.len() % 2048 * VALUE) as u64)?;
        file.sync_data()?;
        times.push(before.elapsed());
    }
    Ok(times)
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    (at(50), at(99))
}
