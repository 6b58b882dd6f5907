//! ConfigMap: plain settings.

use api::field::{Error, Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;

use super::{Cell, Column, Strategy, column, rules};

/// The strategy of ConfigMaps.
pub struct ConfigMaps;

/// All keys' data together; bytes.
const MAX_BYTES: usize = 1024 * 1024;

static COLUMNS: &[Column] = &[column::NAME, column::number("Data", "The number of keys."), column::AGE];

impl Strategy for ConfigMaps {
    type Object = ConfigMap;

    fn validate(&self, object: &ConfigMap) -> Errors {
        let mut errors = Errors::new();
        let (data, binary) = (Path::new("data"), Path::new("binaryData"));
        let mut total = 0;
        for (key, value) in object.data.iter().flatten() {
            rules::config_key(&mut errors, &data.key(key), key);
            if object.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.push(Error::invalid(&data.key(key), key, "duplicate of key present in binaryData"));
            }
            total += value.len();
        }
        for (key, value) in object.binary_data.iter().flatten() {
            rules::config_key(&mut errors, &binary.key(key), key);
            total += value.0.len();
        }
        if total > MAX_BYTES {
            errors.push(Error::too_long(&Path::new("data"), MAX_BYTES));
        }
        errors
    }

    fn validate_update(&self, new: &ConfigMap, old: &ConfigMap) -> Errors {
        let mut errors = Errors::new();
        if old.immutable != Some(true) {
            return errors;
        }
        let mut sealed = |field: &str, changed: bool| {
            if changed {
                errors.push(Error::forbidden(&Path::new(field), "field is immutable when `immutable` is set"));
            }
        };
        sealed("immutable", new.immutable != Some(true));
        sealed("data", new.data != old.data);
        sealed("binaryData", new.binary_data != old.binary_data);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &ConfigMap, now: Timestamp) -> Vec<Cell> {
        let keys = object.data.as_ref().map_or(0, |d| d.len()) + object.binary_data.as_ref().map_or(0, |d| d.len());
        vec![
            column::name(&object.metadata),
            Cell::Number(i64::try_from(keys).unwrap_or(i64::MAX)),
            column::aged(&object.metadata, now),
        ]
    }
}
