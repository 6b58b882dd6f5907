//! Serve: HTTP that says who it is.
//!
//! `GET /`: hostname, version and path. `/backend`: what `$BACKEND_URL` answers. `/healthz`, `/readyz`: 200, or 503 after
//! `POST /healthy?on=false`, `POST /ready?on=false`. `/env`, `/headers`: what it was given. `/exit?code=N`: ends with it.
//! `/slow?ms=N`: answers late. The version is the argument, or `$VERSION`, or `v1`.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{client, http::Message, pause, signal::Term};

/// Longest wait for requests in flight after SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// A connection without a request is closed after.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Stack of a connection's thread, bytes.
const STACK: usize = 256 * 1024;
/// No exit was asked for.
const NO_EXIT: u8 = 0;

struct State {
    hostname: String,
    version: String,
    ready: AtomicBool,
    healthy: AtomicBool,
    ending: AtomicBool,
    /// Asked for by `/exit`.
    exit: AtomicU8,
    /// Requests being answered.
    busy: Mutex<usize>,
    idle: Condvar,
}

/// Serves until SIGTERM, then finishes what it has begun.
pub(crate) fn serve(version: Option<&str>) -> io::Result<()> {
    let port = std::env::var("PORT").map_or(Ok(8080), |port| crate::number(&port))?;
    let version = version.map(str::to_owned).or_else(|| std::env::var("VERSION").ok());
    let state = Arc::new(State {
        hostname: crate::hostname(),
        version: version.unwrap_or_else(|| "v1".into()),
        ready: AtomicBool::new(true),
        healthy: AtomicBool::new(true),
        ending: AtomicBool::new(false),
        exit: AtomicU8::new(NO_EXIT),
        busy: Mutex::new(0),
        idle: Condvar::new(),
    });
    let mut term = Term::listen()?;
    let listener = crate::echo::listen(port)?;
    listener.set_nonblocking(true)?;
    writeln!(io::stdout(), "serving {} on port {port}", state.version)?;
    loop {
        let told = term.wait(&listener);
        accept_all(&listener, &state);
        if told {
            break;
        }
    }
    state.ending.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + DRAIN_MAX;
    let mut busy = state.busy.lock().unwrap_or_else(PoisonError::into_inner);
    while *busy > 0 && Instant::now() < deadline {
        let rest = deadline.saturating_duration_since(Instant::now());
        busy = state.idle.wait_timeout(busy, rest).unwrap_or_else(PoisonError::into_inner).0;
    }
    writeln!(io::stdout(), "terminated")
}

fn accept_all(listener: &TcpListener, state: &Arc<State>) {
    while let Ok((stream, _)) = listener.accept() {
        let shared = state.clone();
        // Counted from here on, so that SIGTERM waits for a request that is on its way.
        state.begin();
        let talk = move || {
            drop(converse(&stream, &shared));
            shared.done();
        };
        if thread::Builder::new().stack_size(STACK).spawn(talk).is_err() {
            state.done();
            drop(writeln!(io::stderr(), "cannot start a thread"));
        }
    }
}

fn converse(stream: &TcpStream, state: &State) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        // While nothing comes, nobody needs to wait for it.
        state.done();
        let more = reader.fill_buf().map(|bytes| !bytes.is_empty());
        state.begin();
        if !more? {
            return Ok(());
        }
        let Some(request) = Message::read(&mut reader, false)? else { return Ok(()) };
        let (status, body) = answer(&request, state);
        let close = state.ending.load(Ordering::Relaxed) || request.is_last();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{}\r\n",
            body.len(),
            if close { "Connection: close\r\n" } else { "" }
        );
        let mut reply = head.into_bytes();
        reply.extend(body);
        (&*stream).write_all(&reply)?;
        let code = state.exit.load(Ordering::Relaxed);
        if code != NO_EXIT {
            crate::signal::exit_with(code - 1);
        }
        if close {
            return Ok(());
        }
    }
}

fn answer(request: &Message, state: &State) -> (&'static str, Vec<u8>) {
    let mut words = request.start.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let option = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let switch = |flag: &AtomicBool| {
        flag.store(option("on") != Some("false"), Ordering::Relaxed);
        ("200 OK", b"ok\n".to_vec())
    };
    let report = |flag: &AtomicBool| match flag.load(Ordering::Relaxed) {
        true => ("200 OK", b"ok\n".to_vec()),
        false => ("503 Service Unavailable", b"not ok\n".to_vec()),
    };
    match (method, path) {
        ("POST", "/ready") => switch(&state.ready),
        ("POST", "/healthy") => switch(&state.healthy),
        (_, "/readyz") => report(&state.ready),
        (_, "/healthz") => report(&state.healthy),
        (_, "/backend") => backend(),
        (_, "/env") => ("200 OK", lines(std::env::vars())),
        (_, "/headers") => ("200 OK", lines(request.headers.iter().cloned())),
        (_, "/slow") => {
            pause(Some(Duration::from_millis(option("ms").and_then(|ms| ms.parse().ok()).unwrap_or(1000))));
            ("200 OK", b"slow\n".to_vec())
        }
        (_, "/exit") => {
            let code: u8 = option("code").and_then(|code| code.parse().ok()).unwrap_or(1);
            state.exit.store(code.saturating_add(1), Ordering::Relaxed);
            ("200 OK", b"bye\n".to_vec())
        }
        _ => {
            let text = format!("hostname={} version={} path={path}\n", state.hostname, state.version);
            ("200 OK", text.into_bytes())
        }
    }
}

fn backend() -> (&'static str, Vec<u8>) {
    let Ok(url) = std::env::var("BACKEND_URL") else {
        return ("500 Internal Server Error", b"BACKEND_URL is not set\n".to_vec());
    };
    match client::get(&url, &[]) {
        Ok(reply) if reply.status < 400 => ("200 OK", reply.body),
        Ok(reply) => ("502 Bad Gateway", format!("backend answered {}\n", reply.status).into_bytes()),
        Err(error) => ("502 Bad Gateway", format!("backend: {error}\n").into_bytes()),
    }
}

fn lines(pairs: impl Iterator<Item = (String, String)>) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in pairs {
        text += &format!("{name}={value}\n");
    }
    text.into_bytes()
}

impl State {
    fn begin(&self) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn done(&self) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.idle.notify_all();
    }
}
