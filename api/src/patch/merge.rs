//! JSON merge patch, RFC 7386: null deletes, objects merge, all else replaces.

use serde_json::Value;

use super::Error;

/// Applies the patch. Objects only: a Kubernetes object never becomes something else.
pub fn apply(object: &mut Value, patch: &Value) -> Result<(), Error> {
    if !patch.is_object() {
        return Err(Error::Malformed("a merge patch is an object".into()));
    }
    json_patch::merge(object, patch);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_deletes_and_lists_are_replaced() {
        let mut object = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        apply(&mut object, &json!({"a": {"b": null, "c": [3]}, "e": {"f": null}})).unwrap();
        assert_eq!(object, json!({"a": {"c": [3]}, "d": 1, "e": {}}));
        assert!(apply(&mut object, &json!([])).is_err());
    }
}
