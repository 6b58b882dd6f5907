//! A pod's status: a pure function of facts.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
        HostIP, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    desired::{Desired, Member, Role},
    observed::{Attempt, Ended, Failure, Observed, Seen},
    pod::{self, Phase},
    qos,
};

/// A pull that failed this long ago shows as `ImagePullBackOff`, before that as `ErrImagePull`.
const PULL_ERROR_SHOWN: std::time::Duration = std::time::Duration::from_secs(2);

/// The status of a pod. `previous` gives the times of conditions that did not change.
pub fn status(
    phase: &Phase,
    desired: &Desired,
    seen: &Observed,
    host_ips: &[String],
    previous: &PodStatus,
    now: Timestamp,
) -> PodStatus {
    let one = |m: &Member| container(m, phase, desired, seen, previous, now);
    let by_role = |main: bool| {
        let of_role = desired.members.iter().filter(|m| (m.role == Role::Main) == main);
        let statuses: Vec<_> = of_role.map(one).collect();
        (!statuses.is_empty()).then_some(statuses)
    };
    let init_container_statuses = by_role(false);
    let container_statuses = by_role(true);
    let ips = addresses(desired, seen, host_ips, previous);
    let (word, reason, message) = word(phase, desired, seen);
    let running_at_all = matches!(phase, Phase::Active { .. } | Phase::Ending { .. });
    let mut status = PodStatus {
        phase: Some(word.into()),
        reason,
        message,
        host_ip: host_ips.first().cloned(),
        host_ips: list(host_ips, |ip| HostIP { ip: ip.clone() }),
        pod_ip: ips.first().cloned(),
        pod_ips: list(&ips, |ip| PodIP { ip: ip.clone() }),
        qos_class: desired.pod.spec.as_ref().map(|spec| qos::class(spec).name().into()),
        start_time: Some(Time(whole_second(seen.accepted_at))),
        observed_generation: desired.pod.metadata.generation,
        init_container_statuses,
        container_statuses,
        ..PodStatus::default()
    };
    if seen.refused.is_some() {
        (status.init_container_statuses, status.container_statuses) = (None, None);
    }
    status.conditions = Some(conditions(&status, desired, seen, running_at_all, previous, now));
    status
}

fn list<T>(ips: &[String], make: impl Fn(&String) -> T) -> Option<Vec<T>> {
    (!ips.is_empty()).then(|| ips.iter().map(make).collect())
}

