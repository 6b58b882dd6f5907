//! The cases of `testdata/`: a folder for each module, its files lists of named cases.

#![allow(clippy::unwrap_used, reason = "cases that cannot be read are a failure")]

use std::{collections::BTreeMap, fs, path::Path};

use api::{
    managed::{self, Writer, fields::FieldSet},
    patch::strategic,
    quantity::Quantity,
    schema::{Schema, Type, check},
    selector::{FieldSelector, Selector},
    strict,
};
use serde_json::Value;

type Labels = BTreeMap<String, String>;
type Matcher = Box<dyn Fn(&Labels) -> bool>;

/// Runs every case of a folder; all failures are told at once.
fn run(folder: &str, case: impl Fn(&Value) -> Result<(), String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(folder);
    let mut failures = Vec::new();
    let mut count = 0;
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let documents = strict::decode_yaml(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for case_value in documents.iter().flat_map(|(d, _)| d.as_array().unwrap()) {
            count += 1;
            if let Err(why) = case(case_value) {
                failures.push(format!("{}: {}: {why}", file.display(), text_of(case_value, "name")));
            }
        }
    }
    assert!(count > 0, "no case in {}", folder.display());
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn text_of<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_default()
}

fn type_of(case: &Value) -> &'static Type {
    let name = text_of(case, "type");
    Schema::named(&format!("io.k8s.api.{name}"))
        .or_else(|| Schema::named(name))
        .unwrap_or_else(|| panic!("no type {name:?}"))
}

fn equal(found: &Value, wanted: &Value) -> Result<(), String> {
    // As texts, because the order of what is ordered matters and texts are what a reader compares.
    let (found, wanted) = (format!("{found:#}"), format!("{wanted:#}"));
    if found == wanted { Ok(()) } else { Err(format!("\nfound {found}\nwanted {wanted}")) }
}

fn refused(found: &str, wanted: &Value) -> Result<(), String> {
    match wanted.as_str() {
        Some(wanted) if found.contains(wanted) => Ok(()),
        _ => Err(format!("refused with {found:?}, wanted {wanted}")),
    }
}

#[test]
fn strategic_merge_patches() {
    run("strategic", |case| {
        let mut object = case["object"].clone();
        match strategic::apply(type_of(case), &mut object, &case["patch"]) {
            Err(e) => refused(&e.to_string(), &case["error"]),
            Ok(()) => equal(&object, &case["want"]),
        }
    });
}

#[test]
fn strict_decoding() {
    run("strict", |case| {
        let decoded = match (case["json"].as_str(), case["yaml"].as_str()) {
            (Some(json), _) => strict::decode_json(json.as_bytes()).map(|d| vec![d]),
            (_, Some(yaml)) => strict::decode_yaml(yaml),
            _ => return Err("neither json nor yaml".into()),
        };
        let documents = match decoded {
            Err(e) => return refused(&e.to_string(), &case["error"]),
            Ok(documents) => documents,
        };
        let duplicates: Vec<_> = documents.iter().flat_map(|(_, d)| d.clone()).collect();
        equal(&duplicates.into(), case.get("duplicates").unwrap_or(&Value::Array(Vec::new())))?;
        if case["want"].is_array() {
            equal(&documents.iter().map(|(v, _)| v.clone()).collect(), &case["want"])?;
        }
        if case["type"].is_string() {
            let findings = check(type_of(case), &documents[0].0);
            equal(&findings.unknown.into(), &case["unknown"])?;
            equal(&findings.wrong.into(), &case["wrong"])?;
        }
        Ok(())
    });
}

#[test]
fn selectors() {
    run("selector", |case| {
        let labels = |name: &str| -> Vec<Labels> {
            case.get(name).map_or_else(Vec::new, |v| serde_json::from_value(v.clone()).unwrap())
        };
        let (text, matches): (_, Matcher) = match case["labels"].as_str() {
            Some(text) => match text.parse::<Selector>() {
                Err(e) => return refused(&e.to_string(), &case["error"]),
                Ok(selector) => (selector.to_string(), Box::new(move |l| selector.matches(l))),
            },
            None => match text_of(case, "fields").parse::<FieldSelector>() {
                Err(e) => return refused(&e.to_string(), &case["error"]),
                Ok(selector) => {
                    let matches =
                        move |l: &Labels| selector.matches(|field| l.get(field).cloned().unwrap_or_default().into());
                    let text = text_of(case, "fields").parse::<FieldSelector>().map_err(|e| e.to_string())?;
                    (text.to_string(), Box::new(matches))
                }
            },
        };
        equal(&text.into(), &case["text"])?;
        for (name, wanted) in [("yes", true), ("no", false)] {
            for labels in labels(name) {
                if matches(&labels) != wanted {
                    return Err(format!("{name}: {labels:?}"));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn quantities() {
    run("quantity", |case| {
        let parsed = text_of(case, "quantity").parse::<Quantity>();
        match parsed {
            Err(e) => refused(&e.to_string(), &case["error"]),
            Ok(q) => {
                equal(&q.to_string().into(), &case["text"])?;
                if !case["units"].is_null() {
                    equal(&q.units().into(), &case["units"])?;
                }
                if !case["millis"].is_null() {
                    equal(&q.millis().into(), &case["millis"])?;
                }
                Ok(())
            }
        }
    });
}

/// `{"a Apply": [".spec.replicas"]}`: who owns what.
fn owners(object: &Value) -> Value {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let owner = |e: &Value| {
        let door = e["subresource"].as_str().map_or(String::new(), |s| format!(" {s}"));
        let name = format!("{} {}{door}", text_of(e, "manager"), text_of(e, "operation"));
        (name, Value::from(FieldSet::decode(&e["fieldsV1"]).paths()))
    };
    Value::Object(entries.into_iter().flatten().map(owner).collect())
}

#[test]
fn server_side_apply() {
    run("apply", |case| {
        let ty = type_of(case);
        let mut live: Option<Value> = None;
        for (number, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let fail = |why: String| format!("step {}: {why}", number + 1);
            let writer = Writer {
                manager: text_of(step, "manager"),
                api_version: "v1",
                subresource: text_of(step, "subresource"),
                now: &format!("2026-01-01T00:00:{number:02}Z"),
            };
            let force = step["force"] == true;
            let next = match (step.get("apply"), step.get("update")) {
                (Some(applied), _) => managed::apply(ty, live.as_ref(), applied, &writer, force),
                (_, Some(new)) => {
                    let mut new = new.clone();
                    managed::update(ty, live.as_ref(), &mut new, &writer);
                    Ok(new)
                }
                _ => return Err(fail("neither apply nor update".into())),
            };
            let object = match next {
                Err(e) => {
                    refused(&e.to_string(), &step["error"]).map_err(fail)?;
                    continue;
                }
                Ok(object) => object,
            };
            if let Some(wanted) = step.get("owners") {
                equal(&owners(&object), wanted).map_err(fail)?;
            }
            if let Some(wanted) = step.get("want") {
                let mut bare = object.clone();
                bare["metadata"].as_object_mut().unwrap().remove("managedFields");
                equal(&bare, wanted).map_err(fail)?;
            }
            if step["unchanged"] == true && live.as_ref() != Some(&object) {
                return Err(fail("the object changed".into()));
            }
            live = Some(object);
        }
        Ok(())
    });
}
