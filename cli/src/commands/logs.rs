//! `orlop logs`: what a container wrote, streamed as it comes; past the server that it comes through, when that dies.

use std::{io::Write, time::Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;

use crate::{
    args::Logs,
    follow::Patience,
    pod,
    rest::{Lost, Rest, query},
};

mod resume;
mod start;

use resume::Resume;
use start::{Place, Start};

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Logs, out: &mut impl Write) -> Result<()> {
    let pod = pod::find(rest, &args.pod).await?;
    let pod = pod::path(rest, &pod);
    if args.follow { follow(rest, &pod, args, out).await } else { copy(rest, &pod, args, out).await }
}

async fn copy(rest: &Rest, pod: &str, args: &Logs, out: &mut impl Write) -> Result<()> {
    let mut options = options(args);
    options.extend(args.timestamps.then(|| ("timestamps", "true".to_owned())));
    let mut chunks = rest.send(Method::GET, &ask(pod, &options), "*/*", None).await?.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        print(out, &chunk.context(Lost::BrokenOff)?)?;
    }
    Ok(())
}

/// Until the container has ended: then the stream does, of itself.
async fn follow(rest: &Rest, pod: &str, args: &Logs, out: &mut impl Write) -> Result<()> {
    // who may read logs alone is not told of starts
    let start = rest.get(pod).await.ok().filter(|_| !args.previous);
    let start = start.and_then(|pod| Start::last(&pod, args.container.as_deref()));
    let (mut resume, begun) = (Resume::new(args.timestamps), Instant::now());
    let (mut patience, mut is_first) = (Patience::default(), true);
    let followed = patience.follow(async |patience| {
        let mut options = following(args, &resume, begun.elapsed().as_secs());
        if let Some(start) = start.as_ref().filter(|_| !std::mem::take(&mut is_first)) {
            let place = start.place(&patience.answer(rest.get(pod)).await?);
            let place = place.context("the container was started again while no server served, and its log is gone")?;
            options.extend((place == Place::Previous).then(|| ("previous", "true".to_owned())));
        }
        let answer = patience.answer(rest.send(Method::GET, &ask(pod, &options), "*/*", None)).await?;
        patience.served();
        let mut chunks = answer.into_body().into_data_stream();
        while let Some(chunk) = chunks.next().await {
            match chunk.context(Lost::BrokenOff) {
                Ok(chunk) => print(out, &resume.take(&chunk))?,
                Err(error) => {
                    resume.broken();
                    return Err(error);
                }
            }
        }
        print(out, &resume.end()).map(Some)
    });
    followed.await
}

fn print(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).and_then(|()| out.flush()).context("print")
}

type Options = Vec<(&'static str, String)>;

fn ask(pod: &str, options: &Options) -> String {
    let pairs: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
    format!("{pod}/log{}", query(&pairs))
}

/// What the user says.
fn options(args: &Logs) -> Options {
    let mut options = Vec::new();
    options.extend(args.container.clone().map(|name| ("container", name)));
    options.extend(args.tail.map(|lines| ("tailLines", lines.to_string())));
    // the API counts whole seconds, at least one
    options.extend(args.since.map(|since| ("sinceSeconds", since.as_secs().max(1).to_string())));
    options.extend(args.previous.then(|| ("previous", "true".to_owned())));
    options
}

/// The same from where the log broke off; after so many seconds, if nothing was printed until then.
fn following(args: &Logs, resume: &Resume, seconds: u64) -> Options {
    let mut options = options(args);
    options.extend([("follow", "true".to_owned()), ("timestamps", "true".to_owned())]);
    let wanted: &[&str] = match (resume.since(), args.since, args.tail) {
        (Some(_), ..) => &["sinceSeconds", "tailLines"],
        // nothing was there to be printed: all that came since is wanted
        (None, Some(_), _) => &["sinceSeconds"],
        (None, None, Some(0)) if seconds > 0 => &["tailLines"],
        (None, None, _) => &[],
    };
    options.retain(|(name, _)| !wanted.contains(name));
    match resume.since() {
        Some(at) => options.push(("sinceTime", at.to_string())),
        None if !wanted.is_empty() => {
            let asked = args.since.map_or(0, |since| since.as_secs().max(1));
            options.push(("sinceSeconds", (asked + seconds).to_string()));
        }
        None => {}
    }
    options
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn logs(tail: Option<i64>, since: Option<Duration>) -> Logs {
        let (follow, previous, timestamps) = (true, false, false);
        Logs { pod: "web".into(), container: None, follow, previous, tail, since, timestamps }
    }

    #[test]
    fn a_log_is_asked_for_from_where_it_broke_off() {
        let asked = |args: &Logs, resume: &Resume, seconds| ask("", &following(args, resume, seconds));
        let always = "/log?follow=true&timestamps=true";
        let (mut resume, minute) = (Resume::new(false), Some(Duration::from_secs(60)));
        let last = logs(Some(5), minute);
        assert_eq!(asked(&last, &resume, 0), "/log?tailLines=5&follow=true&timestamps=true&sinceSeconds=60");
        // nothing was in the log then, or nothing of it was wanted
        assert_eq!(asked(&last, &resume, 9), "/log?tailLines=5&follow=true&timestamps=true&sinceSeconds=69");
        assert_eq!(asked(&logs(None, None), &resume, 9), always);
        assert_eq!(asked(&logs(Some(0), None), &resume, 0), "/log?tailLines=0&follow=true&timestamps=true");
        assert_eq!(asked(&logs(Some(0), None), &resume, 9), format!("{always}&sinceSeconds=9"));
        resume.take(b"2026-11-22T16:00:01.5Z one\n");
        assert_eq!(asked(&last, &resume, 9), format!("{always}&sinceTime=2026-11-22T16%3A00%3A00.5Z"));
    }
}
