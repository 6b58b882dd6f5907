//! The loop around [`pod::step`] for one pod: takes in facts, runs effects in tasks of their own, publishes the status.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ahash::AHashMap;
use client::events::Type;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use crate::{
    asker::{self, Answer},
    backoff::Backoff,
    desired::{Desired, Leaving},
    effects::{self, Done},
    hook,
    host::{Guest, Host, container_reference},
    images::Image,
    launch,
    network::Attachment,
    observed::{Attempt, Ended, ImageSeen, Observed, Progress, Seen, Unhealthy},
    pod::{self, Effect, Phase},
    probe::{Kind, Target},
    publish::Publisher,
    runtime::ContainerState,
    status,
};

/// A fact for a worker.
#[derive(Debug)]
pub enum Message {
    /// The object changed.
    Pod(Arc<Pod>),
    /// The object is gone.
    Removed,
    /// A container ended.
    Exit(ContainerState),
    /// The same, with its last words.
    Ended(String, u32, Ended),
    /// An effect ended.
    Done(Effect, Done),
    /// A probe of a start of a container said something.
    Answer(String, u32, Answer),
    /// A postStart hook of a start of a container ended.
    Hooked(String, u32, Result<(), String>),
    /// A status was written, or not.
    Published(Result<u64, String>),
    /// Volumes are to be compared with what they show.
    Refresh,
}

/// The worker of one pod.
pub struct Worker {
    host: Arc<Host>,
    desired: Desired,
    phase: Phase,
    seen: Observed,
    sender: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
    under_way: AHashMap<Effect, AbortHandle>,
    asking: BTreeMap<(String, u32, Kind), AbortHandle>,
    images: BTreeMap<String, Arc<Image>>,
    /// Ends of containers whose start has not been reported yet.
    early: BTreeMap<(String, u32), Ended>,
    publisher: Publisher,
    shown: watch::Sender<Arc<BTreeMap<String, Seen>>>,
}

impl Worker {
    /// A worker for a pod of which that much is known; `frozen` when the API's status is final already.
    pub fn new(host: Arc<Host>, pod: &Arc<Pod>, seen: Observed, phase: Phase) -> Self {
        let (sender, messages) = mpsc::unbounded_channel();
        let frozen = matches!(phase, Phase::Terminal { .. });
        let publisher = Publisher::new(pod, frozen);
        let (shown, members) = watch::channel(Arc::new(seen.members.clone()));
        host.guests.put(Guest { pod: Arc::clone(pod), members });
        Self {
            host,
            desired: Desired::of(pod),
            phase,
            seen,
            sender,
            messages,
            under_way: AHashMap::new(),
            asking: BTreeMap::new(),
            images: BTreeMap::new(),
            early: BTreeMap::new(),
            publisher,
            shown,
        }
    }

    /// Where facts go.
    pub fn sender(&self) -> mpsc::UnboundedSender<Message> {
        self.sender.clone()
    }

