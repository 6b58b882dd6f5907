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

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::members::{Welcome, Wish};
use axum::body::Body;
use http::{Method, Request, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use store::{Member, MemberId, Membership};

use crate::{
    authn, body,
    parts::Parts,
    pki, presence,
    reply::{self, Answer, Response},
};

/// How long a server that joins waits for its turn: less than it waits for an answer.
const TURN_WITHIN: Duration = Duration::from_secs(3);

/// Between two tries.
const TURN_AGAIN: Duration = Duration::from_millis(50);

/// Files that every server of a cluster has, below `pki/`.
pub const KEYS: [&str; 7] =
    [pki::KEPT[0], pki::KEPT[1], pki::KEPT[2], pki::KEPT[3], pki::KEPT[4], pki::store::KEPT[0], pki::store::KEPT[1]];

/// The members as they are told of, as of now.
async fn told(parts: &Parts, store: &dyn Membership) -> Answer<Vec<api::members::Member>> {
    let members = store.members(true).await.map_err(|error| failed(&error, store))?;
    parts.cache.fresh().await.map_err(|late| reply::late(&late))?;
    Ok(shown(parts, store, members))
}

fn shown(parts: &Parts, store: &dyn Membership, members: Vec<Member>) -> Vec<api::members::Member> {
    let (leader, serving) = (store.standing().leader, presence::members(parts));
    let tell = |member: Member| {
        let id = format!("{:x}", member.id);
        api::members::Member {
            ready: serving.contains(&id),
            id,
            leader: member.id == leader,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            learner: member.learner,
        }
    };
    members.into_iter().map(tell).collect()
}

/// What makes no sense is the asker's mistake; what a leader refuses is so as the members are now; all else is the store's.
fn failed(error: &store::Error, store: &dyn Membership) -> Box<Status> {
    match error {
        store::Error::Invalid { .. } => Box::new(api::status::bad_request(error.to_string())),
        store::Error::Unavailable { operation, why } if store.standing().leader != 0 => {
            Box::new(api::status::failure(409, "Conflict", format!("cannot {operation}: {why}")))
        }
        _ => reply::store_failure(error),
    }
}

fn membership(parts: &Parts) -> Answer<&Arc<dyn Membership>> {
    parts.members.as_ref().ok_or_else(|| {
        let why = "this server keeps its state in an etcd cluster, which has members of its own";
        Box::new(api::status::failure(404, "NotFound", why))
    })
}

/// What becomes of a server that asks to join.
#[derive(Debug, PartialEq, Eq)]
enum Joining {
    /// It becomes another member.
    New,
    /// It was added before and has never started: it asks again.
    Again(MemberId),
    /// Another is where it says that it is, or it was one before.
    Taken(String),
}

/// Decides by where it says that it will be reached.
fn joining(members: &[Member], urls: &[String]) -> Joining {
    match members.iter().find(|member| member.peer_urls.iter().any(|url| urls.contains(url))) {
        None => Joining::New,
        Some(member) if member.learner && member.name.is_empty() => Joining::Again(member.id),
        Some(Member { id, name, peer_urls, .. }) => Joining::Taken(format!(
            "member {id:x} ({name}) is at {} already: if that server lost its folder, remove it first \
             (`orlop server remove {id:x}`), and join again",
            peer_urls.join(",")
        )),
    }
}

/// Answers a server that wants to join.
pub async fn join(parts: &Arc<Parts>, request: Request<Body>) -> Answer<Response> {
    if request.method() != Method::POST {
        return Err(Box::new(api::status::method_not_allowed(request.method().as_str())));
    }
    if !authn::same(authn::bearer(request.headers()).unwrap_or_default(), &parts.pki.server_secret) {
        return Err(Box::new(api::status::unauthorized()));
    }
    let store = &**membership(parts)?;
    let bytes = body::read(request.into_body()).await?;
    let bad = |text: String| -> Box<Status> { Box::new(api::status::bad_request(text)) };
    let wish: Wish =
        serde_json::from_slice(&bytes).map_err(|error| bad(format!("the join request cannot be decoded: {error}")))?;
    let keys = keys(&parts.pki).map_err(|error| Box::new(api::status::internal(error)))?;
    let member = admit(store, &wish.peer_urls).await?;
    tracing::info!(member = format!("{member:x}"), urls = ?wish.peer_urls, "a server joins");
    let welcome = Welcome {
        keys,
        cluster: format!("{:x}", store.standing().cluster),
        member: format!("{member:x}"),
        members: told(parts, store).await?,
    };
    Ok(reply::json(StatusCode::OK, &welcome))
}

/// The member that a server becomes. The members change one after the other: one that comes during another change waits.
async fn admit(store: &dyn Membership, urls: &[String]) -> Answer<MemberId> {
    let deadline = Instant::now() + TURN_WITHIN;
    loop {
        let present = store.members(true).await.map_err(|error| failed(&error, store))?;
        match joining(&present, urls) {
            Joining::Again(id) => return Ok(id),
            Joining::Taken(why) => return Err(Box::new(api::status::failure(409, "Conflict", why))),
            Joining::New => {}
        }
        match store.add_member(urls.to_vec(), true).await {
            Ok(member) => return Ok(member.id),
            // a learner takes nothing from anybody: it is refused for no other reason
            Err(store::Error::Unavailable { .. }) if Instant::now() < deadline => tokio::time::sleep(TURN_AGAIN).await,
            Err(error) => return Err(failed(&error, store)),
        }
    }
}

fn keys(pki: &pki::Pki) -> Result<BTreeMap<String, String>, pki::Error> {
    Ok(pki.kept.iter().cloned().chain(pki::store::read(&pki.dir)?).collect())
}

/// Answers an administrator. `rest` is the path behind [`api::members::ROOT`].
pub async fn answer(parts: &Parts, method: &Method, rest: &str) -> Answer<Response> {
    let store = &**membership(parts)?;
    let words: Vec<_> = rest.split('/').filter(|word| !word.is_empty()).collect();
    match (method, words.as_slice()) {
        (&Method::GET, []) => {}
        (&Method::DELETE, [id]) => {
            let id = member(id)?;
            store.remove_member(id).await.map_err(|error| failed(&error, store))?;
            if id == store.standing().member {
                // nobody confirms anything to this one any more
                let left = store.members(false).await.map_err(|error| failed(&error, store))?;
                let left = left.into_iter().filter(|member| member.id != id).collect();
                return Ok(reply::json(StatusCode::OK, &shown(parts, store, left)));
            }
            presence::end(parts, &format!("{id:x}")).await;
        }
        (&Method::POST, [id, "lead"]) => store.move_leader(member(id)?).await.map_err(|error| failed(&error, store))?,
        _ => return Err(Box::new(api::status::method_not_allowed(method.as_str()))),
    }
    Ok(reply::json(StatusCode::OK, &told(parts, store).await?))
}

fn member(text: &str) -> Answer<MemberId> {
    MemberId::from_str_radix(text, 16)
        .map_err(|_| Box::new(api::status::bad_request(format!("{text:?} is no member's id: those are hexadecimal"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_that_never_started_is_the_same_member_and_one_that_lost_its_folder_is_told_what_to_do() {
        let at = |port: u16| vec![format!("https://10.0.0.1:{port}")];
        let member = |id, name: &str, learner| Member {
            id,
            name: name.to_owned(),
            peer_urls: at(id.try_into().unwrap()),
            learner,
            ..Member::default()
        };
        let members = [member(1, "a", false), member(2, "", true), member(3, "c", true)];
        assert_eq!(joining(&members, &at(4)), Joining::New);
        assert_eq!(joining(&members, &at(2)), Joining::Again(2));
        for lost in [1, 3] {
            let Joining::Taken(why) = joining(&members, &at(lost)) else { panic!("member {lost} was not seen") };
            assert!(why.contains(&format!("orlop server remove {lost}")), "{why}");
        }
    }
}
