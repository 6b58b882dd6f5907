//! A server and its nodes, each on a host of its own, wired to one underlay.

use std::{
    fs::File,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroups,
    host::{Host, Isolation},
};

/// The server's address on the underlay.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// The port of the API.
pub const API_PORT: u16 = 6443;

/// The last byte of the first node's address.
const FIRST_NODE: u8 = 11;

/// More nodes than this do not fit the underlay's addresses.
pub const MAX_NODES: usize = 200;

/// How long a server may take to write its credentials.
const CREDENTIALS_DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks for a file that a child is about to write.
const FILE_POLL: Duration = Duration::from_millis(2);

/// How long to wait for a killed host's processes to be gone.
const GONE_DEADLINE: Duration = Duration::from_secs(10);

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The `orlop` program.
    pub exe: PathBuf,
    /// Everything that is written goes below it.
    pub data_dir: PathBuf,
    /// How many nodes.
    pub nodes: usize,
    /// Where this machine reaches the API.
    pub listen: SocketAddr,
    /// Further words for every `orlop server`.
    pub server_args: Vec<String>,
    /// Further words for every `orlop agent`.
    pub agent_args: Vec<String>,
}

/// A running cluster. Dropping it takes all of it down.
pub struct Cluster {
    spec: Spec,
    underlay: Host,
    listener: TcpListener,
    server: Option<Child>,
    nodes: Vec<Node>,
    cgroup: String,
}

/// One node.
pub struct Node {
    /// Its name in the API.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    host: Arc<Host>,
    init: Option<Child>,
}

impl Cluster {
    /// Makes the underlay and starts the server. Returns once the server has written its credentials.
    pub fn start(spec: Spec) -> Result<Self> {
        let mut cluster = Self::lay(spec)?;
        cluster.start_server()?;
        Ok(cluster)
    }

    /// Makes the underlay; the server is to be started.
    pub fn lay(spec: Spec) -> Result<Self> {
        if spec.nodes > MAX_NODES {
            bail!("--nodes {} is more than the {MAX_NODES} that one machine's underlay has addresses for", spec.nodes);
        }
        std::fs::create_dir_all(&spec.data_dir)
            .with_context(|| format!("make the data folder {}", spec.data_dir.display()))?;
        let listener = TcpListener::bind(spec.listen).with_context(|| {
            format!("listen on {} (is another cluster running? choose another port with --port)", spec.listen)
        })?;
        let cgroup = cgroup_name(&spec.data_dir)?;
        // what a killed run left behind, and is still dying
        cgroups::remove_when_empty(&cgroup, GONE_DEADLINE)?;
        cgroups::make(&cgroup)?;
        let underlay = Host::new("underlay", Isolation::Network)?;
        underlay.run(|| netd::underlay::lay(SERVER))??;
        Ok(Self { spec, underlay, listener, server: None, nodes: Vec::new(), cgroup })
    }

    /// Starts all nodes.
    pub fn start_nodes(&mut self) -> Result<()> {
        for index in 0..self.spec.nodes {
            let node = self.make_node(index)?;
            self.nodes.push(node);
        }
        Ok(())
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The host on which the server runs.
    pub fn underlay(&self) -> &Host {
        &self.underlay
    }

    /// Where this machine reaches the API.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("read the API's address")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.spec.data_dir.join("kubeconfig")
    }

    /// The name of the control group that everything of the cluster is below, in every hierarchy.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The folder that all nodes share their images in.
    pub fn images(&self) -> PathBuf {
        self.spec.data_dir.join("images")
    }

    /// Process ids of the server and of each node's first process, where they run.
    pub fn pids(&self) -> (Option<u32>, Vec<Option<u32>>) {
        let nodes = self.nodes.iter().map(|n| n.init.as_ref().map(Child::id)).collect();
        (self.server.as_ref().map(Child::id), nodes)
    }

