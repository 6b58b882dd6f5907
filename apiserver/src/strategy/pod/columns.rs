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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// READY, STATUS and RESTARTS of a pod of two containers, one init container and one sidecar.
    fn shown(meta: &Value, status: &Value) -> [String; 3] {
        let pod = serde_json::from_value(json!({
            "metadata": meta,
            "spec": {
                "containers": [{"name": "a"}, {"name": "b"}],
                "initContainers": [{"name": "init"}, {"name": "proxy", "restartPolicy": "Always"}],
            },
            "status": status,
        }))
        .unwrap();
        let cells = row(&pod, "2026-01-01T00:10:00Z".parse().unwrap());
        [1, 2, 3].map(|index| match &cells[index] {
            Cell::Text(text) => text.clone(),
            Cell::Number(number) => number.to_string(),
        })
    }

    fn container(name: &str, ready: bool, restarts: i32, state: &Value) -> Value {
        let last = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}});
        let mut status = json!({
            "name": name, "ready": ready, "restartCount": restarts, "state": state, "image": "", "imageID": "",
        });
        if restarts > 0 {
            status["lastState"] = last;
        }
        status
    }

    #[test]
    fn one_word_says_how_a_pod_is() {
        let run = json!({"running": {}});
        let wait = |reason: &str| json!({"waiting": {"reason": reason}});
        let end = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let phase = |phase: &str, init: Value, main: Value| json!({"phase": phase, "initContainerStatuses": init, "containerStatuses": main});
        let done = json!([container("init", true, 0, &end(0, "Completed"))]);
        let cases = [
            (phase("Pending", json!([]), json!([])), ["0/3", "Pending", "0"]),
            (phase("Pending", json!([container("init", false, 0, &run)]), json!([])), ["0/3", "Init:0/2", "0"]),
            (
                phase("Pending", json!([container("init", false, 2, &wait("CrashLoopBackOff"))]), json!([])),
                ["0/3", "Init:CrashLoopBackOff", "2 (5m ago)"],
            ),
            (
                phase("Pending", json!([container("init", false, 0, &end(3, ""))]), json!([])),
                ["0/3", "Init:ExitCode:3", "0"],
            ),
            (
                phase("Pending", done.clone(), json!([container("a", false, 0, &wait("ContainerCreating"))])),
                ["0/3", "ContainerCreating", "0"],
            ),
            (
                phase("Running", done.clone(), json!([container("a", true, 3, &run), container("b", true, 0, &run),])),
                ["2/3", "Running", "3 (5m ago)"],
            ),
            (
                phase(
                    "Running",
                    done.clone(),
                    json!([container("a", false, 1, &wait("CrashLoopBackOff")), container("b", true, 0, &run),]),
                ),
                ["1/3", "CrashLoopBackOff", "1 (5m ago)"],
            ),
            (
                phase(
                    "Running",
                    done.clone(),
                    json!([container("a", false, 0, &end(0, "Completed")), container("b", true, 0, &run),]),
                ),
                ["1/3", "NotReady", "0"],
            ),
            (
                phase("Succeeded", done.clone(), json!([container("a", false, 0, &end(0, "Completed"))])),
                ["0/3", "Completed", "0"],
            ),
            (phase("Failed", done.clone(), json!([container("a", false, 0, &end(1, "Error"))])), ["0/3", "Error", "0"]),
            (phase("Failed", done, json!([container("a", false, 0, &end(137, ""))])), ["0/3", "ExitCode:137", "0"]),
            (json!({"phase": "Failed", "reason": "Evicted"}), ["0/3", "Evicted", "0"]),
        ];
        for (status, wanted) in cases {
            assert_eq!(shown(&json!({}), &status), wanted, "{status}");
        }
    }

    #[test]
    fn a_pod_that_is_deleted_is_terminating_until_it_has_ended() {
        let meta = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(shown(&meta, &json!({"phase": "Running"}))[1], "Terminating");
        assert_eq!(shown(&meta, &json!({"phase": "Succeeded"}))[1], "Succeeded");
        assert_eq!(shown(&meta, &json!({"phase": "Running", "reason": "NodeLost"}))[1], "Unknown");
    }
}
