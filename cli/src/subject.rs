//! What a command is about: `TYPE`, `TYPE NAME...`, `TYPE/NAME...`, `TYPE,TYPE`.

use anyhow::{Result, bail};
use api::Kind;

use crate::rest::{Rest, query};

/// Some objects of one kind; no names means all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Their kind.
    pub kind: &'static Kind,
    /// Their names.
    pub names: Vec<String>,
}

/// Reads the words of a command line.
pub fn parse(words: &[String]) -> Result<Vec<Subject>> {
    if words.iter().any(|w| w.contains('/')) {
        return words.iter().map(|word| named(word)).collect();
    }
    let Some((types, names)) = words.split_first() else { bail!("say which type of object, such as `pods`") };
    let mut subjects = Vec::new();
    for word in types.split(',') {
        let kinds = Kind::by_word(word);
        if kinds.is_empty() {
            bail!("the server doesn't have a resource type {word:?}");
        }
        subjects.extend(kinds.into_iter().map(|kind| Subject { kind, names: names.to_vec() }));
    }
    Ok(subjects)
}

fn named(word: &str) -> Result<Subject> {
    let Some((kind, name)) = word.split_once('/').filter(|(_, n)| !n.is_empty() && !n.contains('/')) else {
        bail!("{word:?} is not TYPE/NAME, as all must be when one is");
    };
    match Kind::by_word(kind).as_slice() {
        [kind] => Ok(Subject { kind, names: vec![name.to_owned()] }),
        _ => bail!("the server doesn't have a resource type {kind:?}"),
    }
}

/// Like [`parse`], where each must have a name.
pub fn parse_named(words: &[String]) -> Result<Vec<(&'static Kind, String)>> {
    let subjects = parse(words)?;
    if let Some(bare) = subjects.iter().find(|s| s.names.is_empty()) {
        bail!("say which {}: {}/NAME", bare.kind.singular, bare.kind.singular);
    }
    Ok(subjects.into_iter().flat_map(|s| s.names.into_iter().map(move |n| (s.kind, n))).collect())
}

/// The names among these subjects that a label selector chooses, or those given.
pub async fn resolve(
    rest: &Rest,
    words: &[String],
    selector: Option<&str>,
    all: bool,
) -> Result<Vec<(&'static Kind, String)>> {
    let mut found = Vec::new();
    for subject in parse(words)? {
        if !subject.names.is_empty() {
            found.extend(subject.names.into_iter().map(|n| (subject.kind, n)));
            continue;
        }
        if selector.is_none() && !all {
            bail!("say which {}: by name, with -l LABELS, or --all", subject.kind.plural);
        }
        let list = query(&[("labelSelector", selector.unwrap_or_default())]);
        let path = format!("{}{list}", subject.kind.path(Some(&rest.namespace)));
        let list: kube::core::ObjectList<kube::core::PartialObjectMeta> = rest.get(&path).await?;
        found.extend(list.items.into_iter().filter_map(|o| Some((subject.kind, o.metadata.name?))));
    }
    Ok(found)
}

/// The path of one object.
pub fn path(kind: &Kind, namespace: &str, name: &str) -> String {
    format!("{}/{name}", kind.path(Some(namespace)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
        match parse(&words) {
            Ok(subjects) => {
                subjects.iter().map(|s| format!("{}:{}", s.kind.kind, s.names.join("+"))).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn objects_can_be_named_in_every_usual_way() {
        assert_eq!(shown(&["po", "a", "b"]), "Pod:a+b");
        assert_eq!(shown(&["deploy/web", "svc/web"]), "Deployment:web Service:web");
        assert_eq!(shown(&["pods,svc"]), "Pod: Service:");
        assert_eq!(shown(&["all"]), "Pod: Service: Deployment: ReplicaSet:");
        assert_eq!(shown(&["gizmos"]), "the server doesn't have a resource type \"gizmos\"");
        assert_eq!(shown(&["deploy/web", "b"]), "\"b\" is not TYPE/NAME, as all must be when one is");
    }
}
