//! An `orlop server` without nodes, for stories about what is stored.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use cli::up::Host;
use tempfile::TempDir;

use crate::stage::{Following, PATIENCE, Said, http_get, newest_kubectl, program, run};
use crate::{backing, wait};

/// A server in this machine's own network, on loopback. Killed when dropped.
pub struct Server {
    process: Option<Child>,
    args: Vec<String>,
    address: SocketAddr,
    /// Where other servers reach its store: the same over restarts, since they remember it.
    peer: SocketAddr,
    /// Where its store speaks etcd's API, the same over restarts, too.
    etcd: SocketAddr,
    kubectl: PathBuf,
    folder: TempDir,
    /// Where its state is; below `folder`, or elsewhere.
    data: PathBuf,
    /// What keeps its state, if that is not itself.
    _etcd: Option<Etcd>,
}

impl Server {
    /// Starts a server with these further words, and waits until it is ready.
    pub fn start(args: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("orlop-e2e-").tempdir().context("make a folder for a server")?;
        let data = folder.path().to_owned();
        Self::begin(folder, data, args)
    }

    /// Like [`Server::start`], on a folder with state in it, which stays.
    pub fn start_on(data: &Path, args: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("orlop-e2e-").tempdir().context("make a folder for a server")?;
        Self::begin(folder, data.to_owned(), args)
    }

    fn begin(folder: TempDir, data: PathBuf, args: &[&str]) -> Result<Self> {
        let mut args = args.iter().map(|a| (*a).to_owned()).collect();
        let mut backing = backing::beside(&mut args)?;
        backing.as_mut().map_or(Ok(()), Etcd::resume)?;
        let [address, peer, etcd] = free_addresses()?;
        let kubectl = newest_kubectl()?;
        let mut server = Self { process: None, args, address, peer, etcd, kubectl, folder, data, _etcd: backing };
        server.resume()?;
        Ok(server)
    }

    /// Starts it again after [`Server::kill`], with what it left in its folder, and waits until it is ready.
    pub fn resume(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts it, without waiting: one of several that are ready only together.
    pub fn launch(&mut self) -> Result<()> {
        let path = self.folder.path().join("server.log");
        let log = File::options().create(true).append(true).open(&path).context("open the server's log")?;
        let mut command = Command::new(program()?);
        command
            .args(["--die-with-parent", "server", "--etcd-bind", &self.etcd.to_string()])
            .args(["--peer-bind", &self.peer.to_string()])
            .args(["--bind", &self.address.to_string(), "--data-dir"])
            .arg(&self.data)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log);
        self.process = Some(command.spawn().context("start the server")?);
        Ok(())
    }

    /// Waits until it is ready.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        self.until("the server is ready", |server| {
            if let Some(status) = server.process.as_mut().and_then(|p| p.try_wait().transpose()) {
                bail!("it ended with {:?}:\n{}", status, server.log());
            }
            Ok(server.kubeconfig().exists() && server.kubectl(&["get", "--raw", "/readyz"]).is_ok())
        })
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill().context("kill the server")?;
        process.wait().context("wait for the server").map(drop)
    }

    /// Empties its folder, as a new machine's would be; it must not run.
    pub fn lose_everything(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server runs");
        std::fs::remove_dir_all(&self.data).context("empty the server's folder")?;
        std::fs::create_dir(&self.data).context("make the server's folder")
    }

    /// From its next start on, it is started with these words.
    pub fn use_args(&mut self, args: &[&str]) {
        self.args = args.iter().map(|a| (*a).to_owned()).collect();
    }

    /// Where other servers join it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Where other servers reach its store.
    pub fn peer_url(&self) -> String {
        format!("https://{}", self.peer)
    }

    /// Where etcd's clients reach its store.
    pub fn etcd_url(&self) -> String {
        format!("https://{}", self.etcd)
    }

    /// The file of what such a client trusts, of its certificate, or of its key.
    pub fn etcd_client(&self) -> [PathBuf; 3] {
        ["store-ca.crt", "etcd-client.crt", "etcd-client.key"].map(|name| self.data.join("pki").join(name))
    }

    /// What another server must know to join it.
    pub fn server_token(&self) -> Result<String> {
        std::fs::read_to_string(self.data.join("server-token")).context("read the servers' token")
    }

    /// Whether its process has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        let process = self.process.as_mut().context("the server was killed")?;
        Ok(process.try_wait().context("look at the server")?.is_some())
    }

    /// Runs `orlop` with the administrator's credentials; it must succeed.
    pub fn ask(&self, args: &[&str]) -> Result<String> {
        self.try_ask(args)?.must("orlop", args)
    }

    /// Runs `orlop` with the administrator's credentials, whatever comes of it.
    pub fn try_ask(&self, args: &[&str]) -> Result<Said> {
        Ok(run(&mut self.orlop(args)?, ""))
    }

    /// Runs a line of shell in the folder where it keeps its state.
    pub fn shell(&self, line: &str) -> Said {
        run(Command::new("sh").args(["-c", line]).current_dir(&self.data), "")
    }

    /// The administrator's credentials.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// Runs kubectl; it must succeed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with_input(args, "")
    }

    /// Runs kubectl with this standard input; it must succeed.
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        self.try_kubectl(args, input).must("kubectl", args)
    }

    /// Runs kubectl with this standard input, whatever comes of it.
    pub fn try_kubectl(&self, args: &[&str], input: &str) -> Said {
        run(self.command().args(args), input)
    }

    /// Starts a kubectl that goes on.
    pub fn follow(&self, args: &[&str]) -> Result<Following> {
        Following::start(self.command().args(args))
    }

    /// An `orlop` command with the administrator's credentials, to be run.
    pub fn orlop(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path()).env("LC_ALL", "C").args(args);
        Ok(command)
    }

    /// Waits until `condition` holds; an error of its ends the story.
    pub fn until(&mut self, what: &str, condition: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        wait::until(self, what, PATIENCE, condition, |server| server.log())
    }

    /// What it has said, for when a story fails.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_else(|error| error.to_string())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path()).env("LC_ALL", "C");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // a story that failed has said why
        drop(self.kill());
    }
}

