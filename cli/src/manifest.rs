//! Reads manifests: files, folders and standard input, many documents each, YAML or JSON.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use api::Kind;
use serde_json::Value;

/// A manifest larger than this is refused, bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Of a value that is not what it should be, at most so many characters are shown.
const GLIMPSE: usize = 60;

/// One object as the user wrote it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its name.
    pub name: String,
    /// Its namespace, where it says one.
    pub namespace: Option<String>,
    /// All of it.
    pub body: Value,
    /// Where it was read: `service.yaml:12`.
    pub source: String,
}

impl Document {
    /// `deployment.apps/web`, as kubectl names objects.
    pub fn title(&self) -> String {
        title(self.kind, &self.name)
    }
}

/// `deployment.apps/web`.
pub fn title(kind: &Kind, name: &str) -> String {
    let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
    format!("{}{group}/{name}", kind.singular)
}

/// Reads all documents of all sources; nothing is returned unless all could be read.
pub fn read_all(sources: &[PathBuf], recursive: bool) -> Result<Vec<Document>> {
    if sources.is_empty() {
        bail!("no files given: say which with -f FILE, -f FOLDER, or -f - for standard input");
    }
    let mut documents = Vec::new();
    for source in sources {
        read(source, recursive, &mut documents)?;
    }
    if documents.is_empty() {
        bail!("no objects found in {}", sources.iter().map(|s| s.display().to_string()).collect::<Vec<_>>().join(", "));
    }
    Ok(documents)
}

fn read(source: &Path, recursive: bool, into: &mut Vec<Document>) -> Result<()> {
    if source == Path::new("-") {
        let text = limited(std::io::stdin().lock(), "standard input")?;
        return parse(&text, "standard input", into);
    }
    let shown = source.display().to_string();
    if !source.is_dir() {
        let file = std::fs::File::open(source).with_context(|| format!("open {shown}"))?;
        return parse(&limited(file, &shown)?, &shown, into);
    }
    let entries = std::fs::read_dir(source).with_context(|| format!("list {shown}"))?;
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    for path in paths {
        let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if manifest && path.is_file() || recursive && path.is_dir() {
            read(&path, recursive, into)?;
        }
    }
    Ok(())
}

fn limited(reader: impl Read, shown: &str) -> Result<String> {
    let mut text = String::new();
    reader.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(|| format!("read {shown}"))?;
    if text.len() as u64 > MAX_BYTES {
        bail!("{shown} is larger than {MAX_BYTES} bytes");
    }
    Ok(text)
}

/// Parses a stream of documents, separated by lines of `---`.
pub fn parse(text: &str, source: &str, into: &mut Vec<Document>) -> Result<()> {
    for (line, chunk) in split(text) {
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let body: Value = match serde_saphyr::from_str_with_options(&chunk, options) {
            Ok(body) => body,
            Err(error) => {
                let place = error.location().map_or((line, 1), |l| (line + l.line() as usize - 1, l.column() as usize));
                bail!("{source}:{}:{}: {}", place.0, place.1, complaint(&error));
            }
        };
        let first = chunk.lines().position(says_something).unwrap_or_default();
        collect(body, &format!("{source}:{}", line + first), into)?;
    }
    Ok(())
}

/// What the reader says, without where (that is said before it) and without advice to programmers.
fn complaint(error: &serde_saphyr::Error) -> String {
    let said = error.without_snippet().to_string();
    if said.starts_with("budget breached") {
        return "too large, or too many lists and objects inside each other".to_owned();
    }
    let said = said.split(" at line ").next().unwrap_or(&said);
    said.split(", set DuplicateKeyPolicy").next().unwrap_or(said).to_owned()
}

/// Documents with the line each starts at. A document of blank lines and comments alone is none.
fn split(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
            // what stands behind the dashes belongs to the document
            chunks.push((index + 1, format!("   {rest}\n")));
            continue;
        }
        if let Some((_, chunk)) = chunks.last_mut() {
            chunk.push_str(line);
            chunk.push('\n');
        }
    }
    chunks.retain(|(_, chunk)| chunk.lines().any(says_something));
    chunks
}

fn says_something(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start().starts_with('#')
}

