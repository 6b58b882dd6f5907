//! The rules of the house that a compiler does not know.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Most lines of a file before its tests.
const MAX_LINES: usize = 800;

/// What each crate may import of ours. Tests of components may also use the real API server.
const EDGES: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("store", &[]),
    ("image", &[]),
    ("testapp", &[]),
    ("client", &["api"]),
    ("apiserver", &["api", "store"]),
    ("scheduler", &["api", "client"]),
    ("controllers", &["api", "client"]),
    ("netd", &["api", "client"]),
    ("nodeagent", &["api", "client", "image"]),
    ("cli", &["api", "apiserver", "client", "controllers", "image", "netd", "nodeagent", "scheduler", "store"]),
    ("e2e", &["api", "cli", "client", "image", "netd"]),
];

/// Libraries that speak a foreign protocol, and the one crate that may use each.
const FOREIGN: &[(&str, &[&str])] = &[
    ("rtnetlink", &["netd"]),
    ("hickory-server", &["netd"]),
    ("etcd-client", &["store"]),
    ("raft", &["store"]),
    ("oci-client", &["image"]),
    ("axum", &["apiserver", "nodeagent", "cli"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All files of the house below `dir`, build products aside.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" || name == "orlop-data" {
            continue;
        }
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    files(&root, &mut found);
    let rust = found.into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs"));
    rust.map(|p| (p.strip_prefix(&root).unwrap().to_string_lossy().into_owned(), fs::read_to_string(&p).unwrap()))
        .collect()
}

/// The lines before a file's own tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

fn assert_none(what: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{what}:\n  {}", broken.join("\n  "));
}

/// The dependencies of each crate: (of its code, of its tests).
fn dependencies() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let crates = EDGES.iter().map(|(name, _)| {
        let folder = if *name == "testapp" { "e2e/testapp" } else { name };
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let mut section = "";
        let (mut code, mut tests) = (BTreeSet::new(), BTreeSet::new());
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            } else if let Some((key, _)) = line.split_once(['=', '.']) {
                match section {
                    "[dependencies]" | "[build-dependencies]" => code.insert(key.trim().to_owned()),
                    "[dev-dependencies]" => tests.insert(key.trim().to_owned()),
                    _ => continue,
                };
            }
        }
        ((*name).to_owned(), (code, tests))
    });
    crates.collect()
}

#[test]
fn crates_import_only_what_they_may() {
    let ours: BTreeSet<_> = EDGES.iter().map(|(name, _)| *name).collect();
    let dependencies = dependencies();
    let mut broken = Vec::new();
    for (name, allowed) in EDGES {
        let (code, tests) = &dependencies[*name];
        for edge in code.iter().filter(|d| ours.contains(d.as_str()) && !allowed.contains(&d.as_str())) {
            broken.push(format!("{name} -> {edge}"));
        }
        let for_tests = ["api", "client", "apiserver", "store", "image"];
        for edge in tests.iter().filter(|d| ours.contains(d.as_str()) && !for_tests.contains(&d.as_str())) {
            broken.push(format!("tests of {name} -> {edge}"));
        }
        for (library, owners) in FOREIGN {
            if code.contains(*library) && !owners.contains(name) {
                broken.push(format!("{name} -> {library}"));
            }
        }
    }
    assert_none("imports that ARCHITECTURE.md does not allow", &broken);
}

#[test]
fn files_are_named_after_what_they_hold() {
    let banned = ["mod.rs", "utils.rs", "util.rs", "common.rs", "helpers.rs", "misc.rs", "constants.rs"];
    let named = |path: &String| banned.iter().any(|b| path.ends_with(&format!("/{b}")));
    let broken: Vec<_> = sources().into_iter().map(|(p, _)| p).filter(named).collect();
    assert_none("drawers instead of nouns", &broken);
}

