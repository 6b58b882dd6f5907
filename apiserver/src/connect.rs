//! The way to the node agents: logs and exec, authorized here and served there.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, Node, Pod},
    apimachinery::pkg::apis::meta::v1::Status,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    admission::Look as _,
    ask::Ask,
    pki::Pki,
    query::Query,
    registry::downcast,
    reply::{Answer, Response},
};

/// Longest wait for a connection to a node.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Most bytes that are read of a node agent's complaint.
const MAX_COMPLAINT: usize = 16 << 10;

/// The port of a node agent that does not say which.
const KUBELET_PORT: i32 = 10_250;

/// What the user may ask of a log, passed on as it is.
const LOG_OPTIONS: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

/// Why the server cannot speak to nodes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates cannot be used.
    #[error("certificate for node agents is unusable")]
    Certificate(#[from] rustls_pki_types::pem::Error),
    /// They do not fit together.
    #[error("TLS towards node agents cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// Connections to node agents.
pub struct Nodes {
    tls: TlsConnector,
}

impl Nodes {
    /// With the server's client certificate, trusting the cluster's authority alone.
    pub fn new(pki: &Pki) -> Result<Self, Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.ca.as_bytes())?)?;
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::clone(&pki.kubelet_client) as _);
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends the request to the node and hands back the answer; an upgraded connection is joined with the caller's, byte
    /// for byte.
    async fn pass(&self, node: &Place, request: Request<Body>) -> Result<Response, String> {
        let connect = async {
            let tcp = TcpStream::connect((node.address, node.port)).await?;
            tcp.set_nodelay(true)?;
            self.tls.connect(ServerName::from(node.address), tcp).await
        };
        let stream = tokio::time::timeout(CONNECT_WITHIN, connect)
            .await
            .map_err(|_| "connection timed out".to_owned())?
            .map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to node agent ended");
            }
        });
        let (mut head, body) = request.into_parts();
        let theirs = head.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let mut answer = sender.send_request(Request::from_parts(head, body)).await.map_err(|e| e.to_string())?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let ours = hyper::upgrade::on(&mut answer);
            let theirs = theirs.ok_or_else(|| "the connection cannot be upgraded".to_owned())?;
            tokio::spawn(splice(theirs, ours));
        }
        Ok(answer.map(Body::new))
    }
}

async fn splice(theirs: hyper::upgrade::OnUpgrade, ours: hyper::upgrade::OnUpgrade) {
    let (theirs, ours) = match tokio::try_join!(theirs, ours) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "upgrade did not come about"),
    };
    let (mut theirs, mut ours) = (TokioIo::new(theirs), TokioIo::new(ours));
    if let Err(error) = tokio::io::copy_bidirectional(&mut theirs, &mut ours).await {
        tracing::debug!(%error, "stream through to the node ended");
    }
}

/// Where a node agent listens.
struct Place {
    name: String,
    address: IpAddr,
    port: u16,
}

/// `pods/log`: the container's output, as text.
pub async fn log(ask: &Ask) -> Answer<Response> {
    let pod = pod(ask).await?;
    let container = container(ask, &pod)?;
    let node = place(ask, &pod).await?;
    let uri = path("containerLogs", ask, &container, &log_query(&ask.query));
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri?;
    request.headers_mut().extend(host(&node));
    let answer = pass(ask, &node, request).await?;
    if answer.status().is_success() { Ok(answer) } else { Err(complaint(answer).await) }
}

/// Why a node agent does not do what it was asked for, as the status that clients read (upstream's
/// `GenericHttpResponseChecker`).
async fn complaint(answer: Response) -> Box<Status> {
    let code = answer.status();
    let text = match Limited::new(answer.into_body(), MAX_COMPLAINT).collect().await {
        Ok(text) => String::from_utf8_lossy(&text.to_bytes()).trim().to_owned(),
        Err(error) => format!("the node agent's answer cannot be read: {error}"),
    };
    Box::new(match code {
        StatusCode::BAD_REQUEST => api::status::bad_request(text),
        StatusCode::NOT_FOUND => api::status::failure(404, "NotFound", text),
        StatusCode::INTERNAL_SERVER_ERROR => api::status::internal(text),
        other => api::status::failure(other.as_u16(), "", text),
    })
}

/// `pods/exec`: the caller's connection becomes the node agent's.
pub async fn exec(ask: &Ask, request: Request<Body>) -> Answer<Response> {
    let pod = pod(ask).await?;
    let container = container(ask, &pod)?;
    let node = place(ask, &pod).await?;
    if ask.query.all("command").next().is_none() {
        return Err(Box::new(api::status::bad_request("you must specify at least 1 command for the container")));
    }
    let (mut head, body) = request.into_parts();
    head.uri = path("exec", ask, &container, &exec_query(&ask.query))?;
    head.version = http::Version::HTTP_11;
    head.headers.remove(header::AUTHORIZATION);
    head.headers.remove(header::HOST);
    head.headers.extend(host(&node));
    pass(ask, &node, Request::from_parts(head, body)).await
}

