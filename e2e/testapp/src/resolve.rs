//! Names to addresses: `/etc/hosts`, then DNS over UDP as `/etc/resolv.conf` says (search, ndots, servers).

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// Wait for one answer (resolv.conf(5)).
const TIMEOUT: Duration = Duration::from_secs(5);
/// Tries for each name over all servers (resolv.conf(5)).
const TRIES: u16 = 2;
const A: u16 = 1;
const AAAA: u16 = 28;

/// All addresses of a name, IPv4 first. An address is its own.
pub(crate) fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let hosts = in_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), name);
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    let config = Config::parse(&fs::read_to_string("/etc/resolv.conf")?);
    for candidate in config.candidates(name) {
        let mut addresses = config.ask(&candidate, A)?;
        if addresses.is_empty() {
            addresses = config.ask(&candidate, AAAA)?;
        }
        if !addresses.is_empty() {
            return Ok(addresses);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no such name: {name}")))
}

/// Begins a lookup every so many milliseconds, whether or not earlier ones have ended, and says what became of them.
pub(crate) fn steadily(name: &str, count: u32, millis: u64) -> io::Result<ExitCode> {
    let start = Instant::now();
    let mut lookups = Vec::new();
    for number in 0..count {
        let due = start + Duration::from_millis(millis) * number;
        crate::pause(Some(due.saturating_duration_since(Instant::now())));
        let name = name.to_owned();
        let began = Instant::now();
        lookups.push(thread::spawn(move || resolve(&name).map(|_| began.elapsed())));
    }
    let ended =
        lookups.into_iter().map(|lookup| lookup.join().unwrap_or_else(|_| Err(io::Error::other("it panicked"))));
    let (answered, failed): (Vec<_>, Vec<_>) = ended.partition(Result::is_ok);
    let slowest = answered.iter().flatten().max().copied().unwrap_or_default();
    writeln!(io::stdout(), "{} answered, {} failed, slowest {} ms", answered.len(), failed.len(), slowest.as_millis())?;
    failed.iter().filter_map(|lookup| lookup.as_ref().err()).try_for_each(|error| writeln!(io::stdout(), "{error}"))?;
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let line = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    hosts.lines().filter_map(line).collect()
}

struct Config {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl Config {
    fn parse(text: &str) -> Config {
        let mut config = Config { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["nameserver", address, ..] => config.servers.extend(address.parse::<IpAddr>()),
                ["search", domains @ ..] => config.search = domains.iter().map(|domain| (*domain).to_owned()).collect(),
                ["options", options @ ..] => {
                    let ndots = options.iter().find_map(|option| option.strip_prefix("ndots:")?.parse().ok());
                    config.ndots = ndots.unwrap_or(config.ndots);
                }
                _ => {}
            }
        }
        config
    }

    /// Full names in the order they are tried.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let at = if name.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(at, name.to_owned());
        names
    }

    /// The addresses of a full name; empty if there is no such name or it has none of this type.
    fn ask(&self, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "/etc/resolv.conf names no server");
        for number in 0..TRIES {
            for server in &self.servers {
                match exchange(*server, name, kind, number) {
                    Ok(addresses) => return Ok(addresses),
                    Err(error) => failed = io::Error::new(error.kind(), format!("{name} asked of {server}: {error}")),
                }
            }
        }
        Err(failed)
    }
}

fn exchange(server: IpAddr, name: &str, kind: u16, number: u16) -> io::Result<Vec<IpAddr>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect((server, 53))?;
    let id = (std::process::id() as u16) ^ (number << 12) ^ kind;
    socket.send(&question(id, name, kind)?)?;
    let mut answer = [0; 4096];
    loop {
        let size = socket.recv(&mut answer)?;
        if size >= 12 && answer[..2] == id.to_be_bytes() {
            return addresses(&answer[..size], kind).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
}

fn question(id: u16, name: &str, kind: u16) -> io::Result<Vec<u8>> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name")));
        }
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    Ok(bytes)
}

/// None for an answer that is malformed or says that the server failed.
fn addresses(answer: &[u8], kind: u16) -> Option<Vec<IpAddr>> {
    match answer[3] & 15 {
        0 => {}
        3 => return Some(Vec::new()),
        _ => return None,
    }
    let count = |at: usize| answer.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut at = 12;
    for _ in 0..count(4)? {
        at = skip_name(answer, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..count(6)? {
        at = skip_name(answer, at)?;
        let (this, length) = (count(at)?, usize::from(count(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        match (this, data.len()) {
            (A, 4) if kind == A => found.push(<[u8; 4]>::try_from(data).ok()?.into()),
            (AAAA, 16) if kind == AAAA => found.push(<[u8; 16]>::try_from(data).ok()?.into()),
            _ => {}
        }
        at += 10 + length;
    }
    Some(found)
}

fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_domains_come_first_below_ndots() {
        let config = Config::parse("search a.svc b\nnameserver 10.0.0.1\nnameserver bad\noptions ndots:2 x\n");
        assert_eq!(config.servers, [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(config.candidates("web"), ["web.a.svc", "web.b", "web"]);
        assert_eq!(config.candidates("web.x.y"), ["web.x.y", "web.x.y.a.svc", "web.x.y.b"]);
        assert_eq!(config.candidates("web."), ["web"]);
    }

    #[test]
    fn answers_are_read_and_damage_is_refused() {
        let mut answer = question(7, "web.default", A).unwrap();
        answer[2] |= 0x80;
        answer[7] = 2;
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 1, 0, 2, 0xc0, 12]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 42, 0, 9]);
        assert_eq!(addresses(&answer, A), Some(vec![IpAddr::from([10, 42, 0, 9])]));
        assert_eq!(addresses(&answer[..answer.len() - 1], A), None);
        answer[3] = 3;
        assert_eq!(addresses(&answer, A), Some(Vec::new()));
        answer[3] = 2;
        assert_eq!(addresses(&answer, A), None);
        assert!(question(1, "a..b", A).is_err());
    }

    #[test]
    fn hosts_win() {
        let hosts = "# x\n127.0.0.1 localhost\n10.0.0.9\tweb-0 WEB # me\n::1 localhost";
        assert_eq!(in_hosts(hosts, "web"), [IpAddr::from([10, 0, 0, 9])]);
        assert_eq!(in_hosts(hosts, "localhost").len(), 2);
        assert!(in_hosts(hosts, "me").is_empty());
    }
}
