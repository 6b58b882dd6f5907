//! Network interfaces: the bridge, the veth pairs of pods, the VXLAN device.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkInfo,
        LinkMessage,
    },
};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use crate::socket::{Error, Mode, Request, Socket};

/// The node's bridge: every pod's gateway.
pub const BRIDGE: &str = "orlop0";
/// The node's end of the tunnels to all other nodes.
pub const VXLAN: &str = "orlop.vx";
/// VXLAN network identifier of the pod network.
pub const VNI: u32 = 4242;
/// UDP port of the tunnels: Linux' own, as flannel uses it, not IANA's 4789, which some clouds filter.
pub const VXLAN_PORT: u16 = 8472;
/// Bytes that VXLAN over IPv4 adds to a packet.
pub const VXLAN_OVERHEAD: u32 = 50;
/// How the node's ends of veth pairs begin.
const PORT_PREFIX: &str = "orlv";
/// The pod's end.
pub const POD_DEVICE: &str = "eth0";

/// An Ethernet address.
pub type Mac = [u8; 6];

/// An interface as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its largest packet in bytes.
    pub mtu: u32,
    /// The number of the bridge that it is a port of.
    pub bridge: Option<u32>,
    /// The tunnel's parameters, if it is one: VNI, local address, port.
    pub tunnel: Option<(u32, Option<Ipv4Addr>, u16)>,
    /// Its Ethernet address.
    pub mac: Vec<u8>,
}

/// The name of the node's end of the pair of the pod with this address.
pub fn port_name(pod: Ipv4Addr) -> String {
    format!("{PORT_PREFIX}{:08x}", u32::from(pod))
}

/// The Ethernet address that goes with an address: the same for every pod that ever has it, so that no neighbour entry is ever stale.
/// `0a:58` is locally administered, and what CNI's bridge plugin uses.
pub fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// The Ethernet address of a node's tunnel end, derived from the base address of its pod CIDR.
pub fn tunnel_mac(base: Ipv4Addr) -> Mac {
    let [a, b, c, d] = base.octets();
    [0x0a, 0x56, a, b, c, d]
}

/// The interface of that name.
pub fn find(socket: &Socket, name: &str) -> Result<Option<Link>, Error> {
    let message = LinkUnspec::new_with_name(name).build();
    let found = socket.get(&format!("find interface {name}"), RouteNetlinkMessage::GetLink(message))?;
    Ok(found.and_then(link_of))
}

/// All interfaces of this namespace.
pub fn list(socket: &Socket) -> Result<Vec<Link>, Error> {
    let found = socket.dump("list interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(found.into_iter().filter_map(link_of).collect())
}

/// The node's ends of pods' pairs.
pub fn ports(socket: &Socket) -> Result<Vec<Link>, Error> {
    Ok(list(socket)?.into_iter().filter(|link| link.name.starts_with(PORT_PREFIX)).collect())
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let (name, mac, bridge) = (String::new(), Vec::new(), None);
    let mut link = Link { index: message.header.index, name, mtu: 0, bridge, tunnel: None, mac };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(bridge) => link.bridge = Some(bridge),
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::LinkInfo(infos) => link.tunnel = tunnel_of(&infos),
            _ => {}
        }
    }
    Some(link)
}

fn tunnel_of(infos: &[LinkInfo]) -> Option<(u32, Option<Ipv4Addr>, u16)> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    let mut tunnel = (0, None, 0);
    for info in data {
        match info {
            InfoVxlan::Id(vni) => tunnel.0 = *vni,
            InfoVxlan::Local(address) => tunnel.1 = Some(*address),
            InfoVxlan::Port(port) => tunnel.2 = *port,
            _ => {}
        }
    }
    Some(tunnel)
}

/// A message that sets an existing interface up, without an IPv6 address of the kernel's own making. A kernel without IPv6 refuses
/// to be asked for that, and so does every kernel while the interface is being created.
fn set_up<T>(builder: LinkMessageBuilder<T>) -> RouteNetlinkMessage {
    let mut builder = builder.up();
    if Path::new("/proc/sys/net/ipv6").exists() {
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        builder = builder.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![inet6]));
    }
    RouteNetlinkMessage::NewLink(builder.build())
}

