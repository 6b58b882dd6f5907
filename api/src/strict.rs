//! JSON and YAML read so that fields written twice are noticed.
//!
//! `serde_json` keeps the last of two equal keys silently; users who wrote both want to hear of it. A document is read
//! once, into a `Value`, and every field that was there before is reported with its path.

use std::{cell::RefCell, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// How many lists and objects may lie inside each other.
pub const DEPTH_MAX: usize = 100;
/// How many fields written twice are reported; upstream stops at as many.
pub const DUPLICATES_MAX: usize = 100;

/// Why a document cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at line {line} column {column}")]
pub struct DecodeError {
    /// What is wrong.
    pub message: String,
    /// Counted from 1.
    pub line: usize,
    /// In bytes, counted from 1.
    pub column: usize,
}

/// Reads a document. The second part names fields written twice: `duplicate field "spec.replicas"`.
pub fn decode_json(bytes: &[u8]) -> Result<(Value, Vec<String>), DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let decoded = decode(&mut deserializer).map_err(|e| located(&e))?;
    deserializer.end().map_err(|e| located(&e))?;
    Ok(decoded)
}

/// Reads all documents of a YAML text, as [`decode_json`] does; empty ones are left out. `010` is octal, as for upstream.
pub fn decode_yaml(text: &str) -> Result<Vec<(Value, Vec<String>)>, DecodeError> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
    };
    let documents: Vec<Document> = serde_saphyr::from_multiple_with_options(text, options).map_err(|e| {
        let at = |of: fn(&serde_saphyr::Location) -> u64| e.location().map_or(0, |l| of(&l));
        DecodeError {
            line: usize::try_from(at(serde_saphyr::Location::line)).unwrap_or(usize::MAX),
            column: usize::try_from(at(serde_saphyr::Location::column)).unwrap_or(usize::MAX),
            message: e.without_snippet().to_string(),
        }
    })?;
    Ok(documents.into_iter().map(|d| (d.value, d.duplicates)).collect())
}

fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(Value, Vec<String>), D::Error> {
    let duplicates = RefCell::new(Vec::new());
    let value = Seed { at: &At::Root, depth: 0, duplicates: &duplicates }.deserialize(deserializer)?;
    Ok((value, duplicates.into_inner()))
}

struct Document {
    value: Value,
    duplicates: Vec<String>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        decode(deserializer).map(|(value, duplicates)| Self { value, duplicates })
    }
}

fn located(error: &serde_json::Error) -> DecodeError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let message = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text).to_owned();
    DecodeError { message, line, column }
}

/// Where the reader is; written out only when a field is there twice.
enum At<'a> {
    Root,
    Field(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'a> {
    at: &'a At<'a>,
    depth: usize,
    duplicates: &'a RefCell<Vec<String>>,
}

impl Seed<'_> {
    fn report(&self, at: &At<'_>) {
        let mut duplicates = self.duplicates.borrow_mut();
        if duplicates.len() < DUPLICATES_MAX {
            duplicates.push(format!("duplicate field {:?}", at.to_string()));
        }
    }

    fn deeper<E: serde::de::Error>(&self) -> Result<usize, E> {
        if self.depth < DEPTH_MAX {
            Ok(self.depth + 1)
        } else {
            Err(E::custom(format_args!("more than {DEPTH_MAX} lists and objects inside each other")))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut items = Vec::new();
        loop {
            let at = At::Index(self.at, items.len());
            match seq.next_element_seed(Seed { at: &at, depth, duplicates: self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let at = At::Field(self.at, &name);
            let value = map.next_value_seed(Seed { at: &at, depth, duplicates: self.duplicates })?;
            if fields.contains_key(&name) {
                self.report(&at);
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_complaints_have_limits() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(decode_json(deep(DEPTH_MAX).as_bytes()).is_ok());
        let error = decode_json(deep(DEPTH_MAX + 1).as_bytes()).unwrap_err();
        assert_eq!((error.line, error.column), (1, DEPTH_MAX + 2));
        assert!(decode_json(deep(1_000_000).as_bytes()).is_err());
        assert!(decode_yaml(&deep(DEPTH_MAX + 1)).is_err());
        let many = format!("{{{}}}", vec!["\"a\": 1"; DUPLICATES_MAX + 2].join(","));
        assert_eq!(decode_json(many.as_bytes()).unwrap().1.len(), DUPLICATES_MAX);
    }
}
