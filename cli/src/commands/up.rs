//! `orlop up`: a whole cluster on this machine, from nothing to an answering service, and away again with Ctrl-C.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use client::{Caches, Change, Key};
use http::Method;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Node, Service},
};
use tokio::{signal, sync::mpsc};

use crate::{
    args::{Target, Up},
    commands::{
        apply,
        rollout::{Progress, progress},
    },
    manifest::{self, Document},
    rest::{JSON, Rest},
    up::{
        Cluster, Spec,
        forward::{self, Backends, node_ports},
    },
};

/// How long the API and the nodes may take to be ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Runs the verb.
pub async fn run(args: &Up, out: &mut impl Write) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("making nodes out of namespaces takes root: run `sudo orlop up`");
    }
    // whatever can be wrong with the files is said before anything is made
    let documents = if args.files.is_empty() { Vec::new() } else { manifest::read_all(&args.files, true)? };
    let _lock = lock(&args.data_dir)?;
    for archive in &args.load {
        super::image::load(&args.data_dir.join("images"), archive, out)?;
    }
    let mut interrupts = interrupts()?;
    let started = Instant::now();
    let mut cluster = Cluster::start(Spec {
        exe: std::env::current_exe().context("find this program")?,
        data_dir: std::path::absolute(&args.data_dir).context("resolve the data folder")?,
        nodes: args.nodes,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)),
        server_args: Vec::new(),
        agent_args: Vec::new(),
    })?;
    let is_up = tokio::select! {
        done = bring_up(&mut cluster, args, &documents, started, out) => done.map(|()| true)?,
        _ = interrupts.recv() => false,
    };
    if is_up && !args.once {
        interrupts.recv().await;
    }
    writeln!(out, "\nTaking the cluster down (its data stays in {})", args.data_dir.display()).context("print")?;
    // it takes a moment and has a deadline: a second Ctrl-C would only leave control groups behind
    tokio::task::spawn_blocking(move || cluster.stop()).await.context("take the cluster down")?
}

async fn bring_up(
    cluster: &mut Cluster,
    args: &Up,
    documents: &[Document],
    started: Instant,
    out: &mut impl Write,
) -> Result<()> {
    let kubeconfig = cluster.kubeconfig();
    let target = Target { kubeconfig: Some(kubeconfig.clone()), namespace: None };
    let rest = Rest::connect(&target).await?;
    wait_for_api(&rest).await?;
    say(out, started, &format!("API server ready at https://{}", cluster.address()?))?;
    cluster.start_nodes()?;
    let caches = Caches::new(rest.client());
    let log = |name: &str| cluster.kubeconfig().with_file_name(format!("{name}.log"));
    wait_for_nodes(&caches, args.nodes, started, out)
        .await
        .with_context(|| format!("see {} for what the first node says", log("node-1").display()))?;
    tokio::spawn(forward::run(caches.clone(), Backends::new(cluster.nodes())));
    for document in documents {
        let done = apply::apply(&rest, document, true, false).await.with_context(|| document.source.clone())?;
        say(out, started, &format!("{} {done}", document.title()))?;
    }
    let timeout = args.timeout;
    follow_rollout(&caches, documents, started, timeout, out).await?;
    print_next(&caches, documents, &kubeconfig, out).await
}

/// One line of progress, with the time since the start.
fn say(out: &mut impl Write, started: Instant, what: &str) -> Result<()> {
    writeln!(out, "{:>7.2} s  {what}", started.elapsed().as_secs_f64()).context("print")?;
    out.flush().context("print")
}

async fn wait_for_api(rest: &Rest) -> Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    loop {
        pause.tick().await;
        match rest.send(Method::GET, "/readyz", JSON, None).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error).context("wait for the API server"),
            Err(_) => {}
        }
    }
}

