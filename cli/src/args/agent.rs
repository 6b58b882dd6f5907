//! `orlop agent`.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

/// `orlop agent`.
#[derive(Debug, Args)]
pub struct Agent {
    /// Any of the API servers; the cluster tells of the others
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true)]
    pub server: Vec<String>,
    /// The join token, which `orlop server` writes to <data-dir>/token
    #[arg(long, env = "ORLOP_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// This node's name; the host's name when not given
    #[arg(long)]
    pub node_name: Option<String>,
    /// This node's address; the one that routes to the server when not given
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Labels for the node, key=value
    #[arg(long = "node-label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Where containers, volumes and logs are kept
    #[arg(long, default_value = "/var/lib/orlop/agent", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where images are kept; <data-dir>/images when not given
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Registries that may be spoken to without TLS
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub insecure_registries: Vec<String>,
    /// Control group below which all pods live
    #[arg(long, default_value = "orlop", value_name = "NAME")]
    pub cgroup_root: String,
    /// Port of the node's own API
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// Most pods on this node
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// Where names outside the cluster are looked up; this host's resolvers when not given
    #[arg(long = "upstream-dns", value_name = "IP[:PORT]")]
    pub upstream_dns: Vec<String>,
}
