//! Names that are not the cluster's: asked of the node's own resolvers, and remembered.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
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
use tokio::sync::Semaphore;

/// The most answers that are remembered.
const CACHED_ANSWERS: u64 = 4096;
/// How long one resolver is waited for.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often a question is asked again before it fails.
const ATTEMPTS: usize = 2;
/// Questions that wait for an answer at one time; further ones fail at once.
const MAX_WAITING: usize = 1024;
/// The port of a name server.
const PORT: u16 = 53;

/// Asks upstream.
pub struct Forwarder {
    resolver: Option<TokioResolver>,
    places: Semaphore,
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
        let places = Semaphore::new(MAX_WAITING);
        if upstream.is_empty() {
            return Ok(Self { resolver: None, places });
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
        Ok(Self { resolver: Some(builder.with_options(options).build()?), places })
    }

    /// Asks for a name.
    pub async fn ask(&self, name: Name, wanted: RecordType) -> Reply {
        let failed = Reply { code: ResponseCode::ServFail, records: Vec::new(), authority: Vec::new() };
        let Some(resolver) = &self.resolver else { return failed };
        let Ok(_place) = self.places.try_acquire() else { return failed };
        match resolver.lookup(name.clone(), wanted).await {
            Ok(found) => {
                Reply { code: ResponseCode::NoError, records: found.answers().to_vec(), authority: Vec::new() }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                let soa = nothing.soa.map(|soa| soa.into_record_of_rdata());
                Reply { code: nothing.response_code, records: Vec::new(), authority: soa.into_iter().collect() }
            }
            Err(error) => {
                tracing::debug!(%name, %error, "no upstream resolver answered");
                failed
            }
        }
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
    fn resolvers_are_read_and_the_own_one_is_left_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "search x\n# nameserver 9.9.9.9\nnameserver 10.43.0.10\nnameserver\t1.1.1.1\n").unwrap();
        let found = system_resolvers(file.path(), "10.43.0.10".parse().unwrap());
        assert_eq!(found, ["1.1.1.1:53".parse().unwrap()]);
        assert!(system_resolvers(Path::new("/nowhere"), "10.43.0.10".parse().unwrap()).is_empty());
    }
}
