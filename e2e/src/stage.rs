//! Where a story is told: a running cluster, a namespace of its own, and a user's tools.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cli::up::{Cluster, Spec};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{backing, server::Etcd, wait};

/// How long a condition may take to come true, unless a story says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The image that stories run, packed by `./test`.
const TESTAPP: &str = "target/testapp.tar";

/// A running cluster and a namespace on it.
pub struct Stage {
    /// The cluster, for stories that break it.
    pub cluster: Cluster,
    /// The namespace that commands work in.
    pub namespace: String,
    kubectl: PathBuf,
    folder: TempDir,
    /// What keeps the cluster's state, if that is not its server.
    _etcd: Option<Etcd>,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// It ended with 0.
    pub ok: bool,
    /// Its exit code, when it was not killed.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output, of a command that must have succeeded.
    pub fn must(self, program: &str, args: &[&str]) -> Result<String> {
        ensure!(self.ok, "{program} {} failed:\n{}{}", args.join(" "), self.out, self.err);
        Ok(self.out)
    }
}

impl Stage {
    /// Brings up a cluster with the test application's image on it, and waits until its nodes are Ready.
    pub fn raise(nodes: usize, server_args: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("orlop-e2e-").tempdir().context("make a folder for a cluster")?;
        let archive = house().join(TESTAPP);
        ensure!(archive.exists(), "{} is missing: run ./test, or scripts/testapp {TESTAPP}", archive.display());
        let mut server_args = server_args.iter().map(|a| (*a).to_owned()).collect();
        let mut etcd = backing::beside(&mut server_args)?;
        let mut cluster = Cluster::lay(Spec {
            exe: program()?,
            data_dir: folder.path().join("data"),
            nodes,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            server_args,
            agent_args: Vec::new(),
        })?;
        if let Some(etcd) = &mut etcd {
            etcd.start_on(cluster.underlay())?;
        }
        cluster.start_server().with_context(|| {
            std::fs::read_to_string(folder.path().join("data/server.log")).unwrap_or_else(|error| error.to_string())
        })?;
        let images = image::Store::open(cluster.images()).context("open the image store")?;
        images.load(&archive, &|_| {}).context("load the test application")?;
        let mut stage = Self { cluster, namespace: "default".into(), kubectl: newest_kubectl()?, folder, _etcd: etcd };
        stage.cluster.start_nodes()?;
        stage.until("all nodes are Ready", PATIENCE, |s| {
            let said = s.try_kubectl(&["get", "nodes", "--no-headers"]);
            Ok(said.out.lines().filter(|l| l.contains(" Ready")).count() == nodes)
        })?;
        Ok(stage)
    }

    /// A folder of the story's own.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Uses another kubectl from now on.
    pub fn use_kubectl(&mut self, program: &Path) {
        program.clone_into(&mut self.kubectl);
    }

    /// Runs kubectl in the story's namespace; it must succeed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.try_kubectl(args).must("kubectl", args)
    }

    /// Runs kubectl, whatever comes of it.
    pub fn try_kubectl(&self, args: &[&str]) -> Said {
        self.kubectl_with_input(args, "")
    }

    /// Runs kubectl with this standard input.
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> Said {
        run(self.command(&self.kubectl.clone()).args(args), input)
    }

    /// Runs `orlop`; it must succeed.
    pub fn orlop(&self, args: &[&str]) -> Result<String> {
        self.try_orlop(args, "").must("orlop", args)
    }

    /// Runs `orlop` with this standard input, whatever comes of it.
    pub fn try_orlop(&self, args: &[&str], input: &str) -> Said {
        match program() {
            Ok(program) => run(self.command(&program).args(args), input),
            Err(error) => Said { ok: false, code: None, out: String::new(), err: format!("{error:#}") },
        }
    }

    /// A command with the cluster's credentials, in the story's namespace.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", self.cluster.kubeconfig())
            // a cache of discovery from another cluster at the same port would mislead
            .env("HOME", self.folder.path())
            .env("LC_ALL", "C")
            .args(["--namespace", &self.namespace]);
        command
    }

    /// Applies a manifest given as text, as a user would from standard input.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let said = self.kubectl_with_input(&["apply", "-f", "-"], manifest);
        ensure!(said.ok, "kubectl apply failed:\n{}{}\n{manifest}", said.out, said.err);
        Ok(said.out)
    }

    /// Waits until `condition` holds; an error of its ends the story.
    pub fn until(
        &self,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        wait::until(&mut &*self, what, patience, |stage| condition(stage), |stage| stage.picture())
    }

    /// One field of one object, by kubectl's jsonpath.
    pub fn field(&self, what: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", what, "-o", &format!("jsonpath={path}")])
    }

    /// What a person would look at first when a story fails.
    fn picture(&self) -> String {
        let looks: [&[&str]; 4] = [
            &["get", "pods,deployments,replicasets,services,endpointslices", "-o", "wide"],
            &["get", "nodes"],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
            &["describe", "pods"],
        ];
        looks
            .iter()
            .map(|look| {
                let said = self.try_kubectl(look);
                format!("$ kubectl {}\n{}{}\n", look.join(" "), said.out, said.err)
            })
            .collect()
    }

    /// GETs a URL on a node's own network, as a program on that node would. The answer's body, of a 200.
    pub fn get_on_node(&self, node: usize, to: SocketAddr, path: &str) -> Result<String> {
        let path = path.to_owned();
        self.cluster.nodes()[node].host().run(move || http_get(to, &path))?
    }

    /// Tells the cluster to go.
    pub fn strike(mut self) -> Result<()> {
        self.cluster.stop()
    }
}

