//! The administrator's kubeconfig, which unmodified clients read.
//!
//! A kubeconfig names one server. The others are in an extension, which kubectl keeps and does not look at; our own clients
//! go on with those when the one that is named is gone.

use std::{path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use serde_json::Value;

use crate::pki::{self, Pair, Pki};

/// The file, and what is in it.
pub struct File {
    path: PathBuf,
    url: String,
    told: Mutex<Told>,
}

/// What the file says that may change.
struct Told {
    servers: Vec<String>,
    admin: Arc<Pair>,
}

impl File {
    /// Writes the file, with the other servers that it told of before. `url` is the server that it names.
    pub fn create(path: PathBuf, pki: &Pki, url: String) -> Result<Self, pki::Error> {
        let servers = told(&std::fs::read_to_string(&path).unwrap_or_default());
        let admin = pki.admin.pair();
        pki::write(&path, &render(&pki.ca, &admin, &url, &servers))?;
        Ok(Self { path, url, told: Mutex::new(Told { servers, admin }) })
    }

    /// Writes it again when these are not the servers that it tells of (none being there says nothing), or when its
    /// certificate is renewed.
    pub fn keep(&self, pki: &Pki, servers: &[String]) -> Result<(), pki::Error> {
        let (mut told, admin) = (self.told.lock(), pki.admin.pair());
        // one alone has nobody to fail over to
        let says_nothing = servers.is_empty() || (servers.len() < 2 && told.servers.is_empty());
        let servers = if says_nothing { told.servers.clone() } else { servers.to_vec() };
        if servers == told.servers && Arc::ptr_eq(&admin, &told.admin) {
            return Ok(());
        }
        pki::write(&self.path, &render(&pki.ca, &admin, &self.url, &servers))?;
        *told = Told { servers, admin };
        Ok(())
    }
}

/// The servers that a file of ours tells of.
fn told(text: &str) -> Vec<String> {
    let file: Value = serde_saphyr::from_str(text).unwrap_or_default();
    let servers = file.pointer("/clusters/0/cluster/extensions/0/extension/servers");
    servers.and_then(|servers| serde_json::from_value(servers.clone()).ok()).unwrap_or_default()
}

/// A kubeconfig with everything inside it.
fn render(ca: &str, admin: &Pair, url: &str, servers: &[String]) -> String {
    let [ca, certificate, key] = [ca, &admin.certificate, &admin.key].map(|pem| STANDARD.encode(pem));
    let others = extension(servers);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: orlop
  cluster:
    server: {url}
    certificate-authority-data: {ca}
{others}users:
- name: kubernetes-admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: orlop
  context:
    cluster: orlop
    user: kubernetes-admin
current-context: orlop
"
    )
}

fn extension(servers: &[String]) -> String {
    if servers.is_empty() {
        return String::new();
    }
    let name = api::members::EXTENSION;
    let lines: String = servers.iter().map(|url| format!("        - {url}\n")).collect();
    format!(
        "    extensions:
    - name: {name}
      extension:
        apiVersion: orlop.dev/v1
        kind: Servers
        servers:
{lines}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_tells_of_the_others_once_there_are_any_and_keeps_what_it_knew_last() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(&dir.path().join("pki"), &[], pki::NODE_LIFE).unwrap();
        let path = dir.path().join("kubeconfig");
        let file = File::create(path.clone(), &pki, "https://a:6443".into()).unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        let alone = read();
        let urls = |names: &[&str]| names.iter().map(|name| format!("https://{name}:6443")).collect::<Vec<_>>();
        file.keep(&pki, &urls(&["a"])).unwrap();
        assert_eq!(read(), alone);
        file.keep(&pki, &urls(&["a", "b"])).unwrap();
        let both = read();
        assert!(
            both.contains("        servers:\n        - https://a:6443\n        - https://b:6443\nusers:"),
            "{both}"
        );
        file.keep(&pki, &[]).unwrap();
        assert_eq!(read(), both);
        File::create(path.clone(), &pki, "https://a:6443".into()).unwrap();
        assert_eq!(read(), both, "a server that starts again has not heard of the others yet");
        file.keep(&pki, &urls(&["b"])).unwrap();
        assert!(!read().contains("        - https://a:6443"));
    }
}
