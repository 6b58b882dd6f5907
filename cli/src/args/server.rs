//! `orlop server`: how a server is run, and what can be done about those that run.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};

use crate::moment;

/// `orlop server`.
#[derive(Debug, Args)]
pub struct Server {
    /// Where state, keys and credentials are kept
    #[arg(long, default_value = "/var/lib/orlop", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address and port to serve the API on
    #[arg(long, default_value = "0.0.0.0:6443", value_name = "ADDR:PORT")]
    pub bind: SocketAddr,
    /// The address that nodes reach this server at; found out when not given
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// Further names or addresses for the serving certificate
    #[arg(long = "tls-san", value_name = "NAME")]
    pub tls_sans: Vec<String>,
    /// Where state is kept when it is not here.
    #[command(flatten)]
    pub etcd: Etcd,
    /// Make backups into this folder, as `orlop backup` does
    #[arg(long, value_name = "DIR")]
    pub backup_dir: Option<PathBuf>,
    /// Between two of these backups
    #[arg(long, default_value = "6h", value_name = "DURATION", value_parser = moment::duration, requires = "backup_dir")]
    pub backup_every: Duration,
    /// How many of these backups stay; the oldest are removed
    #[arg(long, default_value_t = 28, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..), requires = "backup_dir")]
    pub backup_keep: u16,
    /// How far back what was changed or deleted can be read (--at, diff, undo); 24h, on etcd 5m when not given
    #[arg(long, value_name = "DURATION", value_parser = moment::duration)]
    pub history: Option<Duration>,
    /// Most memory for history in the embedded store; the oldest goes first
    #[arg(long, default_value = "64Mi", value_name = "SIZE", value_parser = moment::bytes)]
    pub history_size: u64,
    /// Become one more server of the cluster that these belong to, if this folder belongs to none yet; any that serves does
    #[arg(long, value_name = "URL", value_delimiter = ',', conflicts_with = "etcd_servers")]
    pub join: Vec<String>,
    /// A server's token, which the others keep in <data-dir>/server-token
    #[arg(long, env = "ORLOP_SERVER_TOKEN", hide_env_values = true, requires = "join")]
    pub token: Option<String>,
    /// What this server is called among the others; the host's name when not given
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Where the other servers' stores reach this one's; port 2380 of --bind's address when not given
    #[arg(long, value_name = "ADDR:PORT")]
    pub peer_bind: Option<SocketAddr>,
    /// Where the store speaks etcd's API; port 2379 of --bind's address when not given
    #[arg(long, value_name = "ADDR:PORT")]
    pub etcd_bind: Option<SocketAddr>,
    /// How long certificates of nodes hold; nodes renew them by themselves, well before
    #[arg(long, default_value = "365d", value_name = "DURATION", value_parser = moment::duration)]
    pub cluster_signing_duration: Duration,
    /// A node that has not renewed its lease for so many seconds is taken for dead
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub node_monitor_grace: u64,
    /// Serve on the listening socket that is standard input, too
    #[arg(long, hide = true)]
    pub listen_stdin: bool,
    /// The address in the administrator's kubeconfig
    #[arg(long, hide = true, value_name = "ADDR:PORT")]
    pub external_address: Option<SocketAddr>,
    /// What to do about the servers that run, instead of running one.
    #[command(subcommand)]
    pub about: Option<ServerAction>,
}

/// An etcd cluster that keeps the state.
#[derive(Debug, Default, Args)]
pub struct Etcd {
    /// Keep state in this etcd cluster, not in the embedded store (comma separated URLs)
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub etcd_servers: Vec<String>,
    /// CA certificate of the etcd cluster
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for the etcd cluster
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
}

/// What `orlop server` can do beside running one.
#[derive(Debug, Subcommand)]
pub enum ServerAction {
    /// List the servers
    Members,
    /// Remove a server for good: one that is dead, say. It can join again with an empty folder
    Remove {
        /// Its id, as `members` shows it
        id: String,
    },
    /// Hand the lead to another server
    Lead {
        /// Its id, as `members` shows it
        id: String,
    },
}
