//! What a Pod object asks of its node, in the words that the decider needs.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// When an ended container starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// After every end.
    Always,
    /// After an end with a code other than 0.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    /// Whether an end with that code calls for a new start.
    pub fn wants(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }

    fn parse(word: Option<&str>) -> Self {
        match word {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// A container's part in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in its turn, runs as long as the pod (KEP-753).
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

/// One container of the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// As written in the pod.
    pub spec: Arc<Container>,
    /// Its part.
    pub role: Role,
    /// When it starts again.
    pub restart: Restart,
}

impl Member {
    /// Its name in the pod.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether something must run in it or be asked before it gets its signal.
    pub fn has_pre_stop(&self) -> bool {
        self.spec.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some())
    }
}

/// Why the pod must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It is marked for deletion; containers get this long from when the agent learns of it.
    Deleted(Duration),
    /// The object is gone already; nobody reads a status any more.
    Removed,
}

/// What the pod's object says.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The object.
    pub pod: Arc<Pod>,
    /// Init containers and sidecars in their order, then the main ones.
    pub members: Vec<Member>,
    /// No network of its own.
    pub host_network: bool,
    /// Why it must go, if it must.
    pub leaving: Option<Leaving>,
    /// How long its containers have between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// `activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
}

/// What upstream grants when a pod says nothing.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Grace of pods whose object is gone.
pub const REMOVED_GRACE: Duration = Duration::from_secs(1);

impl Desired {
    /// Reads it from the object.
    pub fn of(pod: &Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let restart = Restart::parse(spec.restart_policy.as_deref());
        let init = spec.init_containers.iter().flatten().map(|c| match c.restart_policy.as_deref() {
            Some("Always") => Member { spec: Arc::new(c.clone()), role: Role::Sidecar, restart: Restart::Always },
            _ => {
                let restart = if restart == Restart::Never { Restart::Never } else { Restart::OnFailure };
                Member { spec: Arc::new(c.clone()), role: Role::Init, restart }
            }
        });
        let main = spec.containers.iter().map(|c| {
            let restart = c.restart_policy.as_deref().map_or(restart, |word| Restart::parse(Some(word)));
            Member { spec: Arc::new(c.clone()), role: Role::Main, restart }
        });
        let grace = spec.termination_grace_period_seconds.map_or(DEFAULT_GRACE, seconds);
        let leaving = pod.metadata.deletion_timestamp.as_ref().map(|_| {
            Leaving::Deleted(pod.metadata.deletion_grace_period_seconds.map_or(grace, seconds).max(REMOVED_GRACE))
        });
        Self {
            pod: Arc::clone(pod),
            members: init.chain(main).collect(),
            host_network: spec.host_network.unwrap_or_default(),
            leaving,
            grace,
            active_deadline: spec.active_deadline_seconds.map(seconds),
        }
    }

    /// The container of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.name() == name)
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}
