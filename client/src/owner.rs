//! Owner references: who controls an object, and whether a controller may claim it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

/// The one owner that manages the object, if any.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The API group of an owner; empty for the core group.
pub fn group_of(owner: &OwnerReference) -> &str {
    owner.api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// The reference that makes `owner` the controller of an object; its deletion in the foreground waits for the object.
///
/// None when the owner has no name or uid yet.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> Option<OwnerReference> {
    owner.controller_owner_ref(&()).map(|reference| OwnerReference { block_owner_deletion: Some(true), ..reference })
}

/// What a controller may do with an object that it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is mine and matches.
    Mine,
    /// It matches and is nobody's: make it mine.
    Adopt,
    /// It is mine and no longer matches: let it go.
    Release,
    /// Not mine, and not to be touched.
    Foreign,
}

/// Decides as upstream's `controller_ref_manager.go`: an owner that is being deleted neither adopts nor releases, and what
/// is being deleted is not adopted.
pub fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
    let dying = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Foreign,
        Some(_) if matches => Claim::Mine,
        Some(_) if dying => Claim::Foreign,
        Some(_) => Claim::Release,
        None if matches && !dying && object.deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Foreign,
    }
}

/// The patch that adopts an object: a JSON merge patch guarded by the object's uid.
pub fn adopt_patch(object: &ObjectMeta, reference: &OwnerReference) -> serde_json::Value {
    let mut owners = object.owner_references.clone().unwrap_or_default();
    owners.push(reference.clone());
    guarded(object, &owners)
}

/// The patch that lets an object of the owner with this uid go.
pub fn release_patch(object: &ObjectMeta, owner_uid: &str) -> serde_json::Value {
    let owners = object.owner_references.iter().flatten().filter(|o| o.uid != owner_uid).cloned();
    guarded(object, &owners.collect::<Vec<_>>())
}

/// A merge patch replaces the list whole, so the resource version guards against one that changed meanwhile.
fn guarded(object: &ObjectMeta, owners: &[OwnerReference]) -> serde_json::Value {
    serde_json::json!({ "metadata": {
        "uid": object.uid,
        "resourceVersion": object.resource_version,
        "ownerReferences": owners,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned_by(uid: &str) -> ObjectMeta {
        let reference = OwnerReference { uid: uid.into(), controller: Some(true), ..OwnerReference::default() };
        ObjectMeta { owner_references: Some(vec![reference]), ..ObjectMeta::default() }
    }

    #[test]
    fn claims_follow_the_controller_reference_then_the_selector() {
        let me = ObjectMeta { uid: Some("me".into()), ..ObjectMeta::default() };
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        let dying = |meta: &ObjectMeta| ObjectMeta { deletion_timestamp: Some(now.clone()), ..meta.clone() };
        let free = ObjectMeta::default();
        let cases = [
            (&me, owned_by("me"), true, Claim::Mine),
            (&me, owned_by("me"), false, Claim::Release),
            (&me, owned_by("other"), true, Claim::Foreign),
            (&me, free.clone(), true, Claim::Adopt),
            (&me, free.clone(), false, Claim::Foreign),
            (&me, dying(&free), true, Claim::Foreign),
            (&dying(&me), free, true, Claim::Foreign),
            (&dying(&me), owned_by("me"), false, Claim::Foreign),
            (&dying(&me), owned_by("me"), true, Claim::Mine),
        ];
        for (owner, object, matches, expected) in cases {
            assert_eq!(claim(owner, &object, matches), expected, "{owner:?} {object:?} {matches}");
        }
    }

    #[test]
    fn a_release_keeps_other_owners() {
        let mut object = owned_by("me");
        let other = OwnerReference { uid: "other".into(), ..OwnerReference::default() };
        object.owner_references.get_or_insert_default().push(other);
        let patch = release_patch(&object, "me");
        assert_eq!(patch.pointer("/metadata/ownerReferences/0/uid"), Some(&"other".into()));
        assert_eq!(patch.pointer("/metadata/ownerReferences/1"), None);
    }
}
