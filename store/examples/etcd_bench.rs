//! This store and etcd side by side, over etcd's API with TLS, one after the other in each measurement, on the same disk, both
//! syncing every write.
//!
//! `cargo run --release -p store --example etcd_bench [DIR]` prints, for 1, 16, 64 and 256 clients, puts of 1 KiB and linearizable gets: a
//! second, and a second of the server's own CPU time; events to many watchers; memory with 100,000 keys of 1 KiB; the time from start to the first
//! answer with 150,000. `etcd_bench serve DIR` serves until its input ends, for other tools.
//!
//! `etcd_bench beside NAME URL,... CA CERT KEY PID,...` measures puts and gets of servers that run already, as a cluster of
//! three does; clients are dealt out to them in turn.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot set itself up fails")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions, Txn, TxnOp, WatchOptions};
use store::{EtcdTls, Options};

#[path = "../tests/contract/etcd.rs"]
mod etcd;
#[path = "../tests/grpc/served.rs"]
mod served;

/// How long each number of clients is measured.
const PERIOD: Duration = Duration::from_secs(3);

/// Bytes of a value.
const VALUE: usize = 1 << 10;

/// Watchers of one prefix, and the events that each hears.
const WATCHERS: usize = 100;
const EVENTS: usize = 300;

/// Keys whose memory is measured, and with which a server is started again.
const KEYS: (usize, usize) = (100_000, 150_000);

/// Kernel ticks a second, as `/proc` counts CPU time.
const TICKS: f64 = 100.0;

/// What is measured: how clients reach it, and whose CPU time counts.
struct Subject {
    name: String,
    urls: Vec<String>,
    tls: EtcdTls,
    pids: Vec<u32>,
}

impl Subject {
    /// One that was started by somebody else.
    fn beside(args: &[String]) -> Option<Self> {
        let [name, urls, ca, cert, key, pids] = args else { return None };
        let read = |path: &String| std::fs::read(path).unwrap();
        let tls = EtcdTls { ca: read(ca), cert: read(cert), key: read(key) };
        let urls = urls.split(',').map(str::to_owned).collect();
        let pids = pids.split(',').map(|pid| pid.parse().unwrap()).collect();
        Some(Self { name: name.clone(), urls, tls, pids })
    }

    async fn client(&self, number: usize) -> Client {
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(&self.tls.ca))
            .identity(Identity::from_pem(&self.tls.cert, &self.tls.key));
        let url = &self.urls[number % self.urls.len()];
        Client::connect([url], Some(ConnectOptions::new().with_tls(tls))).await.unwrap()
    }

    /// CPU time that it has used, user's and system's.
    fn cpu(&self) -> f64 {
        let of = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
            fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>()
        };
        self.pids.iter().map(of).sum::<f64>() / TICKS
    }
}

/// A server in a process of its own.
struct Server {
    dir: PathBuf,
    subject: Subject,
    process: Child,
}

impl std::ops::Deref for Server {
    type Target = Subject;

    fn deref(&self) -> &Subject {
        &self.subject
    }
}

impl Server {
    fn ours(dir: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let file = |name| std::fs::read(dir.join(name)).unwrap();
        let tls = EtcdTls { ca: file("ca.pem"), cert: file("client.pem"), key: file("client.key") };
        Self::new("orlop", dir, url.trim(), tls, process)
    }

    fn theirs(dir: &Path) -> Self {
        let etcd::Certificates { ca, server, client } = etcd::Server::certificates();
        let [address, peer] = etcd::ports();
        let (url, peer) = (format!("https://{address}"), format!("http://{peer}"));
        std::fs::create_dir_all(dir).unwrap();
        let file = |name: &str, content: &str| {
            std::fs::write(dir.join(name), content).unwrap();
            dir.join(name)
        };
        let process = Command::new("/usr/bin/etcd")
            .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=default={peer}"))
            .arg(format!("--data-dir={}", dir.join("data").display()))
            .arg(format!("--trusted-ca-file={}", file("ca.pem", &ca).display()))
            .arg(format!("--cert-file={}", file("server.pem", &server.0).display()))
            .arg(format!("--key-file={}", file("server.key", &server.1).display()))
            .args(["--client-cert-auth", "--quota-backend-bytes=8589934592", "--log-level=error"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let tls = EtcdTls { ca: ca.into(), cert: client.0.into(), key: client.1.into() };
        Self::new("etcd", dir, &url, tls, process)
    }

    fn new(name: &str, dir: &Path, url: &str, tls: EtcdTls, process: Child) -> Self {
        let (name, urls, pids) = (name.to_owned(), vec![url.to_owned()], vec![process.id()]);
        Self { dir: dir.to_owned(), subject: Subject { name, urls, tls, pids }, process }
    }

    /// Kills it, starts it again in its folder, and waits for the first linearizable answer.
    async fn restart(mut self) -> (Self, Duration) {
        self.stop();
        let begin = Instant::now();
        let again = if self.name == "etcd" { Self::theirs(&self.dir) } else { Self::ours(&self.dir) };
        again.answered().await;
        (again, begin.elapsed())
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn answered(&self) {
        let mut client = self.client(0).await;
        while client.get("none", Some(GetOptions::new().with_count_only())).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Memory that is resident, MiB.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() >> 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

#[tokio::main]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [serve, dir] = &args[..]
        && serve == "serve"
    {
        return self::serve(Path::new(dir)).await;
    }
    if let [beside, rest @ ..] = &args[..]
        && beside == "beside"
    {
        let subject = Subject::beside(rest).expect("NAME URL,... CA CERT KEY PID,...");
        return load(&[&subject]).await;
    }
    let base = args.first().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = base.join(format!("etcd-bench-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("ours")).unwrap();
    let mut servers = [Server::ours(&dir.join("ours")), Server::theirs(&dir.join("theirs"))];
    for server in &servers {
        server.answered().await;
    }
    println!("load average {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    load(&servers.each_ref().map(|server| &server.subject)).await;
    for server in &servers {
        fan_out(server).await;
    }
    for server in &servers {
        let before = server.memory();
        fill(server, 0..KEYS.0).await;
        println!(
            "{:<6} memory {before} MiB, with {} keys of {VALUE} bytes {} MiB",
            server.name,
            KEYS.0,
            server.memory()
        );
        fill(server, KEYS.0..KEYS.1).await;
    }
    servers = {
        let mut again = Vec::new();
        for server in servers {
            let (server, took) = server.restart().await;
            println!("{:<6} start with {} keys {took:.2?}, {} MiB", server.name, KEYS.1, server.memory());
            again.push(server);
        }
        again.try_into().map_err(|_| ()).unwrap()
    };
    println!("load average {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    drop(servers);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Serves until the input ends.
async fn serve(dir: &Path) {
    let served = served::Served::open(dir, Options::default(), |server| server).await;
    println!("{}", served.url);
    std::io::stdout().flush().unwrap();
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    ended.await.unwrap().unwrap();
    served.stop().await;
}

/// Puts and gets by more and more clients.
async fn load(subjects: &[&Subject]) {
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

async fn fill(server: &Subject, keys: std::ops::Range<usize>) {
    let mut client = server.client(0).await;
    for first in keys.clone().step_by(100) {
        let puts =
            (first..(first + 100).min(keys.end)).map(|i| TxnOp::put(format!("fill/{i:08}"), vec![b'x'; VALUE], None));
        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
}
