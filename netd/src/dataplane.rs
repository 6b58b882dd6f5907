//! Keeps packet filter, tunnels and names as the API says.
//!
//! One task follows services, slices and this node's attachments. It notes which owners were touched, waits a moment for more of the
//! burst, decides anew for those alone, and makes the difference in one transaction. After an error it replaces everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use ahash::AHashMap;
use client::{Caches, Change, Key};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::ResourceExt;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    attach::Record,
    conntrack,
    dns::{Zone, server::Current},
    nft::{self, Nets},
    overlay,
    ruleset::{self, Match, Owner, Part, Ruleset},
    service,
    socket::Socket,
};

/// How long a burst of changes is gathered. Bounds how late a change can be, and how often the kernel is bothered.
const GATHER: Duration = Duration::from_millis(4);
/// How long until a transaction that the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What an owner asked for, and asks for now.
type Difference = (Option<Arc<Part>>, Option<Arc<Part>>);
type Attached = Arc<BTreeMap<String, Record>>;

/// What is known and what was decided.
struct State {
    node: String,
    services: BTreeMap<Key, Arc<Service>>,
    slices: AHashMap<Key, BTreeMap<Key, Arc<EndpointSlice>>>,
    pods: BTreeMap<Ipv4Addr, Record>,
    dirty: BTreeSet<Owner>,
    ruleset: Ruleset,
    claims: Claims,
    zone: Zone,
}

/// Which owner an element belongs to, where several ask for the same: the first keeps it.
#[derive(Default)]
struct Claims {
    holders: AHashMap<Match, Owner>,
    losers: BTreeSet<Owner>,
}

impl Claims {
    /// Takes out of `part` what others hold, and notes the rest as the owner's.
    fn grant(&mut self, owner: &Owner, part: &mut Part) {
        part.elements.retain(|element, _| {
            let holder = self.holders.entry(*element).or_insert_with(|| owner.clone());
            let granted = holder == owner;
            if !granted {
                tracing::warn!(%element, ?owner, ?holder, "two ask for the same; the first keeps it");
                self.losers.insert(owner.clone());
            }
            granted
        });
    }

    /// Gives up what the owner held.
    fn release(&mut self, owner: &Owner, part: &Part) {
        for element in part.elements.keys() {
            if self.holders.get(element) == Some(owner) {
                self.holders.remove(element);
            }
        }
    }
}

impl State {
    fn service(&mut self, change: &Change<Service>) {
        let key = Key::of(&**change.object());
        self.dirty.insert(Owner::Service(key.clone()));
        match change {
            Change::Applied { new, .. } => self.services.insert(key, Arc::clone(new)),
            Change::Deleted(_) => self.services.remove(&key),
        };
    }

    fn slice(&mut self, change: &Change<EndpointSlice>) {
        let name = Key::of(&**change.object());
        let (old, new) = match change {
            Change::Applied { old, new } => (old.as_ref(), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        if let Some(key) = old.and_then(|slice| service::owner(slice)) {
            if let Some(slices) = self.slices.get_mut(&key) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.slices.remove(&key);
                }
            }
            self.dirty.insert(Owner::Service(key));
        }
        if let Some((key, slice)) = new.and_then(|slice| Some((service::owner(slice)?, slice))) {
            self.slices.entry(key.clone()).or_default().insert(name, Arc::clone(slice));
            self.dirty.insert(Owner::Service(key));
        }
    }

    fn attached(&mut self, records: &BTreeMap<String, Record>) {
        let now: BTreeMap<_, _> = records.values().map(|record| (record.address, record.clone())).collect();
        let touched = now.iter().filter(|(address, record)| self.pods.get(*address) != Some(*record)).map(|(a, _)| *a);
        let gone = self.pods.keys().filter(|address| !now.contains_key(*address)).copied();
        self.dirty.extend(touched.chain(gone).map(Owner::Pod));
        self.pods = now;
    }

    /// Decides anew for what was touched. Returns what was and what is asked for, for each owner that differs.
    fn decide(&mut self) -> Vec<Difference> {
        let mut touched = std::mem::take(&mut self.dirty);
        touched.append(&mut self.claims.losers);
        for owner in &touched {
            if let Some(part) = self.ruleset.parts.get(owner) {
                self.claims.release(owner, part);
            }
        }
        let mut changes = Vec::new();
        for owner in touched {
            let mut part = self.part(&owner);
            self.claims.grant(&owner, &mut part);
            let new = (part != Part::default()).then(|| Arc::new(part));
            let old = self.ruleset.parts.get(&owner).cloned();
            if old == new {
                continue;
            }
            match &new {
                Some(part) => self.ruleset.parts.insert(owner, Arc::clone(part)),
                None => self.ruleset.parts.remove(&owner),
            };
            changes.push((old, new));
        }
        changes
    }

    fn part(&mut self, owner: &Owner) -> Part {
        match owner {
            Owner::Pod(address) => {
                self.pods.get(address).map(|pod| service::of_pod(*address, &pod.host_ports)).unwrap_or_default()
            }
            Owner::Service(key) => {
                let slices: Vec<_> = self.slices.get(key).into_iter().flat_map(|s| s.values().cloned()).collect();
                let service = self.services.get(key);
                self.zone.set(key, service.map(|service| &**service), &slices);
                service.map(|service| service::of_service(service, &slices, &self.node)).unwrap_or_default()
            }
        }
    }
}

