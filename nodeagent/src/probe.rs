//! Asking a container how it is: thresholds as a pure tally, and one asker a kind.

pub mod exec;
pub mod http;
pub mod tcp;

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::runtime::Runtime;

/// What a probe's result is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Holds the others back until the container is up; failing restarts it.
    Startup,
    /// Failing restarts it.
    Liveness,
    /// Failing takes it out of its services.
    Readiness,
}

impl Kind {
    /// As upstream names it in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// A container's probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// Counts answers until they mean something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    last: Option<bool>,
    run: u32,
}

/// When and how often a probe asks, and what its answers amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Before the first question.
    pub delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// Failures in a row that count.
    pub failures: u32,
    /// Successes in a row that count.
    pub successes: u32,
}

impl Schedule {
    /// As the probe says, with upstream's defaults.
    pub fn of(probe: &Probe) -> Self {
        let number =
            |n: Option<i32>, default: u32| n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default);
        let seconds = |n: u32| Duration::from_secs(u64::from(n));
        Self {
            delay: seconds(number(probe.initial_delay_seconds, 0)),
            period: seconds(number(probe.period_seconds, 10)),
            timeout: seconds(number(probe.timeout_seconds, 1)),
            failures: number(probe.failure_threshold, 3),
            successes: number(probe.success_threshold, 1),
        }
    }
}

impl Tally {
    /// Counts one answer. Returns what the answers amount to now, if they amount to anything.
    pub fn count(&mut self, ok: bool, schedule: &Schedule) -> Option<bool> {
        self.run = if self.last == Some(ok) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(ok);
        let enough = if ok { schedule.successes } else { schedule.failures };
        (self.run >= enough).then_some(ok)
    }
}

/// Whom to ask.
#[derive(Clone)]
pub struct Target {
    /// The runtime, for commands.
    pub runtime: Arc<dyn Runtime>,
    /// The container's id there.
    pub id: String,
    /// The pod's address.
    pub ip: IpAddr,
    /// The container, for the names of its ports.
    pub container: Arc<Container>,
}

/// Asks once. The error is what the event says.
pub async fn ask(probe: &Probe, target: &Target) -> Result<(), String> {
    let timeout = Schedule::of(probe).timeout;
    let answer = async {
        if let Some(action) = &probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return exec::ask(target.runtime.as_ref(), &target.id, command).await;
        }
        if let Some(action) = &probe.http_get {
            return http::ask(action, target).await;
        }
        if let Some(action) = &probe.tcp_socket {
            let port = port(&action.port, &target.container)?;
            return tcp::ask(action.host.as_deref(), port, target.ip).await;
        }
        if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).map_err(|_| format!("invalid port {}", action.port))?;
            return tcp::ask(None, port, target.ip).await;
        }
        Err("the probe has no action".into())
    };
    tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
}

/// A port by number, or by its name in the container.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| format!("no port {port:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_enough_answers_in_a_row_count() {
        let schedule = Schedule { failures: 3, successes: 2, ..Schedule::of(&Probe::default()) };
        let mut tally = Tally::default();
        let verdicts: String = "++-+--+---+++"
            .chars()
            .map(|answer| match tally.count(answer == '+', &schedule) {
                Some(true) => 'Y',
                Some(false) => 'N',
                None => '.',
            })
            .collect();
        assert_eq!(verdicts, ".Y.......N.YY");
    }

    #[test]
    fn a_probe_that_says_nothing_gets_upstreams_numbers() {
        let seconds = Duration::from_secs;
        let expected =
            Schedule { delay: seconds(0), period: seconds(10), timeout: seconds(1), failures: 3, successes: 1 };
        assert_eq!(Schedule::of(&Probe::default()), expected);
    }

    #[test]
    fn ports_have_names() {
        let container: Container =
            serde_json::from_value(serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
                .unwrap();
        assert_eq!(port(&IntOrString::String("web".into()), &container), Ok(8080));
        assert_eq!(port(&IntOrString::Int(1), &container), Ok(1));
        assert!(port(&IntOrString::String("x".into()), &container).is_err());
        assert!(port(&IntOrString::Int(70000), &container).is_err());
    }
}
