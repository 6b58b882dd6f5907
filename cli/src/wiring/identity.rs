//! Who this node is to the cluster: kept on disk, and kept good.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use api::validity::SPREAD;
use client::{
    Client,
    join::{self, Identity},
    servers::Servers,
    shown::Shown,
};
use parking_lot::Mutex;

/// Longest sleep before the time is looked at again: the clock may have been set.
const LOOK: Duration = Duration::from_secs(3_600);

/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The node's identity, and its folder.
pub struct Keeper {
    folder: PathBuf,
    identity: Mutex<Identity>,
}

impl Keeper {
    /// Of an identity that is in `folder`.
    pub fn new(folder: PathBuf, identity: Identity) -> Self {
        Self { folder, identity: Mutex::new(identity) }
    }

    /// Changes it, and keeps it so.
    fn change(&self, change: impl FnOnce(&mut Identity)) -> Result<(), join::Error> {
        let mut identity = self.identity.lock();
        change(&mut identity);
        join::store(&self.folder, &identity)
    }

    /// Remembers what the cluster told of its servers, so that the node finds them also when all that it was started with
    /// are gone.
    pub fn remember(&self, servers: &Servers) {
        let told = servers.told();
        tracing::info!(servers = told.join(","), "the cluster's servers");
        if let Err(error) = self.change(|identity| identity.credentials.servers = told) {
            tracing::error!("the cluster's servers are not remembered: {:#}", anyhow::Error::from(error));
        }
    }

    /// Gets new certificates before the old ones run out, for ever; what is shown changes without a restart.
    pub async fn renew(&self, client: &Client, node: &str, addresses: &[IpAddr], asking: &Shown, serving: &Shown) {
        let spread = rand::random_range(0..=SPREAD);
        loop {
            let due = join::validity(&self.identity.lock().credentials.certificate).map_or(0, |v| v.renewal(spread));
            let left = u64::try_from(due - jiff::Timestamp::now().as_second()).unwrap_or(0);
            if left > 0 {
                tokio::time::sleep(Duration::from_secs(left).min(LOOK)).await;
                continue;
            }
            match self.renewed(client, node, addresses, asking, serving).await {
                Ok(()) => tracing::info!("the node's certificates are renewed"),
                Err(error) => {
                    tracing::warn!("the node's certificates are not renewed, it is tried again: {error:#}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn renewed(
        &self,
        client: &Client,
        node: &str,
        addresses: &[IpAddr],
        asking: &Shown,
        serving: &Shown,
    ) -> anyhow::Result<()> {
        let (own, server) = join::renew(client, node, addresses).await?;
        // first kept, then shown: what is shown must not be lost
        self.change(|identity| {
            identity.credentials.certificate.clone_from(&own.certificate);
            identity.credentials.key.clone_from(&own.key);
            identity.serving = server.clone();
        })?;
        asking.exchange(&own.certificate, &own.key)?;
        serving.exchange(&server.certificate, &server.key)?;
        Ok(())
    }
}