    /// Works until nothing of the pod is left. Returns its uid.
    pub async fn run(mut self) -> String {
        loop {
            let wake = self.advance();
            if self.phase == Phase::Gone {
                break;
            }
            let sleep = async {
                match wake {
                    Some(at) => {
                        let left = at.duration_since(Timestamp::now());
                        tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.messages.recv() => {
                    // invariant: self holds a sender
                    self.take(message.expect("a worker's channel stays open"));
                    while let Ok(message) = self.messages.try_recv() {
                        self.take(message);
                    }
                }
                () = sleep => {}
            }
        }
        for (_, task) in self.asking {
            task.abort();
        }
        self.host.guests.remove(&self.desired.pod);
        self.host.storage.remove_logs(&self.desired.pod).await;
        self.desired.uid().to_owned()
    }

    /// One step, its effects, and the status. Returns when to look again.
    fn advance(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        self.seen.initialized = self.seen.initialized || pod::initialized(&self.desired, &self.seen);
        let preparing = |e: &Effect| !matches!(e, Effect::Pull(_) | Effect::Delete | Effect::Teardown);
        self.seen.busy = self.under_way.keys().any(preparing);
        self.seen.published = self.publisher.is_current(&self.status(now));
        let (phase, effects) = pod::step(std::mem::take(&mut self.phase), &self.desired, &self.seen, now);
        self.phase = phase;
        let mut wake = status::changes_at(&self.seen, now);
        for effect in effects {
            match effect {
                Effect::Wake(at) => wake = Some(wake.map_or(at, |w| w.min(at))),
                effect => self.begin(effect),
            }
        }
        if !matches!(self.phase, Phase::Active { .. }) {
            self.under_way.retain(|effect, task| {
                let is_pull = matches!(effect, Effect::Pull(_));
                if is_pull {
                    task.abort();
                }
                !is_pull
            });
        }
        self.ask();
        if self.desired.leaving != Some(Leaving::Removed) {
            let status = self.status(now);
            self.publisher.publish(&self.host, &self.desired.pod, status, &self.sender);
        }
        self.shown.send_if_modified(|shown| {
            let changed = **shown != self.seen.members;
            if changed {
                *shown = Arc::new(self.seen.members.clone());
            }
            changed
        });
        wake.into_iter().chain(self.publisher.retry_at()).min()
    }

    fn status(&self, now: Timestamp) -> k8s_openapi::api::core::v1::PodStatus {
        status::status(&self.phase, &self.desired, &self.seen, self.host.addresses(), self.publisher.latest(), now)
    }

    fn begin(&mut self, effect: Effect) {
        // a hook runs once, even when its deadline is drawn nearer
        let same_hook =
            |other: &Effect| matches!((other, &effect), (Effect::PreStop(a, _), Effect::PreStop(b, _)) if a == b);
        if self.under_way.contains_key(&effect) || self.under_way.keys().any(same_hook) {
            return;
        }
        let (host, pod, desired) = (Arc::clone(&self.host), Arc::clone(&self.desired.pod), self.desired.clone());
        let network = self.seen.network.done().cloned();
        let (sender, done) = (self.sender.clone(), effect.clone());
        let names = |name: &String| (desired.member(name).cloned(), self.seen.member(name).running().cloned());
        let task = match &effect {
            Effect::Attach => tokio::spawn(async move { effects::attach(&host, &pod).await }),
            Effect::Sandbox => {
                let Some(network) = network else { return };
                tokio::spawn(async move { effects::sandbox(&host, &pod, &network).await })
            }
            Effect::Store => tokio::spawn(async move { effects::store(&host, &pod).await }),
            Effect::Pull(name) => {
                let (Some(member), _) = names(name) else { return };
                tokio::spawn(async move { effects::pull(&host, &pod, &member).await })
            }
            Effect::Start(name, attempt) => {
                let (Some(member), _) = names(name) else { return };
                let (Some(network), Some(image)) = (network, self.images.get(name).cloned()) else { return };
                let attempt = *attempt;
                self.note_back_off(name);
                tokio::spawn(async move { effects::start(&host, &pod, &member, attempt, &image, &network).await })
            }
            Effect::PreStop(name, deadline) => {
                let (Some(member), Some(attempt)) = names(name) else { return };
                self.note_killing(name);
                let (target, deadline) = (self.target(&attempt.id, &member.spec), *deadline);
                tokio::spawn(async move { effects::pre_stop(&host, &pod, &member, &target, deadline).await })
            }
            Effect::Terminate(name) | Effect::Kill(name) => {
                let (Some(member), Some(attempt)) = names(name) else { return };
                let kill = matches!(effect, Effect::Kill(_));
                if !kill && !member.has_pre_stop() {
                    self.note_killing(name);
                }
                let signal = if kill { libc::SIGKILL } else { self.stop_signal(name, &member) };
                tokio::spawn(async move { effects::signal(&host, &attempt.id, signal).await })
            }
            Effect::Teardown => tokio::spawn(async move { effects::tear_down(&host, &pod).await }),
            Effect::Delete => tokio::spawn(async move { effects::delete(&host, &pod).await }),
            Effect::Wake(_) => return,
        };
        let handle = task.abort_handle();
        self.under_way.insert(effect, handle);
        tokio::spawn(async move {
            if let Ok(outcome) = task.await {
                // a worker that is gone needs no facts
                drop(sender.send(Message::Done(done, outcome)));
            }
        });
    }

    fn target(&self, id: &str, container: &Arc<k8s_openapi::api::core::v1::Container>) -> Target {
        let attached = self.seen.network.done().and_then(|n| n.addresses.first().copied());
        let host = self.host.addresses().first().and_then(|a| a.parse().ok());
        Target {
            runtime: Arc::clone(&self.host.runtime),
            id: id.to_owned(),
            ip: attached.or(host).unwrap_or(IpAddr::from([127, 0, 0, 1])),
            container: Arc::clone(container),
        }
    }

    fn stop_signal(&self, name: &str, member: &crate::desired::Member) -> i32 {
        let own = member.spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
        let images = self.seen.member(name).image.done().and_then(|i| i.stop_signal.clone());
        own.or(images).and_then(|word| signal_number(&word)).unwrap_or(libc::SIGTERM)
    }

    fn note_killing(&self, name: &str) {
        let known = self.seen.member(name);
        let why = known.unhealthy.as_ref().map_or_else(|| format!("Stopping container {name}"), |u| u.why.clone());
        let about = container_reference(&self.desired.pod, name);
        self.host.recorder.about(about, Type::Normal, "Killing", why);
    }

    fn note_back_off(&self, name: &str) {
        let meta = &self.desired.pod.metadata;
        let known = self.seen.member(name);
        if known.backoff.is_some_and(|b| !b.delay().is_zero()) && known.current.is_some() {
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                meta.name.as_deref().unwrap_or_default(),
                meta.namespace.as_deref().unwrap_or_default(),
                self.desired.uid()
            );
            let about = container_reference(&self.desired.pod, name);
            self.host.recorder.about(about, Type::Warning, "BackOff", message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => {
                self.host.guests.put(Guest { pod: Arc::clone(&pod), members: self.shown.subscribe() });
                self.publisher.saw(&pod);
                self.desired = Desired::of(&pod);
            }
            Message::Removed => self.desired.leaving = Some(Leaving::Removed),
            Message::Exit(state) => self.exited(&state),
            Message::Ended(name, attempt, ended) => {
                if self.under_way.contains_key(&Effect::Start(name.clone(), attempt)) {
                    self.early.insert((name.clone(), attempt), ended);
                } else if let Some(known) = self.current(&name, attempt) {
                    known.end(ended);
                }
                let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.desired.pod));
                tokio::spawn(async move { host.storage.trim_logs(&pod, &name, attempt.saturating_sub(1)).await });
            }
            Message::Done(effect, done) => {
                self.under_way.remove(&effect);
                self.done(&effect, done);
            }
            Message::Answer(name, attempt, answer) => self.answered(&name, attempt, answer),
            Message::Hooked(name, attempt, result) => self.hooked(&name, attempt, result),
            Message::Published(result) => self.publisher.written(result),
            Message::Refresh => {
                if matches!(self.phase, Phase::Active { .. }) && self.seen.storage.done().is_some() {
                    self.begin(Effect::Store);
                }
            }
        }
    }