fn collect(body: Value, source: &str, into: &mut Vec<Document>) -> Result<()> {
    if !body.is_object() {
        bail!("{source}: this is no object, but {}", glimpse(&body));
    }
    let text = |field: &str| text(&body, field).with_context(|| source.to_owned());
    let Some(kind) = text("kind")? else { bail!("{source}: the object has no kind") };
    let Some(version) = text("apiVersion")? else { bail!("{source}: the {kind} has no apiVersion") };
    if let Some(items) = body.pointer("/items").and_then(Value::as_array).filter(|_| kind.ends_with("List")) {
        return items.iter().try_for_each(|item| collect(item.clone(), source, into));
    }
    let Some(row) = Kind::by_manifest(&version, &kind) else {
        bail!("{source}: no kind {kind:?} in version {version:?}: `orlop get --help` lists what there is");
    };
    let Some(name) = text("metadata.name")? else {
        let generated = text("metadata.generateName")?.is_some();
        let hint = if generated { ": with metadata.generateName it would be another object every time" } else { "" };
        bail!("{source}: the {kind} has no metadata.name{hint}");
    };
    let namespace = text("metadata.namespace")?;
    into.push(Document { kind: row, name, namespace, source: source.to_owned(), body });
    Ok(())
}

/// A field that is text, and not empty.
fn text(body: &Value, field: &str) -> Result<Option<String>> {
    match body.pointer(&format!("/{}", field.replace('.', "/"))) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
        Some(other) => bail!("{field} must be text, not {} (quotes make it text)", glimpse(other)),
    }
}

/// The beginning of a value.
fn glimpse(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= GLIMPSE { text } else { text.chars().take(GLIMPSE).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Document>> {
        let mut documents = Vec::new();
        parse(text, "a.yaml", &mut documents).map(|()| documents)
    }

    #[test]
    fn many_documents_and_lists_are_read_in_order() {
        let documents = parsed(
            "# first\n---\nkind: Namespace\napiVersion: v1\nmetadata: {name: a}\n---\n\n---\napiVersion: v1\nkind: List\nitems:\n\
             - {apiVersion: v1, kind: Secret, metadata: {name: b, namespace: a}}\n",
        );
        let titles: Vec<_> = documents.unwrap().iter().map(Document::title).collect();
        assert_eq!(titles, ["namespace/a", "secret/b"]);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let error = parsed("kind: Pod\n---\nkind: Pod\nmetadata:\n  name: [a\n").unwrap_err().to_string();
        assert!(error.starts_with("a.yaml:1: the Pod has no apiVersion"), "{error}");
        let error = parsed("---\nkind: Pod\nmetadata:\n  name: a\n   b: c\n").unwrap_err().to_string();
        assert!(error.starts_with("a.yaml:5:"), "{error}");
        let error = parsed("kind: Pod\nkind: Pod\n").unwrap_err().to_string();
        assert_eq!(error, "a.yaml:2:1: duplicate mapping key: kind");
        let deep = format!("kind: {}{}\n", "[".repeat(200), "]".repeat(200));
        let error = parsed(&deep).unwrap_err().to_string();
        assert!(error.ends_with(": too large, or too many lists and objects inside each other"), "{error}");
        let error = parsed("--- # first\n- a\n--- {kind: 7}\n").unwrap_err().to_string();
        assert_eq!(error, "a.yaml:2: this is no object, but [\"a\"]");
        let error = format!("{:#}", parsed("--- {kind: 7}\n").unwrap_err());
        assert_eq!(error, "a.yaml:1: kind must be text, not 7 (quotes make it text)");
        let error = format!("{:#}", parsed("kind: Pod\napiVersion: v1\nmetadata: {name: 7}\n").unwrap_err());
        assert_eq!(error, "a.yaml:1: metadata.name must be text, not 7 (quotes make it text)");
        let error = parsed("kind: Pod\napiVersion: v1\nmetadata: {generateName: a-}\n").unwrap_err().to_string();
        assert!(error.starts_with("a.yaml:1: the Pod has no metadata.name: with metadata.generateName"), "{error}");
        let error = parsed("kind: Gizmo\napiVersion: v1\nmetadata: {name: a}\n").unwrap_err().to_string();
        assert!(error.contains("no kind \"Gizmo\" in version \"v1\""), "{error}");
    }

    #[test]
    fn old_yaml_booleans_and_octals_mean_what_they_do_to_kubectl() {
        let documents =
            parsed("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {mode: 0644, on: yes}\n").unwrap();
        assert_eq!(documents[0].body.pointer("/spec/mode"), Some(&Value::from(420)));
    }
}
