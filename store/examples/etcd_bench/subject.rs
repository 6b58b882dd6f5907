//! What is measured: a store of one member or several, each in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
use store::EtcdTls;
use store::embedded::cluster::{MEMBER_NAME, PeerTls};

use crate::{certificates, cpu, etcd, served};

/// Most members.
const MOST: usize = 3;

/// Where a store runs.
pub struct Place {
    /// Its folder.
    pub dir: PathBuf,
    /// What everybody there shows and trusts, PEM: the authority, a certificate, its key.
    pub tls: [PathBuf; 3],
    /// Where clients reach its members.
    pub clients: Vec<String>,
    /// Where they reach each other.
    pub peers: Vec<String>,
}

impl Place {
    fn new(dir: PathBuf, members: usize) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let PeerTls { ca, cert, key } = certificates::certificate(&certificates::ca(), &["127.0.0.1", MEMBER_NAME]);
        let tls = served::write(&dir, &EtcdTls { ca, cert, key });
        let addresses = etcd::ports::<{ 2 * MOST }>();
        let (clients, peers) = addresses.split_at(MOST);
        Self { dir, tls, clients: clients[..members].to_vec(), peers: peers[..members].to_vec() }
    }
}

/// Starts all members of a place, or starts them again.
pub type Start = fn(&Place) -> Vec<Child>;

/// See the module.
pub struct Subject {
    pub name: &'static str,
    place: Place,
    start: Start,
    processes: Vec<Child>,
}

impl Subject {
    /// Starts it, and waits until it answers.
    pub async fn start(name: &'static str, dir: &Path, start: Start, members: usize) -> Self {
        let place = Place::new(dir.join(format!("{name}-{members}")), members);
        let subject = Self { name, processes: start(&place), start, place };
        subject.answered().await;
        subject
    }

    /// One that talks to a member: they are dealt out in turn.
    pub async fn client(&self, number: usize) -> Client {
        client(&self.place.clients[number % self.place.clients.len()], &self.place.tls).await
    }

    /// CPU time that it has used, seconds.
    pub fn cpu(&self) -> f64 {
        self.processes.iter().map(|process| cpu::seconds(&process.id().to_string())).sum()
    }

    /// Memory that is resident in one member, MiB.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.processes[0].id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() >> 10
    }

    /// Kills all, starts them again in their folder, and waits for the first linearizable answer.
    pub async fn restart(&mut self) -> Duration {
        self.kill();
        let begin = Instant::now();
        self.processes = (self.start)(&self.place);
        self.answered().await;
        begin.elapsed()
    }

    async fn answered(&self) {
        for number in 0..self.place.clients.len() {
            let mut client = self.client(number).await;
            while client.get("none", Some(GetOptions::new().with_count_only())).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    fn kill(&mut self) {
        for process in &mut self.processes {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client of the member at this address.
pub async fn client(address: &str, tls: &[PathBuf; 3]) -> Client {
    let [ca, cert, key] = read(tls);
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca)).identity(Identity::from_pem(cert, key));
    Client::connect([format!("https://{address}")], Some(ConnectOptions::new().with_tls(tls))).await.unwrap()
}

/// What is in the files.
pub fn read(tls: &[PathBuf; 3]) -> [Vec<u8>; 3] {
    tls.each_ref().map(|path| std::fs::read(path).unwrap())
}
