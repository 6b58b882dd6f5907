//! The name server's sockets. Whoever holds them keeps the questions that nobody reads at the moment: they wait in the
//! kernel, and the next server answers them. That is how no lookup fails while an agent is restarted.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt::{IpFreebind, RcvBufForce, ReuseAddr},
};

use super::server::Error;

/// Questions over UDP that may wait, in bytes as the kernel counts them (some 800 each).
const WAITING_BYTES: usize = 4 << 20;
/// Connections that may wait. The kernel's own limit is `net.core.somaxconn`.
const WAITING_CONNECTIONS: i32 = 1024;

/// A UDP and a TCP socket on the name server's address.
#[derive(Debug)]
pub struct Listeners {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Listeners {
    /// Opens them; no interface need have the address yet.
    ///
    /// # Errors
    /// When somebody else has them.
    pub fn open(address: SocketAddrV4) -> Result<Self, Error> {
        let open = || -> io::Result<Self> {
            let udp = bound(address, SockType::Datagram)?;
            setsockopt(&udp, RcvBufForce, &WAITING_BYTES)?;
            let tcp = bound(address, SockType::Stream)?;
            listen(&tcp, Backlog::new(WAITING_CONNECTIONS)?)?;
            Ok(Self { udp: udp.into(), tcp: tcp.into() })
        };
        open().map_err(|source| Error { address: address.into(), source })
    }

    /// Takes over those that somebody kept, if they are on that address: UDP, then TCP, as [`Listeners::share`] gave them.
    pub fn adopt(address: SocketAddrV4, kept: Vec<OwnedFd>) -> Option<Self> {
        let [udp, tcp]: [OwnedFd; 2] = kept.try_into().ok()?;
        let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
        let wanted = SocketAddr::from(address);
        let fits = udp.local_addr().ok()? == wanted && tcp.local_addr().ok()? == wanted;
        fits.then_some(Self { udp, tcp })
    }

    /// Descriptors of the same sockets, for whoever is to keep them.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn share(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.udp.try_clone()?.into(), self.tcp.try_clone()?.into()])
    }

    /// For a server to read from.
    pub(super) fn read(self) -> Result<(tokio::net::UdpSocket, tokio::net::TcpListener), Error> {
        let address = self.udp.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let Self { udp, tcp } = self;
        let convert = || {
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((tokio::net::UdpSocket::from_std(udp)?, tokio::net::TcpListener::from_std(tcp)?))
        };
        convert().map_err(|source| Error { address, source })
    }
}

fn bound(address: SocketAddrV4, kind: SockType) -> io::Result<OwnedFd> {
    let descriptor = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&descriptor, IpFreebind, &true)?;
    if kind == SockType::Stream {
        // connections of an earlier server that the kernel still remembers are no obstacle
        setsockopt(&descriptor, ReuseAddr, &true)?;
    }
    bind(descriptor.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(descriptor)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    #[test]
    fn what_was_asked_meanwhile_waits_for_the_next_server() {
        let first = Listeners::open(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        // two sockets on a port that the kernel chose: the second may be taken, which says nothing here
        let Ok(first) = first.and_then(|found| {
            let port = found.udp.local_addr().map_or(0, |address| address.port());
            drop(found);
            Listeners::open(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
        }) else {
            panic!("a free port is free for TCP as well");
        };
        let SocketAddr::V4(address) = first.udp.local_addr().unwrap() else { panic!("IPv4") };
        let kept = first.share().unwrap();
        drop(first);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for number in 0..500_u16 {
            client.send_to(&number.to_be_bytes(), address).unwrap();
        }
        let second = Listeners::adopt(address, kept).unwrap();
        second.udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for number in 0..500_u16 {
            let mut bytes = [0; 2];
            second.udp.recv(&mut bytes).unwrap();
            assert_eq!(bytes, number.to_be_bytes());
        }
        let other = SocketAddrV4::new(Ipv4Addr::LOCALHOST, address.port() ^ 1);
        assert!(Listeners::adopt(other, second.share().unwrap()).is_none(), "they are on another address");
        assert!(Listeners::adopt(address, Vec::new()).is_none(), "nothing was kept");
    }
}