async fn wait_for_nodes(caches: &Caches, wanted: usize, started: Instant, out: &mut impl Write) -> Result<()> {
    let mut changes = caches.reader::<Node>().subscribe();
    let mut ready = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + READY_DEADLINE;
    while ready.len() < wanted {
        let change = tokio::time::timeout_at(deadline, changes.recv()).await;
        let Ok(Some(Change::Applied { new, .. })) = change else {
            bail!("only {} of {wanted} nodes are Ready after {READY_DEADLINE:?}", ready.len());
        };
        let name = new.metadata.name.clone().unwrap_or_default();
        if is_ready(&new) && ready.insert(name.clone(), ()).is_none() {
            say(out, started, &format!("node {name} Ready"))?;
        }
    }
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Tells each step of the Deployments in `documents`, and every warning, until all are rolled out.
async fn follow_rollout(
    caches: &Caches,
    documents: &[Document],
    started: Instant,
    timeout: Duration,
    out: &mut impl Write,
) -> Result<()> {
    let key = |d: &Document| Key::new(d.namespace.clone().unwrap_or_else(|| "default".into()), &d.name);
    let mut waiting: BTreeMap<Key, String> =
        documents.iter().filter(|d| d.kind.kind == "Deployment").map(|d| (key(d), String::new())).collect();
    let mut deployments = caches.reader::<Deployment>().subscribe();
    let mut events = caches.reader::<Event>().subscribe();
    let deadline = tokio::time::Instant::now() + timeout;
    while !waiting.is_empty() {
        tokio::select! {
            Some(change) = deployments.recv() => {
                let deployment = change.object();
                let Some(said) = waiting.get_mut(&Key::of(deployment.as_ref())) else { continue };
                let line = rollout_line(deployment);
                if *said != line {
                    say(out, started, &line)?;
                    *said = line;
                }
                match progress(deployment) {
                    Progress::Done => drop(waiting.remove(&Key::of(deployment.as_ref()))),
                    Progress::Failed(why) => bail!("{why}"),
                    Progress::Waiting(_) => {}
                }
            }
            Some(change) = events.recv() => {
                let event = change.object();
                if event.type_.as_deref() == Some("Warning") && matches!(change, Change::Applied { old: None, .. }) {
                    let about = event.involved_object.name.clone().unwrap_or_default();
                    let message = event.message.clone().unwrap_or_default();
                    say(out, started, &format!("warning: {about}: {message}"))?;
                }
            }
            () = tokio::time::sleep_until(deadline) => {
                let names: Vec<_> = waiting.keys().map(ToString::to_string).collect();
                bail!("not rolled out after {timeout:?}: {} (`orlop describe deployment/NAME` tells why)", names.join(", "));
            }
        }
    }
    Ok(())
}

fn rollout_line(deployment: &Deployment) -> String {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    format!("deployment/{name} {}/{wanted} ready", status.ready_replicas.unwrap_or(0))
}

async fn print_next(caches: &Caches, documents: &[Document], kubeconfig: &Path, out: &mut impl Write) -> Result<()> {
    let services = caches.reader::<Service>();
    services.synced().await;
    let named = documents.iter().filter(|d| d.kind.kind == "Service");
    let keys = named.map(|d| Key::new(d.namespace.clone().unwrap_or_else(|| "default".into()), &d.name));
    let ports: Vec<u16> = keys.filter_map(|k| services.get(&k)).flat_map(|s| node_ports(&s)).collect();
    writeln!(out).context("print")?;
    for port in ports {
        writeln!(out, "  open       http://127.0.0.1:{port}").context("print")?;
    }
    let shown = relative(kubeconfig);
    writeln!(out, "  kubeconfig {}", shown.display()).context("print")?;
    writeln!(out, "  next       orlop get pods -o wide").context("print")?;
    writeln!(out, "             KUBECONFIG={} kubectl get all", shown.display()).context("print")?;
    writeln!(out, "  stop       Ctrl-C").context("print")?;
    out.flush().context("print")
}

fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    here.and_then(|h| path.strip_prefix(h).ok().map(Path::to_owned)).unwrap_or_else(|| path.to_owned())
}

/// Ctrl-C and SIGTERM, each time.
fn interrupts() -> Result<mpsc::UnboundedReceiver<()>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal::unix::signal(signal::unix::SignalKind::interrupt()).context("watch for Ctrl-C")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send(()).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Only one cluster may live in a data folder.
fn lock(data_dir: &Path) -> Result<std::fs::File> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("make the data folder {}", data_dir.display()))?;
    let path = data_dir.join("up.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another `orlop up` uses {}: choose another folder with --data-dir", data_dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}
