//! The facts that every part of one cluster must agree on.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Addresses of all pods; each node has a part of them.
pub fn pods() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 16)
}

/// Addresses of all services.
pub fn services() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16)
}

/// The cluster's name server, on every node.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

/// The domain of services and pods.
pub const DOMAIN: &str = "cluster.local";
