//! JSON patch, RFC 6902.

use serde_json::Value;

use super::Error;

/// Operations in one patch, as upstream.
pub const OPERATIONS_MAX: usize = 10_000;

/// Applies the list of operations, all or none.
pub fn apply(object: &mut Value, patch: &Value) -> Result<(), Error> {
    let operations = patch.as_array().ok_or_else(|| Error::Malformed("a JSON patch is a list of operations".into()))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(Error::Unfit(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| Error::Malformed(format!("error decoding patch: {e}")))?;
    json_patch::patch(object, &patch)
        .map_err(|e| Error::Unfit(format!("the server rejected our request due to an error in our request: {e}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_are_applied_in_order_or_not_at_all() {
        let mut object = json!({"a": [1], "b": 2});
        apply(&mut object, &json!([{"op": "add", "path": "/a/-", "value": 2}, {"op": "remove", "path": "/b"}]))
            .unwrap();
        assert_eq!(object, json!({"a": [1, 2]}));
        let failing = json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/c", "value": 1}]);
        assert!(matches!(apply(&mut object, &failing), Err(Error::Unfit(_))));
        assert_eq!(object, json!({"a": [1, 2]}));
    }

    #[test]
    fn what_is_no_patch_is_refused() {
        let mut object = json!({});
        assert!(matches!(apply(&mut object, &json!({})), Err(Error::Malformed(_))));
        assert!(matches!(apply(&mut object, &json!([{"op": "jump", "path": "/a"}])), Err(Error::Malformed(_))));
        let many = Value::Array(vec![json!({"op": "add", "path": "/a", "value": 1}); OPERATIONS_MAX + 1]);
        assert!(matches!(apply(&mut object, &many), Err(Error::Unfit(_))));
    }
}
