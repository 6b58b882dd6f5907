//! Names to addresses, as resolv.conf(5) says: `/etc/hosts` first, then the name servers along the search path.
//!
//! Written out, because the C library's resolver does not work in a static program.

use std::{
    fs,
    io::{Error, ErrorKind, Result},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);

/// The IPv4 addresses of a name.
pub fn resolve(name: &str) -> Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let listed: Vec<IpAddr> = hosts
        .lines()
        .map(str::split_whitespace)
        .filter(|words| words.clone().skip(1).any(|w| w == name))
        .filter_map(|mut words| words.next()?.parse().ok())
        .collect();
    if !listed.is_empty() {
        return Ok(listed);
    }
    let config = Config::read();
    for candidate in config.candidates(name) {
        let found = config.ask(&candidate)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(Error::new(ErrorKind::NotFound, format!("no such name: {name}")))
}

struct Config {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
}

impl Config {
    fn read() -> Self {
        let mut config = Self { servers: Vec::new(), search: Vec::new(), dots: 1 };
        for line in fs::read_to_string("/etc/resolv.conf").unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => config.servers.extend(words.filter_map(|w| w.parse::<IpAddr>().ok())),
                Some("search") => config.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.find_map(|w| w.strip_prefix("ndots:")?.parse().ok());
                    config.dots = dots.unwrap_or(config.dots);
                }
                _ => {}
            }
        }
        config
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.trim_end_matches('.').to_owned()];
        }
        let mut all: Vec<_> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let at = if name.matches('.').count() >= self.dots { 0 } else { all.len() };
        all.insert(at, name.to_owned());
        all
    }

    fn ask(&self, name: &str) -> Result<Vec<IpAddr>> {
        let mut failed = Error::new(ErrorKind::NotFound, "no name server");
        for server in &self.servers {
            match query(*server, name) {
                Ok(found) => return Ok(found),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// One question for A records (RFC 1035 4.1).
fn query(server: IpAddr, name: &str) -> Result<Vec<IpAddr>> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len()).map_err(|_| Error::other("a label is too long"))?;
        question.push(length);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, 53))?;
    socket.send(&question)?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer)?;
    addresses(&answer[..length], question.len()).ok_or_else(|| Error::other("an answer that makes no sense"))
}

/// The A records of an answer whose first record starts at `at`.
fn addresses(answer: &[u8], mut at: usize) -> Option<Vec<IpAddr>> {
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    let mut found = Vec::new();
    for _ in 0..count {
        while *answer.get(at)? != 0 && *answer.get(at)? < 0xc0 {
            at += usize::from(*answer.get(at)?) + 1;
        }
        at += if *answer.get(at)? >= 0xc0 { 2 } else { 1 };
        let kind = *answer.get(at + 1)?;
        let length = usize::from(u16::from_be_bytes([*answer.get(at + 8)?, *answer.get(at + 9)?]));
        let data = answer.get(at + 10..at + 10 + length)?;
        if let (1, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            found.push(Ipv4Addr::from(octets).into());
        }
        at += 10 + length;
    }
    Some(found)
}
