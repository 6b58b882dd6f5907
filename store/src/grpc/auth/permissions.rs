//! Ranges of keys: what a role is granted, and whether several of them together cover what is asked for.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use tonic::Status;

use crate::grpc::fault;
use crate::grpc::proto::authpb::Permission;

/// Everything from a key on, as the end of its range.
const FROM_HERE: &[u8] = &[0];

/// What a role may do: at most one permission for each range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Permissions(BTreeMap<(Bytes, Bytes), i32>);

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let ranges = permissions.into_iter();
        Self(ranges.map(|permission| ((permission.key, permission.range_end), permission.perm_type)).collect())
    }
}

impl Permissions {
    /// Grants one, instead of what there was for the same range.
    pub(super) fn grant(&mut self, permission: Permission) -> Result<(), Status> {
        let Permission { perm_type, key, range_end } = permission;
        let is_range = range_end.is_empty() || range_end[..] == *FROM_HERE || key < range_end;
        if key.is_empty() || !is_range {
            return Err(fault::invalid_auth_management());
        }
        self.0.insert((key, range_end), perm_type);
        Ok(())
    }

    /// Takes back what there is for exactly this range.
    pub(super) fn revoke(&mut self, key: &Bytes, end: &Bytes) -> Result<(), Status> {
        let revoked = self.0.remove(&(key.clone(), end.clone()));
        revoked.map(drop).ok_or_else(fault::permission_not_granted)
    }

    /// All of them, in the order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = Permission> {
        self.0.iter().map(|((key, end), perm_type)| Permission {
            perm_type: *perm_type,
            key: key.clone(),
            range_end: end.clone(),
        })
    }

    pub(super) fn to_vec(&self) -> Vec<Permission> {
        self.iter().collect()
    }
}

/// Ranges put together: none touches another, so what they cover is inside one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans(BTreeMap<Bytes, End>);

/// Where a range ends: before a key, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Nowhere,
}

impl End {
    /// Of a range as etcd writes it.
    fn of(key: &[u8], end: &[u8]) -> Self {
        match end {
            [] => Self::Before([key, &[0]].concat().into()),
            FROM_HERE => Self::Nowhere,
            end => Self::Before(Bytes::copy_from_slice(end)),
        }
    }

    fn reaches(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key <= &end[..],
            Self::Nowhere => true,
        }
    }
}

impl Spans {
    /// Puts these ranges, in any order, together.
    pub(super) fn new(permissions: impl Iterator<Item = Permission>) -> Self {
        let mut ranges: Vec<_> = permissions.map(|range| (End::of(&range.key, &range.range_end), range.key)).collect();
        ranges.sort_by(|(_, one), (_, other)| one.cmp(other));
        let mut spans = BTreeMap::<Bytes, End>::new();
        for (end, key) in ranges {
            match spans.last_entry().filter(|last| last.get().reaches(&key)) {
                Some(mut last) if *last.get() < end => drop(last.insert(end)),
                Some(_) => {}
                None => drop(spans.insert(key, end)),
            }
        }
        Self(spans)
    }

    /// Whether all of `key..end` (as in a range) is in them.
    pub(super) fn cover(&self, key: &[u8], end: &[u8]) -> bool {
        let before = (Bound::Unbounded, Bound::Included(key));
        let nearest = self.0.range::<[u8], _>(before).next_back();
        let inside = Bytes::copy_from_slice(key);
        nearest.is_some_and(|(_, until)| *until > End::Before(inside) && *until >= End::of(key, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(ranges: &[(&'static str, &'static str)]) -> Spans {
        Spans::new(ranges.iter().map(|(key, end)| Permission {
            perm_type: 0,
            key: (*key).into(),
            range_end: (*end).into(),
        }))
    }

    #[test]
    fn ranges_cover_what_is_inside_them_together() {
        let some = spans(&[("k", ""), ("d", "f"), ("b", "d"), ("c", "d"), ("x", "\0")]);
        for (key, end) in
            [("b", ""), ("b", "f"), ("c", "e"), ("k", ""), ("k", "k\0"), ("y", "z"), ("x", "\0"), ("xx", "")]
        {
            assert!(some.cover(key.as_bytes(), end.as_bytes()), "{key}..{end}");
        }
        for (key, end) in [
            ("a", ""),
            ("a", "c"),
            ("e", "f\0"),
            ("f", ""),
            ("k", "l"),
            ("d", "\0"),
            ("w", "y"),
            ("", "\0"),
            ("h", "e"),
            ("", ""),
        ] {
            assert!(!some.cover(key.as_bytes(), end.as_bytes()), "{key}..{end}");
        }
        assert!(!spans(&[]).cover(b"a", b""));
        assert!(spans(&[("\0", "\0")]).cover(b"\0", b"\0"), "everything");
    }

    #[test]
    fn a_role_has_one_permission_for_a_range() {
        let mut role = Permissions::default();
        let may = |perm_type, key: &'static str, end: &'static str| Permission {
            perm_type,
            key: key.into(),
            range_end: end.into(),
        };
        role.grant(may(0, "b", "")).unwrap();
        role.grant(may(1, "a", "c")).unwrap();
        role.grant(may(2, "b", "")).unwrap();
        assert_eq!(role.to_vec(), [may(1, "a", "c"), may(2, "b", "")]);
        for (key, end) in [("", ""), ("b", "a"), ("b", "b")] {
            assert_eq!(role.grant(may(0, key, end)).unwrap_err().message(), "etcdserver: invalid auth management");
        }
        assert!(role.revoke(&"b".into(), &"c".into()).is_err());
        role.revoke(&"b".into(), &"".into()).unwrap();
        assert_eq!(role.to_vec(), [may(1, "a", "c")]);
    }
}
