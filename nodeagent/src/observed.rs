//! What is known of a pod on this node: facts only, gathered by its worker.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    backoff::Backoff,
    network::Attachment,
    runtime::{ContainerState, Exit},
};

/// How something that must be there once is getting on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Progress<T> {
    /// Not there yet.
    #[default]
    Pending,
    /// There.
    Done(T),
    /// Failed, and to be tried again.
    Failed(Failure),
}

impl<T> Progress<T> {
    /// What is there.
    pub fn done(&self) -> Option<&T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Pending | Self::Failed(_) => None,
        }
    }

    /// Why it is not there, when that is known.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Pending | Self::Done(_) => None,
        }
    }

    /// Notes one more failure.
    pub fn fail(&mut self, reason: &'static str, message: String, now: Timestamp, mut first: Backoff) {
        if let Self::Failed(before) = self {
            first = before.backoff;
        }
        let retry_at = now + first.grow();
        *self = Self::Failed(Failure { reason, message, at: now, retry_at, backoff: first });
    }
}

/// Why something is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One word, shown as a waiting container's reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// When it is tried again.
    pub retry_at: Timestamp,
    /// What later waits are.
    pub backoff: Backoff,
}

/// What the worker knows of a container's image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSeen {
    /// `sha256:...` of its configuration.
    pub id: String,
    /// The signal that its maker wants it stopped with.
    pub stop_signal: Option<String>,
}

/// One start of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its id in the runtime.
    pub id: String,
    /// 0 for the first, one more for each restart.
    pub number: u32,
    /// When its process started.
    pub started_at: Timestamp,
    /// How it ended.
    pub exit: Option<Ended>,
}

/// How a start of a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its code; 128 when it could not be started.
    pub code: i32,
    /// The signal that killed it, or 0.
    pub signal: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: &'static str,
    /// What it left in its termination message file.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

impl Ended {
    /// From what the runtime recorded.
    pub fn of(exit: &Exit) -> Self {
        let reason = match exit {
            Exit { oom_killed: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        let at = timestamp(exit.at);
        Self { code: exit.code, signal: exit.signal, reason, message: String::new(), at }
    }
}

/// The instant of a system time.
pub fn timestamp(at: std::time::SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Attempt {
    /// From what the runtime lists.
    pub fn of(state: &ContainerState) -> Self {
        Self {
            id: state.id.clone(),
            number: state.attempt,
            started_at: timestamp(state.started_at),
            exit: state.exit.as_ref().map(Ended::of),
        }
    }
}

/// A probe or hook that says: this container must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhealthy {
    /// For the event: `Container web failed liveness probe, will be restarted`.
    pub why: String,
    /// A grace of the probe's own, seconds.
    pub grace_seconds: Option<u64>,
}

/// What is known of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its image.
    pub image: Progress<ImageSeen>,
    /// Its latest start.
    pub current: Option<Attempt>,
    /// The start before that.
    pub previous: Option<Attempt>,
    /// Why it could not be made, before any process of it.
    pub start: Progress<()>,
    /// Between restarts.
    pub backoff: Option<Backoff>,
    /// Number of the first start that this agent makes: more than 0 when earlier ones were lost, with the node's power say.
    pub base: u32,
    /// Its postStart hook has ended well, or it has none.
    pub hooked: bool,
    /// Its preStop hook has ended, well or not.
    pub pre_stopped: bool,
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub ready: bool,
    /// It must be stopped.
    pub unhealthy: Option<Unhealthy>,
}

impl Seen {
    /// Its latest start, while that runs.
    pub fn running(&self) -> Option<&Attempt> {
        self.current.as_ref().filter(|a| a.exit.is_none())
    }

    /// How its latest start ended.
    pub fn ended(&self) -> Option<&Ended> {
        self.current.as_ref().and_then(|a| a.exit.as_ref())
    }

    /// The number of its next start.
    pub fn next_attempt(&self) -> u32 {
        self.current.as_ref().map_or(self.base, |a| a.number + 1)
    }

    /// When it may start again after its end.
    pub fn restart_at(&self) -> Option<Timestamp> {
        let delay = self.backoff.unwrap_or(Backoff::crash()).delay();
        self.ended().map(|e| e.at + delay)
    }

    /// A new start succeeded, or failed for a reason of its own (then `attempt` has ended already).
    pub fn begin(&mut self, attempt: Attempt, has_startup_probe: bool, has_readiness_probe: bool, has_hook: bool) {
        if self.current.is_some() {
            self.backoff.get_or_insert(Backoff::crash()).grow();
        }
        self.previous = self.current.take();
        self.hooked = !has_hook;
        self.started = !has_startup_probe;
        self.ready = !has_readiness_probe;
        self.pre_stopped = false;
        self.unhealthy = None;
        self.start = Progress::Done(());
        self.current = Some(attempt);
        self.note_recovery();
    }

    /// The current start has ended.
    pub fn end(&mut self, ended: Ended) {
        let Some(current) = &mut self.current else { return };
        match &mut current.exit {
            Some(known) => known.message = ended.message,
            None => {
                current.exit = Some(ended);
                self.unhealthy = None;
                self.note_recovery();
            }
        }
    }

    fn note_recovery(&mut self) {
        if let Some(Attempt { started_at, exit: Some(ended), .. }) = &self.current {
            let ran = ended.at.duration_since(*started_at).unsigned_abs();
            self.backoff.get_or_insert(Backoff::crash()).ended_after(ran);
        }
    }
}

/// All that is known of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// When this node took the pod.
    pub accepted_at: Timestamp,
    /// The node will not run it: reason and message.
    pub refused: Option<(String, String)>,
    /// Its place in the network; the namespace is empty with `hostNetwork`.
    pub network: Progress<Attachment>,
    /// What its containers share.
    pub sandbox: Progress<()>,
    /// Its volumes and files.
    pub storage: Progress<()>,
    /// Its init containers have done their work once.
    pub initialized: bool,
    /// Its containers by name.
    pub members: BTreeMap<String, Seen>,
    /// A preparation or start is under way: nothing may be taken down under it.
    pub busy: bool,
    /// Nothing of it is left on the node but logs.
    pub torn_down: bool,
    /// The API has its latest status.
    pub published: bool,
    /// The API has forgotten it.
    pub deleted: bool,
}

impl Observed {
    /// What is known of that container.
    pub fn member(&self, name: &str) -> &Seen {
        static UNKNOWN: std::sync::OnceLock<Seen> = std::sync::OnceLock::new();
        self.members.get(name).unwrap_or_else(|| UNKNOWN.get_or_init(Seen::default))
    }

    /// Everything that containers need before they start.
    pub fn prepared(&self) -> bool {
        self.network.done().is_some() && self.sandbox.done().is_some() && self.storage.done().is_some()
    }

    /// Why it is not prepared.
    pub fn trouble(&self) -> Option<&Failure> {
        self.network.failure().or(self.sandbox.failure()).or(self.storage.failure())
    }
}
