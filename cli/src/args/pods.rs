//! What goes on in a pod.

use std::time::Duration;

use clap::Args;

use super::duration;

/// `orlop logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Which container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Go on as it writes more
    #[arg(short, long)]
    pub follow: bool,
    /// The container before the last restart
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<i64>,
    /// Only what was written in this time up to now
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// With the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
}

/// `orlop exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Which container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// On a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
