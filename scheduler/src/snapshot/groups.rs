//! Sets of labels that placed pods have, each under a number: pods of one workload share one, and a selector is held against
//! each set once, not against each pod.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;

/// Names a set while some pod has it.
pub type GroupId = u32;

/// A namespace and labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Group {
    /// The pods' namespace.
    pub namespace: String,
    /// The pods' labels.
    pub labels: BTreeMap<String, String>,
}

/// All sets in use.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    slots: Vec<(Arc<Group>, usize)>,
    ids: AHashMap<Arc<Group>, GroupId>,
    free: Vec<GroupId>,
}

impl Groups {
    /// The number of this set, if any placed pod has it.
    pub fn find(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Option<GroupId> {
        self.ids.get(&Group { namespace: namespace.to_owned(), labels: labels.clone() }).copied()
    }

    /// All sets in use.
    pub fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        (0..).zip(&self.slots).filter(|(_, (_, pods))| *pods > 0).map(|(id, (group, _))| (id, &**group))
    }

    pub(super) fn enter(&mut self, namespace: &str, labels: &BTreeMap<String, String>) -> GroupId {
        let group = Arc::new(Group { namespace: namespace.to_owned(), labels: labels.clone() });
        if let Some(id) = self.ids.get(&group) {
            self.slots[*id as usize].1 += 1;
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push((Arc::default(), 0));
            GroupId::try_from(self.slots.len() - 1).expect("invariant: fewer than 2^32 sets of labels")
        });
        self.slots[id as usize] = (Arc::clone(&group), 1);
        self.ids.insert(group, id);
        id
    }

    pub(super) fn leave(&mut self, id: GroupId) {
        let (group, pods) = &mut self.slots[id as usize];
        *pods -= 1;
        if *pods == 0 {
            self.ids.remove(group);
            *group = Arc::default();
            self.free.push(id);
        }
    }
}
