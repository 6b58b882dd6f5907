//! GET below `/asof/`: the verbs that read, at a revision of the past.

use http::StatusCode;

use super::{get, list, subresource::scale, watch};
use crate::{
    ask::Ask,
    history,
    reply::{Answer, Response},
    target::Verb,
};

/// Answers a request for the past.
pub async fn answer(ask: &Ask) -> Answer<Response> {
    match (ask.verb, ask.target.subresource.as_deref().unwrap_or_default()) {
        (Verb::Get, "" | "status") => get::shown(ask, StatusCode::OK, &ask.item().await?.body),
        (Verb::Get, "scale") => scale::get(ask).await,
        (Verb::List, "") => list::list(ask).await,
        (Verb::Watch, "") => watch::past(ask).await,
        (verb, "") => Err(history::read_only(verb.word())),
        (_, subresource) => Err(history::read_only(subresource)),
    }
}
