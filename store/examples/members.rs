//! How fast three members are, in one process over loopback and TLS, each with a folder of its own.
//!
//! `cargo run --release -p store --example members [DIR]`: for 1, 16 and 64 clients the p50 and p99 of a put of 2 KiB and of a
//! linearizable read, through the leader and through another member; how many a second, and a second of the CPU time that all
//! three and the clients take. Last, how long writes fail when the leader hands over.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot set itself up fails")]

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::embedded::cluster::{Cluster, MEMBER_NAME, Start, TlsSource};
use store::{Backend, Embedded, Membership, Op, Options, Range, Txn};

#[path = "../tests/cluster/certificates.rs"]
mod certificates;
#[path = "etcd_bench/cpu.rs"]
mod cpu;

/// How long each number of clients is measured.
const PERIOD: Duration = Duration::from_secs(3);

/// Bytes of a value.
const VALUE: usize = 2 << 10;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let dir = Path::new(&base).join(format!("members-{}", std::process::id()));
    let tls = certificates::certificate(&certificates::ca(), &[MEMBER_NAME]);
    let tls: TlsSource = Arc::new(move || Ok(tls.clone()));
    let first = open(&dir.join("1"), &tls, TcpListener::bind("127.0.0.1:0")?, Start::Found)?;
    let mut members = vec![first.clone()];
    for number in 2..=3 {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("https://{}", listener.local_addr()?);
        let added = retry(|| first.add_member(vec![url.clone()], true)).await?;
        let start =
            Start::Join { cluster: first.standing().cluster, member: added.id, members: first.members(true).await? };
        members.push(open(&dir.join(number.to_string()), &tls, listener, start)?);
        retry(|| first.promote_member(added.id)).await?;
    }
    for (through, member) in [("leader", &members[0]), ("another", &members[1])] {
        for clients in [1, 16, 64] {
            for (what, writes) in [("put", true), ("read", false)] {
                let before = cpu::seconds("self");
                let times = measure(member, clients, writes).await?;
                show(&format!("{what}, {clients} through the {through}"), times, cpu::seconds("self") - before);
            }
        }
    }
    let start = Instant::now();
    members[0].close().await;
    retry(|| put(&members[1], 0)).await?;
    println!("handed over and written after {:.0?}", start.elapsed());
    for member in &members {
        member.close().await;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Until it is done.
async fn retry<T, F: Future<Output = Result<T, store::Error>>>(mut attempt: impl FnMut() -> F) -> Outcome<T> {
    let (deadline, mut again) = (Instant::now() + PERIOD * 10, tokio::time::interval(Duration::from_millis(5)));
    loop {
        again.tick().await;
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => {}
        }
    }
}

fn open(dir: &Path, tls: &TlsSource, listener: TcpListener, start: Start) -> Outcome<Arc<Embedded>> {
    let peer_urls = vec![format!("https://{}", listener.local_addr()?)];
    let name = dir.display().to_string();
    let cluster = Cluster { name, listener, peer_urls, client_urls: Vec::new(), tls: tls.clone(), start };
    Ok(Arc::new(Embedded::open_member(dir, Options::default(), cluster)?))
}

async fn put(store: &Embedded, key: usize) -> Result<(), store::Error> {
    let key = format!("/registry/pods/default/{key}");
    let put = Op::Put { key: key.into(), value: vec![b'x'; VALUE].into(), lease: 0 };
    store.txn(Txn { success: vec![put], ..Txn::default() }).await.map(drop)
}

async fn measure(store: &Arc<Embedded>, clients: usize, writes: bool) -> Outcome<Vec<Duration>> {
    let tasks = (0..clients).map(|client| {
        let store = store.clone();
        tokio::spawn(async move {
            let (start, mut times) = (Instant::now(), Vec::new());
            while start.elapsed() < PERIOD {
                let (before, key) = (Instant::now(), client * 1000 + times.len() % 1000);
                if writes {
                    put(&store, key).await?;
                } else {
                    store.range(Range::key(format!("/registry/pods/default/{key}"))).await?;
                }
                times.push(before.elapsed());
            }
            Ok::<_, store::Error>(times)
        })
    });
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await??);
    }
    Ok(times)
}

fn show(what: &str, mut times: Vec<Duration>, cpu: f64) {
    let rate = times.len() as f64 / PERIOD.as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    let each = times.len() as f64 / cpu;
    println!("{what:<28} p50 {:>7.0?} p99 {:>7.0?} {rate:>7.0}/s {each:>7.0} per CPU-s", at(50), at(99));
}
