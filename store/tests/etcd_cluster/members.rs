//! Three members of etcd on loopback ports, each of which can be killed and started again.

use etcd_client::Client;

use crate::etcd::{Process, ports};

struct Member {
    args: Vec<String>,
    process: Process,
}

/// A cluster of three.
pub struct Cluster {
    /// The members' client URLs.
    pub urls: Vec<String>,
    members: Vec<Member>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// One whose members have these flags besides.
    pub fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clients: [String; 3] = ports();
        let peers: [String; 3] = ports();
        let cluster: Vec<_> = peers.iter().enumerate().map(|(i, peer)| format!("m{i}=http://{peer}")).collect();
        let mut starting = Vec::new();
        for (i, (client, peer)) in clients.iter().zip(&peers).enumerate() {
            let options = [
                ("name", format!("m{i}")),
                ("data-dir", dir.path().join(format!("m{i}")).to_str().unwrap().to_owned()),
                ("listen-client-urls", format!("http://{client}")),
                ("advertise-client-urls", format!("http://{client}")),
                ("listen-peer-urls", format!("http://{peer}")),
                ("initial-advertise-peer-urls", format!("http://{peer}")),
                ("initial-cluster", cluster.join(",")),
            ];
            let args = options.into_iter().map(|(name, value)| format!("--{name}={value}"));
            let args: Vec<_> = args.chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
            let (process, ready) = Process::spawn(&args);
            starting.push((Member { args, process }, ready));
        }
        let members = starting.into_iter().map(|(member, ready)| {
            ready.wait(1);
            member
        });
        let members = members.collect();
        Self { urls: clients.map(|client| format!("http://{client}")).into(), members, _dir: dir }
    }

    pub fn kill(&mut self, member: usize) {
        self.members[member].process.kill();
    }

    pub fn restart(&mut self, member: usize) {
        let member = &mut self.members[member];
        let (process, ready) = Process::spawn(&member.args);
        member.process = process;
        ready.wait(1);
    }

    /// The member that leads.
    pub async fn leader(&self) -> usize {
        for (i, url) in self.urls.iter().enumerate() {
            let mut client = Client::connect([url], None).await.unwrap();
            let status = client.status().await.unwrap();
            if status.header().unwrap().member_id() == status.leader() {
                return i;
            }
        }
        panic!("nobody leads");
    }

    /// A client of one member alone.
    pub async fn client(&self, member: usize) -> Client {
        Client::connect([&self.urls[member]], None).await.unwrap()
    }
}