/// GETs a path; the body of a 200.
pub fn http_get(to: SocketAddr, path: &str) -> Result<String> {
    let patience = Duration::from_secs(3);
    let mut stream = std::net::TcpStream::connect_timeout(&to, patience).with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(patience)).context("set a deadline")?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n").context("send a request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("read what {to} answers"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    ensure!(head.starts_with("HTTP/1.") && head.contains(" 200 "), "{to}{path} answered {head}");
    Ok(body.to_owned())
}

/// Runs a command to its end, with this standard input.
pub fn run(command: &mut Command, input: &str) -> Said {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return Said { ok: false, code: None, out: String::new(), err: error.to_string() },
    };
    if let Some(mut stdin) = child.stdin.take() {
        // a command that does not read its input may have closed it
        drop(stdin.write_all(input.as_bytes()));
    }
    match child.wait_with_output() {
        Ok(output) => Said {
            ok: output.status.success(),
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(error) => Said { ok: false, code: None, out: String::new(), err: error.to_string() },
    }
}

/// A command that goes on while the story does; its lines arrive one by one.
pub struct Following {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start a command")?;
        let stdout = child.stdout.take().context("a command without output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let reader = std::io::BufRead::lines(std::io::BufReader::new(stdout));
            reader.map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Ok(Self { child, lines })
    }

    /// Waits for a line that contains `text`.
    pub fn line_with(&self, text: &str, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => seen.push(line),
                Err(_) => bail!("no line with {text:?} within {patience:?}; seen:\n{}", seen.join("\n")),
            }
        }
    }

    /// The next line.
    pub fn next(&self, patience: Duration) -> Result<String> {
        self.lines.recv_timeout(patience).with_context(|| format!("no further line within {patience:?}"))
    }

    /// Waits until it ends by itself: its exit code, and the lines that were left.
    pub fn end(mut self, patience: Duration) -> Result<(Option<i32>, Vec<String>)> {
        let ended = |following: &mut Self| Ok(following.child.try_wait().context("look at a command")?.is_some());
        wait::until(&mut self, "the command ends", patience, ended, |following| following.lines().join("\n"))?;
        let status = self.child.wait().context("wait for a command")?;
        // the last are on their way until the reader is done
        Ok((status.code(), self.lines.iter().collect()))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).with_context(|| format!("send {signal} to a command"))
    }

    /// All lines that have come so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // it may have ended by itself
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The root of the sources.
pub fn house() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// The `orlop` program that was built beside this test.
pub fn program() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this test's program")?;
    let found = this.ancestors().skip(1).take(2).map(|d| d.join("orlop")).find(|p| p.exists());
    found.context("the orlop program is not built: run ./test, or cargo build -p cli")
}

/// The newest kubectl of the machine: its own, else Debian's.
pub fn newest_kubectl() -> Result<PathBuf> {
    let own = ["/usr/local/bin/kubectl", "/usr/bin/kubectl"].map(PathBuf::from);
    own.into_iter().find(|p| p.exists()).map_or_else(debian_kubectl, Ok)
}

/// The kubectl of Debian's kubernetes-client (1.20), as `./test` fetches it.
pub fn debian_kubectl() -> Result<PathBuf> {
    let path = house().join("target/tools/kubectl-debian");
    ensure!(path.exists(), "{} is missing: run ./test, or scripts/kubectl FILE", path.display());
    Ok(path)
}
