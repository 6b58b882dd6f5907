//! The wire between nodes that share one machine: a bridge in a namespace of its own, and one cable per node.
//!
//! A node made this way sees what a machine in a rack sees: an `eth0` with an address, and a default route. Nothing is
//! made in the namespace of whoever calls: the bridge lives in the namespace of the calling thread, which must be a fresh
//! one, and dies with it.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

use ipnet::Ipv4Net;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth},
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::{
    link, route,
    socket::{self, Mode, Request, Socket},
};

/// The bridge's name inside the underlay's namespace.
pub const BRIDGE: &str = "underlay0";

/// The bridge's own address on the wire. Without one it takes the lowest of its cables', which changes as cables are
/// plugged in, and nodes go on talking to the one before.
const MAC: [u8; 6] = [0x0e, 0, 172, 30, 0, 1];

/// The name of every node's end of its cable.
pub const UPLINK: &str = "eth0";

/// Length of the underlay's network prefix, bits.
const PREFIX: u8 = 24;

/// Why the underlay could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {operation} {link} of the underlay")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// On which link.
        link: String,
        /// What the kernel said.
        #[source]
        source: socket::Error,
    },
    /// A link that should be there is not.
    #[error("link {0} of the underlay vanished")]
    Vanished(String),
}

fn failed(operation: &'static str, link: &str) -> impl Fn(socket::Error) -> Error {
    move |source| Error::Netlink { operation, link: link.to_owned(), source }
}

/// Makes the bridge with `gateway` as its address, in the namespace of the calling thread.
pub fn lay(gateway: Ipv4Addr) -> Result<(), Error> {
    let failed = failed("make", BRIDGE);
    let socket = Socket::route().map_err(&failed)?;
    let bridge = RouteNetlinkMessage::NewLink(LinkBridge::new(BRIDGE).address(MAC.to_vec()).up().build());
    socket.apply(vec![Request::new("create the bridge", Mode::Create, bridge), link::up("lo")]).map_err(&failed)?;
    let index = index_of(&socket, BRIDGE)?;
    socket.apply(vec![route::add_address(index, network(gateway))]).map_err(&failed)
}

/// Runs a cable named `cable` from the bridge to the namespace `node`, where its end is [`UPLINK`]. Called in the bridge's
/// namespace; [`configure`] gives the far end its address.
pub fn plug(cable: &str, node: BorrowedFd<'_>) -> Result<(), Error> {
    let socket = Socket::route().map_err(failed("make", cable))?;
    let far = LinkUnspec::new_with_name(UPLINK).setns_by_fd(node.as_raw_fd()).build();
    let near = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(cable)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .controller(index_of(&socket, BRIDGE)?)
        .up();
    let near = RouteNetlinkMessage::NewLink(near.build());
    socket.apply(vec![Request::new("create the cable", Mode::Create, near)]).map_err(failed("make", cable))
}

/// Takes the cable away, both ends at once: its node is gone, or about to get another. Nothing happens without such a cable.
/// Called in the bridge's namespace.
pub fn unplug(cable: &str) -> Result<(), Error> {
    let failed = failed("remove", cable);
    let socket = Socket::route().map_err(&failed)?;
    link::find(&socket, cable).map_err(&failed)?.map_or(Ok(()), |link| link::delete(&socket, &link)).map_err(&failed)
}

/// Pulls the cable out of the bridge, or puts it back: the node stays as it is, and is cut off. Called in the bridge's
/// namespace.
pub fn connect(cable: &str, connected: bool) -> Result<(), Error> {
    let failed = failed("switch", cable);
    let link = LinkUnspec::new_with_name(cable);
    let link = if connected { link.up() } else { link.down() };
    let request = Request::new("switch the cable", Mode::Change, RouteNetlinkMessage::NewLink(link.build()));
    Socket::route().and_then(|socket| socket.apply(vec![request])).map_err(failed)
}

/// Gives the calling thread's [`UPLINK`] its address and the default route.
pub fn configure(address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), Error> {
    let failed = failed("configure", UPLINK);
    let socket = Socket::route().map_err(&failed)?;
    let index = index_of(&socket, UPLINK)?;
    let requests = vec![
        link::up("lo"),
        route::add_address(index, network(address)),
        link::up(UPLINK),
        route::add_default(index, gateway),
    ];
    socket.apply(requests).map_err(&failed)
}

fn network(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(address, PREFIX)
}

fn index_of(socket: &Socket, name: &str) -> Result<u32, Error> {
    let found = link::find(socket, name).map_err(failed("find", name))?;
    found.map(|link| link.index).ok_or_else(|| Error::Vanished(name.to_owned()))
}
