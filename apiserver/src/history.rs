//! History: the API as it was, below `/asof/<revision or RFC 3339 time>`.
//!
//! The rest of such a path is what it always is, and so is who may read it: as of now. Only reads are served, from the store
//! at that revision, all kinds at the same one. An unmodified client is given the path as its server's address.

use api::moment::{API_VERSION, Moment, ROOT};
use http::{StatusCode, Uri, request, uri::PathAndQuery};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use percent_encoding::percent_decode_str;
use store::{Backend, Error, Revision};

use crate::{
    clock,
    parts::Parts,
    reply::{self, Answer, Response},
};

/// A moment of the past, as a path names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The revision.
    Revision(Revision),
    /// The time of day.
    Time(Timestamp),
}

impl Stamp {
    fn parse(text: &str) -> Answer<Self> {
        if let Ok(revision) = text.parse::<Revision>()
            && revision > 0
        {
            return Ok(Self::Revision(revision));
        }
        let why = || {
            let text = format!("{ROOT}{text}: expected a revision (1 or more) or a time such as 2006-01-02T15:04:05Z");
            Box::new(api::status::bad_request(text))
        };
        text.parse().map(Self::Time).map_err(|_| why())
    }
}

/// Takes the moment off the path of a request, when it names one.
pub fn enter(head: &mut request::Parts) -> Answer<Option<Stamp>> {
    let Some(inside) = head.uri.path().strip_prefix(ROOT) else { return Ok(None) };
    let (text, rest) = inside.find('/').map_or((inside, ""), |at| inside.split_at(at));
    let text = percent_decode_str(text).decode_utf8_lossy();
    let stamp = Stamp::parse(&text)?;
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let rest = if rest.is_empty() { "/" } else { rest };
    let rest: PathAndQuery = format!("{rest}{query}")
        .parse()
        .map_err(|_| Box::new(api::status::bad_request("what follows the moment is no path")))?;
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.path_and_query = Some(rest);
    head.uri = Uri::from_parts(uri).map_err(|error| Box::new(api::status::internal(error)))?;
    Ok(Some(stamp))
}

/// The revision that a moment means. 410 for what is no longer kept, 404 for what has not happened yet.
pub async fn resolve(backend: &dyn Backend, stamp: Stamp) -> Answer<Revision> {
    let revision = match stamp {
        Stamp::Revision(revision) => revision,
        Stamp::Time(time) => {
            if time > Timestamp::now() + clock::TICK {
                return Err(future(&format!("{time} is in the future")));
            }
            match clock::before(backend, time).await.map_err(|error| reply::store_failure(&error))? {
                Some(mark) => mark.revision,
                None => return Err(gone(backend, &format!("{time} is not")).await),
            }
        }
    };
    // whether it can be read, the store alone knows
    match clock::at(backend, revision).await {
        Ok(_) => Ok(revision),
        Err(Error::Compacted { .. }) => {
            let what = match stamp {
                Stamp::Revision(revision) => format!("revision {revision} is no longer"),
                Stamp::Time(time) => format!("{time} is no longer"),
            };
            Err(gone(backend, &what).await)
        }
        Err(Error::Future { asked, newest }) => {
            Err(future(&format!("revision {asked} has not happened yet: the newest is {newest}")))
        }
        Err(error) => Err(reply::store_failure(&error)),
    }
}

fn future(text: &str) -> Box<Status> {
    Box::new(api::status::failure(404, "NotFound", text))
}

/// 410 that says how far back one can look.
async fn gone(backend: &dyn Backend, what: &str) -> Box<Status> {
    let kept = match backend.status().await {
        Ok(status) => {
            let oldest = status.compacted.max(1);
            let since = clock::at(backend, oldest).await.ok().flatten();
            let since = since.map_or_else(String::new, |mark| format!(" (about {})", mark.time));
            format!(": the oldest that can be read is revision {oldest}{since}")
        }
        Err(_) => String::new(),
    };
    Box::new(api::status::expired(format!("{what} kept by the store{kept}")))
}

/// What the path of a moment itself says.
pub async fn tell(parts: &Parts, stamp: Stamp) -> Answer<Response> {
    let backend = &*parts.backend;
    let revision = resolve(backend, stamp).await?;
    let failed = |error: Error| reply::store_failure(&error);
    let status = backend.status().await.map_err(failed)?;
    let time = clock::at(backend, revision).await.map_err(failed)?.map(|mark| mark.time.to_string());
    let moment = Moment {
        api_version: API_VERSION.into(),
        kind: "Moment".into(),
        revision,
        time,
        oldest: status.compacted.max(1),
        newest: status.revision,
    };
    Ok(reply::json(StatusCode::OK, &moment))
}

/// 405: the past is only read.
pub fn read_only(verb: &str) -> Box<Status> {
    let mut status = api::status::method_not_allowed(verb);
    status.message = Some(format!("{verb} is not allowed below {ROOT}: the past can be read (get, list), not changed"));
    Box::new(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(uri: &str) -> Result<(Option<Stamp>, String), i32> {
        let (mut head, ()) = http::Request::builder().uri(uri).body(()).unwrap().into_parts();
        let stamp = enter(&mut head).map_err(|status| status.code.unwrap())?;
        Ok((stamp, head.uri.to_string()))
    }

    #[test]
    fn the_moment_is_taken_off_the_path() {
        assert_eq!(entered("/api/v1/pods?limit=5"), Ok((None, "/api/v1/pods?limit=5".into())));
        let pods = entered("/asof/17/api/v1/pods?limit=5");
        assert_eq!(pods, Ok((Some(Stamp::Revision(17)), "/api/v1/pods?limit=5".into())));
        let time = Stamp::Time("2026-01-02T03:04:05Z".parse().unwrap());
        assert_eq!(entered("/asof/2026-01-02T03%3A04:05Z/api"), Ok((Some(time), "/api".into())));
        assert_eq!(entered("https://x/asof/17"), Ok((Some(Stamp::Revision(17)), "https://x/".into())));
        for wrong in ["/asof/0/api", "/asof//api", "/asof/yesterday/api", "/asof/-1"] {
            assert_eq!(entered(wrong), Err(400), "{wrong}");
        }
    }
}
