//! A further server of a stage's cluster, on the same underlay.

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use cli::up::{API_PORT, SERVER};

use crate::{
    stage::{Following, PATIENCE, Said, Stage, newest_kubectl, program, run},
    wait,
};

/// The ports of etcd's API and of peers, as `orlop server` has them.
const STORE_PORTS: [u16; 2] = [2379, 2380];

/// A server beside the first. Killed when dropped.
pub struct Joined {
    process: Option<Child>,
    number: u16,
    token: String,
    data: PathBuf,
}

impl Joined {
    /// Starts one, which joins the first; `number` tells it from others. It may not serve yet.
    pub fn start(stage: &Stage, number: u16) -> Result<Self> {
        let first = stage.folder().join("data");
        let token = std::fs::read_to_string(first.join("server-token")).context("read the servers' token")?;
        let data = stage.folder().join(format!("server-{number}"));
        std::fs::create_dir(&data).context("make a folder for a server")?;
        let mut joined = Self { process: None, number, token, data };
        joined.launch(stage)?;
        Ok(joined)
    }

    fn launch(&mut self, stage: &Stage) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.data.join("server.log"));
        let log = log.context("open the server's log")?;
        let at = |port: u16| SocketAddr::from((SERVER, port + 100 * self.number)).to_string();
        let [etcd, peer] = STORE_PORTS;
        let mut command = Command::new(program()?);
        command
            .args(["--die-with-parent", "server", "--server-name", &format!("server-{}", self.number)])
            .args(["--join", &format!("https://{SERVER}:{API_PORT}"), "--token", self.token.trim()])
            .args(["--bind", &at(API_PORT), "--etcd-bind", &at(etcd), "--peer-bind", &at(peer), "--data-dir"])
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log);
        self.process = Some(stage.cluster.underlay().spawn(command)?);
        Ok(())
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill().context("kill the server")?;
        process.wait().context("wait for the server").map(drop)
    }

    /// Starts it again after [`Joined::kill`], and waits until it is ready.
    pub fn resume(&mut self, stage: &Stage) -> Result<()> {
        self.launch(stage)?;
        let own = format!("--server=https://{SERVER}:{}", API_PORT + 100 * self.number);
        let ready = |joined: &mut Self| {
            let mut command = joined.command(newest_kubectl()?);
            command.args([&own, "get", "--raw", "/readyz"]);
            Ok(stage.cluster.underlay().run(move || run(&mut command, ""))?.ok)
        };
        wait::until(self, "the server is ready", PATIENCE, ready, |joined| joined.log())
    }

    /// A command on the underlay with this server's kubeconfig.
    fn command(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", &self.data).env("LC_ALL", "C");
        command
    }

    /// The administrator's credentials, as it wrote them.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// Starts an `orlop` on the underlay that goes on, with this server's kubeconfig.
    pub fn follow(&self, stage: &Stage, args: &[&str]) -> Result<Following> {
        let mut command = self.command(program()?);
        command.args(args);
        stage.cluster.underlay().run(move || Following::start(&mut command))?
    }

    /// Runs `orlop` on the underlay, with this server's kubeconfig and this standard input, whatever comes of it.
    pub fn try_orlop(&self, stage: &Stage, args: &[&str], input: &str) -> Result<Said> {
        let mut command = self.command(program()?);
        command.args(args);
        let input = input.to_owned();
        stage.cluster.underlay().run(move || run(&mut command, &input))
    }

    /// The same; it must succeed.
    pub fn orlop(&self, stage: &Stage, args: &[&str], input: &str) -> Result<String> {
        let said = self.try_orlop(stage, args, input)?;
        ensure!(said.ok, "orlop {} failed:\n{}{}\n{}", args.join(" "), said.out, said.err, self.log());
        Ok(said.out)
    }

    /// What it has said, for when a story fails.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.join("server.log")).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // a story that failed has said why
        drop(self.kill());
    }
}
