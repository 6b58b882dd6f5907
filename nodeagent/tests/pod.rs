//! Stories of pods: what happens, and what the decider does about it. `ORLOP_REWRITE=1` writes the answers anew.

#![allow(clippy::unwrap_used)]

use std::{fmt::Write, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use nodeagent::{
    backoff::Backoff,
    desired::{Desired, Role},
    network::Attachment,
    observed::{Attempt, Ended, ImageSeen, Observed, Progress, Unhealthy},
    pod::{self, Effect, Phase},
};

struct Story {
    pod: Arc<Pod>,
    desired: Desired,
    seen: Observed,
    phase: Phase,
    begun: Timestamp,
    now: Timestamp,
}

impl Story {
    fn begin(spec: &str) -> Self {
        let spec: serde_json::Value = serde_json::from_str(spec).expect("the pod's spec is JSON");
        let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec});
        let pod = Arc::new(serde_json::from_value::<Pod>(pod).unwrap());
        let now = Timestamp::from_second(1_000_000).unwrap();
        let seen = Observed { accepted_at: now, ..Observed::default() };
        Self { desired: Desired::of(&pod), pod, seen, phase: Phase::default(), begun: now, now }
    }

    fn happens(&mut self, words: &[&str]) {
        let now = self.now;
        match words {
            ["prepared"] => {
                let netns = "/netns/u".into();
                let attachment = Attachment { netns, addresses: vec!["10.42.0.2".parse().unwrap()] };
                self.seen.network = Progress::Done(attachment);
                self.seen.sandbox = Progress::Done(());
                self.seen.storage = Progress::Done(());
            }
            ["pulled", names @ ..] => {
                for name in names {
                    let known = self.seen.members.entry((*name).to_owned()).or_default();
                    known.image = Progress::Done(ImageSeen::default());
                }
            }
            ["pull-failed", name] => {
                let known = self.seen.members.entry((*name).to_owned()).or_default();
                known.image.fail("ErrImagePull", "no route".into(), now, Backoff::crash());
            }
            ["started", name] => {
                let known = self.seen.members.entry((*name).to_owned()).or_default();
                let number = known.next_attempt();
                known.begin(
                    Attempt { id: format!("{name}{number}"), number, started_at: now, exit: None },
                    false,
                    false,
                    false,
                );
            }
            ["exited", name, code] => {
                let code = code.parse().unwrap();
                let known = self.seen.members.get_mut(*name).unwrap();
                known.end(Ended { code, signal: 0, reason: "Error", message: String::new(), at: now });
            }
            ["pre-stopped", name] => self.seen.members.get_mut(*name).unwrap().pre_stopped = true,
            ["unhealthy", name] => {
                let unhealthy = Unhealthy { why: "liveness".into(), grace_seconds: None };
                self.seen.members.get_mut(*name).unwrap().unhealthy = Some(unhealthy);
            }
            ["deleted", grace] => {
                let mut pod = (*self.pod).clone();
                pod.metadata.deletion_timestamp = Some(now.into());
                pod.metadata.deletion_grace_period_seconds = Some(grace.parse().unwrap());
                self.desired = Desired::of(&Arc::new(pod));
            }
            ["busy"] => self.seen.busy = true,
            ["idle"] => self.seen.busy = false,
            ["torn-down"] => self.seen.torn_down = true,
            ["published"] => self.seen.published = true,
            ["forgotten"] => self.seen.deleted = true,
            ["wait", seconds] => self.now = now + Duration::from_secs(seconds.parse().unwrap()),
            other => panic!("no such event: {other:?}"),
        }
    }

    fn step(&mut self) -> String {
        self.seen.initialized = self.seen.initialized || pod::initialized(&self.desired, &self.seen);
        let (phase, effects) = pod::step(std::mem::take(&mut self.phase), &self.desired, &self.seen, self.now);
        self.phase = phase;
        let after = |at: &Timestamp| at.duration_since(self.begun).as_secs();
        let phase = match &self.phase {
            Phase::Active { .. } => "active".to_owned(),
            Phase::Ending { cause, deadline, .. } => format!("ending {cause:?} until {}", after(deadline)),
            Phase::Terminal { outcome } => {
                let word = if outcome.succeeded { "succeeded" } else { "failed" };
                outcome.reason.as_ref().map_or_else(|| word.to_owned(), |reason| format!("{word} {reason}"))
            }
            Phase::Gone => "gone".to_owned(),
        };
        let mut words: Vec<_> = effects
            .iter()
            .map(|effect| match effect {
                Effect::Start(name, attempt) => format!("start {name} #{attempt}"),
                Effect::Pull(name) => format!("pull {name}"),
                Effect::PreStop(name, until) => format!("pre-stop {name} until {}", after(until)),
                Effect::Terminate(name) => format!("terminate {name}"),
                Effect::Kill(name) => format!("kill {name}"),
                Effect::Wake(at) => format!("wake at {}", after(at)),
                other => format!("{other:?}").to_lowercase(),
            })
            .collect();
        words.dedup();
        format!("{phase}: {}", words.join(", ")).trim_end_matches([' ', ':']).to_owned()
    }
}

fn play(text: &str) -> String {
    let mut out = String::new();
    let mut story: Option<Story> = None;
    for line in text.lines().filter(|l| !l.starts_with("  ")) {
        writeln!(out, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(spec) = line.strip_prefix("pod ") {
            story = Some(Story::begin(spec));
        } else {
            story.as_mut().expect("a story begins with a pod").happens(&line.split(' ').collect::<Vec<_>>());
        }
        writeln!(out, "  {}", story.as_mut().unwrap().step()).unwrap();
    }
    out
}

#[test]
fn stories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pod");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let told = play(&text);
        if std::env::var_os("ORLOP_REWRITE").is_some() {
            std::fs::write(&path, &told).unwrap();
        } else {
            assert_eq!(told, text, "{}", path.display());
        }
        played += 1;
    }
    assert!(played >= 4, "stories are there");
}

#[test]
fn roles_are_read_from_the_pod() {
    let story = Story::begin(
        r#"{"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "m"}]}"#,
    );
    let roles: Vec<_> = story.desired.members.iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::Init, Role::Sidecar, Role::Main]);
}
