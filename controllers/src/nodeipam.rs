//! Gives every Node a range of Pod addresses that no other Node has.
//!
//! Follows upstream's `pkg/controller/nodeipam/ipam/range_allocator.go`. The ranges in use are read from the Nodes: nothing
//! else is remembered but what the cache does not show yet. A range is given out again only after all others, so that a
//! stale route to a Node that is gone leads nowhere for as long as possible.

use std::collections::{BTreeMap, BTreeSet};

use client::{Caches, Controller, During, Error, Key, Next, OrGone, Reader, Reconcile, Recorder, events::Type};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The next free range of `bits` inside `cluster`, after `last` and around. Pure.
pub fn next_free(cluster: Ipv4Net, bits: u8, used: &BTreeSet<Ipv4Net>, last: Option<Ipv4Net>) -> Option<Ipv4Net> {
    let free = |range: &Ipv4Net| !overlaps(*range, used);
    let later = cluster.subnets(bits).ok()?.filter(|r| Some(*r) > last);
    let earlier = cluster.subnets(bits).ok()?.filter(|r| Some(*r) <= last);
    later.chain(earlier).find(free)
}

/// Whether a range shares an address with one of `used`: one that is inside it, or one that it is inside of. Ranges are
/// ordered by their first address, so neither needs a walk over all.
fn overlaps(range: Ipv4Net, used: &BTreeSet<Ipv4Net>) -> bool {
    let first = Ipv4Net::new_assert(range.network(), 0);
    let inside = used.range(first..).next().is_some_and(|u| range.contains(&u.network()));
    let around = (0..=range.prefix_len()).any(|bits| used.contains(&Ipv4Net::new_assert(range.addr(), bits).trunc()));
    inside || around
}

/// The range of a Node.
pub fn range_of(node: &Node) -> Option<Ipv4Net> {
    node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok().map(|range: Ipv4Net| range.trunc())
}

#[derive(Debug, Default)]
struct Given {
    /// Given out, by Node; the cache may not show it yet.
    recent: BTreeMap<String, Ipv4Net>,
    last: Option<Ipv4Net>,
}

struct NodeRanges {
    client: kube::Client,
    nodes: Reader<Node>,
    recorder: Recorder,
    cluster: Ipv4Net,
    bits: u8,
    given: Mutex<Given>,
}

/// Runs the controller until `shutdown`: ranges of `bits` prefix length out of `cluster`.
pub async fn run(caches: Caches, cluster: Ipv4Net, bits: u8, shutdown: CancellationToken) {
    let controller = NodeRanges {
        client: caches.client().clone(),
        nodes: caches.reader(),
        recorder: Recorder::new(caches.client(), "node-ipam-controller", ""),
        cluster,
        bits,
        given: Mutex::default(),
    };
    Controller::new("nodeipam", &caches, controller).run(shutdown).await;
}

impl Reconcile for NodeRanges {
    type Object = Node;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let node = self.nodes.get(key);
        let Some(node) = node.filter(|n| range_of(n).is_none()) else {
            self.given.lock().recent.remove(&key.name);
            return Ok(Next::AwaitChange);
        };
        let Some(range) = self.take(&key.name) else {
            let message = format!("no range of /{} is free in {}", self.bits, self.cluster);
            self.recorder.event(node.as_ref(), Type::Warning, "CIDRNotAvailable", &message);
            return Err(Error::object::<Node>(key, message));
        };
        let range = range.to_string();
        let patch = serde_json::json!({
            "metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": range, "podCIDRs": [range]},
        });
        let api = Api::<Node>::all(self.client.clone());
        let answer = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        answer.during::<Node>("give a pod range to", key).or_gone()?;
        Ok(Next::AwaitChange)
    }
}

impl NodeRanges {
    /// A range for the Node, the same one as long as the cache does not show it.
    fn take(&self, node: &str) -> Option<Ipv4Net> {
        let mut given = self.given.lock();
        if let Some(range) = given.recent.get(node) {
            return Some(*range);
        }
        let mut used: BTreeSet<_> = self.nodes.list().iter().filter_map(|n| range_of(n)).collect();
        used.extend(given.recent.values());
        let range = next_free(self.cluster, self.bits, &used, given.last)?;
        given.recent.insert(node.to_owned(), range);
        given.last = Some(range);
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nodes come and go: no two ever share an address, and a range is free again when its Node is gone.
        #[test]
        fn ranges_never_overlap(steps in prop::collection::vec((any::<bool>(), 0usize..20), 1..100)) {
            let cluster: Ipv4Net = "10.42.0.0/20".parse().unwrap();
            let mut nodes = BTreeMap::new();
            let mut last = None;
            for (join, node) in steps {
                if join && !nodes.contains_key(&node) {
                    let used: BTreeSet<Ipv4Net> = nodes.values().copied().collect();
                    let range = next_free(cluster, 24, &used, last);
                    prop_assert_eq!(range.is_none(), nodes.len() == 16);
                    if let Some(range) = range {
                        prop_assert!(cluster.contains(&range) && !used.contains(&range));
                        nodes.insert(node, range);
                        last = Some(range);
                    }
                } else if !join {
                    nodes.remove(&node);
                }
            }
        }
    }

    #[test]
    fn a_range_is_reused_last_and_a_foreign_one_is_respected() {
        let cluster = "10.42.0.0/22".parse().unwrap();
        let range = |n: u8| Ipv4Net::new(std::net::Ipv4Addr::new(10, 42, n, 0), 24).unwrap();
        assert_eq!(next_free(cluster, 24, &[range(0)].into(), Some(range(1))), Some(range(2)));
        assert_eq!(next_free(cluster, 24, &[range(2), range(3)].into(), Some(range(3))), Some(range(0)));
        let wide = "10.42.0.0/23".parse().unwrap();
        assert_eq!(next_free(cluster, 24, &[wide].into(), None), Some(range(2)));
    }
}
