//! Asking by opening a connection.

use std::net::IpAddr;

use tokio::net::TcpStream;

/// Whether somebody listens there.
pub async fn ask(host: Option<&str>, port: u16, ip: IpAddr) -> Result<(), String> {
    let opened = match host.filter(|h| !h.is_empty()) {
        Some(host) => TcpStream::connect((host, port)).await,
        None => TcpStream::connect((ip, port)).await,
    };
    opened.map(drop).map_err(|error| format!("dial tcp {}:{port}: {error}", host.map_or(ip.to_string(), Into::into)))
}
