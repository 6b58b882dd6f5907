//! The node's own objects: Node (registered, then its status) and Lease (its heartbeat).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Config, admission::Offer, launch::chain, machine, network::State, status::whole_second};

/// Where leases of nodes are.
pub const LEASES: &str = "kube-node-lease";
/// Between tries to reach the API.
const RETRY: Duration = Duration::from_millis(250);
/// How often the machine is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// Memory or disk with less than this share left, per cent, and less than so many bytes, is under pressure: a twentieth of
/// a large disk that others fill too is still plenty, and so is a hundred megabytes of a small one.
const PRESSURE: u64 = 5;
const MEMORY_PRESSURE: u64 = 100 << 20;
const DISK_PRESSURE: u64 = 1 << 30;

/// What a node knows of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What it offers.
    pub offer: Offer,
    /// What it is.
    pub info: NodeSystemInfo,
    /// Port of its kubelet API; 0 for none.
    pub port: u16,
    /// Memory is nearly used up.
    pub memory_pressure: bool,
    /// The disk is nearly full.
    pub disk_pressure: bool,
    /// How far its network is.
    pub network: State,
}

/// Who looks at the machine, again and again.
#[derive(Clone, Debug)]
pub struct Lookout {
    /// The node's settings.
    pub config: Arc<Config>,
    /// What it offers.
    pub offer: Offer,
    /// Port of its kubelet API; 0 for none.
    pub port: u16,
    /// How far its network is.
    pub network: watch::Receiver<State>,
}

impl Lookout {
    /// Looks at the machine.
    pub fn look(&self) -> Facts {
        let disk = machine::disk(&self.config.data_dir);
        Facts {
            offer: self.offer,
            info: machine::info(),
            port: self.port,
            memory_pressure: scarce(machine::memory_available(), MEMORY_PRESSURE),
            disk_pressure: disk.is_some_and(|space| scarce(space, DISK_PRESSURE)),
            network: self.network.borrow().clone(),
        }
    }
}

fn scarce((left, all): (u64, u64), little: u64) -> bool {
    all > 0 && left < (all / 100 * PRESSURE).min(little)
}

/// The Node object, as it is created.
pub fn object(config: &Config, facts: &Facts, now: Timestamp) -> Node {
    let labels = well_known(config, facts).into_iter().chain(config.labels.clone()).collect();
    Node {
        metadata: ObjectMeta { name: Some(config.node.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec::default()),
        status: Some(status(config, facts, None, now)),
    }
}

fn well_known(config: &Config, facts: &Facts) -> BTreeMap<String, String> {
    let (arch, os) = (facts.info.architecture.clone(), facts.info.operating_system.clone());
    let pairs = [
        ("kubernetes.io/hostname", config.node.clone()),
        ("kubernetes.io/os", os.clone()),
        ("kubernetes.io/arch", arch.clone()),
        ("beta.kubernetes.io/os", os),
        ("beta.kubernetes.io/arch", arch),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v)).into()
}

/// The node's status; `before` keeps the times of conditions that did not change.
pub fn status(config: &Config, facts: &Facts, before: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
    let quantity = |text: String| Quantity(text);
    let cpu = match facts.offer.cpu_millis {
        millis if millis % 1000 == 0 => (millis / 1000).to_string(),
        millis => format!("{millis}m"),
    };
    let amounts: BTreeMap<_, _> = [
        ("cpu".to_owned(), quantity(cpu)),
        ("memory".to_owned(), quantity(format!("{}Ki", facts.offer.memory / 1024))),
        ("pods".to_owned(), quantity(facts.offer.pods.to_string())),
    ]
    .into();
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    let addresses = config.addresses.iter().map(|ip| address("InternalIP", ip.to_string()));
    let endpoint = (facts.port > 0)
        .then(|| NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(facts.port) }) });
    NodeStatus {
        capacity: Some(amounts.clone()),
        allocatable: Some(amounts),
        addresses: Some(addresses.chain([address("Hostname", config.node.clone())]).collect()),
        conditions: Some(conditions(facts, before, now)),
        daemon_endpoints: endpoint,
        node_info: Some(facts.info.clone()),
        ..NodeStatus::default()
    }
}

