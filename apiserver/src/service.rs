//! The service: one request from its head to its answer. Authenticate, find the target, authorize, hand to the verb.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::json;

use crate::{
    ask::Ask,
    authn,
    authz::{self, Attributes},
    backup, body, bootstrap, connect,
    discovery::version,
    handlers::{
        create, delete, get, list, past, patch, replace, review,
        subresource::{binding, eviction, finalize, scale, token},
        transaction, watch,
    },
    history::{self, Stamp},
    join, members,
    parts::{self, Parts},
    presence,
    query::Query,
    reply::{self, Answer, Response},
    target::{Target, Verb},
    user::User,
    write::{Door, OnLease},
};

/// Longest time for a request that is neither a watch nor a stream (upstream's `request-timeout`).
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What health is told in.
const TEXT: &str = "text/plain; charset=utf-8";

/// The API, as a `tower` service: every request comes from this user, or from whoever its token says.
#[derive(Clone)]
pub struct Local {
    parts: Arc<Parts>,
    user: Option<Arc<User>>,
}

impl Local {
    /// The service for one connection, or for one component of this process.
    pub(crate) fn new(parts: Arc<Parts>, user: Option<Arc<User>>) -> Self {
        Self { parts, user }
    }
}

impl tower::Service<Request<Body>> for Local {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (parts, user) = (Arc::clone(&self.parts), self.user.clone());
        Box::pin(async move { Ok(reply::either(answer(parts, user, request).await)) })
    }
}

async fn answer(parts: Arc<Parts>, connection: Option<Arc<User>>, request: Request<Body>) -> Answer<Response> {
    if request.uri().path() == "/join" {
        return join::join(&parts, connection.as_deref(), request).await;
    }
    if request.uri().path() == api::members::JOIN {
        return members::join(&parts, request).await;
    }
    let now = parts::now().as_second();
    let (mut head, body) = request.into_parts();
    // a token ends with what it is bound to: whoever was told of the deletion must not see it hold
    if head.headers.contains_key(axum::http::header::AUTHORIZATION) {
        parts.cache.fresh().await.map_err(|late| reply::late(&late))?;
    }
    let user = authn::user(connection.as_ref(), &head.headers, &parts.tokens, &parts.cache, now)?;
    let user = impersonate(&parts, user, &head.headers).await?;
    let moment = history::enter(&mut head)?;
    match (Target::parse(head.uri.path()), moment) {
        (Some(target), _) => resource(parts, user, target, moment, Request::from_parts(head, body)).await,
        (None, Some(moment)) if head.uri.path() == "/" => {
            allow(&parts, &user, &Attributes { verb: "get", path: "/asof", ..Attributes::default() }).await?;
            history::tell(&parts, moment).await
        }
        // these are of now alone
        (None, Some(_)) if matches!(head.uri.path(), "/backup" | "/metrics") => Err(nowhere()),
        (None, _) => path(&parts, &user, &head).await,
    }
}

/// A no is only said when everything that was acknowledged before is known: the pod or role that allows it may be new.
pub async fn allow(parts: &Parts, user: &User, what: &Attributes<'_>) -> Answer<()> {
    if parts.authz.decide(&parts.cache, user, what).allowed() {
        return Ok(());
    }
    parts.cache.fresh().await.map_err(|late| reply::late(&late))?;
    match parts.authz.decide(&parts.cache, user, what) {
        authz::Decision::Allow(_) => Ok(()),
        authz::Decision::Deny(why) => Err(authz::forbidden(user, what, &why)),
    }
}

/// Who is meant by the impersonation headers, if the caller may speak for them.
async fn impersonate(parts: &Parts, user: Arc<User>, headers: &HeaderMap) -> Answer<Arc<User>> {
    let Some(meant) = review::impersonated(headers) else { return Ok(user) };
    let ask = |resource, name, namespace| Attributes {
        verb: "impersonate",
        resource,
        name,
        namespace,
        ..Attributes::default()
    };
    match meant.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => allow(parts, &user, &ask("serviceaccounts", name, namespace)).await?,
        None => allow(parts, &user, &ask("users", &meant.name, "")).await?,
    }
    for group in headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()) {
        allow(parts, &user, &ask("groups", group, "")).await?;
    }
    Ok(Arc::new(meant))
}

