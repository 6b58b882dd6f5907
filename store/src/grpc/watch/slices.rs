//! What one answer holds: events up to a size, cut between revisions where that is possible.

use prost::Message;

use crate::grpc::proto::mvccpb::Event;

/// An answer is closed at the end of the revision with which it holds this much, bytes.
const ENOUGH_BYTES: usize = 1 << 20;

/// Largest answer to a watch that takes fragments, bytes: etcd's largest request, and half a mebibyte.
const FRAGMENT_BYTES: usize = (3 << 19) + (512 << 10);

/// The events of one answer.
#[derive(Debug, PartialEq)]
pub(super) struct Slice {
    pub(super) events: Vec<Event>,
    /// More events of the same revision follow.
    pub(super) fragment: bool,
}

/// Cuts events, which are in the order of their revisions. Within one revision it is cut only where `fragments` are taken.
pub(super) fn cut(events: Vec<Event>, fragments: bool) -> Vec<Slice> {
    let mut slices = Vec::new();
    let (mut slice, mut bytes) = (Vec::new(), 0);
    for event in events {
        // With the tag and length that it has inside the answer.
        let size = event.encoded_len() + 8;
        let same = slice.last().is_some_and(|last| revision(last) == revision(&event));
        let full =
            !slice.is_empty() && if same { fragments && bytes + size > FRAGMENT_BYTES } else { bytes >= ENOUGH_BYTES };
        if full {
            slices.push(Slice { events: std::mem::take(&mut slice), fragment: same });
            bytes = 0;
        }
        bytes += size;
        slice.push(event);
    }
    if !slice.is_empty() {
        slices.push(Slice { events: slice, fragment: false });
    }
    slices
}

/// The revision that made an event.
pub(super) fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |pair| pair.mod_revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::mvccpb::KeyValue;

    /// Events as revision and size in KiB; the slices as how many events each, and `+` where it goes on.
    fn check(events: &[(i64, usize)], fragments: bool, want: &[&str]) {
        let event = |(mod_revision, size): &(i64, usize)| Event {
            kv: Some(KeyValue {
                mod_revision: *mod_revision,
                value: vec![0; size << 10].into(),
                ..KeyValue::default()
            }),
            ..Event::default()
        };
        let slices = cut(events.iter().map(event).collect(), fragments);
        let told = |slice: &Slice| format!("{}{}", slice.events.len(), if slice.fragment { "+" } else { "" });
        assert_eq!(slices.iter().map(told).collect::<Vec<_>>(), want, "{events:?}");
        assert!(
            !fragments
                || slices
                    .iter()
                    .all(|slice| slice.events.iter().map(|e| e.encoded_len() + 8).sum::<usize>() <= FRAGMENT_BYTES
                        || slice.events.len() == 1)
        );
    }

    #[test]
    fn answers_are_cut_between_revisions_and_inside_them_only_into_fragments() {
        check(&[], true, &[]);
        check(&[(2, 1), (3, 1), (4, 1)], false, &["3"]);
        check(&[(2, 700), (3, 700), (4, 700)], false, &["2", "1"]);
        check(&[(2, 900), (2, 900), (2, 900)], false, &["3"]);
        check(&[(2, 900), (2, 900), (2, 900), (3, 1)], true, &["2+", "2"]);
        check(&[(2, 900), (2, 900), (2, 900), (2, 1)], true, &["2+", "2"]);
        check(&[(2, 1400), (2, 1400), (2, 1400)], true, &["1+", "1+", "1"]);
    }
}
