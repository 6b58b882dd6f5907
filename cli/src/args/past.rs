//! The past: what has changed, and how to go back.

use clap::Args;

use crate::moment;

/// `orlop diff`: ends with 1 when something differs, with 2 when that could not be found out.
#[derive(Debug, Args)]
pub struct Diff {
    /// TYPE[,TYPE...] [NAME...] or TYPE/NAME...; everything in the namespace when not given
    #[arg(value_name = "TYPE [NAME]")]
    pub what: Vec<String>,
    /// Since a revision (1234), so long ago (10m) or a time (2026-01-02T03:04:05Z)
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    pub at: String,
    /// Until this moment; now when not given
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    pub to: Option<String>,
    /// In all namespaces, and what is in none
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// `orlop undo`: makes again what is gone, restores what changed, deletes what came since. What controllers own (pods of a
/// Deployment) follows its owner; Events and Leases are left alone.
#[derive(Debug, Args)]
pub struct Undo {
    /// How it was at a revision (1234), so long ago (10m) or at a time (2026-01-02T03:04:05Z)
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse)]
    pub to: String,
    /// Only show what would be done, and let the server check it
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}
