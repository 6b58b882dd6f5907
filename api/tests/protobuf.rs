//! Protobuf bodies: what kubectl sends, what only other clients send, and what nobody should.

#![allow(clippy::unwrap_used)]

use api::protobuf::{self, Error};
use proptest::prelude::*;
use serde_json::{Value, json};

/// As sent by kubectl 1.32: a line with its words, one with the body in hexadecimal, one with the document.
static CASES: &str = include_str!("../testdata/protobuf/kubectl.txt");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn cases() -> Vec<(&'static str, Vec<u8>, Value)> {
    let lines: Vec<_> = CASES.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    lines.chunks(3).map(|case| (case[0], bytes(case[1]), serde_json::from_str(case[2]).unwrap())).collect()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 0x7f {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn number(field: u64, number: i64) -> Vec<u8> {
    [varint(field << 3), varint(number.cast_unsigned())].concat()
}

fn message(field: u64, inner: impl AsRef<[u8]>) -> Vec<u8> {
    [varint(field << 3 | 2), varint(inner.as_ref().len() as u64), inner.as_ref().to_vec()].concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let unknown = [message(1, [message(1, api_version), message(2, kind)].concat()), message(2, raw)].concat();
    [b"k8s\0".to_vec(), unknown].concat()
}

fn decoded(api_version: &str, kind: &str, raw: &[u8]) -> Value {
    let mut value = protobuf::decode(&body(api_version, kind, raw)).unwrap();
    let object = value.as_object_mut().unwrap();
    assert_eq!(object.remove("apiVersion"), Some(api_version.into()));
    assert_eq!(object.remove("kind"), Some(kind.into()));
    value
}

fn said(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[test]
fn what_kubectl_sends_is_what_it_means() {
    assert!(cases().len() >= 10);
    for (words, body, document) in cases() {
        assert_eq!(protobuf::decode(&body).unwrap(), document, "{words}");
    }
}

#[test]
fn times_and_whole_documents_inside_are_as_in_json() {
    let manager =
        [message(1, "kubectl"), message(4, number(1, 0)), message(7, message(1, r#"{"f:data":{}}"#))].concat();
    let meta =
        [message(8, [number(1, 1_767_323_045), number(2, 999)].concat()), number(10, 0), message(17, manager)].concat();
    assert_eq!(
        decoded("v1", "ConfigMap", &message(1, meta)),
        json!({"metadata": {
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "deletionGracePeriodSeconds": 0,
            "managedFields": [
                {"manager": "kubectl", "time": "1970-01-01T00:00:00Z", "fieldsV1": {"f:data": {}}}
            ],
        }})
    );
    let renewed = message(4, [number(1, 5), number(2, 1_234_567)].concat());
    let spec = [message(1, "node"), number(2, 0), message(3, []), renewed].concat();
    assert_eq!(
        decoded("coordination.k8s.io/v1", "Lease", &message(2, spec)),
        json!({"spec": {
            "holderIdentity": "node",
            "leaseDurationSeconds": 0,
            "renewTime": "1970-01-01T00:00:05.001234Z",
        }})
    );
}

#[test]
fn containers_keep_ports_probes_and_amounts() {
    let port = [message(1, "dns"), number(2, 0), number(3, 53), message(4, "UDP"), message(5, "")].concat();
    let handler = |port: Vec<u8>| message(1, message(2, [message(1, "/"), message(2, port)].concat()));
    let amounts = message(1, [message(1, "cpu"), message(2, message(1, "100m"))].concat());
    let probe = |port| [handler(port), number(2, 0), number(3, 7)].concat();
    let container = [
        message(1, "web"),
        message(2, ""),
        message(6, port),
        message(8, amounts),
        message(10, probe([number(1, 0), number(2, 8080), message(3, "")].concat())),
        message(11, probe([number(1, 1), number(2, 0), message(3, "http")].concat())),
        message(14, ""),
        number(16, 0),
    ]
    .concat();
    let volume = [message(1, "tmp"), message(2, message(2, message(1, "Memory")))].concat();
    let spec = [message(1, volume), message(2, container), number(4, 0), number(25, -5), number(11, 0)].concat();
    assert_eq!(
        decoded("v1", "Pod", &[message(2, spec), message(3, [])].concat()),
        json!({"spec": {
            "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}],
            "containers": [{
                "name": "web",
                "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}],
                "resources": {"limits": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "timeoutSeconds": 7},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "timeoutSeconds": 7},
            }],
            "terminationGracePeriodSeconds": 0,
            "priority": -5,
        }})
    );
}

#[test]
fn lists_inside_a_message_of_their_own_come_out_of_it() {
    let extra = [message(1, "scopes"), message(2, [message(1, "a"), message(1, "b")].concat())].concat();
    let review = decoded("authorization.k8s.io/v1", "SubjectAccessReview", &message(2, message(5, extra)));
    assert_eq!(review, json!({"spec": {"extra": {"scopes": ["a", "b"]}}}));
}

#[test]
fn options_come_in_the_version_of_any_group() {
    let raw = [number(1, 0), message(4, "Foreground")].concat();
    for version in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        let options = decoded(version, "DeleteOptions", &raw);
        assert_eq!(options, json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground"}), "{version}");
    }
}

#[test]
fn newer_clients_may_send_more() {
    let raw = [message(2, [message(1, "a"), message(2, "b")].concat()), number(999, 1), message(1000, "x")].concat();
    assert_eq!(decoded("v1", "ConfigMap", &raw), json!({"data": {"a": "b"}}));
}

#[test]
fn refusals_name_message_and_field() {
    let refused = |raw: &[u8], kind: &str| said(&protobuf::decode(&body("v1", kind, raw)).unwrap_err());
    assert_eq!(
        refused(&message(1, number(1, 5)), "Pod"),
        "ObjectMeta.name cannot be read: the value is of another type"
    );
    assert_eq!(
        refused(&message(1, message(1, [0xff])), "Pod"),
        "ObjectMeta.name cannot be read: the text is not UTF-8"
    );
    assert_eq!(refused(&[0x0a, 0x05], "Pod"), "Pod.? cannot be read: the bytes end early");
    assert_eq!(refused(&[], "Wardrobe"), "no kind \"Wardrobe\" is registered for version \"v1\"");
    assert!(matches!(protobuf::decode(b"{}"), Err(Error::Magic)));
    let zipped = [b"k8s\0".to_vec(), message(3, "gzip")].concat();
    assert!(matches!(protobuf::decode(&zipped), Err(Error::Envelope(_))));
    let far = message(1, message(8, number(1, i64::MAX)));
    assert!(refused(&far, "Pod").starts_with("ObjectMeta.creationTimestamp cannot be read"));
}

proptest! {
    #[test]
    fn damaged_bodies_never_panic(
        at in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        damage in prop::collection::vec(any::<u8>(), 0..6),
        keep in any::<bool>(),
    ) {
        let cases = cases();
        let (_, mut body, _) = cases[at.index(cases.len())].clone();
        let from = place.index(body.len());
        let to = if keep { (from + damage.len()).min(body.len()) } else { body.len() };
        body.splice(from..to, damage);
        if let Ok(value) = protobuf::decode(&body) {
            prop_assert!(value.is_object());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in ["Pod", "Node", "Service", "Event"] {
            if let Ok(value) = protobuf::decode(&body("v1", kind, &raw)) {
                prop_assert_eq!(&value["kind"], kind);
            }
        }
    }
}
