//! Clusters, and parts of them, on this machine alone.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::duration;

/// `orlop up`.
#[derive(Debug, Args)]
pub struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 1)]
    pub nodes: usize,
    /// Apply this file or folder once the cluster is up
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Load this image archive before anything is applied
    #[arg(long = "load", value_name = "ARCHIVE")]
    pub load: Vec<PathBuf>,
    /// Where all of the cluster's files go
    #[arg(long, default_value = "orlop-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Port of the API on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Take everything down as soon as all is rolled out
    #[arg(long)]
    pub once: bool,
    /// Give up when the rollout takes longer than this
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// `orlop node-init`.
#[derive(Debug, Args)]
pub struct NodeInit {
    /// The agent's command line
    #[arg(last = true)]
    pub agent: Vec<String>,
}

/// `orlop hollow`.
#[derive(Debug, Args)]
pub struct Hollow {
    /// How many nodes
    #[arg(long)]
    pub nodes: u32,
    /// Their names start with this
    #[arg(long, default_value = "hollow-")]
    pub prefix: String,
}
