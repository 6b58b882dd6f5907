//! The servers of a cluster that a connection may go to: those it was given, and those that the cluster has told of since.
//!
//! # Guarantees
//! * The server that answered last is tried first, then those that were given, then those that were told of: what a user
//!   says goes before what is found out, and an address that works is kept.
//! * A server that answers but cannot serve (it is cut off from the others' majority) is left as soon as it has said so
//!   [`PATIENCE`] times in a row, if there is another.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use http::{StatusCode, Uri};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    Caches, Key,
    config::{Error, is_https},
};

/// How often in a row a server may say that it cannot serve.
pub const PATIENCE: u32 = 2;

/// The label by which a slice names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Service that leads to the servers.
const SERVICE: (&str, &str) = ("default", "kubernetes");

/// The servers. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Servers(Arc<Mutex<Known>>);

#[derive(Clone, Debug, Default)]
struct Known {
    given: Vec<Uri>,
    told: Vec<Uri>,
    /// Which answered last.
    chosen: Option<Uri>,
    /// Which was left, since it cannot serve.
    left: Option<Uri>,
    /// How often in a row `chosen` said that it cannot serve.
    refusals: u32,
    /// Ends the connections to `chosen` when it is left.
    term: CancellationToken,
}

impl Known {
    /// All servers, each once, in the order in which they are tried.
    fn order(&self) -> Vec<Uri> {
        let mut order: Vec<Uri> = Vec::new();
        for url in self.chosen.iter().chain(&self.given).chain(&self.told) {
            if !order.contains(url) && Some(url) != self.left.as_ref() {
                order.push(url.clone());
            }
        }
        order.extend(self.left.iter().filter(|url| self.given.contains(url) || self.told.contains(url)).cloned());
        order
    }
}

impl Servers {
    /// The servers at these URLs.
    ///
    /// # Errors
    /// When there is none, or one is not an https URL.
    pub fn new(given: &[String]) -> Result<Self, Error> {
        let parse = |url: &String| parsed(url).ok_or_else(|| Error::Server { server: url.clone() });
        let given = given.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if given.is_empty() {
            return Err(Error::Server { server: String::new() });
        }
        Ok(Self(Arc::new(Mutex::new(Known { given, ..Known::default() }))))
    }

    /// The cluster tells that its servers are these. None at all says nothing; what is no https URL is left out. Whether
    /// anything is new.
    pub fn tell(&self, urls: &[String]) -> bool {
        let told: Vec<_> = urls.iter().filter_map(|url| parsed(url)).collect();
        let mut known = self.0.lock();
        let is_new = !told.is_empty() && told != known.told;
        if is_new {
            known.told = told;
        }
        is_new
    }

    /// Those that the cluster told of last.
    pub fn told(&self) -> Vec<String> {
        self.0.lock().told.iter().map(ToString::to_string).map(|url| url.trim_end_matches('/').to_owned()).collect()
    }

    /// The one that answered last is one of those given.
    pub fn serves_as_given(&self) -> bool {
        let known = self.0.lock();
        known.chosen.as_ref().is_some_and(|url| known.given.contains(url))
    }

    /// The first of those given.
    pub(crate) fn first(&self) -> Uri {
        self.0.lock().given.first().cloned().expect("invariant: servers are made of one URL at least")
    }

    pub(crate) fn order(&self) -> Vec<Uri> {
        self.0.lock().order()
    }

    /// This one answered. A connection to it ends when the token is cancelled.
    pub(crate) fn choose(&self, url: Uri) -> CancellationToken {
        let mut known = self.0.lock();
        if known.chosen.as_ref() != Some(&url) {
            known.refusals = 0;
        }
        if known.left.as_ref() == Some(&url) {
            known.left = None;
        }
        known.chosen = Some(url);
        known.term.clone()
    }

    /// The server answered with this status. One that cannot serve is left, with all connections to it.
    pub(crate) fn note(&self, status: StatusCode) {
        let mut known = self.0.lock();
        if status != StatusCode::SERVICE_UNAVAILABLE {
            known.refusals = 0;
            return;
        }
        known.refusals += 1;
        if known.refusals >= PATIENCE && known.order().len() > 1 {
            known.refusals = 0;
            known.left = known.chosen.take();
            std::mem::take(&mut known.term).cancel();
        }
    }
}

