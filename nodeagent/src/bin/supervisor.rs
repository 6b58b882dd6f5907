//! The supervisor as a program of its own, for tests of the runtime; users have it as `orlop supervisor`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nodeagent::supervisor::main(std::env::args_os().skip(2))
}
