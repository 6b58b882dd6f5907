//! Service accounts' tokens: how long they hold, and what ends them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{
    access::{CORE, get, remote, text},
    cluster::Cluster,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_as_long_as_what_it_is_bound_to() {
    let cluster = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    cluster.create(&format!("{CORE}/serviceaccounts"), account.clone()).await;
    let request = json!({"spec": {"audiences": []}});
    let made = cluster.create(&format!("{CORE}/serviceaccounts/robot/token"), request.clone()).await;
    let token = text(&made, "/status/token");
    let list = format!("{CORE}/configmaps");
    let (code, status) = remote(&cluster, None, token, get(&list)).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(text(&status, "/message").contains("system:serviceaccount:default:robot"), "{status}");
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(remote(&cluster, None, &forged, get(&list)).await.0, StatusCode::UNAUTHORIZED);
    // another account of the same name is another account
    assert_eq!(cluster.ask("DELETE", &format!("{CORE}/serviceaccounts/robot"), Value::Null).await.0, StatusCode::OK);
    assert_eq!(remote(&cluster, None, token, get(&list)).await.0, StatusCode::UNAUTHORIZED);
    cluster.create(&format!("{CORE}/serviceaccounts"), account).await;
    assert_eq!(remote(&cluster, None, token, get(&list)).await.0, StatusCode::UNAUTHORIZED);
    let other = json!({"spec": {"audiences": ["elsewhere"]}});
    let made = cluster.create(&format!("{CORE}/serviceaccounts/robot/token"), other).await;
    let elsewhere = text(&made, "/status/token");
    assert_eq!(remote(&cluster, None, elsewhere, get(&list)).await.0, StatusCode::UNAUTHORIZED);
    let short = json!({"spec": {"expirationSeconds": 5}});
    let (code, _) = cluster.ask("POST", &format!("{CORE}/serviceaccounts/robot/token"), short).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
}

/// What a token says.
fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_time_does_not_hold() {
    let cluster = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    cluster.create(&format!("{CORE}/serviceaccounts"), account).await;
    let made = cluster.create(&format!("{CORE}/serviceaccounts/robot/token"), json!({"spec": {}})).await;
    let issued = claims(text(&made, "/status/token"));
    // with the cluster's own key, so that nothing but the time is wrong
    let key = std::fs::read(cluster.dir().join("pki/sa.key")).unwrap();
    let key = EncodingKey::from_ec_pem(&key).unwrap();
    let sign = |times: Value| {
        let mut claims = issued.clone();
        claims.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
    };
    let now = jiff::Timestamp::now().as_second();
    let path = format!("{CORE}/configmaps");
    for (what, times, expected) in [
        ("holds", json!({"exp": now + 60}), StatusCode::FORBIDDEN),
        ("ran out a second ago", json!({"exp": now - 1}), StatusCode::UNAUTHORIZED),
        ("ran out last year", json!({"iat": now - 40_000_000, "exp": now - 31_536_000}), StatusCode::UNAUTHORIZED),
        ("begins tomorrow", json!({"nbf": now + 86_400, "exp": now + 90_000}), StatusCode::UNAUTHORIZED),
    ] {
        let (code, status) = remote(&cluster, None, &sign(times), get(&path)).await;
        assert_eq!(code, expected, "a token that {what}: {status}");
        if expected == StatusCode::UNAUTHORIZED {
            let (reason, message) = (text(&status, "/reason"), text(&status, "/message"));
            assert_eq!((reason, message), ("Unauthorized", "Unauthorized"), "{what}");
        }
    }
    // one that held is not remembered beyond its time
    let token = sign(json!({"exp": now + 2}));
    assert_eq!(remote(&cluster, None, &token, get(&path)).await.0, StatusCode::FORBIDDEN);
    let deadline = tokio::time::Instant::now() + super::cluster::SOON;
    while remote(&cluster, None, &token, get(&path)).await.0 != StatusCode::UNAUTHORIZED {
        assert!(tokio::time::Instant::now() < deadline, "the token holds for ever");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_dies_with_the_object_that_it_is_bound_to() {
    let cluster = Cluster::start().await;
    for name in ["default", "robot"] {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        cluster.create(&format!("{CORE}/serviceaccounts"), account).await;
    }
    let containers = json!([{"name": "c", "image": "x"}]);
    for (kind, path, spec) in [
        ("Pod", format!("{CORE}/pods"), json!({"serviceAccountName": "robot", "containers": containers})),
        ("Secret", format!("{CORE}/secrets"), Value::Null),
        ("Node", "/api/v1/nodes".to_owned(), json!({})),
    ] {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}});
        if !spec.is_null() {
            object.as_object_mut().unwrap().insert("spec".into(), spec);
        }
        cluster.create(&path, object.clone()).await;
        let to = json!({"apiVersion": "v1", "kind": kind, "name": "a"});
        let request = json!({"spec": {"boundObjectRef": to}});
        let made = cluster.create(&format!("{CORE}/serviceaccounts/robot/token"), request).await;
        let token = text(&made, "/status/token");
        let list = format!("{CORE}/configmaps");
        assert_eq!(remote(&cluster, None, token, get(&list)).await.0, StatusCode::FORBIDDEN, "{kind}");
        let now = json!({"gracePeriodSeconds": 0});
        assert_eq!(cluster.ask("DELETE", &format!("{path}/a"), now).await.0, StatusCode::OK);
        assert_eq!(remote(&cluster, None, token, get(&list)).await.0, StatusCode::UNAUTHORIZED, "{kind} is gone");
        cluster.create(&path, object).await;
        assert_eq!(remote(&cluster, None, token, get(&list)).await.0, StatusCode::UNAUTHORIZED, "{kind} is another");
        // the review that kubelets and webhooks ask says why
        let review = json!({"spec": {"token": token}});
        let said = cluster.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
        assert_eq!(said.pointer("/status/authenticated"), None, "{said}");
        assert!(text(&said, "/status/error").contains("was replaced"), "{said}");
    }
    let (code, status) = cluster
        .ask(
            "POST",
            &format!("{CORE}/serviceaccounts/robot/token"),
            json!({"spec": {"boundObjectRef": {"kind": "ConfigMap", "name": "a"}}}),
        )
        .await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert!(text(&status, "/message").contains("object of kind \"ConfigMap\""), "{status}");
}
