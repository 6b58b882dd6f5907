//! Names that are not the cluster's: asked of the node's own resolvers, and remembered.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

/// The most answers that are remembered.
const CACHED_ANSWERS: u64 = 4096;
/// How long one resolver is waited for before the question is asked again.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How often a question is asked again before it fails.
const ATTEMPTS: usize = 2;
/// How long all of it may take: less than a libc waits (resolv.conf(5): 5 s), so that it hears of the failure.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a failure stands, so that a search path and a libc's further tries do not wait once more each (CoreDNS's `cache`: 5 s).
const FAILURE_TTL: Duration = Duration::from_secs(5);
/// The most failures that are remembered.
const CACHED_FAILURES: usize = 1024;
/// Questions that wait for an answer at one time; further ones fail at once.
const MAX_WAITING: usize = 1024;
/// The port of a name server.
const PORT: u16 = 53;

/// Asks upstream.
pub struct Forwarder {
    resolver: Option<TokioResolver>,
    places: Semaphore,
    failures: Mutex<Failures>,
}

/// Names for which nobody answered, whatever was asked about them, and when that was.
#[derive(Default)]
struct Failures(HashMap<Name, Instant>);

impl Failures {
    fn holds(&self, name: &Name, now: Instant) -> bool {
        self.0.get(name).is_some_and(|then| now.duration_since(*then) < FAILURE_TTL)
    }

    fn note(&mut self, name: Name, now: Instant) {
        if self.0.len() >= CACHED_FAILURES {
            self.0.retain(|_, then| now.duration_since(*then) < FAILURE_TTL);
        }
        if self.0.len() < CACHED_FAILURES {
            self.0.insert(name, now);
        }
    }
}

/// What upstream says.
#[derive(Clone, Debug)]
pub struct Reply {
    /// `NOERROR`, `NXDOMAIN`, or `SERVFAIL` when nobody answered.
    pub code: ResponseCode,
    /// The answer.
    pub records: Vec<Record>,
    /// The zone's own record, which says how long a negative answer holds.
    pub authority: Vec<Record>,
}

impl Forwarder {
    /// Asks these resolvers; with none, every question fails.
    pub fn new(upstream: &[SocketAddr]) -> Result<Self, NetError> {
        let (places, failures) = (Semaphore::new(MAX_WAITING), Mutex::default());
        if upstream.is_empty() {
            return Ok(Self { resolver: None, places, failures });
        }
        let mut options = ResolverOpts::default();
        options.ndots = 0;
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        options.cache_size = CACHED_ANSWERS;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        let servers = upstream.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Ok(Self { resolver: Some(builder.with_options(options).build()?), places, failures })
    }

    /// Asks for a name. Answers within [`DEADLINE`], and at once what has just failed.
    pub async fn ask(&self, name: Name, wanted: RecordType) -> Reply {
        let failed = Reply { code: ResponseCode::ServFail, records: Vec::new(), authority: Vec::new() };
        let Some(resolver) = &self.resolver else { return failed };
        let folded = name.to_lowercase();
        if self.failures.lock().holds(&folded, Instant::now()) {
            return failed;
        }
        let Ok(_place) = self.places.try_acquire() else { return failed };
        match timeout(DEADLINE, resolver.lookup(name.clone(), wanted)).await {
            Ok(Ok(found)) => {
                return Reply { code: ResponseCode::NoError, records: found.answers().to_vec(), authority: Vec::new() };
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(nothing)))) => {
                let soa = nothing.soa.map(|soa| soa.into_record_of_rdata());
                return Reply {
                    code: nothing.response_code,
                    records: Vec::new(),
                    authority: soa.into_iter().collect(),
                };
            }
            Ok(Err(error)) => tracing::debug!(%name, %error, "no upstream resolver answered"),
            Err(_) => tracing::debug!(%name, "no upstream resolver answered within {DEADLINE:?}"),
        }
        self.failures.lock().note(folded, Instant::now());
        failed
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

/// The resolvers of a `resolv.conf`, without `own`, which would ask itself. An unreadable file has none.
pub fn system_resolvers(path: &Path, own: IpAddr) -> Vec<SocketAddr> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.filter(|address| *address != own).map(|address| SocketAddr::new(address, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_remembered_for_a_while_and_not_without_end() {
        let name = |number: usize| Name::from_ascii(format!("n{number}.test.")).unwrap();
        let (mut failures, start) = (Failures::default(), Instant::now());
        for number in 0..=CACHED_FAILURES {
            failures.note(name(number), start);
        }
        assert!(failures.holds(&name(0), start + FAILURE_TTL / 2));
        assert!(!failures.holds(&name(CACHED_FAILURES), start), "there is no place for it");
        assert!(!failures.holds(&name(0), start + FAILURE_TTL));
        failures.note(name(CACHED_FAILURES), start + FAILURE_TTL);
        assert_eq!(failures.0.len(), 1, "old ones make place");
    }

    #[test]
    fn resolvers_are_read_and_the_own_one_is_left_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "search x\n# nameserver 9.9.9.9\nnameserver 10.43.0.10\nnameserver\t1.1.1.1\n").unwrap();
        let found = system_resolvers(file.path(), "10.43.0.10".parse().unwrap());
        assert_eq!(found, ["1.1.1.1:53".parse().unwrap()]);
        assert!(system_resolvers(Path::new("/nowhere"), "10.43.0.10".parse().unwrap()).is_empty());
    }
}
