//! `orlop scale`: sets the replicas of whatever has a `/scale`.

use std::io::Write;

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};

use crate::{
    args::Scale,
    manifest::title,
    rest::{JSON, Rest},
    subject,
};

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Scale, out: &mut impl Write) -> Result<()> {
    for (kind, name) in subject::parse_named(&args.what)? {
        if !kind.subresources.contains(&api::Subresource::Scale) {
            bail!("{} cannot be scaled", kind.plural);
        }
        let path = format!("{}/scale", subject::path(kind, &rest.namespace, &name));
        let patch = json!({"spec": {"replicas": args.replicas}});
        let payload = Some(("application/merge-patch+json", serde_json::to_vec(&patch).context("write JSON")?));
        let _scaled: Value = rest.call(Method::PATCH, &path, JSON, payload).await?;
        writeln!(out, "{} scaled", title(kind, &name)).context("print")?;
    }
    Ok(())
}
