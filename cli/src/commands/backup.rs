//! `orlop backup`: a backup of the whole cluster in a file, or on standard output; and whether a file is one.

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use http::Method;
use http_body_util::BodyExt;
use jiff::Timestamp;
use store::backup::{self, Head, Item, Items, Reader, Written};

use crate::{args::Backup, rest::Rest};

/// Where the API gives backups away.
const PATH: &str = "/backup";

/// Asks the server for a backup.
pub async fn run(rest: &Rest, args: &Backup, out: &mut impl Write) -> Result<()> {
    let standard_output = args.file == Path::new("-");
    ensure!(
        !standard_output || !std::io::stdout().is_terminal(),
        "a backup is no text for a terminal: name a file, or send it on (orlop backup - | ...)"
    );
    let response = rest.send(Method::GET, PATH, "application/octet-stream", None).await.context("ask for a backup")?;
    let stream = response.into_body().into_data_stream().map_err(std::io::Error::other);
    let terminal = std::io::stderr().is_terminal();
    if standard_output {
        return pass(stream, out).await;
    }
    let shown = args.file.display();
    let written = backup::save(&args.file, stream, |written| progress(&written, terminal))
        .await
        .with_context(|| format!("make the backup {shown}"))?;
    let head = written.head.context("the backup says nothing of itself")?;
    writeln!(out, "{shown}: {}", summary(&head, written.entries)).context("print")?;
    writeln!(out, "It holds the cluster's keys and Secrets: keep it where only you can read it.").context("print")
}

/// Checks a file.
pub fn verify(path: &Path, out: &mut impl Write) -> Result<()> {
    let (head, entries) = check(path)?;
    writeln!(out, "{}: whole, {}", path.display(), summary(&head, entries)).context("print")
}

/// Reads all of a backup; says what it holds when it is whole.
pub fn check(path: &Path) -> Result<(Head, u64)> {
    let mut items = Items::open(path)?;
    let mut entries = 0;
    for item in items.by_ref() {
        entries += u64::from(matches!(item.with_context(|| format!("read {}", path.display()))?, Item::Entry(_)));
    }
    Ok((items.head().unwrap_or_default(), entries))
}

/// `1234 objects as of revision 5678 (2026-01-02T03:04:05Z)`.
pub fn summary(head: &Head, entries: u64) -> String {
    let time = Timestamp::from_second(head.time).unwrap_or_default();
    format!("{entries} objects as of revision {} ({time})", head.revision)
}

/// Progress goes to standard error, where somebody looks.
fn progress(written: &Written, terminal: bool) {
    if terminal && let Some(head) = written.head {
        let (entries, all, mib) = (written.entries, head.entries, written.bytes >> 20);
        // a terminal that is gone needs no progress
        drop(write!(std::io::stderr(), "\r{entries}/{all} objects, {mib} MiB "));
        if entries >= all {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}

/// Passes a backup on as it comes. One that is not whole is an error at the end: whoever reads must look at the exit code.
async fn pass(
    stream: impl futures::Stream<Item = Result<bytes::Bytes, std::io::Error>>,
    out: &mut impl Write,
) -> Result<()> {
    let mut stream = std::pin::pin!(stream);
    let mut reader = Reader::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.context("the backup did not arrive whole")?;
        reader.feed(&bytes);
        while reader.take_item()?.is_some() {}
        out.write_all(&bytes).context("write the backup")?;
    }
    reader.finish()?;
    out.flush().context("write the backup")
}
