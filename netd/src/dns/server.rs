//! What comes in over UDP and TCP: questions to the zone, or to upstream.
//!
//! # The search path in one round trip
//! A pod's `resolv.conf` makes its libc ask for `example.com.NS.svc.DOMAIN` first, and then three times more. A name of that form that
//! does not exist, asked by a pod of this node that lives in that very namespace, is therefore looked up along the whole
//! search path here, and answered with an alias to what was found.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use hickory_proto::{
    op::{Edns, Metadata, OpCode, ResponseCode},
    rr::{
        Name, RData, Record as Wire, RecordType,
        rdata::{A, CNAME, NS, PTR, SOA, SRV},
    },
};
use hickory_server::{
    Server,
    net::{NetError, runtime::Time},
    proto::op::MessageType,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::net::{TcpListener, UdpSocket};

use super::{
    Listeners,
    forward::Forwarder,
    zone::{Answer, Data, Record, TTL, Type, Zone},
};

/// The largest answer over UDP in bytes, whatever the client would take: larger ones are cut into fragments, which get lost
/// (DNS flag day 2020).
const MAX_UDP_BYTES: u16 = 1232;
/// The smallest that every client takes (RFC 1035).
const MIN_UDP_BYTES: u16 = 512;
/// A TCP connection without a question is closed after this.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that wait for one TCP connection.
const TCP_QUEUE: usize = 32;
/// Aliases that are followed from one to the next.
const MAX_ALIASES: usize = 8;

/// Tells in which namespace the pod of an address lives; `None` for anybody else.
pub type Namespaces = dyn Fn(IpAddr) -> Option<String> + Send + Sync;

/// The zone as it is now; none until the first one is complete.
pub type Current = Arc<ArcSwapOption<Zone>>;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for DNS on {address}")]
pub struct Error {
    /// Where.
    pub address: SocketAddr,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// A server that does not read its sockets yet.
pub struct Responder {
    udp: UdpSocket,
    tcp: TcpListener,
    handler: Handler,
}

impl Responder {
    /// One for the names below `domain`. Questions wait in the sockets until it runs.
    ///
    /// # Errors
    /// When the sockets cannot be read from.
    pub fn new(
        listeners: Listeners,
        domain: &str,
        zone: Current,
        forwarder: Forwarder,
        namespaces: Box<Namespaces>,
    ) -> Result<Self, Error> {
        let (udp, tcp) = listeners.read()?;
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        Ok(Self { udp, tcp, handler: Handler { domain, zone, forwarder, namespaces } })
    }

    /// Answers until it is dropped.
    ///
    /// # Errors
    /// When a socket fails.
    pub async fn run(self) -> Result<(), NetError> {
        let mut server = Server::new(self.handler);
        server.register_socket(self.udp);
        server.register_listener(self.tcp, TCP_IDLE, TCP_QUEUE);
        server.block_until_done().await
    }
}

struct Handler {
    domain: String,
    zone: Current,
    forwarder: Forwarder,
    namespaces: Box<Namespaces>,
}

/// An answer on its way out.
#[derive(Default)]
struct Outcome {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Wire>,
    authority: Vec<Wire>,
    additional: Vec<Wire>,
}

impl Outcome {
    fn failed(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut reply: R) -> ResponseInfo {
        let outcome = self.outcome(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = outcome.code;
        metadata.authoritative = outcome.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(MIN_UDP_BYTES, MAX_UDP_BYTES)).set_version(0);
            edns
        });
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let response = builder.build(metadata, &outcome.answers, &outcome.authority, [], &outcome.additional);
        match reply.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "cannot answer a DNS question");
                let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                metadata.response_code = ResponseCode::ServFail;
                hickory_proto::op::Header { metadata, counts: Default::default() }.into()
            }
        }
    }
}

