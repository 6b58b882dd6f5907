//! What a store is told that is to be one of several members.

use std::net::TcpListener;
use std::sync::Arc;

use crate::members::{Member, MemberId};

/// The name (a DNS name in the subject alternative names) that members' certificates carry, for client and server use.
pub const MEMBER_NAME: &str = "orlop-store-member";

/// Certificates of a member, PEM.
#[derive(Clone)]
pub struct PeerTls {
    /// The cluster's CA: whoever shows a certificate of it that carries [`MEMBER_NAME`] is a member. Two while the CA itself
    /// changes.
    pub ca: Vec<u8>,
    /// This member's certificate, and those between it and the CA.
    pub cert: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

/// Where certificates come from. Asked for each new connection: so they change without a restart.
pub type TlsSource = Arc<dyn Fn() -> std::io::Result<PeerTls> + Send + Sync>;

/// How a store is one of several members.
pub struct Cluster {
    /// What its operator calls it.
    pub name: String,
    /// Where other members are listened to.
    pub listener: TcpListener,
    /// Where they reach it: `https://HOST:PORT`. An empty list leaves what the members know.
    pub peer_urls: Vec<String>,
    /// Where clients reach it, for them to be told.
    pub client_urls: Vec<String>,
    /// Certificates between members.
    pub tls: TlsSource,
    /// What to do with an empty directory.
    pub start: Start,
}

/// What to do with an empty directory. One with a member in it goes on as that member, always.
#[derive(Clone, Debug)]
pub enum Start {
    /// Found a cluster of one; others join it.
    Found,
    /// Join a cluster, as a member that was added to it.
    Join {
        /// The cluster, as [`Standing::cluster`](crate::Standing::cluster) has it.
        cluster: u64,
        /// The id that [`add_member`](crate::Membership::add_member) returned.
        member: MemberId,
        /// The members, of whom one at least must be reachable.
        members: Vec<Member>,
    },
}
