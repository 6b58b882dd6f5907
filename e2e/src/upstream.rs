//! Upstream's kube-apiserver, with this project's store in the place of etcd.
//!
//! Both live in one store: upstream's objects below `/upstream`, ours where they always are.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    Server,
    server::free_addresses,
    stage::{Following, PATIENCE, Said, debian_kubectl, run},
    wait,
};

/// How long it takes at most to be ready: it makes its first roles and priorities one by one.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// How often it has the store forget the past. It forgets what is two of these old. Upstream's default is five minutes.
pub const COMPACT_EVERY: Duration = Duration::from_secs(5);

/// How long an Event lives. Upstream's default is an hour.
pub const EVENT_TTL: Duration = Duration::from_secs(10);

/// What it takes to be an administrator.
const TOKEN: &str = "upstream";

/// A running kube-apiserver on loopback. Killed when dropped.
pub struct KubeApiserver {
    process: Child,
    address: SocketAddr,
    kubectl: PathBuf,
    folder: TempDir,
}

impl KubeApiserver {
    /// Starts this program on the store of these servers, and waits until it is ready.
    pub fn start(program: &Path, servers: &[Server]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("orlop-upstream-").tempdir().context("make a folder")?;
        let [address] = free_addresses()?;
        let [tokens, key, public, log] =
            ["tokens.csv", "accounts.key", "accounts.pub", "log"].map(|name| folder.path().join(name));
        fs::write(&tokens, format!("{TOKEN},admin,admin,system:masters\n")).context("write a token")?;
        let pair = rcgen::KeyPair::generate().context("make a key for service accounts")?;
        fs::write(&key, pair.serialize_pem()).context("write a key for service accounts")?;
        fs::write(&public, pair.public_key_pem()).context("write its public half")?;
        let [ca, certificate, private] = servers.first().context("there is a server")?.etcd_client();
        let urls: Vec<_> = servers.iter().map(Server::etcd_url).collect();
        let log = File::create(log).context("make a log")?;
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut command = Command::new(program);
        command
            .args([format!("--etcd-servers={}", urls.join(",")), "--etcd-prefix=/upstream".to_owned()])
            .args([flag("etcd-cafile", &ca), flag("etcd-certfile", &certificate), flag("etcd-keyfile", &private)])
            .arg(format!("--etcd-compaction-interval={}s", COMPACT_EVERY.as_secs()))
            .arg(format!("--event-ttl={}s", EVENT_TTL.as_secs()))
            .args([format!("--secure-port={}", address.port()), format!("--bind-address={}", address.ip())])
            .args([flag("cert-dir", folder.path()), flag("token-auth-file", &tokens)])
            .args([flag("service-account-key-file", &public), flag("service-account-signing-key-file", &key)])
            .args(["--service-account-issuer=https://upstream", "--service-cluster-ip-range=10.96.0.0/16"])
            .arg("--authorization-mode=RBAC")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log);
        let process = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut upstream = Self { process, address, kubectl: debian_kubectl()?, folder };
        upstream.until_within(READY_WITHIN, "upstream is ready", |upstream| {
            if let Some(status) = upstream.process.try_wait().context("look at upstream")? {
                bail!("it ended with {status}:\n{}", upstream.log());
            }
            Ok(upstream.try_kubectl(&["get", "--raw", "/readyz"], "").ok)
        })?;
        Ok(upstream)
    }

    /// Runs kubectl against it; it must succeed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with_input(args, "")
    }

    /// Runs kubectl with this standard input; it must succeed.
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        self.try_kubectl(args, input).must("kubectl", args)
    }

    /// Runs kubectl with this standard input, whatever comes of it.
    pub fn try_kubectl(&self, args: &[&str], input: &str) -> Said {
        run(self.command().arg("--request-timeout=5s").args(args), input)
    }

    /// Starts a kubectl that goes on.
    pub fn follow(&self, args: &[&str]) -> Result<Following> {
        Following::start(self.command().args(args))
    }

    /// Waits until `condition` holds; an error of its ends the story.
    pub fn until(&mut self, what: &str, condition: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        self.until_within(PATIENCE, what, condition)
    }

    fn until_within(
        &mut self,
        patience: Duration,
        what: &str,
        condition: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        wait::until(self, what, patience, condition, |upstream| upstream.log())
    }

    /// The end of what it has said, for when a story fails.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_else(|error| error.to_string());
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        let server = format!("--server=https://{}", self.address);
        command.args([&server, "--insecure-skip-tls-verify", "--token", TOKEN]);
        command.env("KUBECONFIG", self.folder.path().join("none")).env("HOME", self.folder.path()).env("LC_ALL", "C");
        command
    }
}

impl Drop for KubeApiserver {
    fn drop(&mut self) {
        // a story that failed has said why
        drop(self.process.kill().and_then(|()| self.process.wait()));
    }
}
