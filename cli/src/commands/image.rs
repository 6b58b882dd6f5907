//! `orlop image`: the images of this machine.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use image::{Credentials, Progress, PullOptions, Reference, Store};

use crate::{
    args::{Image, ImageAction},
    output::Columns,
};

/// Runs the verb.
pub async fn run(args: &Image, out: &mut impl Write) -> Result<()> {
    let dir = args.image_dir.clone().unwrap_or_else(usual_dir);
    match &args.action {
        ImageAction::Load { archives } if archives.is_empty() => bail!("say which archive to load"),
        ImageAction::Load { archives } => archives.iter().try_for_each(|archive| load(&dir, archive, out)),
        ImageAction::Pull { reference, creds, plain_http } => {
            pull(&dir, reference, creds.as_deref(), *plain_http, out).await
        }
        ImageAction::Ls => list(&dir, out),
    }
}

fn usual_dir() -> PathBuf {
    let usual = ["orlop-data/images", "/var/lib/orlop/agent/images"].map(PathBuf::from);
    usual.iter().find(|p| p.exists()).unwrap_or(&usual[1]).clone()
}

fn open(dir: &Path) -> Result<Store> {
    Store::open(dir).with_context(|| format!("open the images in {}", dir.display()))
}

/// Loads every image of an archive.
pub fn load(dir: &Path, archive: &Path, out: &mut impl Write) -> Result<()> {
    let images = open(dir)?.load(archive, &|_| {}).with_context(|| format!("load {}", archive.display()))?;
    for image in images {
        writeln!(out, "loaded {} ({})", image.references.join(", "), image.digest).context("print")?;
    }
    Ok(())
}

async fn pull(dir: &Path, reference: &str, creds: Option<&str>, plain_http: bool, out: &mut impl Write) -> Result<()> {
    let credentials: Vec<Credentials> = match creds.map(|c| c.split_once(':').context("--creds takes USER:PASSWORD")) {
        Some(pair) => {
            let (username, password) = pair?;
            vec![Credentials { username: username.into(), password: password.into() }]
        }
        None => Vec::new(),
    };
    let parsed: Reference = reference.parse().with_context(|| format!("read the name {reference:?}"))?;
    let insecure = if plain_http { vec![parsed.host().to_owned()] } else { Vec::new() };
    let options = PullOptions { insecure, ..PullOptions::default() };
    let terminal = std::io::stderr().is_terminal();
    let image = open(dir)?
        .pull(reference, &credentials, &options, move |progress| show(&progress, terminal))
        .await
        .with_context(|| format!("pull {reference}"))?;
    writeln!(out, "pulled {reference} ({})", image.digest).context("print")
}

/// Progress goes to standard error: layers as they are done, bytes where somebody looks.
fn show(progress: &Progress, terminal: bool) {
    match progress {
        Progress::Resolved { layers, bytes, .. } => tracing::info!("{layers} layers, {}", size(*bytes)),
        Progress::Layer { digest, done, total } if terminal => {
            tracing::debug!("{digest}: {} of {}", size(*done), size(*total));
        }
        Progress::Layer { .. } => {}
        Progress::Unpacked { digest } => tracing::info!("{digest}: done"),
    }
}

fn list(dir: &Path, out: &mut impl Write) -> Result<()> {
    let mut rows = vec![["REFERENCE", "IMAGE ID", "SIZE"].map(str::to_owned).to_vec()];
    for image in open(dir)?.list().context("list the images")? {
        let id: String = image.id.to_string().trim_start_matches("sha256:").chars().take(12).collect();
        for reference in &image.references {
            rows.push(vec![reference.clone(), id.clone(), size(image.size)]);
        }
    }
    Columns::default().print(out, &rows).context("print")
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}
