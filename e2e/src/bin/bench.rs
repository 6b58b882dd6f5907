//! `bench [--kubeconfig K] [--json] [SCENARIO...]`: figures beside the floors of this machine.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use e2e::bench::{Figures, Subject, api, binds, floor, pods, rest, watch};

/// Measures an API server and its nodes. Without --kubeconfig it brings up a cluster of its own.
#[derive(Debug, Parser)]
struct Args {
    /// Measure this API server
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// What to measure; everything when not given
    scenarios: Vec<Scenario>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// The machine's floors
    Floor,
    /// Cold start
    Start,
    /// Memory and CPU at rest
    Rest,
    /// One pod, POST to Running
    Pod,
    /// A hundred pods of one Deployment
    #[value(name = "pods-100")]
    Pods100,
    /// GET, LIST and create rates
    Api,
    /// Delay to a hundred watchers
    Watch,
    /// Binds onto hollow nodes
    Binds,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    client::config::install_crypto();
    let wanted = |scenario| args.scenarios.is_empty() || args.scenarios.contains(&scenario);
    let mut figures = Figures::new(args.json, std::io::stdout());
    if wanted(Scenario::Floor) {
        floor::run(&mut figures)?;
    }
    if wanted(Scenario::Start) && args.kubeconfig.is_none() {
        rest::start(&mut figures).await?;
    }
    let with_cluster =
        Scenario::value_variants().iter().any(|s| wanted(*s) && !matches!(s, Scenario::Floor | Scenario::Start));
    if !with_cluster {
        return Ok(());
    }
    let subject = match &args.kubeconfig {
        Some(path) => Subject::of(path),
        None => Subject::own(1).context("bring up a cluster")?,
    };
    if wanted(Scenario::Rest) {
        rest::rest(&mut figures, &subject).await?;
    }
    if wanted(Scenario::Pod) {
        pods::one(&mut figures, &subject).await?;
    }
    if wanted(Scenario::Pods100) {
        pods::many(&mut figures, &subject).await?;
    }
    if wanted(Scenario::Api) {
        api::run(&mut figures, &subject).await?;
    }
    if wanted(Scenario::Watch) {
        watch::run(&mut figures, &subject).await?;
    }
    if wanted(Scenario::Binds) {
        binds::run(&mut figures, &subject).await?;
    }
    Ok(())
}
