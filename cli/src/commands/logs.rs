//! `orlop logs`: what a container wrote, streamed as it comes.

use std::io::Write;

use anyhow::{Context, Result};
use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;

use crate::{
    args::Logs,
    pod,
    rest::{Rest, query},
};

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Logs, out: &mut impl Write) -> Result<()> {
    let pod = pod::find(rest, &args.pod).await?;
    let tail = args.tail.map(|t| t.to_string());
    // the API counts whole seconds, at least one
    let since = args.since.map(|s| s.as_secs().max(1).to_string());
    let mut options = Vec::new();
    options.extend(args.container.as_deref().map(|c| ("container", c)));
    options.extend(tail.as_deref().map(|t| ("tailLines", t)));
    options.extend(since.as_deref().map(|s| ("sinceSeconds", s)));
    options.extend(args.follow.then_some(("follow", "true")));
    options.extend(args.previous.then_some(("previous", "true")));
    options.extend(args.timestamps.then_some(("timestamps", "true")));
    let path = format!("{}/log{}", pod::path(rest, &pod), query(&options));
    let response = rest.send(Method::GET, &path, "*/*", None).await?;
    let mut chunks = response.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        out.write_all(&chunk.context("follow the log")?).context("print")?;
        out.flush().context("print")?;
    }
    Ok(())
}
