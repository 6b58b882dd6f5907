//! `orlop up` as a user has it in a terminal: it comes, it goes without a trace, it comes back with everything.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    footprint::Footprint,
    manifest,
    stage::{PATIENCE, Said, debian_kubectl, house, program, run},
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

/// How long a cluster may take to be gone.
const GONE: Duration = Duration::from_secs(20);

/// The last line that `up` prints when all is well.
const READY: &str = "Ctrl-C";

/// One cluster at a time: what each leaves on the machine is looked at.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running `orlop up`, the leader of a process group as in a terminal.
struct Up {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Up {
    fn start(data: &Path, nodes: usize, more: &[&str]) -> Result<Self> {
        let mut command = Command::new(program()?);
        command
            .args(["up", "--port", "0", "--nodes", &nodes.to_string(), "--data-dir"])
            .arg(data)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().context("start orlop up")?;
        let (sender, lines) = mpsc::channel();
        pass_on(child.stdout.take().context("up without output")?, sender.clone());
        pass_on(child.stderr.take().context("up without errors")?, sender);
        Ok(Self { child, lines })
    }

    /// Waits for a line that contains `text`.
    fn line_with(&self, text: &str) -> Result<String> {
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => seen.push(line),
                Err(_) => bail!("up did not say {text:?}; it said:\n{}", seen.join("\n")),
            }
        }
    }

    /// What the terminal sends to the whole process group, or what a killer does.
    fn signal(&self, signal: Signal) -> Result<()> {
        killpg(Pid::from_raw(self.child.id().cast_signed()), signal).context("signal orlop up")
    }

    /// Waits for its end.
    fn ended(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + GONE;
        loop {
            if let Some(status) = self.child.try_wait().context("wait for orlop up")? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "orlop up is not gone after {GONE:?}");
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn ctrl_c(mut self) -> Result<()> {
        self.signal(Signal::SIGINT)?;
        let status = self.ended()?;
        let said: Vec<_> = self.lines.try_iter().collect();
        ensure!(status.success(), "orlop up ended with {status}:\n{}", said.join("\n"));
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // it may have ended by itself
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn pass_on(from: impl Read + Send + 'static, to: mpsc::Sender<String>) {
    thread::spawn(move || BufReader::new(from).lines().map_while(Result::ok).all(|line| to.send(line).is_ok()));
}

fn folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("orlop-e2e-").tempdir().context("make a folder for a cluster")
}

/// A manifest and the image it needs, as words for `up`.
fn guestbook() -> Result<[String; 4]> {
    let path = |name: &str| house().join(name).to_str().map(str::to_owned).context("a path that is text");
    Ok(["--load".into(), path("target/testapp.tar")?, "-f".into(), path("manifests/guestbook.yaml")?])
}

fn words(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

fn kubectl(data: &Path, args: &[&str]) -> Result<Said> {
    let mut command = Command::new(debian_kubectl()?);
    command.arg("--kubeconfig").arg(data.join("kubeconfig")).env("HOME", data).args(args);
    Ok(run(&mut command, ""))
}

/// The machine as it was, once what dies has died.
fn same_as(before: &Footprint) -> Result<()> {
    let deadline = Instant::now() + GONE;
    loop {
        match Footprint::take()?.same_as(before) {
            Err(_) if Instant::now() < deadline => thread::park_timeout(Duration::from_millis(50)),
            compared => return compared,
        }
    }
}

#[test]
fn ctrl_c_leaves_nothing_but_the_data_folder() -> Result<()> {
    let _turn = turn();
    let (folder, before) = (folder()?, Footprint::take()?);
    let data = folder.path().join("data");
    let up = Up::start(&data, 2, &words(&guestbook()?))?;
    up.line_with(READY)?;
    up.ctrl_c()?;
    // at once: nothing of it dies later than up itself
    Footprint::take()?.same_as(&before)?;
    let beside: Vec<_> = fs::read_dir(folder.path()).context("list the folder")?.collect();
    ensure!(beside.len() == 1, "something was written beside the data folder: {beside:?}");
    Ok(())
}

#[test]
fn ctrl_c_while_it_comes_up_and_again_while_it_goes_down() -> Result<()> {
    let _turn = turn();
    let (folder, before) = (folder()?, Footprint::take()?);
    let mut up = Up::start(&folder.path().join("data"), 2, &[])?;
    up.line_with("API server ready")?;
    up.signal(Signal::SIGINT)?;
    up.line_with("Taking the cluster down")?;
    // it may be gone before it hears of the second
    drop(up.signal(Signal::SIGINT));
    let status = up.ended()?;
    ensure!(status.success(), "orlop up ended with {status}");
    Footprint::take()?.same_as(&before)
}

#[test]
fn up_again_is_like_a_reboot() -> Result<()> {
    let _turn = turn();
    let folder = folder()?;
    let data = folder.path().join("data");
    let up = Up::start(&data, 2, &words(&guestbook()?))?;
    up.line_with(READY)?;
    let objects = ["get", "deployments,services,configmaps,secrets,pods,nodes", "-o", "name"];
    let before = kubectl(&data, &objects)?;
    ensure!(before.ok && before.out.contains("pod/"), "{before:?}");
    up.ctrl_c()?;
    let up = Up::start(&data, 2, &[])?;
    up.line_with(READY)?;
    let after = kubectl(&data, &objects)?;
    ensure!(after.out == before.out, "objects were\n{}and are\n{}{}", before.out, after.out, after.err);
    let pods =
        "{range .items[*]}{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}\n{end}";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = kubectl(&data, &["get", "pods", "-o", &format!("jsonpath={pods}")])?;
        if said.ok && said.out.lines().all(|line| line == "1 true") {
            break;
        }
        ensure!(Instant::now() < deadline, "the pods did not start again, each once: {said:?}");
        thread::park_timeout(Duration::from_millis(100));
    }
    let log = kubectl(&data, &["logs", "deploy/web", "--previous", "--tail=1"])?;
    ensure!(log.ok, "what the pods said before is gone: {log:?}");
    up.ctrl_c()
}

#[test]
fn a_killed_up_takes_everything_along() -> Result<()> {
    let _turn = turn();
    let (folder, before) = (folder()?, Footprint::take()?);
    let data = folder.path().join("data");
    let mut up = Up::start(&data, 1, &words(&guestbook()?[..2]))?;
    up.line_with(READY)?;
    let pod = folder.path().join("pod.yaml");
    fs::write(&pod, manifest::pod("stays", &["serve"], "")).context("write a manifest")?;
    let applied = kubectl(&data, &["apply", "-f", pod.to_str().context("a path that is text")?])?;
    ensure!(applied.ok, "{applied:?}");
    up.child.kill().context("kill orlop up")?;
    up.ended()?;
    // control groups cannot be removed by the dead: the next start does it
    let again = Up::start(&data, 1, &[])?;
    again.line_with(READY)?;
    let there = kubectl(&data, &["get", "pod/stays", "-o", "name"])?;
    ensure!(there.ok, "what was acknowledged is gone: {there:?}");
    again.ctrl_c()?;
    same_as(&before)
}

#[test]
fn what_is_in_use_is_said() -> Result<()> {
    let _turn = turn();
    let folder = folder()?;
    let data = folder.path().join("data");
    let data_dir = data.to_str().context("a path that is text")?;
    let up = Up::start(&data, 0, &[])?;
    up.line_with(READY)?;
    let orlop = program()?;
    let second = run(Command::new(&orlop).args(["up", "--port", "0", "--data-dir", data_dir]), "");
    ensure!(!second.ok && second.err.contains("another `orlop up` uses"), "{second:?}");
    ensure!(second.err.contains(data_dir) && second.err.contains("--data-dir"), "{second:?}");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("take a port")?;
    let port = taken.local_addr().context("read a port")?.port().to_string();
    let before = Footprint::take()?;
    let other = folder.path().join("other");
    let third = run(Command::new(&orlop).args(["up", "--port", &port, "--data-dir"]).arg(&other), "");
    ensure!(!third.ok && third.err.contains(&format!("127.0.0.1:{port}")), "{third:?}");
    ensure!(third.err.contains("--port") && third.err.contains("in use"), "{third:?}");
    Footprint::take()?.same_as(&before)?;
    // the first one noticed nothing
    ensure!(kubectl(&data, &["get", "namespaces"])?.ok, "the cluster was disturbed");
    up.ctrl_c()
}
