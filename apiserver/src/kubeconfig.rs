//! The administrator's kubeconfig, which unmodified clients read.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::pki::Pki;

/// A kubeconfig with everything inside it: `context` names cluster, user and context.
pub fn render(pki: &Pki, url: &str) -> String {
    let (ca, certificate, key) =
        (STANDARD.encode(&pki.ca), STANDARD.encode(&pki.admin.certificate), STANDARD.encode(&pki.admin.key));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: orlop
  cluster:
    server: {url}
    certificate-authority-data: {ca}
users:
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
