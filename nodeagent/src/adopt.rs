//! What is known of a pod when its worker starts: after a restart of the agent or of the node, most of it runs already.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::{
    desired::{Desired, Role},
    observed::{Attempt, Ended, Observed, Seen},
    pod::{Outcome, Phase},
    runtime::ContainerState,
};

/// The first facts about a pod, from the API's last status and from what the runtime lists.
pub fn adopt(pod: &std::sync::Arc<Pod>, running: &[ContainerState], now: Timestamp) -> (Observed, Phase) {
    let desired = Desired::of(pod);
    let status = pod.status.clone().unwrap_or_default();
    let accepted_at = status.start_time.as_ref().map_or(now, |t| t.0);
    let mut seen = Observed { accepted_at, ..Observed::default() };
    if let Some(word @ ("Succeeded" | "Failed")) = status.phase.as_deref() {
        let outcome = Outcome { succeeded: word == "Succeeded", ..Outcome::default() };
        return (seen, Phase::Terminal { outcome });
    }
    let told: Vec<_> = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten().collect();
    for member in &desired.members {
        let mut attempts: Vec<_> = running.iter().filter(|s| s.name == member.name()).map(Attempt::of).collect();
        attempts.sort_by_key(|a| a.number);
        let told = told.iter().find(|s| s.name == member.name());
        let known = match attempts.pop() {
            Some(current) => here(current, attempts.pop(), told),
            None => lost(told, now),
        };
        seen.members.insert(member.name().to_owned(), known);
    }
    let main_ran = |m: &&crate::desired::Member| m.role == Role::Main && seen.member(m.name()).current.is_some();
    seen.initialized = desired.members.iter().any(|m| main_ran(&m));
    (seen, Phase::default())
}

/// The runtime has it. What probes found is kept, so that an agent's restart makes nothing unready.
fn here(current: Attempt, previous: Option<Attempt>, told: Option<&ContainerStatus>) -> Seen {
    let id = format!("orlop://{}", current.id);
    let told = told.filter(|s| s.container_id.as_deref() == Some(&id));
    let started = told.and_then(|s| s.started).unwrap_or(false);
    Seen {
        hooked: true,
        started,
        ready: told.is_some_and(|s| s.ready),
        current: Some(current),
        previous,
        ..Seen::default()
    }
}

/// The API knows of a start that the runtime does not: it ended with the node.
fn lost(told: Option<&ContainerStatus>, now: Timestamp) -> Seen {
    let Some((told, id)) = told.and_then(|s| Some((s, s.container_id.as_deref()?))) else { return Seen::default() };
    let ended = told.state.as_ref().and_then(|s| s.terminated.as_ref());
    let started = told.state.as_ref().and_then(|s| s.running.as_ref()).and_then(|r| r.started_at.clone());
    let exit = match ended {
        Some(ended) if ended.exit_code == 0 => {
            let at = ended.finished_at.as_ref().map_or(now, |t| t.0);
            Ended { code: 0, signal: 0, reason: "Completed", message: String::new(), at }
        }
        _ => Ended {
            code: 137,
            signal: 9,
            reason: "ContainerStatusUnknown",
            message: "The container could not be located when the pod was adopted".into(),
            at: now,
        },
    };
    let current = Attempt {
        id: id.trim_start_matches("orlop://").to_owned(),
        number: u32::try_from(told.restart_count).unwrap_or(0),
        started_at: started.or_else(|| ended.and_then(|e| e.started_at.clone())).map_or(now, |t| t.0),
        exit: Some(exit),
    };
    Seen { current: Some(current), ..Seen::default() }
}
