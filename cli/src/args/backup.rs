//! Backups: made, checked, and made a cluster of.

use std::path::PathBuf;

use clap::Args;

use super::Etcd;

/// `orlop backup`: everything that the cluster keeps, as of one moment, while it is at work. The file holds Secrets and the
/// cluster's keys.
#[derive(Debug, Args)]
pub struct Backup {
    /// Where to write it (replaced when it exists, and never half written); - for standard output
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Make no backup: check whether the file is a whole one
    #[arg(long)]
    pub verify: bool,
}

/// `orlop restore`: the store and the cluster's keys, from a backup of either kind of store. With the keys, nodes and
/// kubeconfigs go on being trusted.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where state, keys and credentials are to be kept; must hold no store
    #[arg(long, default_value = "/var/lib/orlop", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the state goes when not there.
    #[command(flatten)]
    pub etcd: Etcd,
}
