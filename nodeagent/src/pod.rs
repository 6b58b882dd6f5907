//! What happens next to a pod: a pure function of what is wanted and what is seen.
//!
//! # Guarantees
//! * An effect is named again at every step until it shows in [`Observed`]; whoever runs effects ignores those under way.
//! * Nothing is taken down while something of the pod runs or is being started.
//! * A phase only moves forward.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use crate::{
    desired::{Desired, Leaving, Member, REMOVED_GRACE, Role},
    observed::{Observed, Progress, Seen},
};

/// How far a pod has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its containers are brought up and kept up.
    Active {
        /// Those that are being stopped to be restarted.
        stops: Stops,
    },
    /// All its containers are being stopped.
    Ending {
        /// Why.
        cause: Cause,
        /// When what still runs is killed.
        deadline: Timestamp,
        /// How far each is.
        stops: Stops,
    },
    /// Nothing runs and nothing will.
    Terminal {
        /// How it ended.
        outcome: Outcome,
    },
    /// The node has forgotten it.
    Gone,
}

impl Default for Phase {
    fn default() -> Self {
        Self::Active { stops: Stops::new() }
    }
}

/// Containers that are being stopped, by name.
pub type Stops = BTreeMap<String, Stop>;

/// How far the stopping of a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Which start of it.
    attempt: u32,
    /// When it is killed.
    deadline: Timestamp,
    /// What it was sent.
    sent: Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sent {
    Nothing,
    Terminate,
    Kill,
}

/// Why a pod ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is deleted.
    Deleted,
    /// It was active for longer than it may.
    DeadlineExceeded,
    /// Its work is done.
    Finished,
}

/// How a pod ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// All containers ended with code 0.
    pub succeeded: bool,
    /// One word, when there is more to say than the containers' statuses do.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
}

/// What the worker shall do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Connect the pod.
    Attach,
    /// Make what its containers share.
    Sandbox,
    /// Prepare its volumes and files.
    Store,
    /// Have a container's image here.
    Pull(String),
    /// Start a container.
    Start(String, u32),
    /// Run a container's preStop hook, until then at most.
    PreStop(String, Timestamp),
    /// Ask a container to end.
    Terminate(String),
    /// End all processes of a container.
    Kill(String),
    /// Release everything that the pod holds on the node, logs excepted.
    Teardown,
    /// Tell the API that nothing of the pod is left.
    Delete,
    /// Look again then.
    Wake(Timestamp),
}

/// Moves a pod one step on.
pub fn step(phase: Phase, desired: &Desired, seen: &Observed, now: Timestamp) -> (Phase, Vec<Effect>) {
    match phase {
        Phase::Active { stops } => active(stops, desired, seen, now),
        Phase::Ending { cause, deadline, stops } => ending(cause, deadline, stops, desired, seen, now),
        Phase::Terminal { outcome } => terminal(outcome, desired, seen),
        Phase::Gone => (Phase::Gone, Vec::new()),
    }
}

fn active(mut stops: Stops, desired: &Desired, seen: &Observed, now: Timestamp) -> (Phase, Vec<Effect>) {
    if let Some((reason, message)) = &seen.refused {
        let outcome = Outcome { succeeded: false, reason: Some(reason.clone()), message: Some(message.clone()) };
        return terminal(outcome, desired, seen);
    }
    if let Some(leaving) = desired.leaving {
        return ending(Cause::Deleted, now + grace_of(leaving), stops, desired, seen, now);
    }
    let mut effects = Vec::new();
    if let Some(limit) = desired.active_deadline {
        let at = seen.accepted_at + limit;
        if now >= at {
            return ending(Cause::DeadlineExceeded, now + desired.grace, stops, desired, seen, now);
        }
        effects.push(Effect::Wake(at));
    }
    if finished(desired, seen) {
        return ending(Cause::Finished, now + desired.grace, stops, desired, seen, now);
    }
    prepare(desired, seen, now, &mut effects);
    let members = if seen.initialized { up(desired) } else { initializing(desired, seen) };
    for member in members {
        keep(member, desired, seen, now, &mut stops, &mut effects);
    }
    stops.retain(|name, stop| seen.member(name).running().is_some_and(|a| a.number == stop.attempt));
    (Phase::Active { stops }, effects)
}

