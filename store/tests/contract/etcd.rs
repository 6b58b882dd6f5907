//! An etcd server of one's own, from Debian's `etcd-server`.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use store::EtcdTls;

const PROGRAM: &str = "/usr/bin/etcd";

/// Certificates of a server and a client, signed by one CA; certificate and key, PEM.
pub struct Certificates {
    pub ca: String,
    pub server: (String, String),
    pub client: (String, String),
}

/// A running etcd; killed when dropped.
pub struct Server {
    /// Client URL without TLS.
    pub plain: String,
    /// Client URL that wants a client certificate.
    pub secure: String,
    pub tls: EtcdTls,
    process: Child,
    _dir: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let Certificates { ca, server, client } = Self::certificates();
        let file = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        // Held together while they are chosen, so that they differ.
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [plain, secure, peer] = held.each_ref().map(|held| held.local_addr().unwrap());
        drop(held);
        let (plain, secure, peer) = (format!("http://{plain}"), format!("https://{secure}"), format!("http://{peer}"));
        let mut process = Command::new(PROGRAM)
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &format!("{plain},{secure}")])
            .args(["--advertise-client-urls", &plain])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--logger", "zap", "--log-level", "info", "--log-outputs", "stderr"])
            .arg("--trusted-ca-file")
            .arg(file("ca.pem", &ca))
            .arg("--cert-file")
            .arg(file("server.pem", &server.0))
            .arg("--key-file")
            .arg(file("server.key", &server.1))
            .arg("--client-cert-auth")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {PROGRAM}: {error}; install Debian's etcd-server"));
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = Vec::new();
        let ready = lines.by_ref().any(|line| {
            let ready = line.contains("serving client traffic securely") || line.contains("serving insecure client");
            seen.push(line);
            ready && seen.iter().filter(|line| line.contains("serving client traffic")).count() >= 2
        });
        assert!(ready, "{PROGRAM} did not get ready:\n{}", seen.join("\n"));
        // What it says later must go somewhere, or it stops when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        let tls = EtcdTls { ca: ca.into(), cert: client.0.into(), key: client.1.into() };
        Self { plain, secure, tls, process, _dir: dir }
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

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
