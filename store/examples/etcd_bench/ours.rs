//! This store, each member in a process that runs this program again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use store::embedded::cluster::{Cluster, PeerTls, Start};
use store::grpc::Server;
use store::{Embedded, Member, Membership as _, Options};

use crate::served;
use crate::subject::{Place, client, read};

/// Starts all members, one after the other. Those that have a folder go on.
pub fn start(place: &Place) -> Vec<Child> {
    let begin = |(number, (client, peer)): (usize, (&String, &String))| {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["serve", client, peer, &place.clients[0]])
            .arg(place.dir.join(number.to_string()))
            .args(&place.tls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        process
    };
    place.clients.iter().zip(&place.peers).enumerate().map(begin).collect()
}

/// One member, until the input ends.
pub async fn serve(args: &[String]) {
    let [address, peer, first, dir, tls @ ..] = args else { panic!("CLIENTS PEERS FIRST DIR CA CERT KEY") };
    let tls: [PathBuf; 3] = tls.iter().map(PathBuf::from).collect::<Vec<_>>().try_into().unwrap();
    let [ca, cert, key] = read(&tls);
    let own = served::tls(&ca, &cert, &key);
    let (peers, dir) = (PeerTls { ca, cert, key }, Path::new(dir));
    let peer_url = format!("https://{peer}");
    let joins = address != first && !dir.exists();
    let start = if joins { join(first, &peer_url, &tls).await } else { Start::Found };
    let cluster = Cluster {
        name: address.clone(),
        listener: TcpListener::bind(peer).unwrap(),
        peer_urls: vec![peer_url],
        client_urls: vec![format!("https://{address}")],
        tls: Arc::new(move || Ok(peers.clone())),
        start,
    };
    let store = Arc::new(Embedded::open_member(dir, Options::default(), cluster).unwrap());
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let serving = Server::new(store.clone(), store.clone()).serve(listener, own, std::future::pending());
    let serving = tokio::spawn(serving);
    if joins {
        let mut leader = client(first, &tls).await;
        // it is promoted as soon as it has everything
        while leader.member_promote(store.standing().member).await.is_err() {
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
async fn join(first: &str, own: &str, tls: &[PathBuf; 3]) -> Start {
    let mut leader = client(first, tls).await;
    let learner = etcd_client::MemberAddOptions::new().with_is_learner();
    let added = leader.member_add([own], Some(learner)).await.unwrap();
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
