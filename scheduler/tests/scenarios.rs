//! Stories of nodes, pods and decisions under `testdata/`, told and checked line by line. With `REWRITE=1` the answers are
//! written anew.
//!
//! ```text
//! node NAME [cpu=4] [memory=8Gi] [pods=110] [example.com/gpu=1] [label=k:v] [taint=k[:v]:EFFECT] [cordoned]
//! gone NAME
//! pod  NAME [cpu=1] [memory=1Gi] [label=k:v] [select=k:v] [tolerate=KEY] [port=80] [priority=1] [on=NODE] [gate=NAME] [spec={json}]
//! end  NAME                     the pod is deleted
//! schedule                      decides about all that wait
//! explain NAME                  each node's reasons for the pod
//! wait SECONDS                  time passes
//! fail                          the next binding is refused by the API
//! ```

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc, time::Duration, time::Instant};

use client::Change;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use scheduler::{
    cluster::{Cluster, Order},
    cycle::{self, Decision},
    shape::Shape,
};
use serde_json::{Value, json};

struct Story {
    cluster: Cluster,
    pods: BTreeMap<String, Arc<Pod>>,
    now: Instant,
    fail: bool,
}

fn pairs(words: &[&str], key: &str) -> BTreeMap<String, String> {
    let values = words.iter().filter_map(|w| w.strip_prefix(key)?.strip_prefix('='));
    values.map(|v| v.split_once(':').unwrap_or((v, ""))).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
}

const RESOURCES: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "example.com/gpu"];

fn resources(words: &[&str]) -> BTreeMap<String, String> {
    RESOURCES.iter().filter_map(|r| Some(((*r).to_owned(), value(words, r)?.to_owned()))).collect()
}

fn node(name: &str, words: &[&str]) -> Node {
    let taints: Vec<Value> = words
        .iter()
        .filter_map(|w| w.strip_prefix("taint="))
        .map(|t| match *t.split(':').collect::<Vec<_>>() {
            [key, value, effect] => json!({"key": key, "value": value, "effect": effect}),
            [key, effect] => json!({"key": key, "effect": effect}),
            _ => panic!("taint {t}"),
        })
        .collect();
    let mut has = resources(words);
    has.entry("cpu".into()).or_insert("4".into());
    has.entry("memory".into()).or_insert("8Gi".into());
    has.insert("pods".into(), value(words, "pods").unwrap_or("110").into());
    let mut labels = pairs(words, "label");
    labels.insert("kubernetes.io/hostname".into(), name.into());
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints, "unschedulable": words.contains(&"cordoned")},
        "status": {"allocatable": has},
    }))
    .unwrap()
}

