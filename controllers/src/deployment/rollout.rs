//! The arithmetic of a rollout: how many Pods there may be, and how few.
//!
//! Follows upstream's `pkg/controller/deployment/{rolling,sync}.go` and `util/deployment_util.go`, but is stricter where
//! upstream trusts a status that is older than the size: nothing more is moved while a ReplicaSet has not acted on its new
//! size yet. So the bounds hold for the Pods themselves, whatever the order in which controllers act. All numbers are
//! replicas.

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use super::revision;

/// How far a rollout may leave the wanted number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Replicas wanted.
    pub wanted: i32,
    /// Replicas above it.
    pub surge: i32,
    /// Replicas below it that may be unavailable.
    pub unavailable: i32,
}

impl Bounds {
    /// Those of a Deployment. `Recreate` surges by nothing.
    pub fn of(deployment: &Deployment) -> Self {
        let wanted = deployment.spec.replicas.unwrap_or(1).max(0);
        let strategy = deployment.spec.strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
            return Self { wanted, surge: 0, unavailable: 0 };
        }
        let rolling = strategy.and_then(|s| s.rolling_update.clone()).unwrap_or_default();
        let quarter = || IntOrString::String("25%".into());
        let surge = scaled(&rolling.max_surge.unwrap_or_else(quarter), wanted, true);
        let unavailable = scaled(&rolling.max_unavailable.unwrap_or_else(quarter), wanted, false);
        // Both zero (25 % of 1, rounded) would never move.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { wanted, surge, unavailable: unavailable.min(wanted) }
    }

    /// Most replicas at any time.
    pub fn most(self) -> i32 {
        self.wanted + self.surge
    }

    /// Fewest available replicas at any time.
    pub fn fewest(self) -> i32 {
        self.wanted - self.unavailable
    }
}

fn scaled(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or_default().max(0);
            let hundredfold = percent * i64::from(total);
            let number = if up { (hundredfold + 99) / 100 } else { hundredfold / 100 };
            i32::try_from(number).unwrap_or(i32::MAX)
        }
    }
}

/// Replicas that a ReplicaSet asks for.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Replicas of it that are available.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or_default()
}

/// Replicas of it that exist.
pub fn existing(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

/// It has acted on its present size: its status is not of an older one. One that is yet to be created has nothing to do.
pub fn has_acted(set: &ReplicaSet) -> bool {
    set.metadata.uid.is_none() || set.status.as_ref().and_then(|s| s.observed_generation) >= set.metadata.generation
}

/// To how many replicas the new ReplicaSet, which has `current` of `total` over all, may grow.
pub fn grown(bounds: Bounds, recreate: bool, current: i32, total: i32) -> i32 {
    if recreate {
        return bounds.wanted;
    }
    let room = bounds.most() - total;
    if room <= 0 { current } else { current + room.min(bounds.wanted - current).max(0) }
}

/// How the old ReplicaSets (oldest first) shrink beside the new one: their new sizes. Replicas that are not available go
/// first, wherever they are, for they serve nobody; then as many as the minimum allows. Nothing shrinks while a ReplicaSet
/// has not acted on its size: what it is about to delete may be counted as available still.
pub fn shrunk(bounds: Bounds, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|s| replicas(s)).collect();
    let old_total: i32 = sizes.iter().sum();
    let new_total = new.map_or(0, replicas);
    let new_unavailable = new_total - new.map_or(0, available);
    let most_removed = old_total + new_total - bounds.fewest() - new_unavailable;
    let all_acted = old.iter().copied().chain(new).all(has_acted);
    if old_total == 0 || most_removed <= 0 || !all_acted {
        return sizes;
    }
    let mut removed = 0;
    for (size, set) in sizes.iter_mut().zip(old) {
        let sick = (*size - available(set)).clamp(0, most_removed - removed);
        *size -= sick;
        removed += sick;
    }
    let all_available = old.iter().map(|s| available(s)).sum::<i32>() + new.map_or(0, available);
    let mut left = (all_available - bounds.fewest()).max(0);
    for size in &mut sizes {
        let less = (*size).min(left);
        *size -= less;
        left -= less;
    }
    sizes
}

/// How a change of the wanted number spreads over several ReplicaSets that all have replicas: each gets its share, the
/// largest what rounding leaves. Their new sizes, in order.
pub fn spread(deployment: &Deployment, bounds: Bounds, sets: &[&ReplicaSet]) -> Vec<i32> {
    let total: i32 = sets.iter().map(|s| replicas(s)).sum();
    let allowed = if bounds.wanted > 0 { bounds.most() } else { 0 };
    let change = allowed - total;
    let mut sizes: Vec<i32> = sets.iter().map(|s| replicas(s)).collect();
    if change == 0 {
        return sizes;
    }
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by(|&a, &b| {
        let age = |i: usize| sets[i].metadata.creation_timestamp.as_ref().map(|t| t.0);
        let newer = age(b).cmp(&age(a)).then_with(|| sets[a].name_any().cmp(&sets[b].name_any()));
        replicas(sets[b]).cmp(&replicas(sets[a])).then(if change > 0 { newer } else { newer.reverse() })
    });
    let mut spread = 0;
    for &i in &order {
        let share = share(deployment, bounds, sets[i]);
        let left = change - spread;
        let part = if change > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        sizes[i] += part;
        spread += part;
    }
    if let Some(&largest) = order.first() {
        sizes[largest] = (sizes[largest] + change - spread).max(0);
    }
    sizes
}

/// How much one ReplicaSet changes when the Deployment's size does, before limits.
fn share(deployment: &Deployment, bounds: Bounds, set: &ReplicaSet) -> i32 {
    let size = i64::from(replicas(set));
    if bounds.wanted == 0 {
        return -replicas(set);
    }
    let status = deployment.status.as_ref().and_then(|s| s.replicas);
    let before =
        revision::number::<i64>(set.annotations(), revision::MAX).or(status.map(i64::from)).unwrap_or_default();
    if before <= 0 {
        return 0;
    }
    let rounded = (2 * size * i64::from(bounds.most()) + before) / (2 * before);
    i32::try_from(rounded - size).unwrap_or_default()
}