fn grace_of(leaving: Leaving) -> Duration {
    match leaving {
        Leaving::Deleted(grace) => grace,
        Leaving::Removed => REMOVED_GRACE,
    }
}

/// Network, sandbox, volumes and images: all at once.
fn prepare(desired: &Desired, seen: &Observed, now: Timestamp, effects: &mut Vec<Effect>) {
    want(&seen.network, Effect::Attach, now, effects);
    if seen.network.done().is_some() {
        want(&seen.sandbox, Effect::Sandbox, now, effects);
    }
    want(&seen.storage, Effect::Store, now, effects);
    for member in &desired.members {
        if member.role == Role::Init && (seen.initialized || succeeded(seen.member(member.name()))) {
            continue;
        }
        want(&seen.member(member.name()).image, Effect::Pull(member.name().to_owned()), now, effects);
    }
}

fn want<T>(progress: &Progress<T>, effect: Effect, now: Timestamp, effects: &mut Vec<Effect>) {
    match progress {
        Progress::Pending => effects.push(effect),
        Progress::Done(_) => {}
        Progress::Failed(failure) if failure.retry_at <= now => effects.push(effect),
        Progress::Failed(failure) => effects.push(Effect::Wake(failure.retry_at)),
    }
}

/// The containers that may run while the pod initializes: those before the first that is not through, and that one.
fn initializing<'a>(desired: &'a Desired, seen: &Observed) -> Vec<&'a Member> {
    let mut members = Vec::new();
    for member in &desired.members {
        let known = seen.member(member.name());
        let through = match member.role {
            Role::Init => succeeded(known),
            Role::Sidecar => known.running().is_some() && known.started && known.hooked,
            Role::Main => true,
        };
        if !(member.role == Role::Init && through) {
            members.push(member);
        }
        if !through {
            break;
        }
    }
    members
}

/// The containers that run once the pod is initialized.
fn up(desired: &Desired) -> Vec<&Member> {
    desired.members.iter().filter(|m| m.role != Role::Init).collect()
}

/// Whether all init containers have ended well and all sidecars have started.
pub fn initialized(desired: &Desired, seen: &Observed) -> bool {
    seen.initialized || initializing(desired, seen).iter().any(|m| m.role == Role::Main)
}

fn succeeded(seen: &Seen) -> bool {
    seen.ended().is_some_and(|e| e.code == 0)
}

/// One container as it should be: started, restarted after its back-off, or on its way down.
fn keep(
    member: &Member,
    desired: &Desired,
    seen: &Observed,
    now: Timestamp,
    stops: &mut Stops,
    effects: &mut Vec<Effect>,
) {
    let known = seen.member(member.name());
    if known.running().is_some() {
        if let Some(unhealthy) = &known.unhealthy {
            let grace = unhealthy.grace_seconds.map_or(desired.grace, Duration::from_secs);
            stop(member, known, now + grace, now, stops, effects);
        }
        return;
    }
    if let Some(ended) = known.ended() {
        if !member.restart.wants(ended.code) {
            return;
        }
        if let Some(at) = known.restart_at().filter(|at| *at > now) {
            effects.push(Effect::Wake(at));
            return;
        }
    }
    if seen.prepared() && known.image.done().is_some() {
        let start = Effect::Start(member.name().to_owned(), known.next_attempt());
        match &known.start {
            Progress::Failed(failure) if failure.retry_at > now => effects.push(Effect::Wake(failure.retry_at)),
            Progress::Failed(_) | Progress::Pending | Progress::Done(()) => effects.push(start),
        }
    }
}

/// Whether nothing is left to do: an init container failed for good, or all main containers ended for good.
fn finished(desired: &Desired, seen: &Observed) -> bool {
    let over = |m: &Member| seen.member(m.name()).ended().is_some_and(|e| !m.restart.wants(e.code));
    let mut mains = desired.members.iter().filter(|m| m.role == Role::Main).peekable();
    let failed_init =
        desired.members.iter().any(|m| m.role == Role::Init && over(m) && !succeeded(seen.member(m.name())));
    (failed_init && !seen.initialized) || (mains.peek().is_some() && mains.all(over))
}

