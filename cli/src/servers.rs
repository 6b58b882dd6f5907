//! What this user's commands remember of a cluster's servers, so that they go on when the one that the kubeconfig names is gone.
//!
//! One file per cluster, below `$XDG_STATE_HOME/orlop` or `~/.local/state/orlop`, named after the cluster's authority: the
//! user's kubeconfigs are left alone. Losing a file, or having nowhere to keep it, costs nothing but what it remembers.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use client::{Client, servers::Servers};
use http::Request;
use kube::client::Body;
use serde::Deserialize;

use crate::rest;

/// How old what is remembered becomes before the cluster is asked again.
const FRESH: Duration = Duration::from_secs(60);

/// How long the cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What `/api` tells, of which the rest does not matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    #[serde(rename = "serverAddressByClientCIDRs")]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    server_address: String,
}

/// What is remembered of one cluster.
pub struct Remembered {
    path: PathBuf,
}

impl Remembered {
    /// Of the cluster with this authority; none where nothing can be kept.
    pub fn of(authority: &[u8; 32]) -> Option<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
        let name: String = authority.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { path: state.join("orlop").join(name) })
    }

    /// The URLs.
    pub fn servers(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Asks the cluster which servers it has, when it has not been asked for a while.
    pub async fn refresh(&self, client: &Client, servers: &Servers) {
        if age(&self.path).is_some_and(|age| age < FRESH) {
            return;
        }
        let Ok(Some(told)) = tokio::time::timeout(PATIENCE, ask(client)).await else { return };
        // the one that is named and serves is nobody to fail over to
        let nobody = told.len() < 2 && servers.serves_as_given();
        let text: String = if nobody { String::new() } else { told.iter().map(|url| format!("{url}\n")).collect() };
        if let Err(error) = keep(&self.path, &text) {
            tracing::debug!(%error, path = %self.path.display(), "the cluster's servers are not remembered");
        }
    }
}

fn age(path: &Path) -> Option<Duration> {
    let written = std::fs::metadata(path).and_then(|file| file.modified()).ok()?;
    SystemTime::now().duration_since(written).ok()
}

async fn ask(client: &Client) -> Option<Vec<String>> {
    let request = Request::get("/api").header("Accept", rest::JSON).body(Body::empty()).ok()?;
    let answer = client.send(request).await.ok().filter(|answer| answer.status().is_success())?;
    let versions: Versions = serde_json::from_slice(&rest::collect(answer).await.ok()?).ok()?;
    Some(versions.addresses.into_iter().map(|address| format!("https://{}", address.server_address)).collect())
}

/// Whole or not at all; commands that run at the same time each write a file of their own first.
fn keep(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let partial = path.with_extension(std::process::id().to_string());
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, path)
}