/// What runs keeps the address that it had, while an agent that has just adopted it finds its place again.
fn addresses(desired: &Desired, seen: &Observed, host_ips: &[String], previous: &PodStatus) -> Vec<String> {
    if seen.network.done().is_none() && runs(seen) {
        return previous.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    if desired.host_network {
        return if seen.network.done().is_some() { host_ips.to_vec() } else { Vec::new() };
    }
    seen.network.done().into_iter().flat_map(|a| &a.addresses).map(ToString::to_string).collect()
}

fn runs(seen: &Observed) -> bool {
    seen.members.values().any(|m| m.running().is_some())
}

/// Phase, reason, message of the pod as a whole (`getPhase` in upstream's kubelet_pods.go).
fn word(phase: &Phase, desired: &Desired, seen: &Observed) -> (&'static str, Option<String>, Option<String>) {
    if let Phase::Terminal { outcome } = phase {
        let word = if outcome.succeeded { "Succeeded" } else { "Failed" };
        return (word, outcome.reason.clone(), outcome.message.clone());
    }
    let mut mains = desired.members.iter().filter(|m| m.role == Role::Main);
    let begun = seen.initialized && mains.all(|m| seen.member(m.name()).current.is_some());
    (if begun { "Running" } else { "Pending" }, None, None)
}

fn container(
    member: &Member,
    phase: &Phase,
    desired: &Desired,
    seen: &Observed,
    previous: &PodStatus,
    now: Timestamp,
) -> ContainerStatus {
    let known = seen.member(member.name());
    let ending = !matches!(phase, Phase::Active { .. });
    let running = known.running().is_some();
    let will_restart = !ending && known.ended().is_some_and(|e| member.restart.wants(e.code));
    let (state, last) = match &known.current {
        Some(attempt) if running => (running_state(attempt), known.previous.as_ref().map(terminated)),
        Some(attempt) if will_restart => (waiting(member, desired, seen, now), Some(terminated(attempt))),
        Some(attempt) => (terminated(attempt), known.previous.as_ref().map(terminated)),
        None => (waiting(member, desired, seen, now), None),
    };
    let done = member.role == Role::Init && known.ended().is_some_and(|e| e.code == 0);
    let id = known.current.as_ref().map(container_id);
    ContainerStatus {
        name: member.name().to_owned(),
        image: member.spec.image.clone().unwrap_or_default(),
        image_id: known.image.done().map_or_else(|| told_image(&id, previous), |i| i.id.clone()),
        container_id: id,
        restart_count: i32::try_from(known.current.as_ref().map_or(known.base, |a| a.number)).unwrap_or(i32::MAX),
        ready: done || (running && known.started && known.hooked && known.ready && member.role != Role::Init),
        started: Some(running && known.started && known.hooked),
        state: Some(state),
        last_state: Some(last.unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

/// The image that this very container was said to be made of.
fn told_image(id: &Option<String>, previous: &PodStatus) -> String {
    let told = [&previous.init_container_statuses, &previous.container_statuses];
    let mut told = told.into_iter().flatten().flatten();
    let same = told.find(|s| id.is_some() && s.container_id == *id);
    same.map(|s| s.image_id.clone()).unwrap_or_default()
}

fn container_id(attempt: &Attempt) -> String {
    format!("orlop://{}", attempt.id)
}

fn running_state(attempt: &Attempt) -> ContainerState {
    let started_at = Some(Time(whole_second(attempt.started_at)));
    ContainerState { running: Some(ContainerStateRunning { started_at }), ..ContainerState::default() }
}

fn terminated(attempt: &Attempt) -> ContainerState {
    let unknown = Ended { code: 137, signal: 0, reason: "Unknown", message: String::new(), at: attempt.started_at };
    let ended = attempt.exit.as_ref().unwrap_or(&unknown);
    let state = ContainerStateTerminated {
        container_id: Some(container_id(attempt)),
        exit_code: ended.code,
        signal: None,
        reason: Some(ended.reason.into()),
        message: (!ended.message.is_empty()).then(|| ended.message.clone()),
        started_at: Some(Time(whole_second(attempt.started_at))),
        finished_at: Some(Time(whole_second(ended.at))),
    };
    ContainerState { terminated: Some(state), ..ContainerState::default() }
}

fn waiting(member: &Member, desired: &Desired, seen: &Observed, now: Timestamp) -> ContainerState {
    let (reason, message) = why_waiting(member, desired, seen, now);
    let state = ContainerStateWaiting { reason: Some(reason), message };
    ContainerState { waiting: Some(state), ..ContainerState::default() }
}

fn why_waiting(member: &Member, desired: &Desired, seen: &Observed, now: Timestamp) -> (String, Option<String>) {
    let known = seen.member(member.name());
    if let Some(at) = known.restart_at().filter(|at| *at > now) {
        let delay = at.duration_since(known.ended().map_or(now, |e| e.at)).unsigned_abs();
        let pod = &desired.pod.metadata;
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            minutes(delay),
            member.name(),
            pod.name.as_deref().unwrap_or_default(),
            pod.namespace.as_deref().unwrap_or_default(),
            desired.uid(),
        );
        return ("CrashLoopBackOff".into(), Some(message));
    }
    if member.role == Role::Main && !seen.initialized && desired.members.iter().any(|m| m.role != Role::Main) {
        return ("PodInitializing".into(), None);
    }
    if let Some(failure) = known.image.failure() {
        let reason = pull_reason(failure, now);
        let message = match reason {
            "ImagePullBackOff" => {
                let image = member.spec.image.as_deref().unwrap_or_default();
                format!("Back-off pulling image {image:?}: {}: {}", failure.reason, failure.message)
            }
            _ => failure.message.clone(),
        };
        return (reason.into(), Some(message));
    }
    if let Some(failure) = known.start.failure() {
        return (failure.reason.into(), Some(failure.message.clone()));
    }
    ("ContainerCreating".into(), seen.trouble().map(|f| f.message.clone()))
}

fn pull_reason(failure: &Failure, now: Timestamp) -> &'static str {
    if failure.reason == "ErrImagePull" && now >= failure.at + PULL_ERROR_SHOWN {
        return "ImagePullBackOff";
    }
    failure.reason
}

/// When the status changes without any new fact.
pub fn changes_at(seen: &Observed, now: Timestamp) -> Option<Timestamp> {
    let failures = seen.members.values().filter_map(|m| m.image.failure());
    failures.map(|f| f.at + PULL_ERROR_SHOWN).filter(|at| *at > now).min()
}

/// `10s`, `1m20s`, `5m0s`, as Go prints durations.
fn minutes(delay: std::time::Duration) -> String {
    let seconds = delay.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

struct Verdict {
    kind: &'static str,
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(
    status: &PodStatus,
    desired: &Desired,
    seen: &Observed,
    alive: bool,
    previous: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let succeeded = status.phase.as_deref() == Some("Succeeded");
    let over = succeeded || status.phase.as_deref() == Some("Failed");
    let initialized = pod::initialized(desired, seen);
    let incomplete = not_complete(desired, seen);
    let unready = unready(status);
    let waiting = |names: &[String], word| Some(format!("containers with {word} status: [{}]", names.join(" ")));
    let done = |kind, ok: bool, bad: &'static str, names: &[String], word| match (ok, over) {
        (true, _) => Verdict { kind, ok, reason: None, message: None },
        (false, true) if succeeded => Verdict { kind, ok, reason: Some("PodCompleted"), message: None },
        (false, true) => Verdict { kind, ok, reason: Some("PodFailed"), message: None },
        (false, false) => Verdict { kind, ok, reason: Some(bad), message: waiting(names, word) },
    };
    let containers_ready = alive && !over && initialized && unready.is_empty();
    let contained = done("ContainersReady", containers_ready, "ContainersNotReady", &unready, "unready");
    let mut ready = Verdict { kind: "Ready", message: contained.message.clone(), ..contained };
    if ready.ok
        && let Some(gate) = closed_gate(desired)
    {
        let message = format!("the status of pod readiness gate \"{gate}\" is not \"True\", but False");
        ready = Verdict { kind: "Ready", ok: false, reason: Some("ReadinessGatesNotReady"), message: Some(message) };
    }
    let has_sandbox = (seen.sandbox.done().is_some() || runs(seen)) && !over;
    let mut init = done("Initialized", initialized, "ContainersNotInitialized", &incomplete, "incomplete");
    if init.ok && succeeded {
        init.reason = Some("PodCompleted");
    }
    let ours = [
        Verdict { kind: "PodReadyToStartContainers", ok: has_sandbox, reason: None, message: None },
        init,
        ready,
        contained,
        Verdict { kind: "PodScheduled", ok: true, reason: None, message: None },
    ];
    let generation = desired.pod.metadata.generation;
    ours.into_iter().map(|v| condition(v, previous, generation, now)).collect()
}

fn condition(verdict: Verdict, previous: &PodStatus, generation: Option<i64>, now: Timestamp) -> PodCondition {
    let word = if verdict.ok { "True" } else { "False" };
    let before = previous.conditions.iter().flatten().find(|c| c.type_ == verdict.kind && c.status == word);
    PodCondition {
        type_: verdict.kind.into(),
        status: word.into(),
        reason: verdict.reason.map(Into::into),
        message: verdict.message,
        observed_generation: generation,
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(whole_second(now)))),
        last_probe_time: None,
    }
}

/// The first readiness gate (KEP-580) that nobody has opened.
fn closed_gate(desired: &Desired) -> Option<String> {
    let gates = desired.pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let conditions = || desired.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let open = |gate: &str| conditions().any(|c| c.type_ == gate && c.status == "True");
    gates.map(|g| g.condition_type.clone()).find(|gate| !open(gate))
}

fn not_complete(desired: &Desired, seen: &Observed) -> Vec<String> {
    let through = |m: &Member| {
        let known: &Seen = seen.member(m.name());
        match m.role {
            Role::Init => known.ended().is_some_and(|e| e.code == 0),
            Role::Sidecar => known.running().is_some() && known.started,
            Role::Main => true,
        }
    };
    desired.members.iter().filter(|m| !through(m)).map(|m| m.name().to_owned()).collect()
}

fn unready(status: &PodStatus) -> Vec<String> {
    status.container_statuses.iter().flatten().filter(|c| !c.ready).map(|c| c.name.clone()).collect()
}

/// The API's times have whole seconds: rounding here keeps a status equal to what the API gives back.
pub fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
