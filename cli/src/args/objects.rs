//! Objects: make, show, change and delete them, and wait for them.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::duration;
use crate::moment;

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
