//! GET on a collection: a snapshot, or a page of one revision.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Status};
use serde::{Deserialize, Serialize};
use store::{Range, Revision};

use crate::{
    ask::Ask,
    cache::Filter,
    item::Item,
    negotiate::{self, Form},
    parts,
    query::{ListOptions, Match},
    reply::{self, Answer, Response},
    storage,
    table::{self, Include},
};

/// Bytes that a list hands to the connection at once.
const SLICE: usize = 64 << 10;

/// Entries read from the store at once for a page of the past.
const PAGE: usize = 500;

/// Where a list goes on (upstream's `continueToken`).
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    /// The revision of the first page; -1 for whatever is there now.
    rv: i64,
    /// The id after which the next page begins.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// What a list found.
pub struct Found {
    /// The objects, in the order of their ids.
    pub items: Vec<Arc<Item>>,
    revision: Revision,
    continues: String,
    remaining: Option<u64>,
}

/// The list in the form that the client accepts.
pub async fn list(ask: &Ask) -> Answer<Response> {
    let found = select(ask).await?;
    shown(ask, &found)
}

/// The objects that the query chooses.
pub async fn select(ask: &Ask) -> Answer<Found> {
    let options = ListOptions::new(&ask.query, false)?;
    let filter = Filter::new(&*ask.entry, ask.target.namespace.as_deref(), &options.labels, &options.fields)?;
    if !options.continues.is_empty() {
        return carry_on(ask, &options, &filter).await;
    }
    if let Some(revision) = ask.at {
        return past(ask, &options, &filter, revision, String::new()).await;
    }
    let exact = options.matching == Some(Match::Exact)
        || (options.matching.is_none() && options.limit > 0 && options.revision.is_some_and(|rv| rv > 0));
    match options.revision {
        Some(revision) if exact => {
            ask.parts.cache.reach(revision).await.map_err(|late| reply::late(&late))?;
            return past(ask, &options, &filter, revision, String::new()).await;
        }
        Some(0) => {}
        Some(revision) => ask.parts.cache.reach(revision).await.map_err(|late| reply::late(&late))?,
        None => ask.fresh().await?,
    }
    Ok(present(ask, &options, &filter, ""))
}

/// From the cache, the objects whose id comes after `after`.
fn present(ask: &Ask, options: &ListOptions, filter: &Filter, after: &str) -> Found {
    let entry = &*ask.entry;
    if let Some(id) = filter.id(ask.kind()) {
        let applied = ask.parts.cache.applied();
        let items = ask.cache.get(&id).into_iter().filter(|item| filter.matches(entry, item)).collect();
        return Found { items, revision: applied, continues: String::new(), remaining: None };
    }
    let snapshot = ask.cache.snapshot(ask.parts.cache.applied());
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let namespace = filter.namespace.as_deref();
    let mut candidates = snapshot.within(namespace).filter(|item| &*item.id > after);
    let items: Vec<_> =
        candidates.by_ref().filter(|item| filter.matches(entry, item)).take(limit).map(Arc::clone).collect();
    let mut found = Found { items, revision: snapshot.revision, continues: String::new(), remaining: None };
    if found.items.len() == limit {
        let rest = if filter.is_namespace_only() {
            candidates.count()
        } else {
            candidates.filter(|item| filter.matches(entry, item)).take(1).count()
        };
        if rest > 0 {
            found.remaining = filter.is_namespace_only().then_some(rest as u64);
            found.continues = token(snapshot.revision, found.items.last());
        }
    }
    found
}

