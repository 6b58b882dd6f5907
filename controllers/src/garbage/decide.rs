//! What becomes of one object. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::{FOREGROUND, Graph, Node, ORPHAN, Uid};

/// What becomes of an object's dependents when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// It lives, or others take care of it.
    Nothing,
    /// All its owners are gone.
    Delete(Policy),
    /// Some of its owners are gone: it keeps the others.
    SetOwners(Vec<OwnerReference>),
    /// It need not wait any longer.
    SetFinalizers(Vec<String>),
    /// It waits for these: judge them.
    Judge(Vec<Uid>),
    /// It lets these go, to keep these owners, and then itself.
    Orphan(Vec<(Node, Vec<OwnerReference>)>),
}

/// Decides as upstream's `attemptToDeleteItem` and `attemptToOrphan`.
pub fn decide(graph: &Graph, node: &Node) -> Action {
    if node.orphans_dependents() {
        let without = |d: &Node| d.owners.iter().filter(|o| o.uid != node.uid).cloned().collect::<Vec<_>>();
        return Action::Orphan(graph.dependents(&node.uid).map(|d| (d.clone(), without(d))).collect());
    }
    if node.waits_for_dependents() {
        return waiting(graph, node);
    }
    if node.deleting || node.owners.is_empty() {
        return Action::Nothing;
    }
    let gone = |o: &&OwnerReference| graph.known_gone(&o.uid) && graph.get(&o.uid).is_none();
    let going = |o: &&OwnerReference| graph.get(&o.uid).is_some_and(Node::waits_for_dependents);
    let staying: Vec<_> = node.owners.iter().filter(|o| !gone(o) && !going(o)).cloned().collect();
    if !staying.is_empty() {
        return if staying.len() == node.owners.len() { Action::Nothing } else { Action::SetOwners(staying) };
    }
    let waited_for = node.owners.iter().any(|o| going(&o));
    if waited_for && graph.dependents(&node.uid).next().is_some() {
        // Its owner waits for it, so it must wait for its own: else the owner could be gone before them.
        return Action::Delete(Policy::Foreground);
    }
    Action::Delete(if node.has(ORPHAN) {
        Policy::Orphan
    } else if node.has(FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    })
}

/// An object that is deleted in the foreground waits for those dependents that say that they block it.
fn waiting(graph: &Graph, node: &Node) -> Action {
    let blocks = |d: &&Node| d.owners.iter().any(|o| o.uid == node.uid && o.block_owner_deletion == Some(true));
    let blocking: Vec<_> = graph.dependents(&node.uid).filter(blocks).collect();
    if blocking.is_empty() {
        return Action::SetFinalizers(node.finalizers_without(FOREGROUND));
    }
    Action::Judge(blocking.iter().filter(|d| !d.deleting).map(|d| d.uid.clone()).collect())
}

#[cfg(test)]
mod tests {
    use api::Kind;
    use k8s_openapi::{
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
        jiff::Timestamp,
    };

    use super::*;

    /// `web<deploy`: an object and its owners. `!` marks one that is being deleted, `+fg`/`+orphan` its finalizers.
    fn node(text: &str) -> Node {
        let (head, owners) = text.split_once('<').unwrap_or((text, ""));
        let mut parts = head.split('+');
        let name = parts.next().unwrap_or_default();
        let finalizers = parts.map(|f| if f == "fg" { FOREGROUND.into() } else { f.to_owned() }).collect();
        let reference = |uid: &str| OwnerReference {
            uid: uid.into(),
            name: uid.into(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        };
        let uid = name.trim_end_matches('!').to_owned();
        let meta = ObjectMeta {
            name: Some(uid.clone()),
            uid: Some(uid),
            finalizers: Some(finalizers),
            deletion_timestamp: name.ends_with('!').then_some(Time(Timestamp::UNIX_EPOCH)),
            owner_references: Some(owners.split(',').filter(|o| !o.is_empty()).map(reference).collect()),
            ..ObjectMeta::default()
        };
        Node::of(Kind::by_word("pods")[0], &meta)
    }

    fn judged(objects: &str, gone: &str, uid: &str) -> String {
        let mut graph = Graph::default();
        for text in objects.split_whitespace() {
            graph.apply(node(text));
        }
        gone.split_whitespace().for_each(|uid| graph.is_gone(uid));
        match decide(&graph, graph.get(uid).unwrap()) {
            Action::Nothing => "nothing".into(),
            Action::Delete(policy) => format!("delete {policy:?}"),
            Action::SetOwners(owners) => format!("owners {:?}", owners.iter().map(|o| &o.uid).collect::<Vec<_>>()),
            Action::SetFinalizers(finalizers) => format!("finalizers {finalizers:?}"),
            Action::Judge(mut uids) => {
                uids.sort();
                format!("judge {uids:?}")
            }
            Action::Orphan(all) => format!("orphan {:?}", all.iter().map(|(d, _)| &d.uid).collect::<Vec<_>>()),
        }
    }

    #[test]
    fn an_object_lives_as_long_as_one_owner() {
        assert_eq!(judged("pod", "", "pod"), "nothing");
        assert_eq!(judged("set pod<set", "", "pod"), "nothing");
        assert_eq!(judged("pod<set", "", "pod"), "nothing", "nobody has seen its owner, nor that it is gone");
        assert_eq!(judged("pod<set", "set", "pod"), "delete Background");
        assert_eq!(judged("pod+orphan<set", "set", "pod"), "delete Orphan");
        assert_eq!(judged("other pod<set,other", "set", "pod"), r#"owners ["other"]"#);
        assert_eq!(judged("pod!<set", "set", "pod"), "nothing", "it is being deleted already");
    }

    #[test]
    fn an_owner_in_the_foreground_goes_last() {
        assert_eq!(judged("set!+fg pod<set", "", "set"), r#"judge ["pod"]"#);
        assert_eq!(judged("set!+fg pod<set", "", "pod"), "delete Background");
        assert_eq!(judged("deploy!+fg set<deploy pod<set", "", "set"), "delete Foreground");
        assert_eq!(judged("set!+fg pod!<set", "", "set"), "judge []", "it waits");
        assert_eq!(judged("set!+fg+other", "", "set"), r#"finalizers ["other"]"#);
    }

    #[test]
    fn orphans_are_let_go_first() {
        assert_eq!(judged("set!+orphan pod<set", "", "set"), r#"orphan ["pod"]"#);
        assert_eq!(judged("set!+orphan", "", "set"), "orphan []");
    }

    #[test]
    fn changes_say_whom_to_judge() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(node("set")), Vec::<Uid>::new());
        assert_eq!(graph.apply(node("pod<set")), Vec::<Uid>::new());
        assert_eq!(graph.apply(node("stray<lost")), ["stray"]);
        assert_eq!(graph.apply(node("set!+fg")), ["set"]);
        assert_eq!(graph.delete("pod"), ["set"], "the owner waited for it");
        graph.apply(node("pod2<set"));
        assert_eq!(graph.delete("set"), ["pod2"]);
        assert_eq!(graph.delete("set"), Vec::<Uid>::new(), "it is told once");
    }
}