    fn current(&mut self, name: &str, attempt: u32) -> Option<&mut Seen> {
        let known = self.seen.members.get_mut(name)?;
        known.current.as_ref().is_some_and(|a| a.number == attempt).then_some(known)
    }

    /// Reads a container's last words before anybody learns of its end.
    fn exited(&self, state: &ContainerState) {
        let Some(exit) = &state.exit else { return };
        let Some(member) = self.desired.member(&state.name).cloned() else { return };
        let mut ended = Ended::of(exit);
        let (host, pod, sender) = (Arc::clone(&self.host), Arc::clone(&self.desired.pod), self.sender.clone());
        let (name, attempt) = (state.name.clone(), state.attempt);
        tokio::spawn(async move {
            ended.message = host.storage.last_words(&pod, &member.spec, attempt, ended.code != 0).await;
            drop(sender.send(Message::Ended(name, attempt, ended)));
        });
    }

    fn done(&mut self, effect: &Effect, done: Done) {
        let now = Timestamp::now();
        let retry = Backoff::retry();
        match (effect, done) {
            (_, Done::Attached(Ok(attachment))) => self.attached(attachment),
            (_, Done::Attached(Err(why))) => self.seen.network.fail("FailedCreatePodSandBox", why, now, retry),
            (_, Done::Sandboxed(Ok(()))) => self.seen.sandbox = Progress::Done(()),
            (_, Done::Sandboxed(Err(why))) => self.seen.sandbox.fail("FailedCreatePodSandBox", why, now, retry),
            (_, Done::Stored(Ok(()))) => self.seen.storage = Progress::Done(()),
            // a refresh that fails leaves what was there
            (_, Done::Stored(Err(_))) if self.seen.storage.done().is_some() => {}
            (_, Done::Stored(Err(why))) => self.seen.storage.fail("FailedMount", why, now, retry),
            (Effect::Pull(name), Done::Pulled(Ok(pulled))) => {
                let image = pulled.image;
                let stop_signal = (!image.stop_signal.is_empty()).then(|| image.stop_signal.clone());
                let seen = ImageSeen { id: image.id.clone(), stop_signal };
                self.seen.members.entry(name.clone()).or_default().image = Progress::Done(seen);
                self.images.insert(name.clone(), image);
            }
            (Effect::Pull(name), Done::Pulled(Err(failed))) => {
                let known = self.seen.members.entry(name.clone()).or_default();
                known.image.fail(failed.reason, failed.message, now, Backoff::crash());
            }
            (Effect::Start(name, attempt), Done::Started(result)) => self.started(name, *attempt, result, now),
            (Effect::PreStop(name, _), _) => self.seen.members.entry(name.clone()).or_default().pre_stopped = true,
            (_, Done::TornDown) => self.seen.torn_down = true,
            (_, Done::Deleted) => self.seen.deleted = true,
            (_, Done::Signalled | Done::PreStopped | Done::Pulled(_) | Done::Started(_)) => {}
        }
    }

