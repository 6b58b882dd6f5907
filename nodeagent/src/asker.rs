//! The task that asks one probe of one container, for as long as that start of it lives.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::time::Instant;

use crate::probe::{self, Kind, Schedule, Tally, Target};

/// The first wait between questions until a container is ready for the first time; doubles up to the probe's period.
const EAGER: Duration = Duration::from_millis(100);

/// What came out of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of which probe.
    pub kind: Kind,
    /// What the answers amount to now, when that is new.
    pub verdict: Option<bool>,
    /// Why it failed; none when it did not, or when failing is no news yet.
    pub failure: Option<String>,
}

/// Asks until dropped. `report` is called for every failure and every new verdict.
pub async fn run(kind: Kind, probe: &Probe, target: &Target, report: impl Fn(Answer)) {
    let schedule = Schedule::of(probe);
    tokio::time::sleep(schedule.delay).await;
    let begun = Instant::now();
    let (mut tally, mut known, mut eager) = (Tally::default(), None, EAGER);
    loop {
        let asked = Instant::now();
        let answer = probe::ask(probe, target).await;
        // before the first success an unready container is no news, and asking often costs little: it is ready sooner
        let starting = kind == Kind::Readiness && known.is_none() && begun.elapsed() < schedule.period;
        if !(starting && answer.is_err()) {
            let verdict = tally.count(answer.is_ok(), &schedule).filter(|v| known != Some(*v));
            known = verdict.or(known);
            if verdict.is_some() || answer.is_err() {
                report(Answer { kind, verdict, failure: answer.err() });
            }
        }
        let wait = if starting && known.is_none() { eager.min(schedule.period) } else { schedule.period };
        eager *= 2;
        tokio::time::sleep_until(asked + wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::fake::{ExecAnswer, Fake};

    #[tokio::test]
    async fn liveness_is_lost_after_enough_failures() {
        let runtime = Arc::new(Fake::new());
        let sandbox = crate::runtime::Sandbox { uid: "u".into(), ..Default::default() };
        crate::runtime::Runtime::create_sandbox(runtime.as_ref(), &sandbox).await.unwrap();
        let container = crate::runtime::Container { id: "c".into(), sandbox: "u".into(), ..Default::default() };
        crate::runtime::Runtime::start(runtime.as_ref(), &container).await.unwrap();
        runtime.answer_exec("check", ExecAnswer { stdout: b"down".to_vec(), code: 1 });
        let probe: Probe = serde_json::from_value(
            serde_json::json!({"exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 2}),
        )
        .unwrap();
        let target = Target {
            runtime,
            id: "c".into(),
            ip: "127.0.0.1".parse().unwrap(),
            container: Arc::new(k8s_openapi::api::core::v1::Container::default()),
        };
        let (sender, mut answers) = tokio::sync::mpsc::unbounded_channel();
        let begun = Instant::now();
        let task = tokio::spawn(async move {
            run(Kind::Liveness, &probe, &target, |answer| drop(sender.send(answer))).await;
        });
        let first = answers.recv().await.unwrap();
        assert_eq!((first.verdict, first.failure.as_deref()), (None, Some("command \"check\" exited with 1: down")));
        assert_eq!(answers.recv().await.unwrap().verdict, Some(false));
        assert_eq!(begun.elapsed().as_secs(), 1, "one period lies between two questions");
        task.abort();
    }
}
