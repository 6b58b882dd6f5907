//! The `orlop` program: parse, dispatch, print the one error.

use std::process::ExitCode;

use clap::Parser;
use cli::{args::Cli, dispatch, rest};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // before any thread: the supervisor and a node's first process stay single-threaded
    if let Some(code) = dispatch::single_threaded() {
        return code;
    }
    let args = Cli::parse();
    // a verb speaks for itself; what the libraries below it notice is for components
    let usual =
        if args.verb.is_component() { "info" } else { "error,cli=info,orlop=info,kube_client=off,kube_runtime=off" };
    let filter = EnvFilter::try_from_env("ORLOP_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.verb.is_component() {
        log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    } else {
        log.without_time().with_level(false).with_target(false).init();
    }
    match dispatch::run(args) {
        Ok(code) => code,
        Err(error) => {
            rest::say(&error);
            ExitCode::FAILURE
        }
    }
}
