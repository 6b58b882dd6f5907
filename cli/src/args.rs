//! The command line: what there is to say, and its help.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::moment;

/// Orlop runs containers on a cluster of machines, and speaks the Kubernetes API.
#[derive(Debug, Parser)]
#[command(name = "orlop", version, about, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Ends together with the process that started this one.
    #[arg(long, global = true, hide = true)]
    pub die_with_parent: bool,
    /// How to reach the cluster.
    #[command(flatten)]
    pub target: Target,
}

/// How to reach the cluster.
#[derive(Clone, Debug, Default, Args)]
pub struct Target {
    /// Credentials; else ./orlop-data/kubeconfig, /var/lib/orlop/kubeconfig, ~/.kube/config
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace to work in
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// What `orlop` can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring up a cluster on this machine, each node in namespaces of its own
    Up(Up),
    /// Run the API server, the scheduler and the controllers
    Server(Box<Server>),
    /// Run a node: its containers and their network
    Agent(Agent),
    /// Create or change objects so that they are as the files say
    Apply(Apply),
    /// List objects, or show some
    #[command(after_help = types())]
    Get(Get),
    /// Show what has changed since a moment of the past
    Diff(Diff),
    /// Put a namespace's objects back as they were at a moment of the past
    Undo(Undo),
    /// Write a backup of the whole cluster to a file
    Backup(Backup),
    /// Make a cluster from a backup, on a machine that has none
    Restore(Restore),
    /// Tell everything about an object, its events included
    Describe(Describe),
    /// Delete objects
    Delete(Delete),
    /// Print what a container wrote
    Logs(Logs),
    /// Run a command in a container
    Exec(Exec),
    /// Look after the rollout of a Deployment
    Rollout(Rollout),
    /// Set the number of replicas
    Scale(Scale),
    /// Wait until objects are in some condition
    Wait(Wait),
    /// Handle the images of this machine
    Image(Image),
    /// Keep a node made of namespaces running (its first process)
    #[command(hide = true)]
    NodeInit(NodeInit),
    /// Play many nodes without running anything, for benchmarks
    #[command(hide = true)]
    Hollow(Hollow),
}

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

