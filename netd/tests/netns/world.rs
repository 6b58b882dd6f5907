//! Nodes that are network namespaces on one underlay, all inside a network and mount namespace of the test's own.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use client::Caches;
use k8s_openapi::api::core::v1::Node as NodeObject;
use netd::{Attachment, Config, HostPort, Netd, PodId, dns::Listeners, underlay};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// The underlay's bridge.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 254);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a packet may take.
const REACH: Duration = Duration::from_secs(3);

/// Runs the test whose `body` this is in a process of its own that has its own network and mount namespace; all that it makes
/// dies with it.
pub fn isolated<F: FnOnce(&mut World)>(body: F) {
    /// Names the file by which a process tells that it is the one inside.
    const INSIDE: &str = "NETD_TEST_INSIDE";
    if let Some(ran) = std::env::var_os(INSIDE) {
        std::fs::write(ran, "").unwrap();
        let mut world = World::new();
        return body(&mut world);
    }
    // a closure is named after the function that it stands in
    let test = std::any::type_name::<F>().split_once("::").unwrap().1.trim_end_matches("::{{closure}}");
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let interfaces = || std::fs::read_dir("/sys/class/net").unwrap().count();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let before = (interfaces(), mounts());
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, &ran)
        .status()
        .expect("unshare (util-linux) is needed, and root");
    assert!(status.success(), "{test} failed; its output is above");
    assert!(ran.exists(), "no test is called {test}");
    assert_eq!((interfaces(), mounts()), before, "the host is as it was");
}