fn token(revision: Revision, last: Option<&Arc<Item>>) -> String {
    let start = last.map(|item| item.id.to_string()).unwrap_or_default();
    let rv = i64::try_from(revision).unwrap_or(-1);
    let token = Token { v: TOKEN_VERSION.into(), rv, start };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

async fn carry_on(ask: &Ask, options: &ListOptions, filter: &Filter) -> Answer<Found> {
    if options.revision.is_some_and(|rv| rv > 0) {
        let text = "specifying resource version is not allowed when using continue";
        return Err(Box::new(api::status::bad_request(text)));
    }
    let bad = || Box::new(api::status::bad_request("continue key is not valid: it was not made by this server"));
    let text = options.continues.trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    if token.v != TOKEN_VERSION {
        return Err(bad());
    }
    match Revision::try_from(token.rv) {
        Ok(revision) if revision > 0 => past(ask, options, filter, revision, token.start).await,
        _ => {
            ask.fresh().await?;
            Ok(present(ask, options, filter, &token.start))
        }
    }
}

/// From the store, as of a revision that may be gone.
pub async fn past(
    ask: &Ask,
    options: &ListOptions,
    filter: &Filter,
    revision: Revision,
    after: String,
) -> Answer<Found> {
    let prefix = storage::prefix(ask.kind());
    let scope = filter.namespace.as_ref().filter(|_| ask.kind().namespaced()).map(|ns| format!("{ns}/"));
    let mut range = Range { revision, limit: PAGE, ..Range::prefix(format!("{prefix}{}", scope.unwrap_or_default())) };
    if !after.is_empty() {
        range.start = format!("{prefix}{after}\0").into();
    }
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let mut found = Found { items: Vec::new(), revision, continues: String::new(), remaining: None };
    loop {
        let page = ask.parts.backend.range(range.clone()).await.map_err(|error| outdated(&error, &after, options))?;
        for entry in &page.entries {
            let id = std::str::from_utf8(&entry.key[prefix.len()..]).unwrap_or_default();
            let Some(item) = Item::new(&ask.cache.opening, id.into(), entry) else { continue };
            if !filter.matches(&*ask.entry, &item) {
                continue;
            }
            if found.items.len() == limit {
                if filter.is_namespace_only() {
                    let rest = Range { start: entry.key.clone(), count_only: true, ..range };
                    let counted = ask.parts.backend.range(rest).await;
                    found.remaining = Some(counted.map_err(|error| outdated(&error, &after, options))?.count);
                }
                found.continues = token(revision, found.items.last());
                return Ok(found);
            }
            found.items.push(Arc::new(item));
        }
        match page.entries.last().filter(|_| page.more) {
            Some(last) => range.start = [&last.key[..], &[0]].concat().into(),
            None => return Ok(found),
        }
    }
}

/// 410, with a token that goes on from there as things are now.
fn outdated(error: &store::Error, after: &str, options: &ListOptions) -> Box<Status> {
    if options.continues.is_empty() || !matches!(error, store::Error::Compacted { .. }) {
        return reply::store_failure(error);
    }
    let token = Token { v: TOKEN_VERSION.into(), rv: -1, start: after.to_owned() };
    let continues = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default());
    let mut status = api::status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
         deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.metadata = ListMeta { continue_: Some(continues), ..ListMeta::default() };
    Box::new(status)
}

/// A list in the form that the client accepts.
pub fn shown(ask: &Ask, found: &Found) -> Answer<Response> {
    let form = negotiate::form(&ask.headers, true)?;
    let revision = found.revision.to_string();
    let (continues, remaining) = (found.continues.as_str(), found.remaining);
    if let Form::Table(version) = form {
        let include = Include::parse(ask.query.get("includeObject"))?;
        let mut table = table::Writer::new(&*ask.entry, version, include, parts::now());
        found.items.iter().for_each(|item| table.row(&item.body));
        return Ok(reply::json_bytes(StatusCode::OK, table.finish(&revision, continues, remaining)));
    }
    let meta = table::list_meta(&revision, continues, remaining);
    let (kind, api_version) = match form {
        Form::Metadata(version) => ("PartialObjectMetadata".to_owned(), format!("meta.k8s.io/{version}")),
        Form::Plain | Form::Table(_) => (ask.kind().kind.to_owned(), ask.kind().api_version()),
    };
    let head = format!("{{\"kind\":\"{kind}List\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":[");
    let bodies = found.items.iter().map(|item| match form {
        Form::Metadata(version) => table::metadata_only(&item.body, version),
        Form::Plain | Form::Table(_) => item.body.clone(),
    });
    let slices = Slices::new(head.into(), bodies.collect());
    let mut response = http::Response::new(Body::new(slices));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(reply::JSON));
    Ok(response)
}

/// A body that is put together from the objects' own bytes as the connection takes it.
struct Slices {
    parts: VecDeque<Bytes>,
    first: bool,
    head: Option<Bytes>,
    left: u64,
}

impl Slices {
    fn new(head: Bytes, parts: VecDeque<Bytes>) -> Self {
        let commas = parts.len().saturating_sub(1);
        let left = (head.len() + commas + parts.iter().map(Bytes::len).sum::<usize>() + b"]}".len()) as u64;
        Self { parts, first: true, head: Some(head), left }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut slice = Vec::with_capacity(SLICE.min(usize::try_from(self.left).unwrap_or(SLICE)) + 1024);
        if let Some(head) = self.head.take() {
            slice.extend_from_slice(&head);
        }
        while slice.len() < SLICE {
            let Some(part) = self.parts.pop_front() else {
                slice.extend_from_slice(b"]}");
                break;
            };
            if !std::mem::take(&mut self.first) {
                slice.push(b',');
            }
            slice.extend_from_slice(&part);
        }
        self.left -= slice.len() as u64;
        Some(slice.into())
    }
}

impl http_body::Body for Slices {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.next().map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_as_long_as_they_say() {
        for count in [0_usize, 1, 2, 1_000] {
            let parts = (0..count).map(|i| Bytes::from(format!("{{\"n\":\"{}\"}}", "x".repeat(i)))).collect();
            let mut slices = Slices::new(Bytes::from_static(b"{\"items\":["), parts);
            let said = usize::try_from(slices.left).unwrap();
            let mut whole = Vec::new();
            while let Some(slice) = slices.next() {
                assert!(slice.len() < SLICE + 2_048);
                whole.extend_from_slice(&slice);
            }
            assert_eq!(whole.len(), said);
            let value: serde_json::Value = serde_json::from_slice(&whole).unwrap();
            assert_eq!(value.get("items").and_then(|i| i.as_array()).unwrap().len(), count);
        }
    }
}