    fn attached(&mut self, attachment: Attachment) {
        self.seen.network = Progress::Done(attachment);
        if self.seen.sandbox.done().is_none() {
            self.begin(Effect::Sandbox);
        }
    }

    fn started(&mut self, name: &str, number: u32, result: Result<ContainerState, launch::Failed>, now: Timestamp) {
        let Some(member) = self.desired.member(name).cloned() else { return };
        let hook = member.spec.lifecycle.as_ref().and_then(|l| l.post_start.clone());
        let (startup, readiness) = (member.spec.startup_probe.is_some(), member.spec.readiness_probe.is_some());
        let known = self.seen.members.entry(name.to_owned()).or_default();
        match result {
            Ok(state) => {
                let mut attempt = Attempt::of(&state);
                attempt.exit = None;
                let id = attempt.id.clone();
                known.begin(attempt, startup, readiness, hook.is_some());
                if let Some(hook) = hook {
                    let (target, sender) = (self.target(&id, &member.spec), self.sender.clone());
                    let name = name.to_owned();
                    tokio::spawn(async move {
                        let result = hook::run(&hook, &target).await;
                        drop(sender.send(Message::Hooked(name, number, result)));
                    });
                }
                match self.early.remove(&(name.to_owned(), number)) {
                    Some(ended) => self.seen.members.entry(name.to_owned()).or_default().end(ended),
                    None => self.exited(&state),
                }
            }
            Err(launch::Failed::Own(message)) => {
                let id =
                    launch::container_id(self.desired.pod.metadata.uid.as_deref().unwrap_or_default(), name, number);
                let exit = Ended { code: 128, signal: 0, reason: "StartError", message, at: now };
                known.begin(Attempt { id, number, started_at: now, exit: Some(exit) }, startup, readiness, false);
            }
            Err(launch::Failed::Again(reason, message)) => {
                known.start.fail(reason, message, now, Backoff::retry());
            }
        }
    }