/// Changes the API, and waits until the nodes have applied that.
pub fn change(nodes: &[&Node], work: impl FnOnce()) {
    let before: Vec<_> = nodes.iter().map(|node| node.applied()).collect();
    work();
    for (node, before) in nodes.iter().zip(before) {
        eventually("the change is applied", || node.applied() > before);
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still not so after {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A network namespace.
pub struct Place {
    file: File,
}

impl Place {
    pub fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self { file: std::thread::spawn(make).join().unwrap() }
    }

    pub fn open(path: &Path) -> Self {
        Self { file: File::open(path).unwrap() }
    }

    /// Runs `work` on a thread that is here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// What a program that runs here prints. It must succeed.
    pub fn command(&self, words: &str) -> String {
        let mut words = words.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        let output = self.run(|| command.args(words).output().unwrap());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Starts to answer on this port: to TCP with `name`, who asked, and how much was sent; to UDP with `name` and who asked.
    pub fn serve(&self, name: &str, port: u16) {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let (tcp, udp) = self.run(|| (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap()));
        let (tcp_name, udp_name) = (name.to_owned(), name.to_owned());
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let (mut stream, name) = (stream.unwrap(), tcp_name.clone());
                std::thread::spawn(move || {
                    let mut sent = Vec::new();
                    let peer = stream.peer_addr().unwrap().ip();
                    if stream.read_to_end(&mut sent).is_ok() {
                        // the client may be gone
                        drop(write!(stream, "{name} {peer} {}", sent.len()));
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut bytes) {
                udp.send_to(format!("{udp_name} {}", peer.ip()).as_bytes(), peer).unwrap();
            }
        });
    }

    /// Sends so many bytes over TCP and returns the answer.
    pub fn send(&self, to: &str, bytes: usize) -> io::Result<String> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, REACH)?;
            stream.set_read_timeout(Some(REACH))?;
            stream.write_all(&vec![7; bytes])?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// The name of who answers over TCP, and whom they think they talk to.
    pub fn ask(&self, to: &str) -> (String, String) {
        let answer = self.send(to, 1).unwrap_or_else(|error| panic!("{to}: {error}"));
        let words: Vec<&str> = answer.split(' ').collect();
        (words[0].to_owned(), words[1].to_owned())
    }

    /// Everybody who answers within many connections.
    pub fn ask_often(&self, to: &str) -> HashSet<String> {
        (0..40).map(|_| self.ask(to).0).collect()
    }

    /// Whether a connection is refused at once, instead of running into a timeout.
    pub fn refused(&self, to: &str) -> bool {
        self.send(to, 1).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// A UDP socket here.
    pub fn udp(&self) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    }
}

/// The answer to one datagram, if there is any.
pub fn ask_udp(socket: &UdpSocket, to: &str) -> Option<String> {
    let mut bytes = [0; 64];
    socket.send_to(b"?", to).ok()?;
    let length = socket.recv(&mut bytes).ok()?;
    String::from_utf8_lossy(&bytes[..length]).split(' ').next().map(ToOwned::to_owned)
}

/// A machine with netd.
pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    pub place: Place,
    pub data_dir: PathBuf,
    pub netd: Option<Arc<Netd>>,
    handle: Handle,
    shutdown: CancellationToken,
    _end: mpsc::Sender<()>,
}

impl Node {
    /// Runs a future on the node's own threads.
    pub fn call<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.handle.spawn(async move { done.send(work.await).unwrap() });
        result.recv().unwrap()
    }

    pub fn attach(&self, name: &str, host_ports: &[HostPort]) -> (Attachment, Place) {
        let pod = PodId { namespace: "default".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") };
        let (netd, host_ports) = (Arc::clone(self.netd.as_ref().unwrap()), host_ports.to_vec());
        let attachment = self.call(async move { netd.attach(&pod, &host_ports).await }).unwrap();
        let place = Place::open(&attachment.netns);
        (attachment, place)
    }

    pub fn detach(&self, name: &str) {
        let (netd, uid) = (Arc::clone(self.netd.as_ref().unwrap()), format!("uid-{name}"));
        self.call(async move { netd.detach(&uid).await }).unwrap();
    }

    /// Stops netd as a crash would: nothing is taken down.
    pub fn stop(&mut self) {
        self.shutdown.cancel();
        drop(self.netd.take());
    }

    pub fn applied(&self) -> u64 {
        *self.netd.as_ref().unwrap().applied().borrow()
    }
}

/// The address of an attachment.
pub fn address(attachment: &Attachment) -> Ipv4Addr {
    match attachment.addresses[..] {
        [IpAddr::V4(address)] => address,
        _ => panic!("one IPv4 address: {attachment:?}"),
    }
}

/// A machine on the underlay.
pub fn machine(number: u8) -> (Place, Ipv4Addr) {
    let (place, address) = (Place::new(), Ipv4Addr::new(192, 168, 7, number));
    underlay::plug(&format!("cable{number}"), place.file.as_fd()).unwrap();
    place.run(|| underlay::configure(address, GATEWAY)).unwrap();
    (place, address)
}

pub struct World {
    pub api: Arc<Api>,
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        underlay::lay(GATEWAY).unwrap();
        Self { api: Api::new(), directory: tempfile::tempdir().unwrap() }
    }

    /// A node, known to the API, that runs netd.
    pub fn node(&self, number: u8, upstream: &[SocketAddr]) -> Node {
        let (place, address) = machine(number);
        let name = format!("n{number}");
        let (ready, handle) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let file = place.file.try_clone().unwrap();
        std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            ready.send(runtime.handle().clone()).unwrap();
            ended.recv().unwrap_err();
        });
        self.api.apply(&node_object(&name, &format!("10.42.{number}.0/24"), address));
        let mut node = Node {
            data_dir: self.directory.path().join(&name),
            name,
            address,
            place,
            netd: None,
            handle: handle.recv().unwrap(),
            shutdown: CancellationToken::new(),
            _end: end,
        };
        self.start(&mut node, upstream);
        node
    }

    /// Starts netd on a node, and waits until it has applied what the API says.
    pub fn start(&self, node: &mut Node, upstream: &[SocketAddr]) {
        let config = Config {
            node: node.name.clone(),
            data_dir: node.data_dir.clone(),
            address: node.address,
            device: None,
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            dns_address: "10.43.0.10".parse().unwrap(),
            domain: "cluster.local".to_owned(),
            upstream: upstream.to_vec(),
        };
        node.shutdown = CancellationToken::new();
        let (api, shutdown) = (Arc::clone(&self.api), node.shutdown.clone());
        let start = async move {
            let caches: Caches = api.caches();
            let listeners = Listeners::open(SocketAddrV4::new(config.dns_address, netd::DNS_PORT))?;
            let netd = Netd::start(config, listeners, &caches, shutdown).await?;
            netd.applied().wait_for(|generation| *generation > 0).await.unwrap();
            Ok::<_, netd::Error>(netd)
        };
        node.netd = Some(node.call(start).unwrap());
    }
}

pub fn node_object(name: &str, cidr: &str, address: Ipv4Addr) -> NodeObject {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
        "status": { "addresses": [{ "type": "InternalIP", "address": address.to_string() }] },
    }))
    .unwrap()
}
