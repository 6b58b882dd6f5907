//! The row of a pod in a table: how many containers are ready, and the one word that says how it is.
//!
//! The order of the rules is upstream's `printPod`.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::strategy::{Cell, Column, column};

pub(super) static COLUMNS: &[Column] = &[
    column::NAME,
    column::text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    column::text("Status", "The aggregate status of the containers in this pod."),
    column::text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    column::AGE,
    column::wide("IP", "The address allocated to the pod."),
    column::wide("Node", "The node that the pod is bound to."),
    column::wide("Nominated Node", "The node that preemption makes room on for the pod."),
    column::wide("Readiness Gates", "Conditions beside the containers' readiness that must hold, and how many do."),
];

/// Restarts, and the last end of a container that was followed by one.
#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<Time>,
}

impl Restarts {
    fn add(&mut self, status: &ContainerStatus) {
        self.count += status.restart_count;
        let ended = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).and_then(|t| t.finished_at.clone());
        if let Some(ended) = ended
            && self.last.as_ref().is_none_or(|last| last.0 < ended.0)
        {
            self.last = Some(ended);
        }
    }

    fn text(&self, now: Timestamp) -> String {
        match &self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, column::since(Some(last), now)),
            _ => self.count.to_string(),
        }
    }
}

#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
}

fn sidecar(container: Option<&Container>) -> bool {
    container.is_some_and(|c| c.restart_policy.as_deref() == Some("Always"))
}

fn ended(prefix: &str, exit_code: i32, signal: Option<i32>, reason: Option<&str>) -> String {
    match (reason, signal) {
        (Some(reason), _) if !reason.is_empty() => format!("{prefix}{reason}"),
        (_, Some(signal)) if signal != 0 => format!("{prefix}Signal:{signal}"),
        _ => format!("{prefix}ExitCode:{exit_code}"),
    }
}

fn condition(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

/// Looks at the init containers; tells whether they hold the pod up, and the restarts of sidecars alone.
fn init(pod: &Pod, status: &PodStatus, summary: &mut Summary) -> (bool, Restarts) {
    let containers = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let mut sidecars = Restarts::default();
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        let restartable = sidecar(containers.iter().find(|c| c.name == container.name));
        summary.restarts.add(container);
        if restartable {
            sidecars.add(container);
        }
        let state = container.state.clone().unwrap_or_default();
        let waiting = state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty() && r != "PodInitializing");
        summary.reason = match (state.terminated, waiting) {
            (Some(end), _) if end.exit_code == 0 => continue,
            _ if restartable && container.started == Some(true) => {
                summary.ready += usize::from(container.ready);
                continue;
            }
            (Some(end), _) => ended("Init:", end.exit_code, end.signal, end.reason.as_deref()),
            (None, Some(reason)) => format!("Init:{reason}"),
            (None, None) => format!("Init:{index}/{}", containers.len()),
        };
        return (true, sidecars);
    }
    (false, sidecars)
}

fn main(status: &PodStatus, summary: &mut Summary) {
    let mut running = false;
    for container in status.container_statuses.iter().flatten().rev() {
        summary.restarts.add(container);
        let state = container.state.clone().unwrap_or_default();
        let waiting = state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty());
        if let Some(reason) = waiting {
            summary.reason = reason;
        } else if let Some(end) = state.terminated {
            summary.reason = ended("", end.exit_code, end.signal, end.reason.as_deref());
        } else if container.ready && state.running.is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = condition(status, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.into();
    }
}

fn summarize(pod: &Pod) -> Summary {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.clone().unwrap_or_default();
    let own = status.reason.clone().filter(|r| !r.is_empty());
    let mut summary = Summary { reason: own.unwrap_or_else(|| phase.clone()), ..Summary::default() };
    let gated = |c: &&k8s_openapi::api::core::v1::PodCondition| {
        c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")
    };
    if status.conditions.iter().flatten().any(|c| gated(&c)) {
        summary.reason = "SchedulingGated".into();
    }
    let (initializing, sidecars) = init(pod, &status, &mut summary);
    if !initializing || condition(&status, "Initialized") {
        summary.restarts = sidecars;
        main(&status, &mut summary);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            summary.reason = "Unknown".into();
        } else if !matches!(phase.as_str(), "Succeeded" | "Failed") {
            summary.reason = "Terminating".into();
        }
    }
    summary
}

/// The cells of [`COLUMNS`].
pub(super) fn row(pod: &Pod, now: Timestamp) -> Vec<Cell> {
    let spec = pod.spec.clone().unwrap_or_default();
    let summary = summarize(pod);
    let sidecars = spec.init_containers.iter().flatten().filter(|c| sidecar(Some(c))).count();
    let status = pod.status.as_ref();
    let gates = spec.readiness_gates.unwrap_or_default();
    let met = gates.iter().filter(|g| status.is_some_and(|s| condition(s, &g.condition_type))).count();
    let address = status.and_then(|s| {
        let first = s.pod_ips.as_ref().and_then(|ips| ips.first()).map(|ip| ip.ip.as_str());
        first.or(s.pod_ip.as_deref())
    });
    vec![
        column::name(&pod.metadata),
        column::cell(format!("{}/{}", summary.ready, spec.containers.len() + sidecars)),
        column::cell(summary.reason),
        column::cell(summary.restarts.text(now)),
        column::aged(&pod.metadata, now),
        column::or_none(address),
        column::or_none(spec.node_name.as_deref()),
        column::or_none(status.and_then(|s| s.nominated_node_name.as_deref())),
        if gates.is_empty() { column::or_none(None) } else { column::cell(format!("{met}/{}", gates.len())) },
    ]
}