    fn hooked(&mut self, name: &str, attempt: u32, result: Result<(), String>) {
        let about = container_reference(&self.desired.pod, name);
        if let Some(known) = self.current(name, attempt) {
            known.hooked = true;
            if let Err(why) = result {
                known.unhealthy = Some(Unhealthy { why: "FailedPostStartHook".into(), grace_seconds: None });
                let message = format!("PostStartHook failed: {why}");
                self.host.recorder.about(about, Type::Warning, "FailedPostStartHook", message);
            }
        }
    }

    fn answered(&mut self, name: &str, attempt: u32, answer: Answer) {
        let about = container_reference(&self.desired.pod, name);
        let probe = self.desired.member(name).and_then(|m| answer.kind.of(&m.spec)).cloned();
        let Some(known) = self.current(name, attempt).filter(|k| k.running().is_some()) else { return };
        match (answer.kind, answer.verdict) {
            (_, None) => {}
            (Kind::Startup, Some(true)) => known.started = true,
            (Kind::Readiness, Some(ready)) => known.ready = ready,
            (Kind::Liveness, Some(true)) => {}
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                let word = answer.kind.name().to_ascii_lowercase();
                let grace_seconds =
                    probe.and_then(|p| p.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
                let why = format!("Container {name} failed {word} probe, will be restarted");
                known.unhealthy = Some(Unhealthy { why, grace_seconds });
            }
        }
        if let Some(why) = answer.failure {
            let message = format!("{} probe failed: {why}", answer.kind.name());
            self.host.recorder.about(about, Type::Warning, "Unhealthy", message);
        }
    }

    /// Has exactly the probes asked that should be.
    fn ask(&mut self) {
        let mut wanted = BTreeMap::new();
        let active = matches!(self.phase, Phase::Active { .. });
        for member in self.desired.members.iter().filter(|_| active) {
            let known = self.seen.member(member.name());
            let Some(attempt) = known.running().filter(|_| known.hooked && known.unhealthy.is_none()) else { continue };
            let kinds: &[Kind] = if known.started { &[Kind::Liveness, Kind::Readiness] } else { &[Kind::Startup] };
            for kind in kinds {
                if let Some(probe) = kind.of(&member.spec) {
                    let key = (member.name().to_owned(), attempt.number, *kind);
                    wanted.insert(key, (probe.clone(), self.target(&attempt.id, &member.spec)));
                }
            }
        }
        self.asking.retain(|key, task| {
            let keep = wanted.remove(key).is_some();
            if !keep {
                task.abort();
            }
            keep
        });
        for (key, (probe, target)) in wanted {
            let (name, attempt, kind) = key.clone();
            let sender = self.sender.clone();
            let task = tokio::spawn(async move {
                let report = |answer| drop(sender.send(Message::Answer(name.clone(), attempt, answer)));
                asker::run(kind, &probe, &target, report).await;
            });
            self.asking.insert(key, task.abort_handle());
        }
    }
}

/// `SIGQUIT`, `QUIT`, `SIGRTMIN+3` or a number.
fn signal_number(word: &str) -> Option<i32> {
    let bare = word.strip_prefix("SIG").unwrap_or(word);
    if let Some(offset) = bare.strip_prefix("RTMIN+") {
        return offset.parse::<i32>().ok().map(|n| 34 + n);
    }
    bare.parse().ok().filter(|n| (1..=64).contains(n)).or_else(|| {
        let signal: nix::sys::signal::Signal = format!("SIG{bare}").parse().ok()?;
        Some(signal as i32)
    })
}
