//! `orlop exec`: a command in a container, with or without this terminal.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, Result, bail};
use futures::SinkExt;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api,
    api::{AttachParams, AttachedProcess, TerminalSize},
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    io::{self, AsyncWriteExt},
    signal::unix::SignalKind,
};

use crate::{args::Exec, pod, rest::Rest};

/// Runs the verb; the command's exit code becomes ours.
pub async fn run(rest: &Rest, args: &Exec) -> Result<ExitCode> {
    let name = pod::find(rest, &args.pod).await?;
    let pods: Api<Pod> = Api::namespaced(rest.client(), &rest.namespace);
    let tty = args.tty && std::io::stdin().is_terminal();
    let mut params = AttachParams::default().stdin(args.stdin).stdout(true).stderr(!tty).tty(tty);
    params.container.clone_from(&args.container);
    let mut process =
        pods.exec(&name, &args.command, &params).await.with_context(|| format!("run a command in pod {name}"))?;
    let raw = if tty { Some(RawTerminal::enter()?) } else { None };
    if tty {
        follow_size(&mut process)?;
    }
    let status = process.take_status().context("the command's status was taken already")?;
    let input = process.stdin().map(|to| tokio::spawn(carry_input(to)));
    let output =
        process.stdout().map(|mut from| tokio::spawn(async move { io::copy(&mut from, &mut io::stdout()).await }));
    let errors =
        process.stderr().map(|mut from| tokio::spawn(async move { io::copy(&mut from, &mut io::stderr()).await }));
    let status = status.await;
    for stream in [output, errors].into_iter().flatten() {
        stream.await.context("carry the command's output")?.context("print the command's output")?;
    }
    if let Some(input) = input {
        input.abort();
    }
    drop(raw);
    exit_code(status)
}

/// Ends the command's input with ours: dropping the writer would not, as it is half of a pair that the other half keeps.
async fn carry_input(mut to: impl io::AsyncWrite + Unpin) -> io::Result<()> {
    io::copy(&mut io::stdin(), &mut to).await?;
    to.shutdown().await
}

fn exit_code(status: Option<Status>) -> Result<ExitCode> {
    let Some(status) = status else { bail!("the connection ended before the command did") };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.as_ref().and_then(|d| d.causes.as_ref()).into_iter().flatten();
    let mut codes = causes
        .filter(|c| c.reason.as_deref() == Some("ExitCode"))
        .filter_map(|c| c.message.as_ref()?.parse::<u8>().ok());
    match codes.next() {
        Some(code) => Ok(ExitCode::from(code)),
        None => bail!("{}", status.message.unwrap_or_else(|| "the command could not be run".into())),
    }
}

fn follow_size(process: &mut AttachedProcess) -> Result<()> {
    let mut sizes = process.terminal_size().context("the terminal's size was taken already")?;
    let mut changes = tokio::signal::unix::signal(SignalKind::window_change()).context("watch the terminal's size")?;
    tokio::spawn(async move {
        loop {
            let Ok(size) = tcgetwinsize(std::io::stdin()) else { return };
            let size = TerminalSize { width: size.ws_col, height: size.ws_row };
            if sizes.send(size).await.is_err() || changes.recv().await.is_none() {
                return;
            }
        }
    });
    Ok(())
}

/// This terminal without line editing, until dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("change the terminal's settings")?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0) {
            tracing::warn!(%error, "the terminal could not be put back: type `reset`");
        }
    }
}
