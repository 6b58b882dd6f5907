//! Echo: TCP and UDP on one port.

use std::{
    io,
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    thread,
};

/// Answers until it is killed.
pub(crate) fn echo(port: u16) -> io::Result<()> {
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))?;
    let tcp = listen(port)?;
    thread::spawn(move || {
        let mut bytes = [0; 65536];
        while let Ok((size, from)) = udp.recv_from(&mut bytes) {
            // A lost answer is what UDP is.
            drop(udp.send_to(&bytes[..size], from));
        }
    });
    for stream in tcp.incoming().flatten() {
        thread::spawn(move || -> io::Result<u64> {
            let mut from: TcpStream = stream.try_clone()?;
            io::copy(&mut from, &mut &stream)
        });
    }
    Ok(())
}

/// On all addresses; a machine without IPv6 has the others.
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}