/// Makes the bridge, or brings an existing one into this state. Returns its number.
pub fn ensure_bridge(socket: &Socket, mac: Mac, mtu: u32) -> Result<u32, Error> {
    let create = LinkBridge::new(BRIDGE).mcast_snooping(false).address(mac.to_vec());
    let create = RouteNetlinkMessage::NewLink(create.build());
    let change = set_up(LinkUnspec::new_with_name(BRIDGE).address(mac.to_vec()).mtu(mtu));
    socket.apply(vec![
        Request::new(format!("create bridge {BRIDGE}"), Mode::Create, create).tolerate(&[Errno::EEXIST]),
        Request::new(format!("set up bridge {BRIDGE}"), Mode::Change, change),
    ])?;
    index_of(socket, BRIDGE)
}

/// Makes the VXLAN device; one with another identifier or local address is replaced. Returns its number.
pub fn ensure_vxlan(socket: &Socket, local: Ipv4Addr, underlay: u32, mac: Mac, mtu: u32) -> Result<u32, Error> {
    let wanted = Some((VNI, Some(local), VXLAN_PORT));
    if let Some(link) = find(socket, VXLAN)?
        && (link.tunnel != wanted || link.mac != mac)
    {
        delete(socket, &link)?;
    }
    let create = LinkVxlan::new(VXLAN, VNI).local(local).dev(underlay).port(VXLAN_PORT).learning(false);
    let create = create.address(mac.to_vec()).mtu(mtu).build();
    let change = set_up(LinkUnspec::new_with_name(VXLAN).mtu(mtu));
    socket.apply(vec![
        Request::new(format!("create tunnel {VXLAN}"), Mode::Create, RouteNetlinkMessage::NewLink(create))
            .tolerate(&[Errno::EEXIST]),
        Request::new(format!("set up tunnel {VXLAN}"), Mode::Change, change),
    ])?;
    index_of(socket, VXLAN)
}

fn index_of(socket: &Socket, name: &str) -> Result<u32, Error> {
    let gone = || Error::Refused { operation: format!("find interface {name}"), source: Errno::ENODEV };
    find(socket, name)?.map(|link| link.index).ok_or_else(gone)
}

/// Makes a pair: one end a port of the bridge, the other [`POD_DEVICE`] in the pod's namespace, where it is born.
///
/// Hairpin mode lets a pod reach itself through a service even where the host insists on `bridge-nf-call-iptables`.
pub fn create_pair(socket: &Socket, pod: Ipv4Addr, netns: &File, bridge: u32, mtu: u32) -> Result<(), Error> {
    let name = port_name(pod);
    let attempt = || socket.apply(pair(&name, mac_of(pod), netns.as_raw_fd(), bridge, mtu));
    match attempt() {
        // a namespace that died a moment ago may still hold the name
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            if let Some(stale) = find(socket, &name)? {
                delete(socket, &stale)?;
            }
            attempt()
        }
        other => other,
    }
}

fn pair(name: &str, mac: Mac, netns: RawFd, bridge: u32, mtu: u32) -> Vec<Request> {
    let peer = LinkUnspec::new_with_name(POD_DEVICE).address(mac.to_vec()).mtu(mtu).setns_by_fd(netns).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge)
        .mtu(mtu);
    let pair = RouteNetlinkMessage::NewLink(pair.build());
    let port = set_up(LinkBridgePort::new(0).name(name).hairpin(true));
    vec![
        Request::new(format!("create interface {name}"), Mode::Create, pair),
        Request::new(format!("set up interface {name}"), Mode::Change, port),
    ]
}

/// Deletes an interface; one that is gone is no error. Takes some 20 ms in the kernel: pairs are dropped with their namespace.
pub fn delete(socket: &Socket, link: &Link) -> Result<(), Error> {
    let message = LinkUnspec::new_with_index(link.index).build();
    let request =
        Request::new(format!("delete interface {}", link.name), Mode::Change, RouteNetlinkMessage::DelLink(message));
    socket.apply(vec![request.tolerate(&[Errno::ENODEV])])
}

/// A request to set an interface up.
pub fn up(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).up().build();
    Request::new(format!("set up interface {name}"), Mode::Change, RouteNetlinkMessage::NewLink(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_follow_from_the_pods_address() {
        let pod: Ipv4Addr = "10.42.255.7".parse().unwrap();
        assert_eq!(port_name(pod), "orlv0a2aff07");
        assert!(port_name(pod).len() <= 15, "the kernel's limit");
        assert_eq!(mac_of(pod), [0x0a, 0x58, 10, 42, 255, 7]);
        assert_eq!(mac_of(pod)[0] & 0b11, 0b10, "locally administered, unicast");
        assert_eq!(tunnel_mac(pod)[0] & 0b11, 0b10, "locally administered, unicast");
    }
}
