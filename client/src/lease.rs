//! Leader election over a `Lease`: of all who ask, one works.
//!
//! # Guarantees
//! * [`step`] never lets two hold a lease whose clocks run at about the same speed: an expiry is measured from when this
//!   process first saw the holder's last renewal, never by the holder's clock (as client-go's `leaderelection.go`).
//! * [`lead`] cancels the work before anybody else may take over.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio_util::sync::CancellationToken;

use crate::{
    Key,
    error::{During, Error},
};

/// How long a lease holds without renewal.
pub const DURATION: Duration = Duration::from_secs(15);

/// How long the holder tries to renew before it gives up its work.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// How often the lease is looked at.
pub const RETRY: Duration = Duration::from_secs(2);

/// What to do about a lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this: I hold it, or take it.
    Hold(LeaseSpec),
    /// Somebody else holds it.
    Wait,
}

/// Decides about the lease as it is: `seen` is when this process first saw its present renewal.
pub fn step(lease: Option<&LeaseSpec>, seen: Instant, me: &str, now: Instant, wall: Timestamp) -> Step {
    let mine = LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(MicroTime(wall)),
        renew_time: Some(MicroTime(wall)),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    let Some(lease) = lease else { return Step::Hold(mine) };
    let transitions = lease.lease_transitions.unwrap_or_default();
    match lease.holder_identity.as_deref() {
        Some(holder) if holder == me => Step::Hold(LeaseSpec {
            acquire_time: lease.acquire_time.clone(),
            lease_transitions: Some(transitions),
            ..mine
        }),
        holder => {
            let seconds = u64::try_from(lease.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
            let free = holder.is_none_or(str::is_empty) || now >= seen + Duration::from_secs(seconds);
            if !free {
                return Step::Wait;
            }
            Step::Hold(LeaseSpec { lease_transitions: Some(transitions.saturating_add(1)), ..mine })
        }
    }
}

/// Works whenever `me` holds the lease, until `shutdown`. The work must end soon after its token is cancelled.
pub async fn lead<F: Future<Output = ()>>(
    client: Client,
    lease: Key,
    me: &str,
    shutdown: CancellationToken,
    mut work: impl FnMut(CancellationToken) -> F,
) {
    let mut candidate = Candidate {
        api: Api::namespaced(client, &lease.namespace),
        key: lease,
        me: me.to_owned(),
        lease: None,
        seen: Instant::now(),
    };
    while !shutdown.is_cancelled() {
        if candidate.attempt().await {
            let token = shutdown.child_token();
            tracing::info!(lease = %candidate.key, "leading");
            tokio::join!(work(token.clone()), async {
                candidate.keep(&token).await;
                token.cancel();
            });
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            break;
        }
    }
}

struct Candidate {
    api: Api<Lease>,
    key: Key,
    me: String,
    lease: Option<Lease>,
    seen: Instant,
}

impl Candidate {
    /// Renews until that fails for too long, or the token is cancelled.
    async fn keep(&mut self, token: &CancellationToken) {
        let mut renewed = Instant::now();
        while token.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_some() {
            let deadline = (renewed + RENEW_DEADLINE).into();
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) if renewed.elapsed() < RENEW_DEADLINE => {}
                Ok(false) | Err(_) => {
                    tracing::warn!(lease = %self.key, "lost the lease");
                    return;
                }
            }
        }
    }

    /// One try to take or renew; whether it is held now.
    async fn attempt(&mut self) -> bool {
        match self.try_hold().await {
            Ok(held) => held,
            Err(error) if error.is_conflict() || error.is_already_exists() => false,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "lease not renewed");
                false
            }
        }
    }

    async fn try_hold(&mut self) -> Result<bool, Error> {
        let now = Instant::now();
        let found = self.api.get_opt(&self.key.name).await.during::<Lease>("get", &self.key)?;
        let renewal = |lease: &Option<Lease>| lease.as_ref().and_then(|l| l.spec.clone());
        if renewal(&found) != renewal(&self.lease) {
            self.seen = now;
        }
        self.lease = found;
        let spec = renewal(&self.lease);
        let Step::Hold(spec) = step(spec.as_ref(), self.seen, &self.me, now, Timestamp::now()) else {
            return Ok(false);
        };
        let mut lease = self.lease.clone().unwrap_or_default();
        lease.spec = Some(spec);
        let written = if lease.metadata.resource_version.is_some() {
            let answer = self.api.replace(&self.key.name, &PostParams::default(), &lease).await;
            answer.during::<Lease>("renew", &self.key)?
        } else {
            lease.metadata.name = Some(self.key.name.clone());
            self.api.create(&PostParams::default(), &lease).await.during::<Lease>("create", &self.key)?
        };
        self.lease = Some(written);
        self.seen = now;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    fn outcome(lease: Option<&LeaseSpec>, age: u64) -> Option<(Option<i32>, bool)> {
        let seen = Instant::now();
        match step(lease, seen, "me", seen + Duration::from_secs(age), Timestamp::now()) {
            Step::Hold(spec) => {
                let kept = spec.acquire_time == Some(MicroTime(Timestamp::UNIX_EPOCH));
                assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                Some((spec.lease_transitions, kept))
            }
            Step::Wait => None,
        }
    }

    #[test]
    fn only_a_free_or_expired_lease_changes_hands() {
        assert_eq!(outcome(None, 0), Some((Some(0), false)), "nobody has it");
        assert_eq!(outcome(Some(&held_by("other")), 14), None, "it is held");
        assert_eq!(outcome(Some(&held_by("other")), 15), Some((Some(4), false)), "it has expired");
        assert_eq!(outcome(Some(&held_by("")), 0), Some((Some(4), false)), "it was given back");
        assert_eq!(outcome(Some(&held_by("me")), 99), Some((Some(3), true)), "it is mine");
    }
}