fn conditions(facts: &Facts, before: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let now = Time(whole_second(now));
    let pressure = |under: bool, bad: (&'static str, &'static str), good: (&'static str, &'static str)| {
        if under { ("True", bad.0, bad.1) } else { ("False", good.0, good.1) }
    };
    let ready = readiness(&facts.network, before);
    let rows = [
        (
            "MemoryPressure",
            pressure(
                facts.memory_pressure,
                ("KubeletHasInsufficientMemory", "node agent has insufficient memory available"),
                ("KubeletHasSufficientMemory", "node agent has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            pressure(
                facts.disk_pressure,
                ("KubeletHasDiskPressure", "node agent has disk pressure"),
                ("KubeletHasNoDiskPressure", "node agent has no disk pressure"),
            ),
        ),
        ("PIDPressure", ("False", "KubeletHasSufficientPID", "node agent has sufficient PID available")),
        ("Ready", (ready.0, ready.1, ready.2.as_str())),
    ];
    let condition = |(kind, (status, reason, message)): (&str, (&str, &str, &str))| {
        let mut known = before.iter().flat_map(|b| b.conditions.iter().flatten());
        let same = known.find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(now.clone())),
        }
    };
    rows.into_iter().map(condition).collect()
}

/// A node is ready when its network is. One that was, and whose agent has just started again, stays so: what is connected
/// works without the agent.
fn readiness(network: &State, before: Option<&NodeStatus>) -> (&'static str, &'static str, String) {
    let mut known = before.iter().flat_map(|b| b.conditions.iter().flatten());
    let was_ready = known.any(|c| c.type_ == "Ready" && c.status == "True");
    match network {
        State::Failed(why) => ("False", "NetworkNotReady", format!("node network is not ready: {why}")),
        State::Starting if !was_ready => {
            ("False", "NetworkNotReady", "node network is not ready: it is being brought up".into())
        }
        State::Starting | State::Up => ("True", "KubeletReady", "node agent is posting ready status".into()),
    }
}

/// Whether two statuses differ in anything but the times of heartbeats.
fn differs(before: Option<&NodeStatus>, after: &NodeStatus) -> bool {
    let Some(before) = before else { return true };
    let words = |s: &NodeStatus| -> Vec<_> {
        s.conditions.iter().flatten().map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone())).collect()
    };
    let ours = words(after);
    let theirs = words(before);
    ours.iter().any(|c| !theirs.contains(c))
        || before.capacity != after.capacity
        || before.addresses != after.addresses
        || before.daemon_endpoints != after.daemon_endpoints
        || before.node_info != after.node_info
}

