//! From the command line to the verb.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};

use crate::{
    args::{Cli, Target, Verb},
    commands,
    rest::Rest,
    up,
};

/// Worker threads of a component: its work is short and mostly waiting.
const COMPONENT_THREADS: usize = 2;

impl Verb {
    /// Whether this is a long-running component, whose standard error is a log.
    pub fn is_component(&self) -> bool {
        match self {
            // what a user asks about the servers is not
            Self::Server(server) => server.about.is_none(),
            _ => matches!(self, Self::Agent(_) | Self::NodeInit(_) | Self::Hollow(_)),
        }
    }
}

/// Runs those programs that must stay single-threaded, when the command line asks for one.
pub fn single_threaded() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    match words.next()?.as_str() {
        "supervisor" => Some(nodeagent::supervisor::main(std::env::args_os().skip(2))),
        "node-init" => Some(match up::init::run(&words.skip(1).collect::<Vec<_>>()) {
            Ok(code) => code,
            Err(error) => {
                // nothing is set up for logging yet; a failed write has nowhere to go
                drop(writeln!(io::stderr(), "node-init: {error:#}"));
                ExitCode::FAILURE
            }
        }),
        _ => None,
    }
}

/// Runs the verb.
pub fn run(args: Cli) -> Result<ExitCode> {
    if args.die_with_parent {
        up::init::die_with_parent()?;
    }
    client::config::install_crypto();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(COMPONENT_THREADS).enable_all().build().context("start the runtime")?;
    let done = runtime.block_on(verb(args.verb, &args.target));
    // a verb that has ended leaves nothing worth waiting for (standard input may never end)
    runtime.shutdown_background();
    done
}

async fn verb(verb: Verb, target: &Target) -> Result<ExitCode> {
    let out = &mut io::stdout();
    match verb {
        Verb::Up(args) => commands::up::run(&args, out).await?,
        Verb::NodeInit(args) => return up::init::run(&args.agent),
        Verb::Apply(args) => commands::apply::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Get(args) => commands::get::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Diff(args) => return Ok(commands::diff::run(&Rest::connect(target).await?, &args, out).await),
        Verb::Undo(args) => commands::undo::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Backup(args) if args.verify => commands::backup::verify(&args.file, out)?,
        Verb::Backup(args) => commands::backup::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Restore(args) => commands::restore::run(&args, out).await?,
        Verb::Describe(args) => commands::describe::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Delete(args) => commands::delete::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Logs(args) => commands::logs::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Exec(args) => return commands::exec::run(&Rest::connect(target).await?, &args).await,
        Verb::Rollout(args) => commands::rollout::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Scale(args) => commands::scale::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Wait(args) => commands::wait::run(&Rest::connect(target).await?, &args, out).await?,
        Verb::Image(args) => commands::image::run(&args, out).await?,
        Verb::Server(args) => match &args.about {
            Some(action) => commands::members::run(&Rest::connect(target).await?, action, out).await?,
            None => commands::server::run(*args).await?,
        },
        Verb::Agent(args) => commands::agent::run(args).await?,
        Verb::Hollow(args) => commands::hollow::run(&Rest::connect(target).await?, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}
