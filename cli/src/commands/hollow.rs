//! `orlop hollow`: one process that plays many nodes without running anything.

use anyhow::{Context, Result};
use client::Caches;
use nodeagent::hollow::{self, Hollow};

use crate::{args, rest::Rest};

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(rest: &Rest, args: &args::Hollow) -> Result<()> {
    let shutdown = super::server::until_terminated()?;
    let nodes = Hollow::new(args.nodes, args.prefix.clone());
    hollow::run(nodes, Caches::new(rest.client()), shutdown).await.context("play the hollow nodes")
}
