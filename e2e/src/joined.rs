//! A further server of a stage's cluster, on the same underlay.

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use cli::up::{API_PORT, SERVER};

use crate::stage::{Said, Stage, program, run};

/// The ports of etcd's API and of peers, as `orlop server` has them.
const STORE_PORTS: [u16; 2] = [2379, 2380];

/// A server beside the first. Killed when dropped.
pub struct Joined {
    process: Child,
    data: PathBuf,
}

impl Joined {
    /// Starts one, which joins the first; `number` tells it from others. It may not serve yet.
    pub fn start(stage: &Stage, number: u16) -> Result<Self> {
        let first = stage.folder().join("data");
        let token = std::fs::read_to_string(first.join("server-token")).context("read the servers' token")?;
        let data = stage.folder().join(format!("server-{number}"));
        std::fs::create_dir(&data).context("make a folder for a server")?;
        let log = File::create(data.join("server.log")).context("open the server's log")?;
        let at = |port: u16| SocketAddr::from((SERVER, port + 100 * number)).to_string();
        let [etcd, peer] = STORE_PORTS;
        let mut command = Command::new(program()?);
        command
            .args(["--die-with-parent", "server", "--server-name", &format!("server-{number}")])
            .args(["--join", &format!("https://{SERVER}:{API_PORT}"), "--token", token.trim()])
            .args(["--bind", &at(API_PORT), "--etcd-bind", &at(etcd), "--peer-bind", &at(peer), "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log);
        let process = stage.cluster.underlay().spawn(command)?;
        Ok(Self { process, data })
    }

    /// Runs `orlop` on the underlay, with this server's kubeconfig and this standard input, whatever comes of it.
    pub fn try_orlop(&self, stage: &Stage, args: &[&str], input: &str) -> Result<Said> {
        let mut command = Command::new(program()?);
        command.env("KUBECONFIG", self.data.join("kubeconfig")).env("HOME", &self.data).env("LC_ALL", "C").args(args);
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
        // it may have ended by itself
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
