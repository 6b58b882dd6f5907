//! The wire between nodes that share one machine: a bridge in a namespace of its own, and one cable per node.
//!
//! A node made this way sees what a machine in a rack sees: an `eth0` with an address, and a default route. Nothing is
//! made in the namespace of whoever calls: the bridge lives in the namespace of the calling thread, which must be a fresh
//! one, and dies with it.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use futures::TryStreamExt;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// The bridge's name inside the underlay's namespace.
pub const BRIDGE: &str = "underlay0";

/// The name of every node's end of its cable.
pub const UPLINK: &str = "eth0";

/// Length of the underlay's network prefix, bits.
const PREFIX: u8 = 24;

/// Why the underlay could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket, or no runtime for it.
    #[error("cannot open netlink for the underlay")]
    Open(#[source] std::io::Error),
    /// The kernel refused.
    #[error("cannot {operation} {link} of the underlay")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// On which link.
        link: String,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// A link that was just made is not there.
    #[error("link {0} of the underlay vanished")]
    Vanished(String),
}

fn failed(operation: &'static str, link: &str) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| Error::Netlink { operation, link: link.to_owned(), source }
}

/// Makes the bridge with `gateway` as its address, in the namespace of the calling thread.
pub fn lay(gateway: Ipv4Addr) -> Result<(), Error> {
    with_netlink(async |handle| {
        let bridge = LinkMessageBuilder::<LinkBridge>::new(BRIDGE).up().build();
        handle.link().add(bridge).execute().await.map_err(failed("make", BRIDGE))?;
        let index = index_of(&handle, BRIDGE).await?;
        let address = IpAddr::V4(gateway);
        handle.address().add(index, address, PREFIX).execute().await.map_err(failed("address", BRIDGE))?;
        up(&handle, "lo").await
    })
}

/// Runs a cable named `cable` from the bridge to the namespace `node`, where its end is [`UPLINK`]. Called in the bridge's
/// namespace; [`configure`] gives the far end its address.
pub fn plug(cable: &str, node: BorrowedFd<'_>) -> Result<(), Error> {
    with_netlink(async |handle| {
        let veth = LinkMessageBuilder::<LinkVeth>::new(cable, UPLINK).up().build();
        let far = LinkUnspec::new_with_name(UPLINK).setns_by_fd(node.as_raw_fd()).build();
        handle.link().add(veth).execute().await.map_err(failed("make", cable))?;
        handle.link().change(far).execute().await.map_err(failed("move", UPLINK))?;
        let bridge = index_of(&handle, BRIDGE).await?;
        let near = LinkUnspec::new_with_name(cable).controller(bridge).up().build();
        handle.link().change(near).execute().await.map_err(failed("attach", cable))
    })
}

/// Pulls the cable out of the bridge, or puts it back: the node stays as it is, and is cut off. Called in the bridge's
/// namespace.
pub fn connect(cable: &str, connected: bool) -> Result<(), Error> {
    with_netlink(async |handle| {
        let link = LinkUnspec::new_with_name(cable);
        let link = if connected { link.up() } else { link.down() };
        handle.link().change(link.build()).execute().await.map_err(failed("switch", cable))
    })
}

/// Gives the calling thread's [`UPLINK`] its address and the default route.
pub fn configure(address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), Error> {
    with_netlink(async |handle| {
        up(&handle, "lo").await?;
        let index = index_of(&handle, UPLINK).await?;
        let ip = IpAddr::V4(address);
        handle.address().add(index, ip, PREFIX).execute().await.map_err(failed("address", UPLINK))?;
        up(&handle, UPLINK).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        handle.route().add(route).execute().await.map_err(failed("route through", UPLINK))
    })
}

async fn up(handle: &Handle, name: &str) -> Result<(), Error> {
    let link = LinkUnspec::new_with_name(name).up().build();
    handle.link().change(link).execute().await.map_err(failed("raise", name))
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await.map_err(failed("find", name))?;
    link.map(|l| l.header.index).ok_or_else(|| Error::Vanished(name.to_owned()))
}

/// Runs `work` with a netlink socket of the calling thread's namespace.
fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Open)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        let driver = tokio::spawn(connection);
        let done = work(handle).await;
        driver.abort();
        done
    })
}
