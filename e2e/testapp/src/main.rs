//! What test pods run: one small static program that does whatever a story needs of a container.
//!
//! `testapp serve` is a web server; the other words do one thing and end. There is no shell in the image, so that
//! everything a story execs is here.

mod commands;
mod http;
mod resolve;
mod signal;

use std::process::ExitCode;

fn main() -> ExitCode {
    signal::end_on_terminate();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match commands::run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("testapp: {why}");
            ExitCode::FAILURE
        }
    }
}
