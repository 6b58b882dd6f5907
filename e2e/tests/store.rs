//! A server with its own store that is killed again and again: what it acknowledged is there.

use std::{
    collections::BTreeMap,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};
use client::Client;
use e2e::Server;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use tokio::sync::watch;

/// How often the server is killed.
const CRASHES: usize = 20;

/// How many write at once.
const WRITERS: usize = 8;

/// Writes acknowledged between two crashes, at least.
const WRITES: usize = 40;

/// What one writer knows.
#[derive(Default)]
struct Known {
    /// Acknowledged: the version of the object by its name; none when it was removed.
    certain: BTreeMap<String, Option<String>>,
    failed: usize,
}

/// How the story stands.
struct Shared {
    /// How often the server has been started again.
    starts: watch::Sender<usize>,
    over: AtomicBool,
    acknowledged: AtomicUsize,
}

#[test]
fn nothing_acknowledged_is_lost_in_twenty_crashes() -> Result<()> {
    let mut server = Server::start(&[])?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let client = runtime.block_on(client::kubeconfig::client(&server.kubeconfig(), None))?;
    let shared = Arc::new(Shared {
        starts: watch::Sender::new(0),
        over: AtomicBool::new(false),
        acknowledged: AtomicUsize::new(0),
    });
    let writers: Vec<_> =
        (0..WRITERS).map(|number| runtime.spawn(write(client.clone(), number, shared.clone()))).collect();
    for crash in 0..CRASHES {
        let enough = shared.acknowledged.load(Ordering::Acquire) + WRITES;
        server.until("there are more writes", |_| Ok(shared.acknowledged.load(Ordering::Acquire) >= enough))?;
        server.kill()?;
        server.resume().with_context(|| format!("start after crash {crash}"))?;
        shared.starts.send_modify(|starts| *starts += 1);
    }
    shared.over.store(true, Ordering::Release);
    shared.starts.send_modify(|starts| *starts += 1);
    let mut known = Known::default();
    for writer in writers {
        let its = runtime.block_on(writer).context("a writer panicked")?;
        known.certain.extend(its.certain);
        known.failed += its.failed;
    }
    server.kill()?;
    server.resume()?;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let list = runtime.block_on(api.list(&ListParams::default())).context("list what is there")?;
    let there: BTreeMap<_, _> = list.into_iter().map(|object| (object.name_any(), object.resource_version())).collect();
    for (name, version) in &known.certain {
        let found = there.get(name).cloned().flatten();
        ensure!(found == *version, "{name} was acknowledged at {version:?} and is at {found:?}");
    }
    ensure!(known.certain.len() > CRASHES * WRITES / 4, "only {} objects are known of", known.certain.len());
    ensure!(known.failed > 0, "no write was under way in any crash");
    Ok(())
}

/// Creates, changes and removes objects of its own until it is over. What came of a failed write is not known.
async fn write(client: Client, writer: usize, shared: Arc<Shared>) -> Known {
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut known = Known::default();
    let mut starts = shared.starts.subscribe();
    for number in 0.. {
        let before = *starts.borrow_and_update();
        if shared.over.load(Ordering::Acquire) {
            break;
        }
        let name = format!("note-{writer}-{number}");
        if step(&api, &name, number, &mut known, &shared.acknowledged).await.is_err() {
            known.certain.remove(&name);
            known.failed += 1;
            // the sender is in `shared`: it is there
            drop(starts.wait_for(|now| *now > before).await);
        }
    }
    known
}

/// Creates an object; changes every second, and removes every fourth.
async fn step(
    api: &Api<ConfigMap>,
    name: &str,
    number: usize,
    known: &mut Known,
    acknowledged: &AtomicUsize,
) -> kube::Result<()> {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.data = Some(BTreeMap::from([("text".to_owned(), "x".repeat(500))]));
    let mut object = api.create(&PostParams::default(), &object).await?;
    acknowledged.fetch_add(1, Ordering::AcqRel);
    known.certain.insert(name.to_owned(), object.resource_version());
    if number % 2 == 1 {
        object.data.get_or_insert_default().insert("changed".to_owned(), number.to_string());
        let changed = api.replace(name, &PostParams::default(), &object).await?;
        acknowledged.fetch_add(1, Ordering::AcqRel);
        known.certain.insert(name.to_owned(), changed.resource_version());
    }
    if number % 4 == 3 {
        api.delete(name, &DeleteParams::default()).await?;
        acknowledged.fetch_add(1, Ordering::AcqRel);
        known.certain.insert(name.to_owned(), None);
    }
    Ok(())
}
