//! HTTP/1.0, both sides of it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Error, Read, Result, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::resolve::resolve;

const PATIENCE: Duration = Duration::from_secs(10);

/// Whether `/readyz` says yes.
static READY: AtomicBool = AtomicBool::new(true);

/// Answers until it is killed.
pub fn serve() -> Result<()> {
    let port: u16 = std::env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("serving on port {port}");
    for stream in listener.incoming().flatten() {
        // a client that goes away is its own affair
        thread::spawn(move || drop(answer(stream)));
    }
    Ok(())
}

fn answer(stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    for line in reader.by_ref().lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let path = head.first().and_then(|l| l.split(' ').nth(1)).unwrap_or("/").to_owned();
    let (status, body) = page(&path, &head);
    let mut stream = stream;
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn page(path: &str, head: &[String]) -> (&'static str, String) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match path {
        "/healthz" => ("200 OK", "ok\n".into()),
        "/readyz" if READY.load(Ordering::Relaxed) => ("200 OK", "ok\n".into()),
        "/readyz" => ("503 Service Unavailable", "not ready\n".into()),
        "/ready" => {
            READY.store(query != "on=false", Ordering::Relaxed);
            ("200 OK", "noted\n".into())
        }
        "/env" => ("200 OK", environment()),
        "/headers" => ("200 OK", head.join("\n")),
        "/backend" => match get(&std::env::var("BACKEND_URL").unwrap_or_default()) {
            Ok(body) => ("200 OK", format!("{}the backend says: {body}", who(path))),
            Err(error) => ("502 Bad Gateway", format!("the backend does not answer: {error}\n")),
        },
        _ => ("200 OK", who(path)),
    }
}

/// Who answers: host name, version and path.
fn who(path: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let version = std::env::var("VERSION").unwrap_or_else(|_| "0".into());
    format!("{} version {version} path {path}\n", host.trim())
}

/// All variables, one a line.
pub fn environment() -> String {
    let all: BTreeMap<_, _> = std::env::vars().collect();
    all.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// The body that `http://HOST[:PORT]/PATH` answers a GET with.
pub fn get(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| Error::other(format!("not an http URL: {url:?}")))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let port: u16 = port.parse().map_err(|_| Error::other(format!("not a port: {port:?}")))?;
    let address = *resolve(host)?.first().ok_or_else(|| Error::other(format!("{host} has no address")))?;
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {authority}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| Error::other("an answer without a head"))?;
    if !head.contains(" 200 ") {
        return Err(Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(body.to_owned())
}
