//! Addresses, routes and neighbours.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
};
use nix::errno::Errno;
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use crate::{
    link::Mac,
    socket::{Error, Mode, Request, Socket},
};

/// The number of the interface that has this address.
pub fn device_of(socket: &Socket, address: Ipv4Addr) -> Result<Option<u32>, Error> {
    let found = socket.dump("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let has = |message: &AddressMessage| message.attributes.contains(&AddressAttribute::Local(IpAddr::V4(address)));
    Ok(found.into_iter().find_map(|message| match message {
        RouteNetlinkMessage::NewAddress(message) if has(&message) => Some(message.header.index),
        _ => None,
    }))
}

/// The IPv4 addresses of an interface.
pub fn addresses(socket: &Socket, device: u32) -> Result<Vec<Ipv4Net>, Error> {
    let found = socket.dump("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let of_device = found.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == device => Some(message),
        _ => None,
    });
    let net = |message: AddressMessage| {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })?;
        Ipv4Net::new(local, message.header.prefix_len).ok()
    };
    Ok(of_device.filter_map(net).collect())
}

/// A request to give an interface an address.
pub fn add_address(device: u32, address: Ipv4Net) -> Request {
    let message = AddressMessageBuilder::<Ipv4Addr>::new().index(device).address(address.addr(), address.prefix_len());
    let message = RouteNetlinkMessage::NewAddress(message.build());
    Request::new(format!("add address {address}"), Mode::Replace, message)
}

/// A request to take an address away.
pub fn delete_address(device: u32, address: Ipv4Net) -> Request {
    let message = AddressMessageBuilder::<Ipv4Addr>::new().index(device).address(address.addr(), address.prefix_len());
    let message = RouteNetlinkMessage::DelAddress(message.build());
    Request::new(format!("delete address {address}"), Mode::Change, message).tolerate(&[Errno::EADDRNOTAVAIL])
}

/// A request for a route to what is directly reachable through an interface.
pub fn add_direct(device: u32, to: Ipv4Net, source: Option<Ipv4Addr>) -> Request {
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.network(), to.prefix_len())
        .output_interface(device)
        .scope(RouteScope::Link);
    if let Some(source) = source {
        route = route.pref_source(source);
    }
    Request::new(format!("add route to {to}"), Mode::Replace, RouteNetlinkMessage::NewRoute(route.build()))
}

/// A request for the route to everything else.
pub fn add_default(device: u32, gateway: Ipv4Addr) -> Request {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .gateway(gateway)
        .output_interface(device);
    let message = RouteNetlinkMessage::NewRoute(route.build());
    Request::new(format!("add default route via {gateway}"), Mode::Replace, message)
}

/// A request for a route through a gateway that is taken to be on the link whatever the addresses say.
pub fn add_onlink(device: u32, to: Ipv4Net, gateway: Ipv4Addr) -> Request {
    Request::new(
        format!("add route to {to}"),
        Mode::Replace,
        RouteNetlinkMessage::NewRoute(onlink(device, to, gateway)),
    )
}

/// Takes [`add_onlink`] back.
pub fn delete_onlink(device: u32, to: Ipv4Net, gateway: Ipv4Addr) -> Request {
    let mut route = onlink(device, to, gateway);
    // whoever made it, and however
    (route.header.protocol, route.header.scope) = (RouteProtocol::Unspec, RouteScope::NoWhere);
    let message = RouteNetlinkMessage::DelRoute(route);
    Request::new(format!("delete route to {to}"), Mode::Change, message).tolerate(&[Errno::ESRCH])
}

fn onlink(device: u32, to: Ipv4Net, gateway: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.network(), to.prefix_len())
        .gateway(gateway)
        .output_interface(device)
        .onlink()
        .build()
}

/// The IPv4 routes of an interface that have a gateway, as (destination, gateway).
pub fn gateways(socket: &Socket, device: u32) -> Result<Vec<(Ipv4Net, Ipv4Addr)>, Error> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let found = socket.dump("list routes", RouteNetlinkMessage::GetRoute(all))?;
    let routes = found.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    });
    let parse = |route: RouteMessage| {
        let (mut to, mut gateway, mut through) = (None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(*address),
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
                RouteAttribute::Oif(index) => through = Some(*index),
                _ => {}
            }
        }
        if through != Some(device) {
            return None;
        }
        Some((Ipv4Net::new(to?, route.header.destination_prefix_length).ok()?, gateway?))
    };
    Ok(routes.filter_map(parse).collect())
}

/// A request for a permanent entry of the ARP table.
pub fn add_neighbour(device: u32, address: Ipv4Addr, mac: Mac) -> Request {
    let message = neighbour(device, AddressFamily::Inet, address, mac);
    Request::new(format!("add neighbour {address}"), Mode::Replace, RouteNetlinkMessage::NewNeighbour(message))
}

/// Takes [`add_neighbour`] back.
pub fn delete_neighbour(device: u32, address: Ipv4Addr, mac: Mac) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(neighbour(device, AddressFamily::Inet, address, mac));
    Request::new(format!("delete neighbour {address}"), Mode::Change, message).tolerate(&[Errno::ENOENT])
}

/// A request for an entry of a VXLAN device's forwarding table: frames to `mac` go to the node at `node`.
pub fn add_forwarding(device: u32, mac: Mac, node: Ipv4Addr) -> Request {
    let message = neighbour(device, AddressFamily::Bridge, node, mac);
    Request::new(format!("add tunnel to {node}"), Mode::Replace, RouteNetlinkMessage::NewNeighbour(message))
}

/// Takes [`add_forwarding`] back.
pub fn delete_forwarding(device: u32, mac: Mac, node: Ipv4Addr) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(neighbour(device, AddressFamily::Bridge, node, mac));
    Request::new(format!("delete tunnel to {node}"), Mode::Change, message).tolerate(&[Errno::ENOENT])
}

fn neighbour(device: u32, family: AddressFamily, address: Ipv4Addr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let flags = if family == AddressFamily::Bridge { NeighbourFlags::Own } else { NeighbourFlags::empty() };
    message.header =
        NeighbourHeader { family, ifindex: device, state: NeighbourState::Permanent, flags, ..Default::default() };
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    message
}

/// The permanent ARP entries of an interface.
pub fn neighbours(socket: &Socket, device: u32) -> Result<Vec<(Ipv4Addr, Mac)>, Error> {
    permanent(socket, device, AddressFamily::Inet)
}

/// The entries of a VXLAN device's forwarding table.
pub fn forwarding(socket: &Socket, device: u32) -> Result<Vec<(Ipv4Addr, Mac)>, Error> {
    permanent(socket, device, AddressFamily::Bridge)
}

fn permanent(socket: &Socket, device: u32, family: AddressFamily) -> Result<Vec<(Ipv4Addr, Mac)>, Error> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    let found = socket.dump("list neighbours", RouteNetlinkMessage::GetNeighbour(request))?;
    let parse = |message| {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        if message.header.ifindex != device || message.header.state != NeighbourState::Permanent {
            return None;
        }
        let (mut address, mut mac) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => address = Some(to),
                // the library takes the address of a forwarding entry for bytes, as its family is not an address family
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                    address = <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes).ok(),
                _ => {}
            }
        }
        Some((address?, mac?))
    };
    Ok(found.into_iter().filter_map(parse).collect())
}