fn stop(
    member: &Member,
    known: &Seen,
    deadline: Timestamp,
    now: Timestamp,
    stops: &mut Stops,
    effects: &mut Vec<Effect>,
) {
    let Some(attempt) = known.running() else { return };
    let name = member.name().to_owned();
    let fresh = Stop { attempt: attempt.number, deadline, sent: Sent::Nothing };
    let entry = stops.entry(name.clone()).or_insert(fresh);
    if entry.attempt != attempt.number {
        *entry = Stop { attempt: attempt.number, deadline, sent: Sent::Nothing };
    }
    entry.deadline = entry.deadline.min(deadline);
    if now >= entry.deadline {
        if entry.sent < Sent::Kill {
            entry.sent = Sent::Kill;
            effects.push(Effect::Kill(name));
        }
        return;
    }
    effects.push(Effect::Wake(entry.deadline));
    if member.has_pre_stop() && !known.pre_stopped {
        effects.push(Effect::PreStop(name, entry.deadline));
    } else if entry.sent < Sent::Terminate {
        entry.sent = Sent::Terminate;
        effects.push(Effect::Terminate(name));
    }
}

/// Init and main containers at once, then the sidecars one by one, last first (KEP-753).
fn ending(
    cause: Cause,
    mut deadline: Timestamp,
    mut stops: Stops,
    desired: &Desired,
    seen: &Observed,
    now: Timestamp,
) -> (Phase, Vec<Effect>) {
    let mut cause = cause;
    if let Some(leaving) = desired.leaving {
        deadline = deadline.min(now + grace_of(leaving));
        if cause == Cause::Finished {
            cause = Cause::Deleted;
        }
    }
    let mut effects = Vec::new();
    let running: Vec<_> = desired.members.iter().filter(|m| seen.member(m.name()).running().is_some()).collect();
    let (sidecars, others): (Vec<_>, Vec<_>) = running.into_iter().partition(|m| m.role == Role::Sidecar);
    let targets: Vec<_> = match (others.is_empty(), now >= deadline) {
        (_, true) => others.into_iter().chain(sidecars).collect(),
        (false, false) => others,
        (true, false) => sidecars.into_iter().last().into_iter().collect(),
    };
    for member in &targets {
        stop(member, seen.member(member.name()), deadline, now, &mut stops, &mut effects);
    }
    if targets.is_empty() && !seen.busy {
        let (phase, more) = terminal(outcome(&cause, desired, seen), desired, seen);
        effects.extend(more);
        return (phase, effects);
    }
    (Phase::Ending { cause, deadline, stops }, effects)
}

fn outcome(cause: &Cause, desired: &Desired, seen: &Observed) -> Outcome {
    if *cause == Cause::DeadlineExceeded {
        return Outcome {
            succeeded: false,
            reason: Some("DeadlineExceeded".into()),
            message: Some("Pod was active on the node longer than the specified deadline".into()),
        };
    }
    let mut counted = desired.members.iter().filter(|m| m.role == Role::Main);
    Outcome { succeeded: counted.all(|m| succeeded(seen.member(m.name()))), ..Outcome::default() }
}

fn terminal(outcome: Outcome, desired: &Desired, seen: &Observed) -> (Phase, Vec<Effect>) {
    if !seen.torn_down {
        return (Phase::Terminal { outcome }, vec![Effect::Teardown]);
    }
    match desired.leaving {
        None => (Phase::Terminal { outcome }, Vec::new()),
        Some(Leaving::Removed) => (Phase::Gone, Vec::new()),
        Some(Leaving::Deleted(_)) if seen.deleted => (Phase::Gone, Vec::new()),
        Some(Leaving::Deleted(_)) if seen.published => (Phase::Terminal { outcome }, vec![Effect::Delete]),
        Some(Leaving::Deleted(_)) => (Phase::Terminal { outcome }, Vec::new()),
    }
}
