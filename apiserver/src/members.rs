//! The members of the control plane: how another server joins, and what an administrator may ask about those there are.
//!
//! A server that joins is handed every key of the cluster: so it proves itself by a token of its own kind
//! (`<data-dir>/server-token`), which no node has.
//!
//! | request | answer |
//! |---|---|
//! | `POST /join/server` | the keys, and the new member of the store |
//! | `GET /members` | the members |
//! | `DELETE /members/ID` | the member is removed |
//! | `POST /members/ID/lead` | the member leads |

use std::{collections::BTreeMap, path::Path, sync::Arc};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::{Deserialize, Serialize};
use store::{Member, MemberId, Membership};

use crate::{
    authn, body,
    parts::Parts,
    pki,
    reply::{self, Answer, Response},
};

/// Where an administrator asks.
pub const ROOT: &str = "/members";

/// Where a server joins.
pub const JOIN: &str = "/join/server";

/// Files that every server of a cluster has, below `pki/`.
pub const KEYS: [&str; 7] =
    [pki::KEPT[0], pki::KEPT[1], pki::KEPT[2], pki::KEPT[3], pki::KEPT[4], pki::store::KEPT[0], pki::store::KEPT[1]];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wish {
    peer_urls: Vec<String>,
}

/// A member as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    /// As etcd's tools write it: hexadecimal.
    id: String,
    name: String,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
    learner: bool,
    leader: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Welcome {
    keys: BTreeMap<&'static str, String>,
    cluster: String,
    member: String,
    members: Vec<Shown>,
}

fn shown(members: Vec<Member>, leader: MemberId) -> Vec<Shown> {
    let show = |member: Member| Shown {
        id: format!("{:x}", member.id),
        leader: member.id == leader,
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        learner: member.learner,
    };
    members.into_iter().map(show).collect()
}

/// A change that makes no sense is the asker's mistake; all else is the store's.
fn failed(error: &store::Error) -> Box<Status> {
    match error {
        store::Error::Invalid { .. } => Box::new(api::status::bad_request(error.to_string())),
        _ => reply::store_failure(error),
    }
}

fn membership(parts: &Parts) -> Answer<&Arc<dyn Membership>> {
    parts.members.as_ref().ok_or_else(|| {
        let why = "this server keeps its state in an etcd cluster, which has members of its own";
        Box::new(api::status::failure(404, "NotFound", why))
    })
}

/// Answers a server that wants to join.
pub async fn join(parts: &Arc<Parts>, request: Request<Body>) -> Answer<Response> {
    if request.method() != Method::POST {
        return Err(Box::new(api::status::method_not_allowed(request.method().as_str())));
    }
    if !authn::same(authn::bearer(request.headers()).unwrap_or_default(), &parts.pki.server_secret) {
        return Err(Box::new(api::status::unauthorized()));
    }
    let store = membership(parts)?;
    let bytes = body::read(request.into_body()).await?;
    let bad = |text: String| -> Box<Status> { Box::new(api::status::bad_request(text)) };
    let wish: Wish =
        serde_json::from_slice(&bytes).map_err(|error| bad(format!("the join request cannot be decoded: {error}")))?;
    let keys = keys(&parts.pki.dir).map_err(|error| Box::new(api::status::internal(error)))?;
    let member = take_in(&**store, &wish.peer_urls).await.map_err(|e| failed(&e))?;
    let members = store.members(true).await.map_err(|e| failed(&e))?;
    let standing = store.standing();
    tracing::info!(member = format!("{:x}", member.id), urls = ?wish.peer_urls, "a server joins");
    let welcome = Welcome {
        keys,
        cluster: format!("{:x}", standing.cluster),
        member: format!("{:x}", member.id),
        members: shown(members, standing.leader),
    };
    Ok(reply::json(StatusCode::OK, &welcome))
}

/// Adds a member that is reached there. One that was added before and never started is the same server: it died before it had
/// stored the answer, or the answer was lost.
async fn take_in(store: &dyn Membership, peer_urls: &[String]) -> Result<Member, store::Error> {
    let never_started = |member: &Member| member.learner && member.name.is_empty() && member.peer_urls == peer_urls;
    match store.members(true).await?.into_iter().find(never_started) {
        Some(member) => Ok(member),
        None => store.add_member(peer_urls.to_vec(), true).await,
    }
}

fn keys(dir: &Path) -> Result<BTreeMap<&'static str, String>, pki::Error> {
    let read = |name: &'static str| {
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path);
        Ok((name, text.map_err(|source| pki::Error::File { operation: "read", path, source })?))
    };
    KEYS.into_iter().map(read).collect()
}

/// Answers an administrator. `rest` is the path behind [`ROOT`].
pub async fn answer(parts: &Parts, method: &Method, rest: &str) -> Answer<Response> {
    let store = membership(parts)?;
    let words: Vec<_> = rest.split('/').filter(|word| !word.is_empty()).collect();
    match (method, words.as_slice()) {
        (&Method::GET, []) => {}
        (&Method::DELETE, [id]) => store.remove_member(member(id)?).await.map_err(|e| failed(&e))?,
        (&Method::POST, [id, "lead"]) => store.move_leader(member(id)?).await.map_err(|e| failed(&e))?,
        _ => return Err(Box::new(api::status::method_not_allowed(method.as_str()))),
    }
    let members = store.members(true).await.map_err(|e| failed(&e))?;
    Ok(reply::json(StatusCode::OK, &shown(members, store.standing().leader)))
}

fn member(text: &str) -> Answer<MemberId> {
    MemberId::from_str_radix(text, 16)
        .map_err(|_| Box::new(api::status::bad_request(format!("{text:?} is no member's id: those are hexadecimal"))))
}
