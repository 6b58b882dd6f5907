//! One machine of a rack: its process and its disk.

use std::{
    fs::File,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use cli::up::Host;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::cut::Cut;
use crate::stage::program;

/// Bytes of a machine's disk.
const DISK: usize = 64 << 20;

/// Lines of a log that are shown when a story fails.
const LAST_WORDS: usize = 40;

/// What is written to a disk at once until it is full, bytes: a page.
const PAGE: [u8; 4 << 10] = [0; 4 << 10];

/// One machine. Its server is killed when it is dropped.
pub struct Machine {
    name: String,
    address: Ipv4Addr,
    host: Host,
    disk: PathBuf,
    log: PathBuf,
    /// How it joins the others, where it does.
    joins: Vec<String>,
    process: Option<Child>,
    frozen: bool,
}

impl Machine {
    pub(super) fn new(name: &str, address: Ipv4Addr, host: Host, folder: &Path, joins: Vec<String>) -> Result<Self> {
        let (disk, log) = (folder.join(name), folder.join(format!("{name}.log")));
        std::fs::create_dir(&disk).context("make a folder for a disk")?;
        let size = format!("size={DISK}");
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).context("mount a disk")?;
        Ok(Self { name: name.to_owned(), address, host, disk, log, joins, process: None, frozen: false })
    }

    /// What its server is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, as the other machines and clients know it.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where other servers join it.
    pub fn url(&self) -> String {
        format!("https://{}:6443", self.address)
    }

    /// Where its server keeps everything.
    pub fn data(&self) -> PathBuf {
        self.disk.join("data")
    }

    /// Its administrator's credentials.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    pub(super) fn server_token(&self) -> Result<String> {
        std::fs::read_to_string(self.data().join("server-token")).context("read the servers' token")
    }

    /// Starts its server, on what an earlier one left. It is not waited for.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log).context("open a server's log")?;
        let mut command = Command::new(program()?);
        command
            .args(["--die-with-parent", "server", "--server-name", &self.name])
            .args(["--bind", &format!("{}:6443", self.address), "--data-dir"])
            .arg(self.data())
            .args(&self.joins)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log);
        self.process = Some(self.host.spawn(command)?);
        Ok(())
    }

    /// Its server runs, and is not frozen.
    pub fn runs(&self) -> bool {
        self.process.is_some() && !self.frozen
    }

    /// Whether its server has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else { return Ok(false) };
        let ended = process.try_wait().context("look at a server")?.is_some();
        if ended {
            self.process = None;
        }
        Ok(ended)
    }

    pub(super) fn start_if_ended(&mut self) -> Result<()> {
        if self.has_ended()? { self.start() } else { Ok(()) }
    }

    /// An error when its server has ended by itself.
    pub fn check_runs(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { bail!("server {} was not started", self.name) };
        match process.try_wait().context("look at a server")? {
            Some(status) => bail!("server {} ended with {status}:\n{}", self.name, self.last_words()),
            None => Ok(()),
        }
    }

    /// Kills its server, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        self.frozen = false;
        process.kill().context("kill a server")?;
        process.wait().context("wait for a server").map(drop)
    }

    /// Stops its server where it is: it does nothing, and its connections stay open.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        self.frozen = true;
        Ok(())
    }

    /// Lets it go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        self.frozen = false;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().with_context(|| format!("server {} does not run", self.name))?;
        let pid = Pid::from_raw(process.id().try_into().context("understand a process's id")?);
        kill(pid, signal).with_context(|| format!("send {signal} to server {}", self.name))
    }

    /// Has its packet filter drop this, and nothing else any more.
    pub fn cut(&self, cuts: &[Cut]) -> Result<()> {
        let rules = super::cut::rules(cuts);
        self.host.run(move || super::cut::load(&rules))?.with_context(|| format!("cut off server {}", self.name))
    }

    /// Takes all space that is left on its disk.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast()).context("make a file to fill a disk")?;
        loop {
            match ballast.write(&PAGE) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("fill a disk"),
            }
        }
    }

    /// Gives the space back.
    pub fn make_room(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("make room on a disk")
    }

    fn ballast(&self) -> PathBuf {
        self.disk.join("ballast")
    }

    /// Everything that its servers have said.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("read the log of server {}", self.name))
    }

    /// The end of that.
    pub fn last_words(&self) -> String {
        let log = self.log().unwrap_or_else(|error| error.to_string());
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // a story that failed has said why; what stays mounted goes with the thread
        drop(self.kill());
        umount2(&self.disk, MntFlags::MNT_DETACH).unwrap_or_default();
    }
}