/// An etcd of one member, on loopback. Killed when dropped.
pub struct Etcd {
    process: Option<Child>,
    client: SocketAddr,
    peer: SocketAddr,
    folder: TempDir,
}

impl Etcd {
    /// Where Debian's `etcd-server` puts it.
    const PROGRAM: &str = "/usr/bin/etcd";

    /// Starts it, and waits until it is healthy.
    pub fn start() -> Result<Self> {
        let mut etcd = Self::place()?;
        etcd.resume()?;
        Ok(etcd)
    }

    /// One that is to be started.
    pub(crate) fn place() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("orlop-etcd-").tempdir().context("make a folder for etcd")?;
        let [client, peer] = free_addresses()?;
        Ok(Self { process: None, client, peer, folder })
    }

    /// Starts it, for the first time or after [`Etcd::kill`], and waits until it is healthy.
    pub fn resume(&mut self) -> Result<()> {
        self.process = Some(self.command()?.spawn().with_context(|| format!("start {}", Self::PROGRAM))?);
        healthy(|| http_get(self.client, "/health"))
    }

    /// Starts it in a network that is not this machine's, and waits until it is healthy.
    pub(crate) fn start_on(&mut self, host: &Host) -> Result<()> {
        self.process = Some(host.spawn(self.command()?)?);
        let client = self.client;
        healthy(|| host.run(move || http_get(client, "/health"))?)
    }

    fn command(&self) -> Result<Command> {
        let (client, peer) = (self.url(), format!("http://{}", self.peer));
        let log = File::options().create(true).append(true).open(self.folder.path().join("etcd.log"));
        let mut command = Command::new(Self::PROGRAM);
        command
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap", "--data-dir"])
            .arg(self.folder.path().join("data"))
            .stdin(Stdio::null())
            .stderr(log.context("open etcd's log")?);
        Ok(command)
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill().context("kill etcd")?;
        process.wait().context("wait for etcd").map(drop)
    }

    /// What clients are told.
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// The names of all keys, as etcd's own client sees them.
    pub fn keys(&self) -> Result<String> {
        let mut command = Command::new("/usr/bin/etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url(), "get", "", "--prefix", "--keys-only"]);
        let said = run(&mut command, "");
        ensure!(said.ok, "etcdctl failed:\n{}", said.err);
        Ok(said.out)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // a story that failed has said why
        drop(self.kill());
    }
}

/// Waits until an etcd says that it is.
fn healthy(ask: impl Fn() -> Result<String>) -> Result<()> {
    let is = |(): &mut ()| Ok(ask().is_ok_and(|health| health.contains("true")));
    wait::until(&mut (), "etcd is healthy", PATIENCE, is, |()| String::new())
}

/// Addresses that nothing listens on. Held together while they are chosen, so that they differ.
pub(crate) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::new();
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("find a free port")?;
        *address = listener.local_addr().context("read a free port")?;
        held.push(listener);
    }
    Ok(addresses)
}
