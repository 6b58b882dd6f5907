//! The agent's network is netd's.
//!
//! netd can only start when the node has been given its pod CIDR, which happens after the agent has registered it: until
//! then a pod that is to be connected waits.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use netd::Netd;
use nodeagent::network::{Attachment, Dns, Error, HostPort, Network, PodId, State};
use tokio::sync::watch;

/// netd, as soon as it has started.
pub struct LateNetwork {
    started: watch::Receiver<Option<Arc<Netd>>>,
    state: watch::Receiver<State>,
    dns: Dns,
}

/// Who tells how the start is getting on.
pub struct Starter {
    started: watch::Sender<Option<Arc<Netd>>>,
    state: watch::Sender<State>,
}

impl Starter {
    /// It has started.
    pub fn up(&self, netd: Arc<Netd>) {
        self.started.send_replace(Some(netd));
        self.state.send_replace(State::Up);
    }

    /// It did not, and will be tried again.
    pub fn failed(&self, why: String) {
        self.state.send_replace(State::Failed(why));
    }
}

impl LateNetwork {
    /// A network that is there once its starter says so; its name server and domain are known before.
    pub fn new(server: IpAddr, domain: &str) -> (Self, Starter) {
        let (starter, started) = watch::channel(None);
        let (teller, state) = watch::channel(State::Starting);
        let dns = Dns { servers: vec![server], domain: domain.to_owned() };
        (Self { started, state, dns }, Starter { started: starter, state: teller })
    }

    async fn netd(&self, operation: &'static str, pod: &str) -> Result<Arc<Netd>, Error> {
        let mut started = self.started.clone();
        let found = started.wait_for(Option::is_some).await.map_err(|gone| failed(operation, pod, gone))?;
        // invariant: wait_for returned because it is some
        Ok(Arc::clone(found.as_ref().expect("the network has started")))
    }
}

fn failed(operation: &'static str, pod: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error { operation, pod: pod.to_owned(), source: Box::new(source) }
}

#[async_trait::async_trait]
impl Network for LateNetwork {
    fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    async fn attach(&self, pod: &PodId, host_ports: &[HostPort]) -> Result<Attachment, Error> {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let netd = self.netd("attach", &name).await?;
        let id = netd::PodId { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() };
        let ports: Vec<_> = host_ports.iter().map(published).collect();
        let attached = netd.attach(&id, &ports).await.map_err(|e| failed("attach", &name, e))?;
        Ok(Attachment { netns: attached.netns, addresses: attached.addresses })
    }

    async fn detach(&self, uid: &str) -> Result<(), Error> {
        self.netd("detach", uid).await?.detach(uid).await.map_err(|e| failed("detach", uid, e))
    }

    async fn retain(&self, live: &HashSet<String>) -> Result<(), Error> {
        let all = "all but the live";
        self.netd("sweep", all).await?.retain(live).await.map_err(|e| failed("sweep", all, e))
    }

    fn dns(&self) -> Dns {
        self.dns.clone()
    }
}

fn published(port: &HostPort) -> netd::HostPort {
    netd::HostPort {
        host_ip: port.host_ip,
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: port.protocol.clone(),
    }
}
