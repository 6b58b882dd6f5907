//! `orlop server`: store, API server, scheduler and controllers in one process.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::AsFd,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use apiserver::{User, backup::schedule::Schedule};
use client::Caches;
use store::{Backend, Embedded, Etcd, EtcdTls, Membership};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args::{self, Server};

mod member;

use member::Fatal;

/// Who the scheduler and the controllers are to the API.
const SCHEDULER: &str = "system:kube-scheduler";
const CONTROLLERS: &str = "system:kube-controller-manager";

/// How long etcd keeps history that nobody asked for: upstream's `etcd-compaction-interval`. Its disk has a quota.
const ETCD_HISTORY: std::time::Duration = std::time::Duration::from_secs(300);

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: Server) -> Result<()> {
    let shutdown = until_terminated()?;
    let advertise = advertise(&args)?;
    let listeners = listeners(&args).await?;
    let external = args.external_address.unwrap_or(advertise);
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("make the data folder {}", args.data_dir.display()))?;
    let opened = if args.etcd.etcd_servers.is_empty() { Some(member::open(&args, advertise).await?) } else { None };
    let embedded = opened.as_ref().map(|opened| Arc::clone(&opened.store));
    let store: Arc<dyn Backend> = match &embedded {
        Some(store) => Arc::clone(store) as Arc<dyn Backend>,
        None => Arc::new(connect_etcd(&args.etcd).await?),
    };
    let server = apiserver::Server::open(apiserver::Config {
        data_dir: args.data_dir.clone(),
        store,
        members: embedded.clone().map(|store| store as Arc<dyn Membership>),
        history: embedded.is_none().then(|| args.history.unwrap_or(ETCD_HISTORY)),
        advertise: vec![advertise],
        names: args.tls_sans.clone(),
        signing_duration: args.cluster_signing_duration,
        url: format!("https://{external}"),
    })
    .context("open the API server")?;
    apiserver::pki::write(&args.data_dir.join("token"), &server.join_token()).context("write the join token")?;
    apiserver::pki::write(&args.data_dir.join("server-token"), &server.server_token())
        .context("write the servers' token")?;
    let server = Arc::new(server);
    let fatal = Fatal::default();
    let mut components = match opened {
        Some(opened) => opened.start(&args.data_dir, &fatal, &shutdown)?,
        None => Vec::new(),
    };
    components.push(tokio::spawn(lead(Arc::clone(&server), embedded.clone(), components_of(&args)?, shutdown.clone())));
    components.extend(start_backups(&server, &args, &shutdown));
    server.serve(listeners, shutdown.clone()).await;
    for component in components {
        component.await.context("a component panicked")?;
    }
    if let Some(store) = embedded {
        store.close().await;
    }
    fatal.result()
}

/// A token that is cancelled by the first SIGTERM or Ctrl-C.
pub fn until_terminated() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}

/// The address that nodes and pods reach this server at.
fn advertise(args: &Server) -> Result<SocketAddr> {
    if let Some(ip) = args.advertise_address {
        return Ok(SocketAddr::new(ip, args.bind.port()));
    }
    if !args.bind.ip().is_unspecified() {
        return Ok(args.bind);
    }
    // the address that a packet to anywhere would leave from; nothing is sent
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    let anywhere = (std::net::Ipv4Addr::new(192, 0, 2, 1), 9);
    let found = socket.connect(anywhere).and_then(|()| socket.local_addr());
    let found = found.context("this host has no route: say its address with --advertise-address")?;
    Ok(SocketAddr::new(found.ip(), args.bind.port()))
}

async fn listeners(args: &Server) -> Result<Vec<TcpListener>> {
    let bound = TcpListener::bind(args.bind)
        .await
        .with_context(|| format!("listen on {} (is another server running? --bind chooses another port)", args.bind))?;
    let mut all = vec![bound];
    if args.listen_stdin {
        let handed = std::io::stdin().as_fd().try_clone_to_owned().context("take the handed socket")?;
        let handed = StdListener::from(handed);
        handed.set_nonblocking(true).context("use the handed socket")?;
        all.push(TcpListener::from_std(handed).context("use the handed socket")?);
    }
    Ok(all)
}