/// `orlop server`.
#[derive(Debug, Args)]
pub struct Server {
    /// Where state, keys and credentials are kept
    #[arg(long, default_value = "/var/lib/orlop", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address and port to serve the API on
    #[arg(long, default_value = "0.0.0.0:6443", value_name = "ADDR:PORT")]
    pub bind: std::net::SocketAddr,
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
    pub backup_every: std::time::Duration,
    /// How many of these backups stay; the oldest are removed
    #[arg(long, default_value_t = 28, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..), requires = "backup_dir")]
    pub backup_keep: u16,
    /// How far back what was changed or deleted can be read (--at, diff, undo); 24h, on etcd 5m when not given
    #[arg(long, value_name = "DURATION", value_parser = moment::duration)]
    pub history: Option<std::time::Duration>,
    /// Most memory for history in the embedded store; the oldest goes first
    #[arg(long, default_value = "64Mi", value_name = "SIZE", value_parser = moment::bytes)]
    pub history_size: u64,
    /// Become one more server of the cluster that this one belongs to, if this folder belongs to none yet
    #[arg(long, value_name = "URL", conflicts_with = "etcd_servers")]
    pub join: Option<String>,
    /// A server's token, which the others keep in <data-dir>/server-token
    #[arg(long, env = "ORLOP_SERVER_TOKEN", hide_env_values = true, requires = "join")]
    pub token: Option<String>,
    /// What this server is called among the others; the host's name when not given
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Where the other servers' stores reach this one's; port 2380 of --bind's address when not given
    #[arg(long, value_name = "ADDR:PORT")]
    pub peer_bind: Option<std::net::SocketAddr>,
    /// Where the store speaks etcd's API; port 2379 of --bind's address when not given
    #[arg(long, value_name = "ADDR:PORT")]
    pub etcd_bind: Option<std::net::SocketAddr>,
    /// A node that has not renewed its lease for so many seconds is taken for dead
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub node_monitor_grace: u64,
    /// Serve on the listening socket that is standard input, too
    #[arg(long, hide = true)]
    pub listen_stdin: bool,
    /// The address in the administrator's kubeconfig
    #[arg(long, hide = true, value_name = "ADDR:PORT")]
    pub external_address: Option<std::net::SocketAddr>,
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

/// `orlop agent`.
#[derive(Debug, Args)]
pub struct Agent {
    /// The API servers; whichever answers is used
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

/// Which files an action is about.
#[derive(Debug, Args)]
pub struct Files {
    /// A file, a folder, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Look into folders below, too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `orlop apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// What to apply.
    #[command(flatten)]
    pub from: Files,
    /// Take over fields that somebody else manages
    #[arg(long)]
    pub force_conflicts: bool,
    /// Only let the server check it
    #[arg(long)]
    pub dry_run: bool,
    /// All objects or none of them: in one transaction of at most 128 objects and 1.5 MiB
    #[arg(long)]
    pub atomic: bool,
}

/// `orlop get`.
#[derive(Debug, Args)]
pub struct Get {
    /// TYPE[,TYPE...] [NAME...] or TYPE/NAME...
    #[arg(required = true, value_name = "TYPE [NAME]")]
    pub what: Vec<String>,
    /// wide, yaml, json or name
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<crate::output::Format>,
    /// Go on showing what changes
    #[arg(short, long)]
    pub watch: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only objects with these fields
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// Those of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Leave the headings out
    #[arg(long)]
    pub no_headers: bool,
    /// As it was at a revision (1234), so long ago (10m) or at a time (2026-01-02T03:04:05Z)
    #[arg(long, value_name = "MOMENT", value_parser = moment::parse, conflicts_with = "watch")]
    pub at: Option<String>,
}

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

/// `orlop describe`.
#[derive(Debug, Args)]
pub struct Describe {
    /// TYPE [NAME...] or TYPE/NAME...
    #[arg(required = true, value_name = "TYPE [NAME]")]
    pub what: Vec<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
}

/// `orlop delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// TYPE NAME... or TYPE/NAME...
    #[arg(value_name = "TYPE NAME")]
    pub what: Vec<String>,
    /// What the files hold.
    #[command(flatten)]
    pub from: Files,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// All objects of the type
    #[arg(long)]
    pub all: bool,
    /// Seconds that a pod may take to end
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<i64>,
    /// What becomes of what the objects own
    #[arg(long, value_name = "HOW", default_value = "background")]
    pub cascade: Cascade,
    /// Do not wait until they are gone
    #[arg(long)]
    pub no_wait: bool,
    /// It is no error when there is no such object
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// What becomes of what a deleted object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cascade {
    /// It is deleted afterwards
    Background,
    /// It is deleted before
    Foreground,
    /// It stays
    Orphan,
}

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

/// `orlop scale`.
#[derive(Debug, Args)]
pub struct Scale {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true, value_name = "TYPE NAME")]
    pub what: Vec<String>,
    /// How many
    #[arg(long)]
    pub replicas: i32,
}

/// `orlop wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// TYPE NAME... or TYPE/NAME...
    #[arg(required = true, value_name = "TYPE NAME")]
    pub what: Vec<String>,
    /// condition=NAME[=VALUE], create or delete
    #[arg(long = "for", value_name = "WHAT")]
    pub until: String,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Give up after this time
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// `orlop image`.
#[derive(Debug, Args)]
pub struct Image {
    /// Where images are kept; ./orlop-data/images or /var/lib/orlop/agent/images when not given
    #[arg(long, global = true, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// What about them.
    #[command(subcommand)]
    pub action: ImageAction,
}

/// What `orlop image` can do.
#[derive(Debug, Subcommand)]
pub enum ImageAction {
    /// Load images from an archive (OCI layout or docker save)
    Load {
        /// The archive
        #[arg(value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Pull an image from its registry
    Pull {
        /// [HOST[:PORT]/][REPOSITORY/]NAME[:TAG|@DIGEST]
        reference: String,
        /// USER:PASSWORD for the registry
        #[arg(long, env = "ORLOP_REGISTRY_CREDENTIALS", hide_env_values = true)]
        creds: Option<String>,
        /// Speak to the registry without TLS
        #[arg(long)]
        plain_http: bool,
    },
    /// List the images
    Ls,
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

/// The types of objects that there are, and what they may be called for short.
fn types() -> String {
    let called = |kind: &api::Kind| match kind.short {
        [] => kind.plural.to_owned(),
        short => format!("{} ({})", kind.plural, short.join(", ")),
    };
    format!("Types: {}, all", api::kinds::KINDS.iter().map(called).collect::<Vec<_>>().join(", "))
}

/// A time as people write it: `90s`, `5m`, `1h30m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    moment::duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5_400), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1_500)));
        for text in ["", "soon", "-5s", "5 parsecs"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