/// Where the decisions go.
pub struct Outputs {
    /// The kernel.
    pub socket: Socket,
    /// The names.
    pub zone: Current,
    /// How many states have been applied.
    pub applied: watch::Sender<u64>,
}

/// Follows services until shutdown.
pub async fn services(
    caches: Caches,
    node: String,
    nets: Nets,
    zone: Zone,
    mut attached: watch::Receiver<Attached>,
    outputs: Outputs,
    shutdown: CancellationToken,
) {
    let (services, slices) = (caches.reader::<Service>(), caches.reader::<EndpointSlice>());
    let synced = async { tokio::join!(services.synced(), slices.synced()) };
    tokio::select! {
        _ = synced => {}
        () = shutdown.cancelled() => return,
    }
    let (mut services, mut slices) = (services.subscribe(), slices.subscribe());
    let mut state = State {
        node,
        services: BTreeMap::new(),
        slices: AHashMap::new(),
        pods: BTreeMap::new(),
        dirty: BTreeSet::new(),
        ruleset: Ruleset::default(),
        claims: Claims::default(),
        zone,
    };
    attached.mark_changed();
    let mut kernel = Kernel { outputs: Some(outputs), nets, whole: true };
    loop {
        gather(&mut state, &mut services, &mut slices, &mut attached);
        kernel.apply(&mut state).await;
        if kernel.whole {
            tokio::select! {
                () = sleep(RETRY) => continue,
                () = shutdown.cancelled() => return,
            }
        }
        tokio::select! {
            Some(change) = services.recv() => state.service(&change),
            Some(change) = slices.recv() => state.slice(&change),
            Ok(()) = attached.changed() => attached.mark_changed(),
            () = shutdown.cancelled() => return,
        }
        sleep_until(tokio::time::Instant::now() + GATHER).await;
    }
}

/// Takes in all that is queued.
fn gather(
    state: &mut State,
    services: &mut mpsc::UnboundedReceiver<Change<Service>>,
    slices: &mut mpsc::UnboundedReceiver<Change<EndpointSlice>>,
    attached: &mut watch::Receiver<Attached>,
) {
    while let Ok(change) = services.try_recv() {
        state.service(&change);
    }
    while let Ok(change) = slices.try_recv() {
        state.slice(&change);
    }
    if attached.has_changed().unwrap_or(false) {
        let records = Arc::clone(&attached.borrow_and_update());
        state.attached(&records);
    }
}

struct Kernel {
    /// Away while a transaction runs.
    outputs: Option<Outputs>,
    nets: Nets,
    /// Whether what the kernel has is unknown, so that everything must be replaced.
    whole: bool,
}

impl Kernel {
    async fn apply(&mut self, state: &mut State) {
        let changes = state.decide();
        let Some(outputs) = self.outputs.take() else { return };
        outputs.zone.store(Some(Arc::new(state.zone.clone())));
        let (nets, whole) = (self.nets, self.whole);
        let ruleset = whole.then(|| state.ruleset.clone());
        let work = move || {
            let pairs = || changes.iter().map(|(old, new)| (old.as_deref(), new.as_deref()));
            let outcome = match ruleset {
                Some(ruleset) => nft::replace(&outputs.socket, nets, &ruleset),
                None => nft::change(&outputs.socket, &ruleset::diff(pairs())),
            };
            if outcome.is_ok()
                && let Err(error) = conntrack::forget(&outputs.socket, &conntrack::stale(pairs()))
            {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot drop UDP flows to endpoints that are gone"
                );
            }
            (outputs, outcome)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((outputs, outcome)) => {
                self.whole = outcome.is_err();
                match outcome {
                    Ok(()) => outputs.applied.send_modify(|generation| *generation += 1),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "packet filter will be replaced");
                    }
                }
                self.outputs = Some(outputs);
            }
            Err(error) => tracing::error!(%error, "the packet filter's task panicked; it is not kept any more"),
        }
    }
}

/// Follows nodes until shutdown.
pub async fn tunnels(
    caches: Caches,
    node: String,
    nets: Nets,
    socket: Socket,
    device: u32,
    shutdown: CancellationToken,
) {
    let reader = caches.reader::<Node>();
    tokio::select! {
        () = reader.synced() => {}
        () = shutdown.cancelled() => return,
    }
    let mut changes = reader.subscribe();
    let mut applied = None;
    loop {
        while changes.try_recv().is_ok() {}
        let nodes = reader.list();
        let own = nodes.iter().find(|object| object.name_any() == node).and_then(|object| overlay::pod_cidr(object));
        if let Some(cidr) = own.filter(|cidr| *cidr != nets.node) {
            tracing::error!(used = %nets.node, given = %cidr, "this node was given another pod CIDR; restart the agent to use it");
        }
        let peers = overlay::peers(nodes.iter().map(|node| &**node), &node, nets.node);
        // most changes of a node are heartbeats
        if applied.as_ref() != Some(&peers) {
            match overlay::reconcile(&socket, device, &peers) {
                Ok(requests) => {
                    tracing::info!(peers = peers.len(), requests, "tunnels are as the nodes say");
                    applied = Some(peers);
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "tunnels will be tried again");
                    tokio::select! {
                        () = sleep(RETRY) => continue,
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
        tokio::select! {
            Some(_) = changes.recv() => sleep(GATHER).await,
            () = shutdown.cancelled() => return,
        }
    }
}
