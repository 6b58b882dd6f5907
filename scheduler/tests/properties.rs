//! What holds of every cluster, whatever happens to it.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use scheduler::{
    cycle::{self, Decision},
    memo::{Answer, Memo},
    shape::Shape,
    snapshot::Snapshot,
};
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Step {
    Node { name: u8, cpu: u8, pods: u8, zone: u8, tainted: bool, cordoned: bool },
    Gone { name: u8 },
    Pod { kind: u8, cpu: u8 },
    End { pick: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let node = (0..8u8, 1..8u8, 0..6u8, 0..3u8, proptest::bool::weighted(0.2), proptest::bool::weighted(0.1));
    prop_oneof![
        3 => node.prop_map(|(name, cpu, pods, zone, tainted, cordoned)| Step::Node { name, cpu, pods, zone, tainted, cordoned }),
        1 => (0..8u8).prop_map(|name| Step::Gone { name }),
        8 => (0..7u8, 0..4u8).prop_map(|(kind, cpu)| Step::Pod { kind, cpu }),
        3 => any::<usize>().prop_map(|pick| Step::End { pick }),
    ]
}

fn node(name: u8, cpu: u8, pods: u8, zone: u8, tainted: bool, cordoned: bool) -> k8s_openapi::api::core::v1::Node {
    let taints: Vec<Value> = tainted.then(|| json!({"key": "t", "effect": "NoSchedule"})).into_iter().collect();
    serde_json::from_value(json!({
        "metadata": {"name": format!("n{name}"), "labels": {"zone": format!("z{zone}"), "host": format!("n{name}")}},
        "spec": {"taints": taints, "unschedulable": cordoned},
        "status": {"allocatable": {"cpu": cpu.to_string(), "memory": "8Gi", "pods": pods.to_string()}},
    }))
    .unwrap()
}

fn shape(kind: u8, cpu: u8) -> Arc<Shape> {
    let app = format!("app{kind}");
    let selector = json!({"matchLabels": {"app": app}});
    let term = |key: &str| json!([{"labelSelector": selector, "topologyKey": key}]);
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let more = match kind {
        1 => json!({"tolerations": [{"operator": "Exists"}]}),
        2 => json!({"nodeSelector": {"zone": "z1"}}),
        3 => json!({"affinity": {"podAntiAffinity": {REQUIRED: term("host")}}}),
        4 => json!({"affinity": {"podAffinity": {REQUIRED: term("zone")}}}),
        5 => json!({"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]}),
        _ => json!({}),
    };
    let ports: Vec<Value> = (kind == 6).then(|| json!({"containerPort": 80, "hostPort": 80})).into_iter().collect();
    let mut spec = json!({"containers": [
        {"name": "c", "ports": ports, "resources": {"requests": {"cpu": cpu.to_string()}}}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let meta = json!({"name": "p", "namespace": "d", "labels": {"app": app}});
    Arc::new(Shape::of(&serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()))
}

/// What there is, kept beside the snapshot.
#[derive(Default)]
struct World {
    nodes: BTreeMap<u8, k8s_openapi::api::core::v1::Node>,
    pods: Vec<(String, Arc<Shape>, String)>,
}

impl World {
    fn rebuilt(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (uid, shape, node) in self.pods.iter().rev() {
            snapshot.place(uid, shape, node);
        }
        for node in self.nodes.values().rev() {
            snapshot.apply_node(node);
        }
        snapshot
    }
}

fn named(decision: &Decision, snapshot: &Snapshot) -> Result<(String, i64), Vec<cycle::Rejection>> {
    match decision {
        Decision::Bind(choice) => Ok((snapshot.node(choice.node).unwrap().name.to_string(), choice.score)),
        Decision::Refuse(rejections) => Err(rejections.clone()),
    }
}

fn check(snapshot: &Snapshot, memo: &mut Memo, world: &World, wanted: &Shape) -> Result<Option<String>, TestCaseError> {
    let decision = cycle::schedule(wanted, snapshot);
    let answer = match memo.decide(wanted, snapshot) {
        Answer::Bind(choice) => Decision::Bind(choice),
        Answer::Refuse(rejections) => Decision::Refuse(rejections.to_vec()),
    };
    prop_assert_eq!(&answer, &decision, "what is remembered is what is true");
    let rebuilt = world.rebuilt();
    let again = cycle::schedule(wanted, &rebuilt);
    prop_assert_eq!(named(&decision, snapshot), named(&again, &rebuilt), "how it came about does not matter");
    match &decision {
        Decision::Bind(choice) => Ok(snapshot.node(choice.node).map(|n| n.name.to_string())),
        Decision::Refuse(rejections) => {
            prop_assert_eq!(rejections.len(), snapshot.node_count(), "every node has its reason");
            prop_assert!(rejections.iter().all(|r| !r.reasons.is_empty()));
            Ok(None)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_sound_and_do_not_depend_on_history(steps in proptest::collection::vec(step(), 1..80)) {
        let (mut snapshot, mut memo, mut world) = (Snapshot::default(), Memo::default(), World::default());
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Node { name, cpu, pods, zone, tainted, cordoned } => {
                    let node = node(name, cpu, pods, zone, tainted, cordoned);
                    snapshot.apply_node(&node);
                    world.nodes.insert(name, node);
                }
                Step::Gone { name } => {
                    snapshot.remove_node(&format!("n{name}"));
                    world.nodes.remove(&name);
                }
                Step::Pod { kind, cpu } => {
                    let wanted = shape(kind, cpu);
                    if let Some(node) = check(&snapshot, &mut memo, &world, &wanted)? {
                        let uid = format!("pod-{index}");
                        snapshot.place(&uid, &wanted, &node);
                        let id = snapshot.find(&node).unwrap();
                        let taker = snapshot.node(id).unwrap();
                        // a node may shrink below what it holds; it is given no more of that then
                        let fits = cpu == 0 || taker.requested.cpu <= taker.allocatable.cpu;
                        prop_assert!(fits, "{} is given too much", node);
                        prop_assert!(taker.requested.pods <= taker.allocatable.pods);
                        prop_assert!(taker.ports.len() <= 1, "a port is given once");
                        world.pods.push((uid, wanted, node));
                    }
                }
                Step::End { pick } => {
                    if !world.pods.is_empty() {
                        let (uid, _, _) = world.pods.remove(pick % world.pods.len());
                        snapshot.remove_pod(&uid);
                    }
                }
            }
        }
        for kind in 0..7 {
            check(&snapshot, &mut memo, &world, &shape(kind, 1))?;
        }
    }
}
