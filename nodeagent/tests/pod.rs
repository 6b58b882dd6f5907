//! Stories of pods: what happens, and what the decider does about it (`testdata/pod`) or what the API is told
//! (`testdata/status`). `ORLOP_REWRITE=1` writes the answers anew.

#![allow(clippy::unwrap_used)]

use std::{fmt::Write, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use nodeagent::{
    backoff::Backoff,
    desired::{Desired, Role},
    network::Attachment,
    observed::{Attempt, Ended, ImageSeen, Observed, Progress, Unhealthy},
    pod::{self, Effect, Phase},
    status,
};

/// Addresses of the node.
const HOST_IPS: [&str; 1] = ["172.30.0.11"];

struct Story {
    pod: Arc<Pod>,
    desired: Desired,
    seen: Observed,
    phase: Phase,
    begun: Timestamp,
    now: Timestamp,
    told: PodStatus,
}

impl Story {
    fn begin(spec: &str) -> Self {
        let spec: serde_json::Value = serde_json::from_str(spec).expect("the pod's spec is JSON");
        let meta = serde_json::json!({"name": "p", "namespace": "ns", "uid": "u", "generation": 1});
        let pod = serde_json::json!({"metadata": meta, "spec": spec});
        let pod = Arc::new(serde_json::from_value::<Pod>(pod).unwrap());
        let now = Timestamp::from_second(1_000_000).unwrap();
        let seen = Observed { accepted_at: now, ..Observed::default() };
        let (phase, told) = (Phase::default(), PodStatus::default());
        Self { desired: Desired::of(&pod), pod, seen, phase, begun: now, now, told }
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
            ["started", name] | ["started", name, "with-startup-probe"] => {
                let known = self.seen.members.entry((*name).to_owned()).or_default();
                let number = known.next_attempt();
                let attempt = Attempt { id: format!("{name}{number}"), number, started_at: now, exit: None };
                known.begin(attempt, words.len() > 2, false, false);
            }
            ["exited", name, code, last_words @ ..] => {
                let code = code.parse().unwrap();
                let reason = if code == 0 { "Completed" } else { "Error" };
                let known = self.seen.members.get_mut(*name).unwrap();
                known.end(Ended { code, signal: 0, reason, message: last_words.join(" "), at: now });
            }
            ["start-failed", name, reason, message @ ..] => {
                let reason: &'static str = String::leak((*reason).to_owned());
                let known = self.seen.members.entry((*name).to_owned()).or_default();
                known.start.fail(reason, message.join(" "), now, Backoff::retry());
            }
            ["attach-failed", message @ ..] => {
                self.seen.network.fail("FailedCreatePodSandBox", message.join(" "), now, Backoff::retry());
            }
            ["unready", name] => self.seen.members.get_mut(*name).unwrap().ready = false,
            ["ready", name] => self.seen.members.get_mut(*name).unwrap().ready = true,
            ["probed", name] => self.seen.members.get_mut(*name).unwrap().started = true,
            ["refused", reason, message @ ..] => {
                self.seen.refused = Some(((*reason).to_owned(), message.join(" ")));
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

impl Story {
    /// What the API is told, one field a line.
    fn status(&mut self) -> String {
        self.step();
        let host_ips = HOST_IPS.map(str::to_owned);
        self.told = status::status(&self.phase, &self.desired, &self.seen, &host_ips, &self.told, self.now);
        let text = serde_json::to_string_pretty(&self.told).unwrap();
        text.lines().collect::<Vec<_>>().join("\n  ")
    }
}

/// What a story's events lead to, one answer after each, or after those that ask for one with `tell`.
fn play(text: &str, mut answer: impl FnMut(&mut Story, &[&str]) -> Option<String>) -> String {
    let mut out = String::new();
    let mut story: Option<Story> = None;
    for line in text.lines().filter(|l| !l.starts_with("  ")) {
        writeln!(out, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<_> = line.split(' ').collect();
        if let Some(spec) = line.strip_prefix("pod ") {
            story = Some(Story::begin(spec));
        } else if words != ["tell"] {
            story.as_mut().expect("a story begins with a pod").happens(&words);
        }
        if let Some(answer) = answer(story.as_mut().unwrap(), &words) {
            writeln!(out, "  {answer}").unwrap();
        }
    }
    out
}

/// Plays all stories of a folder, which must be told as they are written.
fn told_as_written(folder: &str, answer: impl Fn(&mut Story, &[&str]) -> Option<String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(folder);
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let told = play(&text, &answer);
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
fn effects() {
    told_as_written("pod", |story, _| Some(story.step()));
}

#[test]
fn statuses() {
    told_as_written("status", |story, words| {
        if words == ["tell"] {
            return Some(story.status());
        }
        story.step();
        None
    });
}

#[test]
fn roles_are_read_from_the_pod() {
    let story = Story::begin(
        r#"{"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "m"}]}"#,
    );
    let roles: Vec<_> = story.desired.members.iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::Init, Role::Sidecar, Role::Main]);
}
