//! `testdata/deployment/*.txt`: commands, `----`, and what came of them. `REWRITE=1` writes what comes of them now.
//!
//! * `edit image=v2 replicas=5 surge=1 unavailable=25% strategy=Recreate paused=true limit=2 min-ready=5`: a user's change.
//! * `look`: the Deployment controller looks once; what it does.
//! * `work`: ReplicaSets and the node do what there is to do.
//! * `wait 601`: seconds pass.
//! * `settle`: all of them, until nothing changes.
//! * `rm`: deletes the Pods, as if they had failed, without the ReplicaSets' doing.

use std::{fmt::Write, fs, path::Path};

use k8s_openapi::{
    api::apps::v1::{DeploymentSpec, DeploymentStrategy},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::world::{World, show_status};

#[test]
fn rollouts_go_as_their_scripts_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/deployment");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let script = fs::read_to_string(&path).unwrap();
        let played = play(&script);
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&path, &played).unwrap();
        } else {
            assert_eq!(played, script, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 8, "only {count} scripts found");
}

fn play(script: &str) -> String {
    let mut world = World::new();
    let mut played = String::new();
    for block in script.split("\n\n").map(str::trim).filter(|b| !b.is_empty()) {
        let commands = block.split("\n----").next().unwrap().trim_end();
        let mut output = String::new();
        for line in commands.lines().filter(|l| !l.starts_with('#')) {
            output += &command(&mut world, line);
        }
        let gap = if played.is_empty() { "" } else { "\n" };
        write!(played, "{gap}{commands}\n----\n{output}").unwrap();
    }
    played
}

fn command(world: &mut World, line: &str) -> String {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    match name {
        "edit" => {
            for word in rest.split_whitespace() {
                let (field, value) = word.split_once('=').unwrap();
                world.edit(|d| edit(&mut d.spec, field, value));
            }
        }
        "look" => return look(world),
        "work" => world.workloads(),
        "wait" => world.wait(rest.parse().unwrap()),
        "settle" => {
            world.settle();
            return world.show();
        }
        "rm" => world.pods.clear(),
        other => panic!("unknown command {other:?}"),
    }
    String::new()
}

fn edit(spec: &mut DeploymentSpec, field: &str, value: &str) {
    let number = || Some(value.parse::<i32>().unwrap());
    let scaled = || Some(value.parse().map_or_else(|_| IntOrString::String(value.into()), IntOrString::Int));
    let strategy = spec.strategy.get_or_insert_default();
    match field {
        "image" => spec.template.spec.as_mut().unwrap().containers[0].image = Some(value.into()),
        "replicas" => spec.replicas = number(),
        "surge" => strategy.rolling_update.get_or_insert_default().max_surge = scaled(),
        "unavailable" => strategy.rolling_update.get_or_insert_default().max_unavailable = scaled(),
        "strategy" => *strategy = DeploymentStrategy { type_: Some(value.into()), rolling_update: None },
        "paused" => spec.paused = Some(value == "true"),
        "limit" => spec.revision_history_limit = number(),
        "min-ready" => spec.min_ready_seconds = number(),
        other => panic!("unknown field {other:?}"),
    }
}

fn look(world: &mut World) -> String {
    let before = world.deployment.status.clone();
    let doomed: Vec<_> = world
        .sets
        .iter()
        .map(|s| (kube::ResourceExt::name_any(s), world.label(&kube::ResourceExt::name_any(s))))
        .collect();
    let plan = world.deployment();
    let mut text = String::new();
    if let Some(set) = &plan.create {
        writeln!(text, "create {} with {}", crate::world::image(set), set.spec.replicas.unwrap()).unwrap();
    }
    for scaled in plan.scaled.iter().filter(|s| plan.create.is_none() || s.from > 0) {
        writeln!(text, "scale  {} from {} to {}", world.label(&scaled.name), scaled.from, scaled.to).unwrap();
    }
    for key in &plan.delete {
        let (_, label) = doomed.iter().find(|(name, _)| *name == key.name).unwrap();
        writeln!(text, "delete {label}").unwrap();
    }
    if let Some(revision) = &plan.revision {
        writeln!(text, "revision {revision}").unwrap();
    }
    if before.as_ref() != Some(&plan.status) {
        text += &show_status(&plan.status);
    }
    if text.is_empty() { "nothing\n".into() } else { text }
}
