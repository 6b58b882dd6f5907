//! The tunnels to all other nodes.
//!
//! One VXLAN device without learning. Each other node is one route, one ARP entry and one forwarding entry, all static: no frame is
//! ever flooded. What a node's end is called follows from its pod CIDR, so nodes need to tell each other nothing but what is in
//! their Node objects.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::{
    link, route,
    socket::{Error, Request, Socket},
};

/// Another node, as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// Its pods' addresses.
    pub pods: Ipv4Net,
    /// Its own address.
    pub address: Ipv4Addr,
}

/// The IPv4 pod CIDR of a node, once it has one.
pub fn pod_cidr(node: &Node) -> Option<Ipv4Net> {
    let spec = node.spec.as_ref()?;
    spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr).find_map(|text| text.parse().ok())
}

/// The IPv4 address by which nodes reach each other.
pub fn internal_address(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().filter(|address| address.type_ == "InternalIP").find_map(|address| address.address.parse().ok())
}

/// Every node but this one that can be reached. Of two that claim the same pod CIDR, the first by name wins.
pub fn peers<'a>(nodes: impl IntoIterator<Item = &'a Node>, own: &str, own_cidr: Ipv4Net) -> BTreeSet<Peer> {
    let mut nodes: Vec<_> = nodes.into_iter().filter(|node| node.name_any() != own).collect();
    nodes.sort_by_key(|node| node.name_any());
    let mut claimed = BTreeSet::from([own_cidr]);
    let mut peers = BTreeSet::new();
    for node in nodes {
        if let (Some(pods), Some(address)) = (pod_cidr(node), internal_address(node))
            && claimed.insert(pods)
        {
            peers.insert(Peer { pods, address });
        }
    }
    peers
}

/// Brings the tunnel device to exactly these peers. What the kernel has is read first: nothing is assumed. Returns the number of
/// requests that were needed.
pub fn reconcile(socket: &Socket, device: u32, peers: &BTreeSet<Peer>) -> Result<usize, Error> {
    let tunnel = |peer: &Peer| (peer.address, link::tunnel_mac(peer.pods.network()));
    let end = |peer: &Peer| (peer.pods.network(), link::tunnel_mac(peer.pods.network()));
    let line = |peer: &Peer| (peer.pods, peer.pods.network());
    let mut requests = Vec::new();
    step(
        &mut requests,
        route::forwarding(socket, device)?,
        &peers.iter().map(tunnel).collect(),
        |(node, mac)| route::delete_forwarding(device, mac, node),
        |(node, mac)| route::add_forwarding(device, mac, node),
    );
    step(
        &mut requests,
        route::neighbours(socket, device)?,
        &peers.iter().map(end).collect(),
        |(address, mac)| route::delete_neighbour(device, address, mac),
        |(address, mac)| route::add_neighbour(device, address, mac),
    );
    step(
        &mut requests,
        route::gateways(socket, device)?,
        &peers.iter().map(line).collect(),
        |(to, gateway)| route::delete_onlink(device, to, gateway),
        |(to, gateway)| route::add_onlink(device, to, gateway),
    );
    let count = requests.len();
    if count > 0 {
        socket.apply(requests)?;
    }
    Ok(count)
}

fn step<T: Copy + Ord>(
    requests: &mut Vec<Request>,
    have: Vec<T>,
    want: &BTreeSet<T>,
    delete: impl Fn(T) -> Request,
    add: impl Fn(T) -> Request,
) {
    let have: BTreeSet<T> = have.into_iter().collect();
    requests.extend(have.difference(want).map(|entry| delete(*entry)));
    requests.extend(want.difference(&have).map(|entry| add(*entry)));
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus};

    use super::*;

    fn node(name: &str, cidr: &str, address: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.spec = Some(NodeSpec { pod_cidr: Some(cidr.to_owned()), ..NodeSpec::default() });
        let address = NodeAddress { type_: "InternalIP".to_owned(), address: address.to_owned() };
        node.status = Some(NodeStatus { addresses: Some(vec![address]), ..NodeStatus::default() });
        node
    }

    fn seen(nodes: &[Node]) -> Vec<String> {
        let peers = peers(nodes, "a", "10.42.0.0/24".parse().unwrap());
        peers.iter().map(|peer| format!("{} {}", peer.pods, peer.address)).collect()
    }

    #[test]
    fn every_other_node_with_a_cidr_and_an_address_is_a_peer() {
        let nodes = [
            node("a", "10.42.0.0/24", "10.0.0.1"),
            node("b", "10.42.1.0/24", "10.0.0.2"),
            node("young", "", "10.0.0.3"),
            node("homeless", "10.42.3.0/24", "host.example"),
        ];
        assert_eq!(seen(&nodes), ["10.42.1.0/24 10.0.0.2"]);
    }

    #[test]
    fn a_cidr_that_is_taken_is_not_routed_away() {
        let thief = [node("c", "10.42.0.0/24", "10.0.0.3"), node("b", "10.42.0.0/24", "10.0.0.2")];
        assert_eq!(seen(&thief), [""; 0]);
        let twins = [node("c", "10.42.1.0/24", "10.0.0.3"), node("b", "10.42.1.0/24", "10.0.0.2")];
        assert_eq!(seen(&twins), ["10.42.1.0/24 10.0.0.2"]);
    }
}