fn log_query(query: &Query) -> String {
    let mut to = form_urlencoded::Serializer::new(String::new());
    for name in LOG_OPTIONS {
        for value in query.all(name) {
            to.append_pair(name, value);
        }
    }
    to.finish()
}

fn exec_query(query: &Query) -> String {
    let mut to = form_urlencoded::Serializer::new(String::new());
    for command in query.all("command") {
        to.append_pair("command", command);
    }
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(ours) {
            to.append_pair(theirs, "1");
        }
    }
    to.finish()
}

async fn pass(ask: &Ask, node: &Place, request: Request<Body>) -> Answer<Response> {
    ask.parts.nodes.pass(node, request).await.map_err(|why| {
        let text = format!("error dialing backend: node {:?} at {}:{}: {why}", node.name, node.address, node.port);
        Box::new(api::status::internal(text))
    })
}

/// Names come from stored objects and from the selected container, which were validated: they need no escaping.
fn path(verb: &str, ask: &Ask, container: &str, query: &str) -> Answer<Uri> {
    let (namespace, pod) = (ask.target.namespace(), ask.target.name());
    let question = if query.is_empty() { "" } else { "?" };
    format!("/{verb}/{namespace}/{pod}/{container}{question}{query}")
        .parse()
        .map_err(|error: http::uri::InvalidUri| Box::new(api::status::internal(error)))
}

fn host(node: &Place) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let address = std::net::SocketAddr::new(node.address, node.port);
    if let Ok(value) = address.to_string().parse() {
        headers.insert(header::HOST, value);
    }
    headers
}

async fn pod(ask: &Ask) -> Answer<Pod> {
    let item = ask.item().await?;
    let object = crate::write::decoded(ask, &item)?;
    downcast::<Pod>(&*object).cloned().ok_or_else(|| Box::new(api::status::method_not_allowed("connect")))
}

async fn place(ask: &Ask, pod: &Pod) -> Answer<Place> {
    let name = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let pod_name = ask.target.name();
    let bad = |text: String| -> Box<Status> { Box::new(api::status::bad_request(text)) };
    if name.is_empty() {
        return Err(bad(format!("pod {pod_name} does not have a host assigned")));
    }
    let row = api::Kind::of::<Node>().expect("invariant: Node is a row of api::kinds");
    let object = ask.parts.find(row, "", &name).await?.ok_or_else(|| Box::new(api::status::not_found(row, &name)))?;
    let status = downcast::<Node>(&*object).and_then(|n| n.status.as_ref());
    let addresses = status.and_then(|s| s.addresses.as_ref()).into_iter().flatten();
    let address = addresses.filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse().ok());
    let address = address.ok_or_else(|| bad(format!("node {name:?} has no InternalIP address")))?;
    let endpoint = status.and_then(|s| s.daemon_endpoints.as_ref()).and_then(|e| e.kubelet_endpoint.as_ref());
    let port = endpoint.map_or(KUBELET_PORT, |e| e.port);
    let port = u16::try_from(port).map_err(|_| bad(format!("node {name:?} has no usable kubelet port")))?;
    Ok(Place { name, address, port })
}

/// The container that is meant: the named one, or the only one.
fn container(ask: &Ask, pod: &Pod) -> Answer<String> {
    let name = ask.target.name();
    let Some(spec) = &pod.spec else { return Ok(String::new()) };
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    let asked = ask.query.get("container");
    if asked.is_empty() {
        if let [only] = spec.containers.as_slice()
            && inits.is_empty()
            && ephemeral.is_empty()
        {
            return Ok(only.name.clone());
        }
        return default_container(pod, &spec.containers, inits).ok_or_else(|| {
            let mut text = format!(
                "a container name must be specified for pod {name}, choose one of: {}",
                names(&spec.containers)
            );
            if !inits.is_empty() {
                text = format!("{text} or one of the init containers: {}", names(inits));
            }
            Box::new(api::status::bad_request(text))
        });
    }
    let known =
        spec.containers.iter().chain(inits).any(|c| c.name == asked) || ephemeral.iter().any(|c| c.name == asked);
    match known {
        true => Ok(asked.to_owned()),
        false => Err(Box::new(api::status::bad_request(format!("container {asked} is not valid for pod {name}")))),
    }
}

/// The one that the annotation names, or the only one beside init containers.
fn default_container(pod: &Pod, containers: &[Container], inits: &[Container]) -> Option<String> {
    let annotations = pod.metadata.annotations.as_ref();
    let named = annotations.and_then(|a| a.get("kubectl.kubernetes.io/default-container"));
    let named = named.filter(|name| containers.iter().chain(inits).any(|c| c.name == **name)).cloned();
    named.or_else(|| (containers.len() == 1).then(|| containers[0].name.clone()))
}

fn names(containers: &[Container]) -> String {
    format!("[{}]", containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(" "))
}
