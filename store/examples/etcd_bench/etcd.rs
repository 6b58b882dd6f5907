//! Debian's etcd, its members over TLS too.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::ports;
use super::subject::Certificates;

/// Starts so many members.
pub fn start(dir: &Path, certificates: &Certificates, members: usize) -> (Vec<String>, Vec<Child>) {
    let secure = |port: &u16| format!("https://127.0.0.1:{port}");
    let (clients, peers) = (ports(dir, "clients", members), ports(dir, "peers", members));
    let (clients, peers): (Vec<_>, Vec<_>) = (clients.iter().map(secure).collect(), peers.iter().map(secure).collect());
    let all: Vec<_> = peers.iter().enumerate().map(|(number, peer)| format!("{number}={peer}")).collect();
    let [ca, cert, key] = certificates.paths();
    let begin = |(number, (client, peer)): (usize, (&String, &String))| {
        let mut etcd = Command::new("/usr/bin/etcd");
        etcd.arg(format!("--name={number}"))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster={}", all.join(",")))
            .arg(format!("--data-dir={}", dir.join(number.to_string()).display()))
            .args(["--client-cert-auth", "--peer-client-cert-auth", "--quota-backend-bytes=8589934592"])
            .args(["--log-level=error"])
            .stderr(Stdio::null());
        for of in ["", "peer-"] {
            etcd.arg(format!("--{of}trusted-ca-file={}", ca.display()))
                .arg(format!("--{of}cert-file={}", cert.display()))
                .arg(format!("--{of}key-file={}", key.display()));
        }
        etcd.spawn().expect("etcd (Debian's package etcd-server) starts")
    };
    let processes = clients.iter().zip(&peers).enumerate().map(begin).collect();
    (clients, processes)
}
