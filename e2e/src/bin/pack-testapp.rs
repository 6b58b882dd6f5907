//! Packs the test application into an image archive: `pack-testapp PROGRAM ARCHIVE`.

use std::{fs::File, path::PathBuf};

use anyhow::{Context, Result, bail};
use image::archive::{self, Content};

/// The image's name in manifests and tests.
const REFERENCE: &str = "orlop.dev/testapp:1";

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(program), Some(target)) = (args.next(), args.next()) else {
        bail!("usage: pack-testapp PROGRAM ARCHIVE");
    };
    let bytes = std::fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let text = |content: &str| Content::Bytes(content.as_bytes().to_vec());
    let files = [
        archive::File::new("testapp", 0o755, Content::Bytes(bytes)),
        archive::File::new("etc/passwd", 0o644, text("root:x:0:0:root:/:/testapp\napp:x:1000:1000:app:/:/testapp\n")),
        archive::File::new("etc/group", 0o644, text("root:x:0:\napp:x:1000:\n")),
    ];
    let run = archive::Run {
        entrypoint: vec!["/testapp".into()],
        cmd: vec!["serve".into()],
        exposed_ports: vec!["8080/tcp".into()],
        ..archive::Run::default()
    };
    let output = File::create(&target).with_context(|| format!("make {}", target.display()))?;
    archive::write(output, REFERENCE, &files, &run).with_context(|| format!("write {}", target.display()))
}
