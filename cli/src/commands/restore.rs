//! `orlop restore`: a cluster from a backup, on a machine that has none.

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use store::{
    Backend, Range,
    backup::{self, Head, Item, Items, Refill},
    kv::prefix_end,
};

use super::{
    backup::{check, summary},
    server::connect_etcd,
};
use crate::args::Restore;

/// The root of all keys of the API.
const ROOT: &str = "/registry/";

/// What is written to raise the revision of an etcd cluster. Nobody reads it.
const FILLER: &[u8] = b"/registry/filler";

/// The store while it is being restored: a crash leaves no half of one under its name.
const PARTIAL: &str = "store.restoring";

/// Checks all of the backup first; nothing is written unless it is whole and its place is empty.
pub async fn run(args: &Restore, out: &mut impl Write) -> Result<()> {
    let (head, entries) = check(&args.file)?;
    let keys = attachments(&args.file)?;
    let dir = &args.data_dir;
    let store = dir.join("store");
    ensure!(
        !store.exists(),
        "{} is there already: restore into an empty folder, or move the old store away",
        store.display()
    );
    fs::create_dir_all(dir).with_context(|| format!("make the data folder {}", dir.display()))?;
    let pki = dir.join("pki");
    if args.etcd.etcd_servers.is_empty() {
        embedded(&args.file, &head, dir)?;
        apiserver::backup::put_back(&pki, &keys).context("put back the cluster's keys")?;
        let partial = dir.join(PARTIAL);
        fs::rename(&partial, &store).with_context(|| format!("rename {}", partial.display()))?;
        fs::File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("sync {}", dir.display()))?;
    } else {
        let etcd = connect_etcd(&args.etcd).await?;
        empty(&etcd).await?;
        apiserver::backup::put_back(&pki, &keys).context("put back the cluster's keys")?;
        refill(&etcd, &args.file, &head).await?;
    }
    writeln!(out, "restored {} into {}", summary(&head, entries), dir.display()).context("print")?;
    writeln!(out, "Start `orlop server` on it, where nodes reach it as before: they come back by themselves.")
        .context("print")
}

fn attachments(path: &Path) -> Result<BTreeMap<String, Bytes>> {
    let mut found = BTreeMap::new();
    for item in Items::open(path)? {
        // they come first
        match item? {
            Item::Attachment { name, content } => drop(found.insert(name, content)),
            Item::Entry(_) => break,
        }
    }
    Ok(found)
}

fn embedded(file: &Path, head: &Head, dir: &Path) -> Result<()> {
    let partial = dir.join(PARTIAL);
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    let entries = Items::open(file)?.filter_map(|item| match item {
        Ok(Item::Entry(entry)) => Some(Ok(entry)),
        Ok(Item::Attachment { .. }) => None,
        Err(error) => Some(Err(error)),
    });
    backup::seed(&partial, head.revision, entries).with_context(|| format!("make the store in {}", dir.display()))
}

async fn empty(etcd: &dyn Backend) -> Result<()> {
    let all = Range { start: ROOT.into(), end: prefix_end(ROOT.as_bytes()), count_only: true, ..Range::default() };
    let held = etcd.range(all).await.context("look at what etcd holds")?.count;
    if held > 0 {
        bail!("etcd holds {held} keys below {ROOT} already: restore into an empty cluster");
    }
    Ok(())
}

async fn refill(etcd: &dyn Backend, file: &Path, head: &Head) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let show = |what: &str, done: u64, all: u64| {
        if terminal {
            // a terminal that is gone needs no progress
            drop(write!(std::io::stderr(), "\r\x1b[K{what} {done}/{all}{}", if done >= all { "\r\x1b[K" } else { "" }));
        }
    };
    let mut refill = Refill::new(etcd);
    let mut done = 0;
    for item in Items::open(file)? {
        if let Item::Entry(entry) = item? {
            refill.put(entry).await.context("write to etcd")?;
            done += 1;
            show("objects", done, head.entries);
        }
    }
    let raised = refill.finish(FILLER, head.revision, |revision| show("revision", revision, head.revision + 1)).await;
    raised.map(drop).context("raise etcd's revision above the backup's")
}
