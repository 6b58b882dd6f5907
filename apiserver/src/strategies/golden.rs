//! Pairs under `testdata/strategy/KIND/`: what a user writes (`*.input.yaml`), and what becomes of it (`*.output.yaml`): the
//! object after defaulting and preparing, its row, and what is wrong with it. With `REWRITE=1` the outputs are written anew.
//!
//! An input of two documents is a change: the stored object, then what is written over it.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    registry::{Entry, Registry, Stored},
    strategies,
    strategy::Cell,
};

fn create(entry: &dyn Entry, document: Value) -> Box<dyn Stored> {
    let mut object = entry.read(document).unwrap();
    entry.default(&mut *object);
    entry.prepare_create(&mut *object);
    object
}

fn output(registry: &Registry, input: &str) -> Value {
    let documents: Vec<Value> = serde_saphyr::from_multiple(input).unwrap();
    let word = |field: &str| documents[0][field].as_str().unwrap();
    let kind = api::Kind::by_manifest(word("apiVersion"), word("kind")).unwrap();
    let entry = &**registry.of(kind).unwrap();
    let mut documents = documents.clone().into_iter();
    let mut object = create(entry, documents.next().unwrap());
    let mut errors = entry.validate(&*object);
    if let Some(change) = documents.next() {
        let mut new = entry.read(change).unwrap();
        entry.default(&mut *new);
        entry.prepare_update(&mut *new, &*object);
        errors = entry.validate(&*new);
        errors.extend(entry.validate_update(&*new, &*object));
        object = new;
    }
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let row = entry.row(&*object, now).into_iter().map(|cell| match cell {
        Cell::Text(text) => json!(text),
        Cell::Number(number) => json!(number),
    });
    let row: serde_json::Map<_, _> = entry.columns().iter().map(|c| c.name.to_owned()).zip(row).collect();
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    json!({"errors": errors, "row": row, "object": object.to_value().unwrap()})
}

#[test]
fn inputs_become_outputs() {
    let mut registry = Registry::default();
    strategies::register(&mut registry);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/strategy");
    let mut seen = 0;
    for folder in fs::read_dir(root).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let Some(stem) = path.to_str().unwrap().strip_suffix(".input.yaml") else { continue };
            let found = output(&registry, &fs::read_to_string(&path).unwrap());
            let wanted = format!("{stem}.output.yaml");
            if std::env::var_os("REWRITE").is_some() {
                fs::write(&wanted, serde_saphyr::to_string(&found).unwrap()).unwrap();
            } else {
                let wanted: Value = serde_saphyr::from_str(&fs::read_to_string(&wanted).unwrap()).unwrap();
                assert_eq!(found, wanted, "{} (REWRITE=1 writes it anew)", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 0);
}