#[test]
fn files_are_short_and_open_with_what_they_are() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let lines = code(&text).lines().count();
        if lines > MAX_LINES && !is_test(&path) {
            broken.push(format!("{path}: {lines} lines before its tests, at most {MAX_LINES}"));
        }
        if !text.starts_with("//!") {
            broken.push(format!("{path}: does not open with //!"));
        }
    }
    assert_none("files to split or to introduce", &broken);
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
    ];
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|m| line.contains(m)) {
                broken.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("marks of unfinished work", &broken);
}

#[test]
fn tests_wait_on_conditions() {
    let naps = [concat!("thread::", "sleep("), concat!("time::", "sleep(")];
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let tests = if is_test(&path) { text.as_str() } else { text.split_once("#[cfg(test)]").map_or("", |(_, t)| t) };
        if naps.iter().any(|nap| tests.contains(nap)) {
            broken.push(path);
        }
    }
    assert_none("tests that sleep", &broken);
}

/// The modules that a file declares, as the paths that they may have: `mod x;` with whatever visibility, and `#[path]`.
fn declared(path: &str, text: &str) -> BTreeSet<String> {
    let path = Path::new(path);
    let folder = path.parent().unwrap();
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let is_root = ["lib", "main", "build"].contains(&stem) || is_target(path);
    let below = if is_root { folder.to_owned() } else { folder.join(stem) };
    let mut named = BTreeSet::new();
    let mut at = None;
    for line in text.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("#[path = \"") {
            at = rest.split('"').next();
        }
        let Some(name) = line.strip_suffix(';').and_then(|l| l.rsplit_once(' ')) else { continue };
        if name.0.split(' ').next_back() == Some("mod") {
            let file = at.take().map_or_else(|| below.join(format!("{}.rs", name.1)), |at| folder.join(at));
            named.insert(file.to_str().unwrap().to_owned());
        }
    }
    named
}

/// Whether cargo builds the file by itself: programs, examples, benchmarks, tests.
fn is_target(path: &Path) -> bool {
    let folder = path.parent().unwrap();
    let above = folder.parent().unwrap_or(folder);
    folder.ends_with("src/bin")
        || ["tests", "examples", "benches"].iter().any(|f| folder.ends_with(f) && !above.ends_with("src"))
}

#[test]
fn every_module_is_part_of_its_crate() {
    let sources = sources();
    let declared: BTreeSet<String> = sources.iter().flat_map(|(path, text)| declared(path, text)).collect();
    let roots = ["lib.rs", "main.rs", "build.rs"];
    let alone = |path: &String| {
        let own = is_target(Path::new(path)) || roots.iter().any(|root| path.ends_with(&format!("/{root}")));
        !own && !declared.contains(path)
    };
    let broken: Vec<_> = sources.iter().map(|(path, _)| path.clone()).filter(alone).collect();
    assert_none("files that no module declares", &broken);
}

#[test]
fn every_manifest_is_used_by_a_test_and_every_scenario_is_read() {
    let root = root();
    let mut found = Vec::new();
    files(&root, &mut found);
    let sources = sources();
    let tests: String = sources.iter().filter(|(p, _)| is_test(p)).map(|(_, t)| t.as_str()).collect();
    let everything: String = sources.iter().map(|(_, t)| t.as_str()).collect();
    let mut broken = Vec::new();
    for path in found {
        let relative = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let name = path.file_name().unwrap().to_string_lossy();
        if relative.starts_with("manifests/") && !tests.contains(name.as_ref()) {
            broken.push(relative);
        } else if let Some((_, inside)) = relative.split_once("/testdata/") {
            let folder = inside.split('/').next().unwrap();
            if !everything.contains(&format!("testdata/{folder}")) && !everything.contains("\"testdata\"") {
                broken.push(relative);
            }
        }
    }
    assert_none("files that no test reads", &broken);
}

#[test]
fn only_patches_and_schemas_index_into_documents_by_name() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        if path.starts_with("api/") || is_test(&path) {
            continue;
        }
        let line = code(&text).lines().position(|l| l.contains(concat!("value[", "\"")));
        broken.extend(line.map(|n| format!("{path}:{}", n + 1)));
    }
    assert_none("documents taken apart where types should be used", &broken);
}
