//! This store, each member in a process that runs this program again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use store::embedded::cluster::{Cluster, PeerTls, Start};
use store::grpc::{Server, Tls};
use store::{Embedded, Member, Options};

use super::ports;
use super::subject::Certificates;

/// Starts so many members. Those of a folder that had them before go on.
pub fn start(dir: &Path, _: &Certificates, members: usize) -> (Vec<String>, Vec<Child>) {
    let (clients, peers) = (ports(dir, "clients", members), ports(dir, "peers", members));
    let mut processes: Vec<Child> = Vec::new();
    for number in 0..members {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["serve", &number.to_string(), &clients[number].to_string(), &peers[number].to_string()])
            .args([dir.to_str().unwrap(), &clients[0].to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        processes.push(process);
    }
    (clients.iter().map(|port| format!("https://127.0.0.1:{port}")).collect(), processes)
}

/// One member, until the input ends: its number and ports, the folder, and the port for clients of the first.
pub async fn serve(args: &[String]) {
    let [number, client, peer, dir, first] = args else { panic!("NUMBER CLIENTS PEERS DIR FIRST") };
    let dir = Path::new(dir);
    let certificates = Certificates::of(dir);
    let own = dir.join(number);
    let url = |port: &String| format!("https://127.0.0.1:{port}");
    let peer_urls = vec![url(peer)];
    let listener = TcpListener::bind(format!("127.0.0.1:{peer}")).unwrap();
    let start =
        if number == "0" || own.exists() { Start::Found } else { join(&url(first), &url(peer), &certificates).await };
    let id = match &start {
        Start::Join { member, .. } => Some(*member),
        Start::Found => None,
    };
    let [ca, cert, key] = certificates.read();
    let peers = PeerTls { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
    let tls = Arc::new(move || Ok(peers.clone()));
    let cluster = Cluster { name: number.clone(), listener, peer_urls, client_urls: vec![url(client)], tls, start };
    let store = Arc::new(Embedded::open_member(&own, Options::default(), cluster).unwrap());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{client}")).await.unwrap();
    let serving = tokio::spawn(Server::new(store.clone(), store.clone()).serve(
        listener,
        tls_of(&ca, &cert, &key),
        std::future::pending(),
    ));
    if let Some(id) = id {
        let mut client = super::subject::client(&url(first), &certificates).await;
        // it is promoted as soon as it has everything
        while client.member_promote(id).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    println!("ready");
    std::io::stdout().flush().unwrap();
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    ended.await.unwrap().unwrap();
    serving.abort();
    store.close().await;
}

/// Has this member added to the cluster that the first one leads.
async fn join(first: &str, own: &str, certificates: &Certificates) -> Start {
    let mut client = super::subject::client(first, certificates).await;
    let learner = etcd_client::MemberAddOptions::new().with_is_learner();
    let added = client.member_add([own], Some(learner)).await.unwrap();
    let known = |member: &etcd_client::Member| Member {
        id: member.id(),
        name: member.name().to_owned(),
        peer_urls: member.peer_urls().to_vec(),
        client_urls: member.client_urls().to_vec(),
        learner: member.is_learner(),
    };
    Start::Join {
        cluster: added.header().unwrap().cluster_id(),
        member: added.member().unwrap().id(),
        members: added.member_list().iter().map(known).collect(),
    }
}

fn tls_of(ca: &[u8], cert: &[u8], key: &[u8]) -> Tls {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>().unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap();
    let mut clients = RootCertStore::empty();
    clients.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    Tls { certificate: Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))), clients: Arc::new(clients) }
}