/// Registers the node. Tried until the API takes it. Returns its uid.
pub async fn register(client: &Client, config: &Config, facts: &Facts) -> String {
    let api: Api<Node> = Api::all(client.clone());
    let wanted = object(config, facts, Timestamp::now());
    loop {
        let registered = match api.create(&PostParams::default(), &wanted).await {
            Err(kube::Error::Api(status)) if status.code == 409 => relabel(&api, config, &wanted).await,
            created => created,
        };
        match registered {
            Ok(node) => {
                write_status(&api, config, facts, node.status.as_ref()).await;
                return node.uid().unwrap_or_default();
            }
            Err(error) => {
                tracing::warn!(node = config.node, error = chain(&error), "node was not registered, trying again")
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The node was here before: its labels are brought up to date.
async fn relabel(api: &Api<Node>, config: &Config, wanted: &Node) -> Result<Node, kube::Error> {
    let body = json!({"metadata": {"labels": wanted.metadata.labels}});
    api.patch(&config.node, &PatchParams::default(), &Patch::Merge(body)).await
}

async fn write_status(api: &Api<Node>, config: &Config, facts: &Facts, before: Option<&NodeStatus>) -> bool {
    let status = status(config, facts, before, Timestamp::now());
    let body = json!({"status": status});
    match api.patch_status(&config.node, &PatchParams::default(), &Patch::Strategic(body)).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(node = config.node, error = chain(&error), "node status was not written");
            false
        }
    }
}

/// Keeps the node's status true: written when it changed, and every now and then.
pub async fn report(client: Client, mut lookout: Lookout, shutdown: CancellationToken) {
    let api: Api<Node> = Api::all(client.clone());
    let config = Arc::clone(&lookout.config);
    let mut written: Option<(NodeStatus, tokio::time::Instant)> = None;
    loop {
        lookout.network.mark_unchanged();
        let facts = lookout.look();
        let current = match api.get_opt(&config.node).await {
            Ok(Some(node)) => node.status,
            Ok(None) => {
                register(&client, &config, &facts).await;
                None
            }
            Err(error) => {
                tracing::debug!(node = config.node, error = chain(&error), "node was not read");
                written.as_ref().map(|(status, _)| status.clone())
            }
        };
        let wanted = status(&config, &facts, current.as_ref(), Timestamp::now());
        let due = written.as_ref().is_none_or(|(_, at)| at.elapsed() >= config.status_period);
        if (due || differs(current.as_ref(), &wanted)) && write_status(&api, &config, &facts, current.as_ref()).await {
            written = Some((wanted, tokio::time::Instant::now()));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK.min(config.status_period)) => {}
            Ok(()) = lookout.network.changed() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Renews the node's lease. After a time without the API, the node's status is written anew at once.
pub async fn renew(client: Client, lookout: Lookout, uid: String, shutdown: CancellationToken) {
    let config = Arc::clone(&lookout.config);
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let nodes: Api<Node> = Api::all(client);
    let mut missed = 0u32;
    loop {
        let renewed = renew_once(&api, &config, &uid).await;
        match renewed {
            Ok(()) if missed > 1 => {
                let facts = lookout.look();
                let before = nodes.get_opt(&config.node).await.ok().flatten().and_then(|n| n.status);
                write_status(&nodes, &config, &facts, before.as_ref()).await;
                missed = 0;
            }
            Ok(()) => missed = 0,
            Err(error) => {
                missed += 1;
                tracing::warn!(node = config.node, error = chain(&error), missed, "lease was not renewed");
            }
        }
        let wait = if missed > 0 { config.lease_renewal / 3 } else { config.lease_renewal };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn renew_once(api: &Api<Lease>, config: &Config, uid: &str) -> Result<(), kube::Error> {
    let now = Timestamp::now();
    let body = json!({"spec": {"renewTime": MicroTime(now), "holderIdentity": config.node}});
    match api.patch(&config.node, &PatchParams::default(), &Patch::Merge(body)).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: config.node.clone(),
        uid: uid.into(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(config.node.clone()),
            namespace: Some(LEASES.into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(config.node.clone()),
            lease_duration_seconds: i32::try_from(config.lease_duration.as_secs()).ok(),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_its_network_is_and_stays_so_while_its_agent_starts_again() {
        let condition =
            |status: &str| NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() };
        let told = |status| NodeStatus { conditions: Some(vec![condition(status)]), ..NodeStatus::default() };
        let (ready, unknown) = (told("True"), told("Unknown"));
        for (network, before, expected) in [
            (State::Starting, None, "False"),
            (State::Starting, Some(&unknown), "False"),
            (State::Starting, Some(&ready), "True"),
            (State::Up, None, "True"),
            (State::Failed("no device".into()), Some(&ready), "False"),
        ] {
            assert_eq!(readiness(&network, before).0, expected, "{network:?}");
        }
        let (_, reason, message) = readiness(&State::Failed("no device".into()), None);
        assert_eq!((reason, message.as_str()), ("NetworkNotReady", "node network is not ready: no device"));
    }

    #[test]
    fn only_what_is_little_in_itself_and_of_the_whole_is_scarce() {
        assert!(!scarce((6 << 30, 252 << 30), DISK_PRESSURE), "a large disk that is nearly full has room");
        assert!(scarce((500 << 20, 252 << 30), DISK_PRESSURE));
        assert!(!scarce((500 << 20, 4 << 30), DISK_PRESSURE), "a small disk has a tenth left");
        assert!(scarce((100 << 20, 4 << 30), DISK_PRESSURE));
        assert!(!scarce((0, 0), MEMORY_PRESSURE), "nothing is known");
    }
}
