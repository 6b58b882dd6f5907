//! Doors: the threads that clients of etcd's API are served by.
//!
//! Each accepts from the same listener and keeps the connections that it got: their reads, calls and answers run on it alone.
//! So nothing of a call is handed from thread to thread but what it asks of the store, which costs about a sixth less CPU time
//! than a shared pool of threads; and however many clients ask here, they leave the process the other cores.

use std::io;
use std::net::TcpListener;

use tokio::sync::oneshot;

use super::ServeError;

/// Most doors.
const MAX_DOORS: usize = 8;

/// How many there are: half as many as cores, so that the store and whatever else the process does has the others.
pub(super) fn count() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, MAX_DOORS)
}

/// What comes of a door: its end, or nothing when its thread panicked.
pub(super) type Ended = oneshot::Receiver<Result<(), ServeError>>;

/// Opens a door: a thread on which `serve` runs, with a listener of its own on the same socket, until it ends.
pub(super) fn open<S>(
    listener: &TcpListener,
    serve: impl FnOnce(tokio::net::TcpListener) -> S + Send + 'static,
) -> Result<Ended, ServeError>
where
    S: Future<Output = Result<(), ServeError>>,
{
    let listener = listener.try_clone().map_err(ServeError::Door)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Door)?;
    let (end, ended) = oneshot::channel();
    let run = move || {
        let served = runtime.block_on(async { serve(adopt(listener)?).await });
        // Whoever waited for it may have gone.
        drop(end.send(served));
    };
    std::thread::Builder::new().name("store-etcd".to_owned()).spawn(run).map_err(ServeError::Door)?;
    Ok(ended)
}

fn adopt(listener: TcpListener) -> Result<tokio::net::TcpListener, ServeError> {
    tokio::net::TcpListener::from_std(listener).map_err(ServeError::Door)
}

/// The end of a door.
pub(super) async fn end(ended: Ended) -> Result<(), ServeError> {
    let panicked = |_| ServeError::Door(io::Error::other("a thread panicked"));
    ended.await.map_err(panicked)?
}
