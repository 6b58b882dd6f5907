//! The words that the program understands.

use std::{
    io::{self, IsTerminal, Read, Result, Write},
    net::{TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use crate::{http, resolve::resolve, signal};

/// What it can do.
const HELP: &str = "serve | echo PORT | exit CODE | eat MEGABYTES | ignore-term | print LINES [MILLISECONDS] | \
                    sleep SECONDS | write FILE | cat [FILE] | ls FOLDER | get URL | resolve NAME | env | id | tty";

/// Does what the words say; the exit code.
pub fn run(words: &[&str]) -> Result<u8> {
    match words {
        [] | ["serve"] => http::serve()?,
        ["echo", port] => echo(number(port)?)?,
        ["exit", code] => return number(code),
        ["eat", megabytes] => eat(number(megabytes)?),
        ["ignore-term"] => {
            signal::ignore_terminate();
            forever();
        }
        ["print", lines] => print(number(lines)?, 0)?,
        ["print", lines, pause] => print(number(lines)?, number(pause)?)?,
        ["sleep", seconds] => pause(Duration::from_secs(number(seconds)?)),
        ["write", file] => std::fs::write(file, "written\n")?,
        ["cat"] => drop(io::copy(&mut io::stdin(), &mut io::stdout())?),
        ["cat", file] => io::stdout().write_all(&std::fs::read(file)?)?,
        ["ls", folder] => list(folder)?,
        ["get", url] => print!("{}", http::get(url)?),
        ["resolve", name] => resolve(name)?.iter().for_each(|address| println!("{address}")),
        ["env"] => print!("{}", http::environment()),
        ["id"] => id()?,
        ["tty"] => println!("{}", if io::stdin().is_terminal() { "a terminal" } else { "not a terminal" }),
        _ => return Err(io::Error::other(format!("{words:?} is none of: {HELP}"))),
    }
    Ok(0)
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T> {
    word.parse().map_err(|_| io::Error::other(format!("not a number that fits: {word:?}")))
}

/// Waits; nobody wakes it early.
fn pause(time: Duration) {
    let end = std::time::Instant::now() + time;
    while let Some(left) = end.checked_duration_since(std::time::Instant::now()).filter(|l| !l.is_zero()) {
        thread::park_timeout(left);
    }
}

fn forever() -> ! {
    loop {
        thread::park();
    }
}

fn print(lines: u64, milliseconds: u64) -> Result<()> {
    for line in 0..lines {
        writeln!(io::stdout(), "line {line}")?;
        pause(Duration::from_millis(milliseconds));
    }
    Ok(())
}

/// Holds so much memory, touched, until it is killed.
fn eat(megabytes: usize) {
    let mut held = Vec::new();
    for _ in 0..megabytes {
        held.push(vec![1_u8; 1 << 20]);
    }
    println!("ate {} MiB", held.len());
    forever();
}

fn list(folder: &str) -> Result<()> {
    let mut names = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    names.iter().for_each(|name| println!("{}", name.to_string_lossy()));
    Ok(())
}

/// User, groups and capabilities, as the kernel tells them.
fn id() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let told = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
    status.lines().filter(|l| told.iter().any(|t| l.starts_with(t))).for_each(|line| println!("{line}"));
    Ok(())
}

/// Says back whatever it is told, over TCP and UDP.
fn echo(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    thread::spawn(move || {
        let mut packet = [0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            // a peer that went away is its own affair
            drop(socket.send_to(&packet[..length], from));
        }
    });
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = stream.read(&mut bytes) {
                if length == 0 || stream.write_all(&bytes[..length]).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
