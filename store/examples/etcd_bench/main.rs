//! This store and etcd side by side, over etcd's API with TLS, one after the other in each measurement, on the same disk, both
//! syncing every write.
//!
//! `cargo run --release -p store --example etcd_bench [DIR]` prints, for one member and three, for 1, 16, 64 and 256 clients,
//! puts of 1 KiB and linearizable gets: a second, and a second of the members' own CPU time. Then, of one member: events to
//! many watchers; memory with 100,000 keys of 1 KiB; the time from start to the first answer with 150,000.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot set itself up fails")]

#[path = "../../tests/cluster/certificates.rs"]
mod certificates;
mod cpu;
#[path = "../../tests/contract/etcd.rs"]
mod etcd;
mod ours;
#[path = "../../tests/grpc/served.rs"]
mod served;
mod subject;
mod theirs;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use etcd_client::{Txn, TxnOp, WatchOptions};
use subject::Subject;

/// How long each number of clients is measured.
const PERIOD: Duration = Duration::from_secs(3);

/// Bytes of a value.
const VALUE: usize = 1 << 10;

/// Watchers of one prefix, and the events that each hears.
const WATCHERS: usize = 100;
const EVENTS: usize = 300;

/// Keys whose memory is measured, and with which a server is started again.
const KEYS: (usize, usize) = (100_000, 150_000);

#[tokio::main]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [serve, rest @ ..] = &args[..]
        && serve == "serve"
    {
        return ours::serve(rest).await;
    }
    let base = args.first().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = base.join(format!("etcd-bench-{}", std::process::id()));
    println!("load average {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    for members in [1, 3] {
        println!("{members} members");
        let subjects = [
            Subject::start("orlop", &dir, ours::start, members).await,
            Subject::start("etcd", &dir, theirs::start, members).await,
        ];
        load(&subjects).await;
        if members == 1 {
            for mut subject in subjects {
                fan_out(&subject).await;
                grow(&mut subject).await;
            }
        }
    }
    println!("load average {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Puts and gets by more and more clients.
async fn load(subjects: &[Subject]) {
    for clients in [1, 16, 64, 256] {
        for put in [true, false] {
            for subject in subjects {
                calls(subject, clients, put).await;
            }
        }
    }
}

async fn calls(server: &Subject, clients: usize, put: bool) {
    let mut tasks = Vec::new();
    let cpu = server.cpu();
    for client in 0..clients {
        let mut connection = server.client(client).await;
        tasks.push(tokio::spawn(async move {
            let (start, mut times) = (Instant::now(), Vec::new());
            while start.elapsed() < PERIOD {
                let (before, key) = (Instant::now(), format!("bench/{client}-{}", times.len() % 100));
                if put {
                    connection.put(key, vec![b'x'; VALUE], None).await.unwrap();
                } else {
                    connection.get(key, None).await.unwrap();
                }
                times.push(before.elapsed());
            }
            times
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let cpu = server.cpu() - cpu;
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    let (rate, per_cpu) = (times.len() as f64 / PERIOD.as_secs_f64(), times.len() as f64 / cpu);
    let what = if put { "put" } else { "get" };
    println!(
        "{:<6} {what} {clients:>3} clients {rate:>7.0}/s {per_cpu:>7.0}/CPU-s p50 {:>7.0?} p99 {:>7.0?}",
        server.name,
        at(50),
        at(99)
    );
}

/// All watchers hear all puts.
async fn fan_out(server: &Subject) {
    let mut tasks = Vec::new();
    for number in 0..WATCHERS / 10 {
        let mut client = server.client(number).await;
        for _ in 0..10 {
            let mut stream = client.watch("fan/", Some(WatchOptions::new().with_prefix())).await.unwrap();
            assert!(stream.message().await.unwrap().unwrap().created());
            tasks.push(tokio::spawn(async move {
                let mut heard = 0;
                while heard < EVENTS {
                    heard += stream.message().await.unwrap().unwrap().events().len();
                }
            }));
        }
    }
    let (begin, cpu) = (Instant::now(), server.cpu());
    let mut client = server.client(0).await;
    for i in 0..EVENTS {
        client.put(format!("fan/{i}"), vec![b'x'; VALUE], None).await.unwrap();
    }
    for task in tasks {
        task.await.unwrap();
    }
    let (events, took, cpu) = ((WATCHERS * EVENTS) as f64, begin.elapsed().as_secs_f64(), server.cpu() - cpu);
    println!("{:<6} events to {WATCHERS} watchers {:.0}/s {:.0}/CPU-s", server.name, events / took, events / cpu);
}

/// Memory with many keys, and the start with more.
async fn grow(subject: &mut Subject) {
    let (name, before) = (subject.name, subject.memory());
    fill(subject, 0..KEYS.0).await;
    println!("{name:<6} memory {before} MiB, with {} keys of {VALUE} bytes {} MiB", KEYS.0, subject.memory());
    fill(subject, KEYS.0..KEYS.1).await;
    let took = subject.restart().await;
    println!("{name:<6} start with {} keys {took:.2?}, {} MiB", KEYS.1, subject.memory());
}

async fn fill(server: &Subject, keys: std::ops::Range<usize>) {
    let mut client = server.client(0).await;
    for first in keys.clone().step_by(100) {
        let puts =
            (first..(first + 100).min(keys.end)).map(|i| TxnOp::put(format!("fill/{i:08}"), vec![b'x'; VALUE], None));
        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
}
