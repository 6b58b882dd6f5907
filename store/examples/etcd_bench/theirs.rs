//! Debian's etcd, its members over TLS too.

use std::process::{Child, Command, Stdio};

use crate::subject::Place;

/// Starts all members.
pub fn start(place: &Place) -> Vec<Child> {
    let all: Vec<_> = place.peers.iter().enumerate().map(|(number, peer)| format!("{number}=https://{peer}")).collect();
    let [ca, cert, key] = place.tls.each_ref().map(|path| path.display());
    let begin = |(number, (client, peer)): (usize, (&String, &String))| {
        let mut etcd = Command::new("/usr/bin/etcd");
        etcd.arg(format!("--name={number}"))
            .args(["listen-client-urls", "advertise-client-urls"].map(|flag| format!("--{flag}=https://{client}")))
            .args(["listen-peer-urls", "initial-advertise-peer-urls"].map(|flag| format!("--{flag}=https://{peer}")))
            .arg(format!("--initial-cluster={}", all.join(",")))
            .arg(format!("--data-dir={}", place.dir.join(number.to_string()).display()))
            .args(["--client-cert-auth", "--peer-client-cert-auth", "--quota-backend-bytes=8589934592"])
            .args(["--log-level=error"])
            .stderr(Stdio::null());
        for of in ["", "peer-"] {
            etcd.arg(format!("--{of}trusted-ca-file={ca}"))
                .arg(format!("--{of}cert-file={cert}"))
                .arg(format!("--{of}key-file={key}"));
        }
        etcd.spawn().expect("etcd (Debian's package etcd-server) starts")
    };
    place.clients.iter().zip(&place.peers).enumerate().map(begin).collect()
}
