//! Backups: everything that the store holds, and the keys without which nobody would trust what is restored from it.
//!
//! `GET /backup` streams one (the format is `store::backup`'s); who may read that path may do everything. It is secret: it
//! holds Secrets, and the authority's key.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

use axum::body::Body;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, header};
use store::backup::Source;

use crate::{
    parts::{self, Parts},
    pki::{self, KEPT},
    reply::Response,
    storage,
};

pub mod schedule;

/// Entries read at once from a store elsewhere.
const PAGE: usize = 500;

/// Where everything of a store that is only ours begins, and where it ends.
const EVERYTHING: Bytes = Bytes::from_static(&[0]);

/// How backups that the server makes by itself are going.
#[derive(Default)]
pub struct Record {
    /// When the last was made, seconds since 1970; 0 for never.
    made: AtomicI64,
    /// How many could not be made.
    failed: AtomicU64,
}

impl Record {
    /// The gauges and counters of `/metrics`.
    pub fn metrics(&self) -> String {
        format!(
            "# TYPE orlop_backup_last_success_timestamp_seconds gauge\norlop_backup_last_success_timestamp_seconds {}\n\
             # TYPE orlop_backup_failures_total counter\norlop_backup_failures_total {}\n",
            self.made.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed)
        )
    }
}

/// A backup as of now, made as it is taken.
pub fn stream(parts: &Parts) -> impl Stream<Item = Result<Bytes, store::Error>> + Send + use<> {
    // the embedded store is all the API's; an etcd cluster may hold the keys of others
    let ours = parts.members.is_some();
    let (start, end) = match ours {
        true => (Bytes::new(), EVERYTHING),
        false => (storage::ROOT.into(), store::kv::prefix_end(storage::ROOT.as_bytes())),
    };
    store::backup::stream(Source {
        backend: std::sync::Arc::clone(&parts.backend),
        start,
        end,
        page: if ours { 0 } else { PAGE },
        attachments: parts.pki.kept.clone(),
        time: parts::now().as_second(),
    })
}

/// A backup as an answer.
pub fn answer(parts: &Parts) -> Response {
    let mut response = http::Response::new(Body::from_stream(stream(parts)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Why keys cannot be put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backup lacks one.
    #[error("the backup has no {0}: it is none of a whole cluster")]
    Missing(&'static str),
    /// There are others.
    #[error("{0} is there already, and is not the backup's: restore into an empty folder")]
    Other(std::path::PathBuf),
    /// They cannot be written.
    #[error(transparent)]
    Pki(#[from] pki::Error),
}

/// Puts the keys of a backup into `dir` (`<data-dir>/pki`), so that nodes and kubeconfigs go on being trusted. What else the
/// backup holds is not written anywhere.
pub fn put_back(dir: &Path, attachments: &BTreeMap<String, Bytes>) -> Result<(), Error> {
    let mut files = Vec::new();
    for name in KEPT {
        let content = attachments.get(name).and_then(|content| std::str::from_utf8(content).ok());
        let (path, content) = (dir.join(name), content.ok_or(Error::Missing(name))?);
        match fs::read_to_string(&path) {
            Ok(other) if other != content => return Err(Error::Other(path)),
            Ok(_) => {}
            Err(_) => files.push((path, content)),
        }
    }
    fs::create_dir_all(dir).map_err(|source| pki::Error::File { operation: "create", path: dir.into(), source })?;
    files.into_iter().try_for_each(|(path, content)| pki::write(&path, content)).map_err(Error::Pki)
}