    /// Starts the server; it must not run.
    pub fn start_server(&mut self) -> Result<()> {
        let token = self.spec.data_dir.join("token");
        let listener: OwnedFd = self.listener.try_clone().context("hand over the API's socket")?.into();
        let mut command = Command::new(&self.spec.exe);
        command
            .args(["--die-with-parent", "server", "--listen-stdin"])
            .args(["--advertise-address".to_owned(), SERVER.to_string()])
            .args(["--bind".to_owned(), SocketAddr::from((SERVER, API_PORT)).to_string()])
            .args(["--external-address".to_owned(), self.address()?.to_string()])
            .arg("--data-dir")
            .arg(&self.spec.data_dir)
            .args(&self.spec.server_args)
            .stdin(Stdio::from(listener));
        self.log_to(&mut command, "server.log")?;
        // the server writes it last: one from before says nothing of this start
        match std::fs::remove_file(&token) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", token.display()));
            }
            Ok(()) | Err(_) => {}
        }
        let mut server = self.underlay.spawn(command)?;
        let ready = wait_for_file(&token, &mut server);
        self.server = Some(server);
        ready.with_context(|| format!("start the server (its log is {})", self.log("server.log").display()))
    }

    /// Kills the server, as a crash would.
    pub fn kill_server(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), end)
    }

    /// Cuts a node's power.
    pub fn power_off(&mut self, index: usize) -> Result<()> {
        self.nodes[index].init.take().map_or(Ok(()), end)?;
        // its network namespace would keep the far end for as long as anybody holds it
        let cable = cable_name(index);
        self.underlay.run(move || netd::underlay::unplug(&cable))??;
        Ok(())
    }

    /// Gives a node its power back: the same disk and name, nothing running.
    pub fn power_on(&mut self, index: usize) -> Result<()> {
        self.power_off(index)?;
        cgroups::remove_when_empty(&self.node_cgroup(index), GONE_DEADLINE)?;
        self.nodes[index] = self.make_node(index)?;
        Ok(())
    }

    /// Pulls a node's network cable out, or puts it back.
    pub fn cable(&self, index: usize, connected: bool) -> Result<()> {
        let cable = cable_name(index);
        self.underlay.run(move || netd::underlay::connect(&cable, connected))??;
        Ok(())
    }

    fn make_node(&self, index: usize) -> Result<Node> {
        let name = format!("node-{}", index + 1);
        let last = u8::try_from(index).context("number a node")? + FIRST_NODE;
        let [a, b, c, _] = SERVER.octets();
        let address = Ipv4Addr::new(a, b, c, last);
        let host = Host::new(&name, Isolation::Machine)?;
        self.wire(index, &host, address)?;
        let init = host.spawn(self.agent_command(index, &name, address)?)?;
        Ok(Node { name, address, host: Arc::new(host), init: Some(init) })
    }

    fn wire(&self, index: usize, host: &Host, address: Ipv4Addr) -> Result<()> {
        let cable = cable_name(index);
        let network = host.network().try_clone_to_owned().context("share a host's network")?;
        self.underlay.run(move || netd::underlay::plug(&cable, std::os::fd::AsFd::as_fd(&network)))??;
        host.run(move || netd::underlay::configure(address, SERVER))??;
        Ok(())
    }

    fn agent_command(&self, index: usize, name: &str, address: Ipv4Addr) -> Result<Command> {
        let token = std::fs::read_to_string(self.spec.data_dir.join("token")).context("read the join token")?;
        cgroups::make(&self.node_cgroup(index))?;
        let mut command = Command::new(&self.spec.exe);
        command
            .args(["node-init", "--", "agent"])
            .args(["--server".to_owned(), format!("https://{SERVER}:{API_PORT}")])
            .args(["--token", token.trim(), "--node-name", name])
            .args(["--node-ip".to_owned(), address.to_string()])
            .args(["--cgroup-root".to_owned(), self.node_cgroup(index)])
            .arg("--image-dir")
            .arg(self.images())
            .arg("--data-dir")
            .arg(self.spec.data_dir.join(name))
            .args(&self.spec.agent_args)
            .stdin(Stdio::null());
        self.log_to(&mut command, &format!("{name}.log"))?;
        Ok(command)
    }

    fn node_cgroup(&self, index: usize) -> String {
        format!("{}/node-{}", self.cgroup, index + 1)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.spec.data_dir.join(name)
    }

    fn log_to(&self, command: &mut Command, name: &str) -> Result<()> {
        let path = self.log(name);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open the log {}", path.display()))?;
        command.stdout(log.try_clone().context("share a log")?).stderr(log);
        Ok(())
    }

    /// Takes everything down. Goes on after a failed step and reports the first.
    pub fn stop(&mut self) -> Result<()> {
        let mut ends: Vec<Result<()>> = self.nodes.iter_mut().filter_map(|n| n.init.take()).map(end).collect();
        ends.extend(self.server.take().map(end));
        self.nodes.clear();
        ends.push(cgroups::remove_when_empty(&self.cgroup, GONE_DEADLINE));
        ends.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!("{error:#}");
        }
    }
}

impl Node {
    /// The host it lives on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A share of the host it lives on.
    pub fn shared_host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    /// Its first process, in this machine's numbering.
    pub fn init_pid(&self) -> Option<u32> {
        self.init.as_ref().map(Child::id)
    }
}

fn end(mut child: Child) -> Result<()> {
    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGKILL).with_context(|| format!("kill process {pid}"))?;
    child.wait().with_context(|| format!("wait for process {pid}"))?;
    Ok(())
}

fn cable_name(index: usize) -> String {
    format!("cable{}", index + 1)
}

/// A name for the control groups of the cluster in this folder: the same at every start.
fn cgroup_name(data_dir: &Path) -> Result<String> {
    let path = data_dir.canonicalize().with_context(|| format!("resolve {}", data_dir.display()))?;
    // FNV-1a: only has to keep two folders apart
    let hash = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    Ok(format!("orlop-{:08x}", hash >> 32))
}

fn wait_for_file(path: &Path, child: &mut Child) -> Result<()> {
    let deadline = Instant::now() + CREDENTIALS_DEADLINE;
    while !path.exists() {
        if let Some(status) = child.try_wait().context("look after the server")? {
            bail!("the server ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("the server has not written {} within {CREDENTIALS_DEADLINE:?}", path.display());
        }
        std::thread::park_timeout(FILE_POLL);
    }
    Ok(())
}
