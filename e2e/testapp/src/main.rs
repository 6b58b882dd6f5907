//! The application that test pods run: one static file that does what a test needs a container to do.
//!
//! ```text
//! serve                 HTTP on $PORT (8080): see `serve`        echo PORT          TCP and UDP echo
//! get URL               body to standard output, status          resolve NAME       addresses, one a line
//! resolve NAME COUNT MS one lookup every MS milliseconds: how many were answered, how many failed
//! exit CODE | sleep [S] | ignore-term | eat MB | print N [MS] | write FILE [TEXT] | cat [FILE] | ls [DIR]
//! id | env | hostname | tty
//! ```
//!
//! No libraries: a static glibc cannot resolve names by itself, so [`resolve`] does. SIGTERM ends everything but
//! `ignore-term` at once and with code 0; `serve` first finishes what it has begun.

mod client;
mod echo;
mod http;
mod resolve;
mod serve;
mod signal;

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(io::stderr(), "testapp {}: {error}", words.join(" ")));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> io::Result<ExitCode> {
    if !matches!(words.first(), None | Some(&("serve" | "ignore-term"))) {
        signal::exit_on_term();
    }
    let mut out = io::stdout().lock();
    match words {
        [] => serve::serve(None)?,
        ["serve", rest @ ..] => serve::serve(rest.first().copied())?,
        ["echo", port] => echo::echo(number(port)?)?,
        ["exit", code] => return Ok(ExitCode::from(number::<u8>(code)?)),
        ["sleep"] => pause(None),
        ["sleep", seconds] => pause(Some(Duration::from_secs_f64(number(seconds)?))),
        ["ignore-term"] => {
            signal::ignore_term();
            pause(None);
        }
        ["eat", megabytes] => eat(number(megabytes)?)?,
        ["print", count] => print(number(count)?, 0)?,
        ["print", count, millis] => print(number(count)?, number(millis)?)?,
        ["write", file, text @ ..] => fs::write(file, text.join(" ") + "\n")?,
        ["cat"] => drop(io::copy(&mut io::stdin().lock(), &mut out)?),
        ["cat", files @ ..] => {
            for file in files {
                io::copy(&mut fs::File::open(file)?, &mut out)?;
            }
        }
        ["ls", rest @ ..] => ls(rest.first().unwrap_or(&"."))?,
        ["get", url] => return get(url),
        ["resolve", name] => {
            for address in resolve::resolve(name)? {
                writeln!(out, "{address}")?;
            }
        }
        ["resolve", name, count, millis] => return resolve::steadily(name, number(count)?, number(millis)?),
        ["id"] => id()?,
        ["env"] => std::env::vars().try_for_each(|(name, value)| writeln!(out, "{name}={value}"))?,
        ["hostname"] => writeln!(out, "{}", hostname())?,
        ["tty"] => writeln!(out, "{}", if io::stdin().is_terminal() { "a terminal" } else { "not a terminal" })?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "unknown command or wrong number of arguments")),
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is no number")))
}

/// Until then, or for ever.
fn pause(duration: Option<Duration>) {
    let start = std::time::Instant::now();
    loop {
        match duration.map(|duration| duration.saturating_sub(start.elapsed())) {
            Some(Duration::ZERO) => return,
            Some(rest) => thread::park_timeout(rest),
            None => thread::park(),
        }
    }
}

/// Holds so much memory, touched, and stays.
fn eat(megabytes: usize) -> io::Result<()> {
    let mut meal = Vec::new();
    for _ in 0..megabytes {
        meal.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
    writeln!(io::stdout(), "ate {} MiB", meal.len())?;
    pause(None);
    Ok(())
}

fn print(count: u64, millis: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in 1..=count {
        writeln!(out, "line {line}")?;
        if millis > 0 {
            pause(Some(Duration::from_millis(millis)));
        }
    }
    Ok(())
}

fn ls(folder: &str) -> io::Result<()> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    names.iter().try_for_each(|name| writeln!(io::stdout(), "{name}"))
}

/// 0 for a status below 400.
fn get(url: &str) -> io::Result<ExitCode> {
    let reply = client::get(url, &[])?;
    io::stdout().write_all(&reply.body)?;
    Ok(if reply.status < 400 { ExitCode::SUCCESS } else { ExitCode::from(22) })
}

/// As the kernel has it: this process has no other way to ask.
fn id() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim().to_owned()
    };
    let first = |key: &str| of(key).split_whitespace().next().unwrap_or_default().to_owned();
    writeln!(io::stdout(), "uid={} gid={} groups={}", first("Uid:"), first("Gid:"), of("Groups:"))
}

fn hostname() -> String {
    let mut name = String::new();
    drop(fs::File::open("/proc/sys/kernel/hostname").and_then(|mut file| file.read_to_string(&mut name)));
    name.trim().to_owned()
}
