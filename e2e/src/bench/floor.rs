//! The floors of this machine: what the kernel itself takes for the steps that everything else is made of.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, ServerName},
};

use super::Figures;
use crate::stage::house;

/// How often each floor is measured.
const ROUNDS: usize = 50;

/// Requests over one TLS connection.
const REQUESTS: usize = 2_000;

/// Measures all floors.
pub fn run(figures: &mut Figures) -> Result<()> {
    figures.scenario("floor")?;
    figures.spread("fdatasync of 1 KiB appended", &mut fdatasync()?)?;
    figures.spread("clone + namespaces + overlay mount + exec + exit, static", &mut start_static()?)?;
    figures.spread("network namespace with a veth pair", &mut network()?)?;
    figures.spread("request over loopback TLS, 2 KiB answer", &mut tls()?)
}

fn timed(rounds: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<Vec<Duration>> {
    (0..rounds)
        .map(|round| {
            let started = Instant::now();
            work(round)?;
            Ok(started.elapsed())
        })
        .collect()
}

fn fdatasync() -> Result<Vec<Duration>> {
    let mut file = tempfile::tempfile_in(house().join("target")).context("make a file")?;
    timed(ROUNDS * 4, |_| {
        file.write_all(&[7; 1024]).context("write")?;
        file.sync_data().context("sync")
    })
}

/// What a container's start cannot do without.
fn start_static() -> Result<Vec<Duration>> {
    let folder = tempfile::tempdir_in(house().join("target")).context("make a folder")?;
    let target = house().join("target/static");
    let triple = std::fs::read_dir(&target).context("find the static test application")?;
    let built = triple.flatten().map(|e| e.path().join("testapp/testapp")).find(|p| p.exists());
    let lower = folder.path().join("lower");
    std::fs::create_dir(&lower).context("make a folder")?;
    std::fs::copy(built.context("the static test application is not built: run ./test")?, lower.join("testapp"))
        .context("copy the test application")?;
    timed(ROUNDS, |round| {
        let folder = folder.path().join(round.to_string());
        let lower = lower.clone();
        let thread = std::thread::spawn(move || -> Result<()> {
            let root = folder.join("root");
            for name in ["root", "upper", "work"] {
                std::fs::create_dir_all(folder.join(name)).context("make a folder")?;
            }
            let own = CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWUTS;
            unshare(own).context("make namespaces")?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
            let (lower, upper, work) = (lower.display(), folder.join("upper"), folder.join("work"));
            let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
            mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                .context("mount")?;
            let status = Command::new(root.join("testapp")).args(["exit", "0"]).stdin(Stdio::null()).status();
            ensure!(status.context("start the test application")?.success(), "the test application failed");
            Ok(())
        });
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

fn network() -> Result<Vec<Duration>> {
    use cli::up::{Host, Isolation};
    let underlay = Host::new("floor", Isolation::Network)?;
    underlay.run(|| netd::underlay::lay([10, 99, 0, 1].into()))??;
    timed(ROUNDS, |round| {
        let node = Host::new("floor-node", Isolation::Network)?;
        let network = node.network().try_clone_to_owned().context("share a network")?;
        let cable = format!("floor{round}");
        underlay.run(move || netd::underlay::plug(&cable, std::os::fd::AsFd::as_fd(&network)))??;
        Ok(())
    })
}

fn tls() -> Result<Vec<Duration>> {
    let key = rcgen::KeyPair::generate().context("make a key")?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).context("name a certificate")?;
    let certificate = certificate.self_signed(&key).context("sign a certificate")?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).context("trust a certificate")?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow!(e)).context("use a key")?;
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .context("set up TLS")?;
    let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let address = listener.local_addr().context("read an address")?;
    let serving = std::thread::spawn(move || serve(&listener, Arc::new(server)));
    let name = ServerName::try_from("localhost").context("name the server")?;
    let socket = TcpStream::connect(address).context("connect")?;
    socket.set_nodelay(true).context("set up a socket")?;
    let mut stream = StreamOwned::new(ClientConnection::new(client, name).context("speak TLS")?, socket);
    let mut answer = [0; 2048];
    let durations = timed(REQUESTS, |_| {
        stream.write_all(&[1; 200]).context("ask")?;
        stream.read_exact(&mut answer).context("read the answer")
    });
    drop(stream);
    serving.join().map_err(|_| anyhow!("the server panicked"))?;
    durations
}

/// Answers each 200 bytes with 2 KiB, until the client goes.
fn serve(listener: &TcpListener, config: Arc<ServerConfig>) {
    let Ok((socket, _)) = listener.accept() else { return };
    let Ok(connection) = ServerConnection::new(config) else { return };
    drop(socket.set_nodelay(true));
    let mut stream = StreamOwned::new(connection, socket);
    let mut request = [0; 200];
    while stream.read_exact(&mut request).is_ok() && stream.write_all(&[2; 2048]).is_ok() {}
}