fn parsed(url: &str) -> Option<Uri> {
    url.parse().ok().filter(is_https)
}

/// Tells `servers` of those that the cluster has, as they come and go, and `changed` after each change, for ever.
pub async fn follow(caches: &Caches, servers: &Servers, mut changed: impl FnMut(&Servers)) {
    let slices = caches.reader::<EndpointSlice>();
    let mut changes = slices.subscribe();
    slices.synced().await;
    while let Some(change) = changes.recv().await {
        if leads_to_servers(change.object()) && servers.tell(&urls(&slices.list_in(SERVICE.0))) {
            changed(servers);
        }
    }
}

fn leads_to_servers(slice: &EndpointSlice) -> bool {
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    Key::of(slice).namespace == SERVICE.0 && service.is_some_and(|name| name == SERVICE.1)
}

/// The URLs of the servers that these slices lead to.
fn urls(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for slice in slices.iter().filter(|slice| leads_to_servers(slice)) {
        let Some(port) = slice.ports.iter().flatten().find_map(|port| u16::try_from(port.port?).ok()) else { continue };
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            // no word about it counts as ready
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        let addresses = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse().ok());
        found.extend(addresses.map(|ip| SocketAddr::new(ip, port)));
    }
    found.into_iter().map(|address| format!("https://{address}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(given: &[&str], told: &[&str]) -> Servers {
        let owned = |all: &[&str]| all.iter().map(|name| format!("https://{name}:6443")).collect::<Vec<_>>();
        let servers = Servers::new(&owned(given)).unwrap();
        servers.tell(&owned(told));
        servers
    }

    fn order(servers: &Servers) -> String {
        servers.order().iter().map(|url| url.host().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    }

    fn url(name: &str) -> Uri {
        format!("https://{name}:6443").parse().unwrap()
    }

    #[test]
    fn what_answers_is_kept_and_what_the_user_says_goes_before_what_is_told() {
        let servers = servers(&["a"], &["a", "b", "c"]);
        assert_eq!(order(&servers), "a b c");
        servers.choose(url("c"));
        assert_eq!(order(&servers), "c a b");
        assert!(!servers.serves_as_given());
        assert!(servers.tell(&["https://b:6443".into(), "http://plain".into()]));
        assert_eq!((order(&servers), servers.told()), ("c a b".to_owned(), vec!["https://b:6443".to_owned()]));
        assert!(!servers.tell(&[]), "nothing is known of none");
        assert!(Servers::new(&["http://a".into()]).is_err() && Servers::new(&[]).is_err());
    }

    #[test]
    fn a_server_that_cannot_serve_is_left_for_another_with_its_connections() {
        let (busy, ok) = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK);
        let two = servers(&["a", "b"], &[]);
        let term = two.choose(url("a"));
        for status in [busy, ok, busy] {
            two.note(status);
        }
        assert!(!term.is_cancelled());
        two.note(busy);
        assert!(term.is_cancelled());
        assert_eq!(order(&two), "b a");
        assert!(!two.choose(url("b")).is_cancelled());
        let alone = servers(&["a"], &[]);
        let term = alone.choose(url("a"));
        (0..9).for_each(|_| alone.note(busy));
        assert!(!term.is_cancelled(), "there is nowhere to go");
    }

    #[test]
    fn the_slices_of_the_service_tell_the_urls() {
        let slice = |namespace: &str, service: &str, address: &str, ready: bool| -> Arc<EndpointSlice> {
            let text = serde_json::json!({
                "metadata": {"namespace": namespace, "name": address, "labels": {SERVICE_NAME: service}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}],
                "ports": [{"port": 6443}],
            });
            Arc::new(serde_json::from_value(text).unwrap())
        };
        let slices = [
            slice("default", "kubernetes", "10.0.0.2", true),
            slice("default", "kubernetes", "10.0.0.1", true),
            slice("default", "kubernetes", "10.0.0.3", false),
            slice("other", "kubernetes", "10.0.0.4", true),
            slice("default", "web", "10.0.0.5", true),
        ];
        assert_eq!(urls(&slices), ["https://10.0.0.1:6443", "https://10.0.0.2:6443"]);
    }
}
