//! `orlop rollout`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

/// `orlop rollout`.
#[derive(Debug, Args)]
pub struct Rollout {
    /// What about it.
    #[command(subcommand)]
    pub action: RolloutAction,
}

/// What `orlop rollout` can do.
#[derive(Debug, Subcommand)]
pub enum RolloutAction {
    /// Follow a rollout until it is done or failed
    Status {
        /// deployment/NAME
        what: Vec<String>,
        /// Give up after this time
        #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
        timeout: Duration,
    },
    /// List the revisions
    History {
        /// deployment/NAME
        what: Vec<String>,
    },
    /// Go back to an earlier revision
    Undo {
        /// deployment/NAME
        what: Vec<String>,
        /// Which revision; the one before when not given
        #[arg(long, value_name = "REVISION")]
        to_revision: Option<i64>,
    },
    /// Replace all pods, a few at a time
    Restart {
        /// deployment/NAME
        what: Vec<String>,
    },
    /// Make changes without rolling them out, until resumed
    Pause {
        /// deployment/NAME
        what: Vec<String>,
    },
    /// Roll out what was changed since the pause
    Resume {
        /// deployment/NAME
        what: Vec<String>,
    },
}