impl Handler {
    async fn outcome(&self, request: &Request) -> Outcome {
        if request.metadata.op_code != OpCode::Query {
            return Outcome::failed(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Outcome::failed(ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else { return Outcome::failed(ResponseCode::FormErr) };
        let (asked, wanted) = (info.query.original().name().clone(), info.query.query_type());
        if matches!(wanted, RecordType::AXFR | RecordType::IXFR) {
            return Outcome::failed(ResponseCode::Refused);
        }
        let name = asked.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let zone = self.zone.load_full();
        let Some(zone) = zone else {
            let ours = name == self.domain || name.ends_with(&format!(".{}", self.domain));
            // the names are not known yet: to deny them would be a lie that is remembered
            return if ours { Outcome::failed(ResponseCode::ServFail) } else { self.forward(asked, wanted).await };
        };
        match zone.lookup(&name, kind(wanted)) {
            Answer::Elsewhere => self.forward(asked, wanted).await,
            Answer::Records(records, more) => {
                let mut outcome = Outcome { authoritative: true, ..Outcome::default() };
                outcome.answers = records.iter().filter_map(|record| wire(record, Some(&asked))).collect();
                outcome.additional = more.iter().filter_map(|record| wire(record, None)).collect();
                self.follow(&zone, &mut outcome, &records, wanted).await;
                outcome
            }
            Answer::NoName => match self.search(&zone, request.src().ip(), &asked, &name, wanted).await {
                Some(found) => found,
                None => denied(&zone, ResponseCode::NXDomain),
            },
            Answer::NoData => denied(&zone, ResponseCode::NoError),
        }
    }

    async fn forward(&self, name: Name, wanted: RecordType) -> Outcome {
        let reply = self.forwarder.ask(name, wanted).await;
        Outcome { code: reply.code, answers: reply.records, authority: reply.authority, ..Outcome::default() }
    }

    /// Adds what an alias stands for.
    async fn follow(&self, zone: &Zone, outcome: &mut Outcome, records: &[Record], wanted: RecordType) {
        if matches!(wanted, RecordType::CNAME | RecordType::ANY) {
            return;
        }
        let mut records = records.to_vec();
        for _ in 0..MAX_ALIASES {
            let Some(Record { data: Data::Cname(target), .. }) = records.first() else { return };
            let target = target.clone();
            match zone.lookup(&target, kind(wanted)) {
                Answer::Records(found, _) => {
                    outcome.answers.extend(found.iter().filter_map(|record| wire(record, None)));
                    records = found;
                }
                Answer::Elsewhere => {
                    if let Some(name) = absolute(&target) {
                        outcome.answers.extend(self.forward(name, wanted).await.answers);
                    }
                    return;
                }
                Answer::NoData | Answer::NoName => return,
            }
        }
    }

    /// Goes along the search path of the pod that asks.
    async fn search(&self, zone: &Zone, from: IpAddr, asked: &Name, name: &str, wanted: RecordType) -> Option<Outcome> {
        if !matches!(wanted, RecordType::A | RecordType::AAAA) {
            return None;
        }
        let namespace = (self.namespaces)(from)?;
        let bare = name.strip_suffix(&format!(".{namespace}.svc.{}", zone.domain()))?;
        let candidates =
            [format!("{bare}.svc.{}", zone.domain()), format!("{bare}.{}", zone.domain()), bare.to_owned()];
        for candidate in &candidates {
            let mut outcome = Outcome { authoritative: true, ..Outcome::default() };
            outcome.answers.extend(alias(asked, candidate));
            match zone.lookup(candidate, kind(wanted)) {
                Answer::Records(records, _) => {
                    outcome.answers.extend(records.iter().filter_map(|record| wire(record, None)));
                    self.follow(zone, &mut outcome, &records, wanted).await;
                    return Some(outcome);
                }
                // the name is there: a libc that heard it is not would not ask for its other addresses either
                Answer::NoData => {
                    outcome.authority.extend(wire(&zone.soa(), None));
                    return Some(outcome);
                }
                Answer::NoName => {}
                Answer::Elsewhere => return self.search_outside(asked, bare, wanted).await,
            }
        }
        None
    }

    /// The end of the search path: the name as the pod wrote it.
    async fn search_outside(&self, asked: &Name, bare: &str, wanted: RecordType) -> Option<Outcome> {
        // a single label is nobody's business outside
        if !bare.contains('.') || bare.starts_with('_') {
            return None;
        }
        let found = self.forward(absolute(bare)?, wanted).await;
        // whatever else it says: what was asked for does not exist, and the bare name comes next
        if found.code != ResponseCode::NoError {
            return None;
        }
        let answers = alias(asked, bare).into_iter().chain(found.answers).collect();
        Some(Outcome { answers, authority: found.authority, ..Outcome::default() })
    }
}

fn denied(zone: &Zone, code: ResponseCode) -> Outcome {
    let authority = wire(&zone.soa(), None).into_iter().collect();
    Outcome { code, authoritative: true, authority, ..Outcome::default() }
}

fn alias(from: &Name, to: &str) -> Option<Wire> {
    Some(Wire::from_rdata(from.clone(), TTL, RData::CNAME(CNAME(absolute(to)?))))
}

fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

/// A record in the library's form, under the name as it was asked for. None if a name in it is longer than DNS allows.
fn wire(record: &Record, asked: Option<&Name>) -> Option<Wire> {
    let name = asked.cloned().or_else(|| absolute(&record.name))?;
    let data = match &record.data {
        Data::A(address) => RData::A(A(*address)),
        Data::Srv(port, target) => RData::SRV(SRV::new(0, 100, *port, absolute(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(absolute(target)?)),
        Data::Cname(target) => RData::CNAME(CNAME(absolute(target)?)),
        Data::Ns(server) => RData::NS(NS(absolute(server)?)),
        Data::Soa(serial) => {
            let server = absolute(&format!("ns.dns.{}", record.name))?;
            let owner = absolute(&format!("hostmaster.{}", record.name))?;
            RData::SOA(SOA::new(server, owner, *serial, 7200, 1800, 86400, TTL))
        }
    };
    Some(Wire::from_rdata(name, TTL, data))
}

fn kind(wanted: RecordType) -> Type {
    [
        (RecordType::A, Type::A),
        (RecordType::SRV, Type::Srv),
        (RecordType::PTR, Type::Ptr),
        (RecordType::CNAME, Type::Cname),
        (RecordType::SOA, Type::Soa),
        (RecordType::NS, Type::Ns),
        (RecordType::ANY, Type::Any),
    ]
    .iter()
    .find_map(|(theirs, ours)| (*theirs == wanted).then_some(*ours))
    .unwrap_or(Type::Other)
}