/// Everything that is not a resource.
async fn path(parts: &Parts, user: &User, head: &http::request::Parts) -> Answer<Response> {
    let path = head.uri.path();
    let verb = head.method.as_str().to_ascii_lowercase();
    let verb = if verb == "head" { "get" } else { &verb };
    allow(parts, user, &Attributes { verb, path, ..Attributes::default() }).await?;
    if let Some(rest) = path.strip_prefix(api::members::ROOT) {
        return members::answer(parts, &head.method, rest).await;
    }
    if verb != "get" {
        return Err(Box::new(api::status::method_not_allowed(verb)));
    }
    let verbose = Query::parse(head.uri.query().unwrap_or_default()).flag("verbose");
    match path {
        "/healthz" | "/livez" => Ok(health(path, verbose, &[])),
        "/readyz" => Ok(health(
            path,
            verbose,
            &[
                ("watch-cache", parts.cache.ready()),
                ("poststarthook/bootstrap", parts.bootstrapped.load(Ordering::Acquire)),
            ],
        )),
        "/version" | "/version/" => Ok(reply::json(StatusCode::OK, &version::info())),
        "/metrics" => Ok(bootstrap::metrics(parts)),
        "/backup" => Ok(backup::answer(parts)),
        _ => match parts.discovery.find(path, &head.headers, || presence::servers(parts)) {
            Some(answer) => answer,
            None => Err(nowhere()),
        },
    }
}

/// Nobody can define kinds of their own. kubectl asks for definitions before it calls a kind unknown
/// (`QueryParamVerifier.HasSupport`), and would report that it could not ask instead.
fn no_definitions() -> Response {
    reply::json(
        StatusCode::OK,
        &json!({
            "kind": "CustomResourceDefinitionList",
            "apiVersion": "apiextensions.k8s.io/v1",
            "metadata": {"resourceVersion": "1"},
            "items": [],
        }),
    )
}

fn nowhere() -> Box<Status> {
    Box::new(api::status::failure(404, "NotFound", "the server could not find the requested resource"))
}

/// All checks hold, as Kubernetes' servers say it.
fn health(path: &str, verbose: bool, checks: &[(&str, bool)]) -> Response {
    let healthy = checks.iter().all(|(_, holds)| *holds);
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if healthy && !verbose {
        return reply::typed(code, TEXT, "ok".to_owned());
    }
    let mut text = String::from("[+]ping ok\n");
    for (name, holds) in checks {
        let (mark, word) = if *holds { ('+', "ok") } else { ('-', "not ready") };
        text.push_str(&format!("[{mark}]{name} {word}\n"));
    }
    let (name, end) = (path.trim_start_matches('/'), if healthy { "passed" } else { "failed" });
    text.push_str(&format!("{name} check {end}\n"));
    reply::typed(code, TEXT, text)
}

async fn resource(
    parts: Arc<Parts>,
    user: Arc<User>,
    target: Target,
    moment: Option<Stamp>,
    request: Request<Body>,
) -> Answer<Response> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let sub = target.subresource.as_deref().unwrap_or_default();
    let mut verb = Verb::of(request.method(), target.name.is_some(), query.flag("watch"))
        .ok_or_else(|| Box::new(api::status::method_not_allowed(request.method().as_str())))?;
    if sub == "exec" {
        verb = Verb::Create;
    }
    let named = query.get("fieldSelector").strip_prefix("metadata.name=").filter(|name| !name.contains(','));
    let name = target.name.as_deref().or(named.filter(|_| verb.is_read())).unwrap_or_default();
    if transaction::is(&target) {
        return together(parts, user, verb, moment, query, request).await;
    }
    let what = Attributes { fields: query.get("fieldSelector"), ..target.attributes(verb, name) };
    allow(&parts, &user, &what).await?;
    if let Some(review) = review::find(&target) {
        if verb != Verb::Create {
            return Err(Box::new(api::status::method_not_allowed(verb.word())));
        }
        let (head, body) = request.into_parts();
        let bytes = body::read(body).await?;
        // who asks whether something is allowed may have just allowed it
        parts.cache.fresh().await.map_err(|late| reply::late(&late))?;
        return review.answer(&parts, &user, &target, &head.headers, &bytes);
    }
    if verb == Verb::List && target.group == "apiextensions.k8s.io" && target.resource == "customresourcedefinitions" {
        return Ok(no_definitions());
    }
    let entry = parts.registry.find(&target.group, &target.version, &target.resource).ok_or_else(nowhere)?;
    let kind = entry.kind();
    let served = sub.is_empty() || kind.subresources.iter().any(|s| s.name() == sub);
    if !served || (target.namespace.is_some() && !kind.namespaced()) {
        return Err(nowhere());
    }
    if target.name.is_some() && kind.namespaced() && target.namespace.is_none() {
        return Err(nowhere());
    }
    let entry = Arc::clone(entry);
    let cache = Arc::clone(parts.cache.kind(kind).ok_or_else(nowhere)?);
    let headers = request.headers().clone();
    let lease = request.extensions().get::<OnLease>().map(|on| on.0);
    let at = match moment {
        Some(_) if !verb.is_read() => return Err(history::read_only(verb.word())),
        Some(moment) => Some(history::resolve(&*parts.backend, moment).await?),
        None => None,
    };
    let ask = Ask { parts, user, verb, target, entry, cache, query, headers, at, lease };
    dispatch(ask, request).await
}

