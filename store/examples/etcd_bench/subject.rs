//! What is measured: a store of one member or several, each in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use store::embedded::cluster::MEMBER_NAME;

/// Kernel ticks a second, as `/proc` counts CPU time.
const TICKS: f64 = 100.0;

/// Certificates that everybody here shows and trusts, PEM, in files.
#[derive(Clone)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// Makes them in this folder.
    pub fn make(dir: &Path) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), MEMBER_NAME.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &ca).unwrap();
        let made = Self(dir.to_owned());
        for (path, pem) in made.paths().iter().zip([ca.pem(), cert.pem(), key.serialize_pem()]) {
            std::fs::write(path, pem).unwrap();
        }
        made
    }

    /// Those that were made in this folder.
    pub fn of(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The authority, the certificate, and its key.
    pub fn paths(&self) -> [PathBuf; 3] {
        ["ca.pem", "cert.pem", "key.pem"].map(|name| self.0.join(name))
    }

    /// What is in the files.
    pub fn read(&self) -> [Vec<u8>; 3] {
        self.paths().map(|path| std::fs::read(path).unwrap())
    }
}

/// How the members of a kind of store are started in a folder of their own, with these certificates: their clients' URLs, and
/// their processes.
pub type Start = fn(&Path, &Certificates, members: usize) -> (Vec<String>, Vec<Child>);

/// See the module.
pub struct Subject {
    pub name: &'static str,
    dir: PathBuf,
    certificates: Certificates,
    start: Start,
    urls: Vec<String>,
    processes: Vec<Child>,
}

impl Subject {
    /// Starts it, and waits until it answers.
    pub async fn start(name: &'static str, dir: &Path, start: Start, members: usize) -> Self {
        let dir = dir.join(format!("{name}-{members}"));
        std::fs::create_dir_all(&dir).unwrap();
        let certificates = Certificates::make(&dir);
        let (urls, processes) = start(&dir, &certificates, members);
        let subject = Self { name, dir, certificates, start, urls, processes };
        subject.answered().await;
        subject
    }

    /// One that talks to a member: they are dealt out in turn.
    pub async fn client(&self, number: usize) -> Client {
        client(&self.urls[number % self.urls.len()], &self.certificates).await
    }

    /// CPU time that it has used, user's and system's, seconds.
    pub fn cpu(&self) -> f64 {
        let of = |process: &Child| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
            fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>()
        };
        self.processes.iter().map(of).sum::<f64>() / TICKS
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
        (self.urls, self.processes) = (self.start)(&self.dir, &self.certificates, self.processes.len());
        self.answered().await;
        begin.elapsed()
    }

    async fn answered(&self) {
        for number in 0..self.urls.len() {
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

/// A client of this member.
pub async fn client(url: &str, certificates: &Certificates) -> Client {
    let [ca, cert, key] = certificates.read();
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca)).identity(Identity::from_pem(cert, key));
    Client::connect([url], Some(ConnectOptions::new().with_tls(tls))).await.unwrap()
}
