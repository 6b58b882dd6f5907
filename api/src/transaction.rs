//! Several objects at once: the body of `POST /apis/orlop.dev/v1/transactions`, and its answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the collection is called.
pub const PLURAL: &str = "transactions";

/// The group; the version is `v1`.
pub const GROUP: &str = "orlop.dev";

/// The version.
pub const VERSION: &str = "v1";

/// The kind.
pub const KIND: &str = "Transaction";

/// Where transactions are posted.
pub const PATH: &str = "/apis/orlop.dev/v1/transactions";

/// Operations that are all done, in one revision of the store, or none of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// `orlop.dev/v1`.
    #[serde(default)]
    pub api_version: String,
    /// `Transaction`.
    #[serde(default)]
    pub kind: String,
    /// What to do.
    #[serde(default)]
    pub spec: Spec,
    /// What was done: set by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// In this order; each sees what those before it did.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

/// One operation. Its object says what it is about: `apiVersion`, `kind`, `metadata.name`, `metadata.namespace`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// As `PATCH` with an apply patch.
    Apply(Value),
    /// As `POST`.
    Create(Value),
    /// As `PUT`.
    Replace(Value),
    /// As `DELETE`; `metadata.uid` and `metadata.resourceVersion`, where given, must still be the object's.
    Delete(Value),
}

impl Operation {
    /// The object.
    pub fn object(&self) -> &Value {
        let (Self::Apply(object) | Self::Create(object) | Self::Replace(object) | Self::Delete(object)) = self;
        object
    }

    /// The verb, as the wire has it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::Create(_) => "create",
            Self::Replace(_) => "replace",
            Self::Delete(_) => "delete",
        }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The revision of all of it; 0 for a rehearsal, and when nothing had to change.
    pub revision: u64,
    /// For each operation.
    pub outcomes: Vec<Outcome>,
}

/// What became of one operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What happened.
    pub result: Effect,
    /// The object as it is now; none when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Value>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// It is new.
    Created,
    /// It is different.
    Configured,
    /// It was so before.
    Unchanged,
    /// It is gone, or going.
    Deleted,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_operation_is_its_verb_and_its_object() {
        let sent = json!({"operations": [{"apply": {"kind": "Pod"}}, {"delete": {"kind": "Secret"}}]});
        let spec: Spec = serde_json::from_value(sent.clone()).unwrap();
        let verbs: Vec<_> = spec.operations.iter().map(Operation::verb).collect();
        assert_eq!(verbs, ["apply", "delete"]);
        assert_eq!(serde_json::to_value(&spec).unwrap(), sent);
        assert!(serde_json::from_value::<Spec>(json!({"operations": [{"apply": {}, "delete": {}}]})).is_err());
        assert!(serde_json::from_value::<Spec>(json!({"operation": []})).is_err());
    }
}