/// The etcd cluster that the command line names.
pub async fn connect_etcd(args: &args::Etcd) -> Result<Etcd> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let tls = match (&args.etcd_cafile, &args.etcd_certfile, &args.etcd_keyfile) {
        (None, None, None) => None,
        (Some(ca), Some(cert), Some(key)) => Some(EtcdTls { ca: read(ca)?, cert: read(cert)?, key: read(key)? }),
        _ => bail!("--etcd-cafile, --etcd-certfile and --etcd-keyfile go together"),
    };
    Etcd::connect(&args.etcd_servers, tls)
        .await
        .with_context(|| format!("connect to etcd at {}", args.etcd_servers.join(", ")))
}

/// How the controllers are to run.
fn components_of(args: &Server) -> Result<controllers::Config> {
    let ca_path = args.data_dir.join("pki/ca.crt");
    let ca = std::fs::read_to_string(&ca_path).with_context(|| format!("read {}", ca_path.display()))?;
    let grace = std::time::Duration::from_secs(args.node_monitor_grace);
    Ok(controllers::Config { node_monitor_grace: grace, ..controllers::Config::new(ca) })
}

/// Runs the scheduler and the controllers while this server's store leads: so they run once, next to the newest state, and a
/// server that is cut off from the others cannot write what its controllers decide. On an etcd cluster they run always.
async fn lead(
    server: Arc<apiserver::Server>,
    store: Option<Arc<Embedded>>,
    config: controllers::Config,
    shutdown: CancellationToken,
) {
    let client = |user: &str| {
        let service = server.local(User::new(user, &["system:masters"]));
        client::local::client(service, axum::body::Body::new)
    };
    // they stay over a loss of the lead: who leads again finds them filled
    let controlling = Caches::new(client(CONTROLLERS));
    let scheduling = controlling.acting_as(client(SCHEDULER));
    let run = |term: &CancellationToken| {
        run_components(controlling.clone(), scheduling.clone(), config.clone(), term.clone())
    };
    let Some(store) = store else { return run(&shutdown).await };
    let mut standings = store.standings();
    let leads = |standing: &store::Standing| standing.leader == standing.member;
    while let Some(true) = shutdown.run_until_cancelled(async { standings.wait_for(leads).await.is_ok() }).await {
        let term = shutdown.child_token();
        let ousted = async {
            // an error is the store's end, which ends the server too
            drop(term.run_until_cancelled(standings.wait_for(|standing| !leads(standing))).await);
            term.cancel();
        };
        tokio::join!(run(&term), ousted);
    }
}

/// The scheduler and the controllers, each an ordinary client whose requests are function calls.
async fn run_components(
    controlling: Caches,
    scheduling: Caches,
    config: controllers::Config,
    shutdown: CancellationToken,
) {
    let controllers = tokio::spawn(controllers::run(controlling, config, shutdown.clone()));
    if let Err(error) = scheduler::run(scheduling, scheduler::Config::default(), shutdown).await {
        tracing::error!("the scheduler ended: {:#}", anyhow::Error::from(error));
    }
    if let Err(error) = controllers.await {
        tracing::error!(%error, "the controllers ended");
    }
}

/// Backups on a schedule, where the command line asks for them.
fn start_backups(
    server: &Arc<apiserver::Server>,
    args: &Server,
    shutdown: &CancellationToken,
) -> Option<tokio::task::JoinHandle<()>> {
    let dir = args.backup_dir.clone()?;
    let schedule = Schedule { dir, every: args.backup_every, keep: args.backup_keep.into() };
    let (server, shutdown) = (Arc::clone(server), shutdown.clone());
    Some(tokio::spawn(async move { server.back_up(schedule, shutdown).await }))
}
