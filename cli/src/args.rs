//! The command line: what there is to say, and its help. One file a group of verbs.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::moment;

mod agent;
mod backup;
mod image;
mod machine;
mod objects;
mod past;
mod pods;
mod rollout;
mod server;

pub use self::{
    agent::Agent,
    backup::{Backup, Restore},
    image::{Image, ImageAction},
    machine::{Hollow, NodeInit, Up},
    objects::{Apply, Cascade, Delete, Describe, Files, Get, Scale, Wait},
    past::{Diff, Undo},
    pods::{Exec, Logs},
    rollout::{Rollout, RolloutAction},
    server::{Etcd, Server, ServerAction},
};

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