fn pod(name: &str, words: &[&str]) -> Pod {
    let tolerations: Vec<_> = words
        .iter()
        .filter_map(|w| w.strip_prefix("tolerate="))
        .map(|key| json!({"key": key, "operator": "Exists"}))
        .collect();
    let ports: Vec<_> = words
        .iter()
        .filter_map(|w| w.strip_prefix("port="))
        .map(|p| json!({"containerPort": 80, "hostPort": p.parse::<i32>().unwrap(), "protocol": "TCP"}))
        .collect();
    let gates: Vec<_> = words.iter().filter_map(|w| w.strip_prefix("gate=")).map(|g| json!({"name": g})).collect();
    let mut spec = json!({
        "containers": [{"name": "main", "resources": {"requests": resources(words)}, "ports": ports}],
        "nodeSelector": pairs(words, "select"),
        "tolerations": tolerations,
        "schedulingGates": gates,
        "nodeName": value(words, "on"),
        "priority": value(words, "priority").map(|p| p.parse::<i32>().unwrap()),
    });
    if let Some(more) = value(words, "spec") {
        let more: serde_json::Map<String, Value> = serde_json::from_str(more).unwrap();
        spec.as_object_mut().unwrap().extend(more);
    }
    let meta = json!({"name": name, "namespace": "default", "uid": name, "labels": pairs(words, "label")});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

impl Story {
    fn new() -> Self {
        Self { cluster: Cluster::new("default-scheduler"), pods: BTreeMap::new(), now: Instant::now(), fail: false }
    }

    fn line(&mut self, line: &str) -> String {
        // a JSON value may hold blanks: it is the last word
        let (line, spec) = line.split_once(" spec=").map_or((line, None), |(l, s)| (l, Some(format!("spec={s}"))));
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.extend(spec.as_deref());
        match words.as_slice() {
            ["node", name, rest @ ..] => {
                let change = Change::Applied { old: None, new: Arc::new(node(name, rest)) };
                self.cluster.node(&change, self.now);
            }
            ["gone", name] => {
                let meta = ObjectMeta { name: Some((*name).into()), ..ObjectMeta::default() };
                let old = Arc::new(Node { metadata: meta, ..Node::default() });
                self.cluster.node(&Change::Deleted(old), self.now);
            }
            ["pod", name, rest @ ..] => self.applied(Arc::new(pod(name, rest))),
            ["end", name] => {
                let old = self.pods.remove(*name).expect("a pod of that name");
                self.cluster.pod(&Change::Deleted(old), self.now);
            }
            ["schedule"] => return self.schedule(),
            ["explain", name] => return self.explain(name),
            ["wait", seconds] => self.now += Duration::from_secs(seconds.parse().unwrap()),
            ["fail"] => self.fail = true,
            _ => panic!("cannot read {line:?}"),
        }
        String::new()
    }

    fn applied(&mut self, pod: Arc<Pod>) {
        let old = self.pods.insert(pod.metadata.name.clone().unwrap(), Arc::clone(&pod));
        self.cluster.pod(&Change::Applied { old, new: pod }, self.now);
    }

    fn schedule(&mut self) -> String {
        let mut said = String::new();
        while let Some(order) = self.cluster.decide(self.now) {
            match order {
                Order::Bind { pod, node } => {
                    let name = pod.metadata.name.clone().unwrap();
                    if std::mem::take(&mut self.fail) {
                        writeln!(said, "bind   {name} -> {node} (refused)").unwrap();
                        self.cluster.unbound(&pod, self.now);
                        continue;
                    }
                    writeln!(said, "bind   {name} -> {node}").unwrap();
                    self.cluster.bound(&pod);
                    let mut bound = (*pod).clone();
                    bound.spec.get_or_insert_default().node_name = Some(node);
                    self.applied(Arc::new(bound));
                }
                Order::Explain { pod, rejections } => {
                    let name = pod.metadata.name.clone().unwrap();
                    writeln!(said, "refuse {name}: {}", cycle::message(&rejections)).unwrap();
                }
            }
        }
        let [active, backoff, stuck] = self.cluster.queue.lengths();
        if backoff + stuck > 0 {
            writeln!(said, "waiting: {active} active, {backoff} in backoff, {stuck} unschedulable").unwrap();
        }
        said
    }

    fn explain(&self, name: &str) -> String {
        let shape = Shape::of(&self.pods[name]);
        match cycle::schedule(&shape, &self.cluster.snapshot) {
            Decision::Bind(choice) => {
                let node = self.cluster.snapshot.node(choice.node).unwrap();
                format!("{} takes it\n", node.name)
            }
            Decision::Refuse(rejections) => rejections.iter().fold(String::new(), |mut text, r| {
                let reasons: Vec<_> = r.reasons.iter().map(ToString::to_string).collect();
                writeln!(text, "{}: {}", r.node, reasons.join(", ")).unwrap();
                text
            }),
        }
    }
}

/// After `----` comes what a command said, up to an empty line.
fn tell(script: &str) -> String {
    let mut story = Story::new();
    let mut told = String::new();
    let mut answer = false;
    for line in script.lines() {
        answer = (answer && !line.is_empty()) || line == "----";
        if answer {
            continue;
        }
        writeln!(told, "{line}").unwrap();
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let said = story.line(line);
        if !said.is_empty() {
            write!(told, "----\n{said}").unwrap();
        }
    }
    told
}

#[test]
fn stories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let script = fs::read_to_string(&file).unwrap();
        let told = tell(&script);
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&file, told).unwrap();
        } else {
            assert_eq!(told, script, "{} (REWRITE=1 writes it anew)", file.display());
        }
    }
}