/// Several operations at once: each is authorized by itself, so that whoever may do them one by one may do them together.
async fn together(
    parts: Arc<Parts>,
    user: Arc<User>,
    verb: Verb,
    moment: Option<Stamp>,
    query: Query,
    request: Request<Body>,
) -> Answer<Response> {
    if moment.is_some() {
        return Err(history::read_only(verb.word()));
    }
    if verb != Verb::Create {
        return Err(Box::new(api::status::method_not_allowed(verb.word())));
    }
    let (head, body) = request.into_parts();
    let bytes = body::read(body).await?;
    let call = transaction::Call { parts, user, query, headers: head.headers };
    let answer = tokio::time::timeout(ANSWER_WITHIN, transaction::create(call, &bytes)).await;
    answer.unwrap_or_else(|_| Err(too_long()))
}

async fn dispatch(ask: Ask, request: Request<Body>) -> Answer<Response> {
    if ask.at.is_some() {
        let answer = tokio::time::timeout(ANSWER_WITHIN, past::answer(&ask)).await;
        return answer.unwrap_or_else(|_| Err(too_long()));
    }
    match (ask.verb, ask.target.subresource.as_deref().unwrap_or_default()) {
        (Verb::Watch, "") => watch::watch(&ask).await,
        (Verb::Get, "log") => connect::log(&ask).await,
        (_, "exec") => connect::exec(&ask, upgradable(request)).await,
        _ => match tokio::time::timeout(ANSWER_WITHIN, brief(ask, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(too_long()),
        },
    }
}

fn too_long() -> Box<Status> {
    Box::new(api::status::failure(504, "Timeout", "the request did not finish in time"))
}

/// The request with the means to take over its connection.
fn upgradable(mut request: Request<Body>) -> Request<Body> {
    if request.extensions().get::<hyper::upgrade::OnUpgrade>().is_none() {
        let upgrade = hyper::upgrade::on(&mut request);
        request.extensions_mut().insert(upgrade);
    }
    request
}

/// Requests that end by themselves.
async fn brief(ask: Ask, request: Request<Body>) -> Answer<Response> {
    let bytes = if ask.verb.is_read() { bytes::Bytes::new() } else { body::read(request.into_body()).await? };
    let sub = ask.target.subresource.clone().unwrap_or_default();
    match (ask.verb, sub.as_str()) {
        (Verb::Get, "" | "status") => get::get(&ask).await,
        (Verb::List, "") => list::list(&ask).await,
        (Verb::Create, "") => create::create(&ask, &bytes).await,
        (Verb::Update, "") => replace::replace(&ask, &bytes, Door::Main).await,
        (Verb::Update, "status") => replace::replace(&ask, &bytes, Door::Status).await,
        (Verb::Patch, "") => patch::patch(&ask, &bytes, Door::Main).await,
        (Verb::Patch, "status") => patch::patch(&ask, &bytes, Door::Status).await,
        (Verb::Delete, "") => delete::delete(&ask, &bytes).await,
        (Verb::DeleteCollection, "") => delete::collection(ask, &bytes).await,
        (Verb::Get, "scale") => scale::get(&ask).await,
        (Verb::Update, "scale") => scale::replace(&ask, &bytes).await,
        (Verb::Patch, "scale") => scale::patch(&ask, &bytes).await,
        (Verb::Create, "binding") => binding::create(&ask, &bytes).await,
        (Verb::Create, "eviction") => eviction::create(&ask, &bytes).await,
        (Verb::Create, "token") => token::create(&ask, &bytes).await,
        (Verb::Update, "finalize") => finalize::replace(&ask, &bytes).await,
        (verb, _) => Err(Box::new(api::status::method_not_allowed(verb.word()))),
    }
}
