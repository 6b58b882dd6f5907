//! Requests to the API by path, and failures worded as kubectl words them.

use std::{fmt, path::PathBuf};

use anyhow::{Context, Result, anyhow};
use api::{
    moment::Moment,
    transaction::{self, Operation, Transaction},
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::{Client, client::Body};
use serde::de::DeserializeOwned;

use crate::{args::Target, servers::Remembered};

/// Asks for a table.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Asks for JSON.
pub const JSON: &str = "application/json";

/// A request that the server refused.
#[derive(Debug)]
pub struct Failure(pub Status);

impl Failure {
    /// The HTTP code.
    pub fn code(&self) -> i32 {
        self.0.code.unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.0.message.as_deref().unwrap_or("no message");
        match self.0.reason.as_deref().filter(|r| !r.is_empty()) {
            Some("Invalid") => f.write_str(message),
            Some(reason) => write!(f, "Error from server ({reason}): {message}"),
            None => write!(f, "Error from server: {message}"),
        }
    }
}

impl std::error::Error for Failure {}

/// No server answered, or the one that did broke off. Goes before the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// There was no answer.
    Unreachable,
    /// There was the beginning of one.
    BrokenOff,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "reach the server (is it running? --kubeconfig says which one)",
            Self::BrokenOff => "read the server's answer",
        })
    }
}

/// Whether the error is a refusal with this HTTP code.
pub fn refused_with(error: &anyhow::Error, code: i32) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|f| f.code() == code)
}

/// Tells the user what went wrong. What begins with the server's refusal is as kubectl words it: no `error:` before it.
pub fn say(error: &anyhow::Error) {
    let text = format!("{error:#}");
    if text.starts_with("Error from server") {
        tracing::error!("{text}");
    } else {
        tracing::error!("error: {text}");
    }
}

/// What went wrong with some of many objects, while the others were seen to.
#[derive(Debug, Default)]
pub struct Failures {
    last: Option<anyhow::Error>,
}

impl Failures {
    /// One more. All but the last are said at once.
    pub fn note(&mut self, error: anyhow::Error) {
        if let Some(before) = self.last.replace(error) {
            say(&before);
        }
    }

    /// Nothing went wrong.
    pub fn none(&self) -> bool {
        self.last.is_none()
    }

    /// The last, for whoever called the verb to say.
    pub fn end(self) -> Result<()> {
        self.last.map_or(Ok(()), Err)
    }
}

/// A connection to the API.
#[derive(Clone)]
pub struct Rest {
    client: Client,
    /// What all paths begin with: empty, or a moment of the past.
    root: String,
    /// The namespace to work in.
    pub namespace: String,
    /// The command line says which; else it is that of the kubeconfig.
    pub named_namespace: bool,
}

/// The media type of a body, and the body.
pub type Payload = Option<(&'static str, Vec<u8>)>;

impl Rest {
    /// Connects with the credentials that the user named, or those found in the usual places.
    pub async fn connect(target: &Target) -> Result<Self> {
        let path = find_kubeconfig(target)?;
        let unusable = || format!("use the credentials in {}", path.display());
        let access = client::kubeconfig::Access::read(&path, None).await.with_context(unusable)?;
        let remembered = access.authority().and_then(|authority| Remembered::of(&authority));
        let others = remembered.as_ref().map(Remembered::servers).unwrap_or_default();
        let (client, servers) = access.connect(&others).with_context(unusable)?;
        if let (Some(remembered), Some(servers)) = (remembered, servers) {
            remembered.refresh(&client, &servers).await;
        }
        let namespace = target.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Self { named_namespace: target.namespace.is_some(), namespace, root: String::new(), client })
    }

    /// The API as it was at a moment; see [`crate::moment::parse`].
    #[must_use]
    pub fn at(&self, moment: &str) -> Self {
        Self { root: format!("{}{moment}", api::moment::ROOT), ..self.clone() }
    }

    /// What a moment means, and whether it can be read.
    pub async fn moment(&self, moment: &str) -> Result<Moment> {
        self.get(&format!("{}{moment}", api::moment::ROOT)).await
    }

    /// The typed client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Sends a request; a refusal is an error.
    pub async fn send(&self, method: Method, path: &str, accept: &str, payload: Payload) -> Result<Response<Body>> {
        let path = format!("{}{path}", self.root);
        let mut request = Request::builder().method(method).uri(path).header("Accept", accept);
        let body = match payload {
            Some((kind, bytes)) => {
                request = request.header("Content-Type", kind);
                bytes
            }
            None => Vec::new(),
        };
        let request = request.body(Body::from(body)).context("build a request")?;
        let response = self.client.send(request).await.context(Lost::Unreachable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let bytes = collect(response).await?;
        let status = serde_json::from_slice::<Status>(&bytes)
            .unwrap_or_else(|_| api::status::failure(code, "", String::from_utf8_lossy(&bytes).trim()));
        Err(Failure(status).into())
    }

    /// Sends a request and decodes the answer.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        payload: Payload,
    ) -> Result<T> {
        let bytes = collect(self.send(method, path, accept, payload).await?).await?;
        serde_json::from_slice(&bytes).with_context(|| format!("understand what the server answered to {path}"))
    }

    /// Does operations all or not at all. Objects that name no namespace are in the one that is worked in.
    pub async fn transact(
        &self,
        operations: Vec<Operation>,
        options: &[(&str, &str)],
        dry_run: bool,
    ) -> Result<transaction::Status> {
        let sent = Transaction {
            api_version: api::moment::API_VERSION.into(),
            kind: transaction::KIND.into(),
            spec: transaction::Spec { operations },
            status: None,
        };
        let body = serde_json::to_vec(&sent).context("write JSON")?;
        let mut options = options.to_vec();
        options.push(("namespace", &self.namespace));
        options.extend(dry_run.then_some(("dryRun", "All")));
        let path = format!("{}{}", transaction::PATH, query(&options));
        let answer: Transaction = self.call(Method::POST, &path, JSON, Some((JSON, body))).await?;
        answer.status.context("the server did not say what it did")
    }

    /// Reads.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, JSON, None).await
    }
}

/// The whole body.
pub async fn collect(response: Response<Body>) -> Result<Bytes> {
    Ok(response.into_body().collect().await.context(Lost::BrokenOff)?.to_bytes())
}

/// A query string; values are escaped.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

fn find_kubeconfig(target: &Target) -> Result<PathBuf> {
    if let Some(path) = &target.kubeconfig {
        return Ok(path.clone());
    }
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".kube/config"));
    let usual = ["orlop-data/kubeconfig", "/var/lib/orlop/kubeconfig"].map(PathBuf::from);
    let found = usual.into_iter().chain(home).find(|p| p.exists());
    found.ok_or_else(|| {
        anyhow!("no cluster found: start one with `orlop up`, or name its credentials with --kubeconfig")
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn queries_are_escaped() {
        assert_eq!(
            super::query(&[("labelSelector", "a in (b,c)"), ("limit", "5")]),
            "?labelSelector=a%20in%20%28b%2Cc%29&limit=5"
        );
    }
}
