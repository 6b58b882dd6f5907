//! Backups through the API: who may have one, and what is in it.

use std::{collections::BTreeMap, sync::Arc};

use apiserver::{User, pki};
use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use store::{
    Backend as _, Range,
    backup::{Item, Reader},
};
use tower::ServiceExt as _;

use super::cluster::Cluster;

async fn backup(cluster: &Cluster, user: User) -> (StatusCode, Bytes) {
    let request = Request::builder().uri("/backup").body(Body::empty()).unwrap();
    let response = cluster.server.local(user).oneshot(request).await.unwrap();
    (response.status(), response.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_holds_all_entries_and_the_keys_and_only_masters_get_it() {
    let store = Arc::new(store::Memory::new());
    let cluster = Cluster::on(store.clone()).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringData": {"a": "b"}});
    cluster.create("/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!(backup(&cluster, User::new("ann", &[])).await.0, StatusCode::FORBIDDEN);
    let (code, bytes) = backup(&cluster, User::new("admin", &["system:masters"])).await;
    assert_eq!(code, StatusCode::OK);
    let (mut reader, mut entries, mut attachments) = (Reader::new(), Vec::new(), BTreeMap::new());
    reader.feed(&bytes);
    while let Some(item) = reader.take_item().unwrap() {
        match item {
            Item::Entry(entry) => entries.push(entry),
            Item::Attachment { name, content } => drop(attachments.insert(name, content)),
        }
    }
    let head = reader.finish().unwrap();
    let all = Range { start: Bytes::from_static(&[0]), end: Bytes::from_static(&[0]), ..Range::default() };
    assert_eq!(entries, store.range(Range { revision: head.revision, ..all }).await.unwrap().entries);
    assert!(attachments.keys().map(String::as_str).eq({
        let mut kept = pki::KEPT;
        kept.sort_unstable();
        kept
    }));

    // a server elsewhere, with these keys, is the same to whoever trusts the old one
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("pki");
    apiserver::backup::put_back(&place, &attachments).unwrap();
    let other = pki::Pki::open(&place, &[], pki::NODE_LIFE).unwrap();
    assert_eq!(other.join_token(), cluster.server.join_token());
    apiserver::backup::put_back(&place, &attachments).expect("the same keys are there");
    attachments.insert("sa.key".into(), "another".into());
    let refused = apiserver::backup::put_back(&place, &attachments).unwrap_err().to_string();
    assert!(refused.contains("is there already"), "{refused}");
    attachments.remove("ca.key");
    assert!(apiserver::backup::put_back(&place, &attachments).is_err());
}
