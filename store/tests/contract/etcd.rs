//! etcd servers of one's own, from Debian's `etcd-server`.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use store::EtcdTls;

const PROGRAM: &str = "/usr/bin/etcd";

/// Certificates of a server and a client, signed by one CA; certificate and key, PEM.
pub struct Certificates {
    pub ca: String,
    pub server: (String, String),
    pub client: (String, String),
}

/// A process of etcd's; killed when dropped.
pub struct Process(Child);

impl Process {
    /// Starts one. Its log says when it is ready, [`Ready::wait`].
    pub fn spawn(args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> (Self, Ready) {
        let mut child = Command::new(PROGRAM)
            .args(args)
            .args(["--logger", "zap", "--log-level", "info", "--log-outputs", "stderr"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {PROGRAM}: {error}; install Debian's etcd-server"));
        let log = child.stderr.take().unwrap();
        (Self(child), Ready(log))
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that a test has killed is gone already.
        if let Ok(None) = self.0.try_wait() {
            self.kill();
        }
    }
}

/// The log of a process that is starting.
pub struct Ready(ChildStderr);

impl Ready {
    /// Waits until it serves clients on so many listeners.
    pub fn wait(self, listeners: usize) {
        let mut lines = BufReader::new(self.0).lines().map_while(Result::ok);
        let (mut seen, mut serving) = (Vec::new(), 0);
        let ready = lines.by_ref().any(|line| {
            serving += usize::from(line.contains("serving client traffic") || line.contains("serving insecure client"));
            seen.push(line);
            serving >= listeners
        });
        assert!(ready, "{PROGRAM} did not get ready:\n{}", seen.join("\n"));
        // What it says later must go somewhere, or it stops when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
    }
}

/// Ports that nobody listens on.
pub fn ports<const N: usize>() -> [String; N] {
    // Held together while they are chosen, so that they differ.
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.each_ref().map(|held| held.local_addr().unwrap().to_string())
}

/// A running etcd of one member.
pub struct Server {
    /// Client URL without TLS.
    pub plain: String,
    /// Client URL that wants a client certificate.
    pub secure: String,
    pub tls: EtcdTls,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// One with these flags besides.
    pub fn with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let Certificates { ca, server, client } = Self::certificates();
        let file = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let [plain, secure, peer] = ports();
        let (plain, secure, peer) = (format!("http://{plain}"), format!("https://{secure}"), format!("http://{peer}"));
        let (data, clients) = (dir.path().join("data"), format!("{plain},{secure}"));
        let cluster = format!("default={peer}");
        let (ca_file, cert_file) = (file("ca.pem", &ca), file("server.pem", &server.0));
        let key_file = file("server.key", &server.1);
        let mut args = vec![
            "--data-dir",
            data.to_str().unwrap(),
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &plain,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &cluster,
            "--client-cert-auth",
            "--trusted-ca-file",
            &ca_file,
            "--cert-file",
            &cert_file,
            "--key-file",
            &key_file,
        ];
        args.extend(flags);
        let (process, ready) = Process::spawn(args);
        ready.wait(2);
        let tls = EtcdTls { ca: ca.into(), cert: client.0.into(), key: client.1.into() };
        Self { plain, secure, tls, _process: process, _dir: dir }
    }

    pub fn certificates() -> Certificates {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str, purpose| {
            let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![purpose];
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
        };
        Certificates {
            server: issue("server", ExtendedKeyUsagePurpose::ServerAuth),
            client: issue("client", ExtendedKeyUsagePurpose::ClientAuth),
            ca: ca.pem(),
        }
    }
}
