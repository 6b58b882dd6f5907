//! What must hold for any object: patches and applies that say the same again change nothing.

#![allow(clippy::unwrap_used, reason = "an error here is a failure")]

use api::{
    managed::{self, Writer},
    patch::strategic,
    schema::{Schema, Type},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn pod() -> &'static Type {
    Schema::named("io.k8s.api.core.v1.Pod").unwrap()
}

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, api_version: "v1", subresource: "", now }
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned)
}

fn map() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(name(), name(), 0..3).prop_map(|m| json!(m))
}

/// Objects told apart by `key`, each there once.
fn keyed(key: &'static str, item: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec((name(), item), 0..4).prop_map(move |items| {
        let mut list: Vec<Value> = Vec::new();
        for (name, mut item) in items {
            item[key] = name.into();
            if list.iter().all(|i| i[key] != item[key]) {
                list.push(item);
            }
        }
        list.into()
    })
}

fn scalar(field: &'static str) -> impl Strategy<Value = Value> {
    prop::option::of(name()).prop_map(move |v| v.map_or(json!({}), |v| json!({field: v})))
}

fn container() -> impl Strategy<Value = Value> {
    let env = keyed("name", scalar("value"));
    (prop::option::of(name()), prop::option::of(env), prop::option::of(prop::collection::vec(name(), 0..3))).prop_map(
        |(image, env, args)| {
            let mut fields = Map::new();
            fields.extend(image.map(|v| ("image".to_owned(), v.into())));
            fields.extend(env.map(|v| ("env".to_owned(), v)));
            fields.extend(args.map(|v| ("args".to_owned(), v.into())));
            Value::Object(fields)
        },
    )
}

prop_compose! {
    fn any_pod()(
        labels in prop::option::of(map()),
        finalizers in prop::option::of(prop::collection::btree_set(name(), 0..3)),
        containers in keyed("name", container()),
        selector in prop::option::of(map()),
        node in prop::option::of(name()),
    ) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
        let mut put = |part: &str, name: &str, value: Option<Value>| {
            pod[part].as_object_mut().unwrap().extend(value.map(|v| (name.to_owned(), v)));
        };
        put("metadata", "labels", labels);
        put("metadata", "finalizers", finalizers.map(|f| json!(f)));
        put("spec", "nodeSelector", selector);
        put("spec", "nodeName", node.map(Value::from));
        pod
    }
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

/// Without lists and maps that are empty: nobody can own these.
fn dense(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let full = map.iter().map(|(k, v)| (k.clone(), dense(v)));
            Value::Object(full.filter(|(_, v)| *v != json!({}) && *v != json!([])).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(dense).collect()),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn a_strategic_patch_applied_twice_changes_nothing_more(object in any_pod(), patch in any_pod()) {
        let mut once = object;
        strategic::apply(pod(), &mut once, &patch).unwrap();
        let mut twice = once.clone();
        strategic::apply(pod(), &mut twice, &patch).unwrap();
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn an_apply_repeated_changes_nothing(live in any_pod(), applied in any_pod()) {
        let mut live = live;
        managed::update(pod(), None, &mut live, &writer("other", "2026-01-01T00:00:00Z"));
        let once = managed::apply(pod(), Some(&live), &applied, &writer("me", "2026-01-01T00:00:01Z"), true).unwrap();
        let twice = managed::apply(pod(), Some(&once), &applied, &writer("me", "2026-01-01T00:00:02Z"), false).unwrap();
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn what_one_applier_brought_it_takes_away(first in any_pod(), second in any_pod()) {
        let me = writer("me", "2026-01-01T00:00:01Z");
        let once = managed::apply(pod(), None, &first, &me, false).unwrap();
        let then = managed::apply(pod(), Some(&once), &second, &me, false).unwrap();
        prop_assert_eq!(dense(&bare(&then)), dense(&bare(&second)));
    }

    #[test]
    fn what_another_applier_has_too_stays(mine in any_pod(), theirs in any_pod()) {
        let live = managed::apply(pod(), None, &theirs, &writer("they", "2026-01-01T00:00:01Z"), false).unwrap();
        let both = managed::apply(pod(), Some(&live), &theirs, &writer("me", "2026-01-01T00:00:02Z"), false).unwrap();
        let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
        let left = managed::apply(pod(), Some(&both), &nothing, &writer("me", "2026-01-01T00:00:03Z"), false).unwrap();
        prop_assert_eq!(dense(&bare(&left)), dense(&bare(&theirs)));
        // With others' fields taken over by force, what only they had stays theirs.
        managed::apply(pod(), Some(&left), &mine, &writer("me", "2026-01-01T00:00:04Z"), true).unwrap();
    }

    #[test]
    fn an_update_that_changes_nothing_keeps_the_owners(object in any_pod()) {
        let mut live = object.clone();
        managed::update(pod(), None, &mut live, &writer("me", "2026-01-01T00:00:01Z"));
        let mut again = object;
        managed::update(pod(), Some(&live), &mut again, &writer("they", "2026-01-01T00:00:02Z"));
        prop_assert_eq!(again, live);
    }

    #[test]
    fn after_an_update_its_changes_have_one_owner(before in any_pod(), after in any_pod()) {
        let mut live = before;
        managed::update(pod(), None, &mut live, &writer("first", "2026-01-01T00:00:01Z"));
        let mut new = after.clone();
        managed::update(pod(), Some(&live), &mut new, &writer("second", "2026-01-01T00:00:02Z"));
        // Whoever applies the same object now has no conflict: nothing changes.
        let same = managed::apply(pod(), Some(&new), &after, &writer("third", "2026-01-01T00:00:03Z"), false);
        prop_assert_eq!(bare(&same.unwrap()), after);
    }
}
