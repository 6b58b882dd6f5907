//! Kubernetes' protobuf form, read: Go clients send bodies of built-in kinds in it and cannot fall back.
//!
//! A body is the magic `k8s\0`, then `runtime.Unknown` with the type and the raw message. It is turned into the document that
//! the same object is in JSON, and from there on treated as any other. Answers are JSON, which these clients accept.

use std::{collections::HashMap, sync::OnceLock};

use base64::Engine as _;
use serde_json::{Map, Value};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// Deepest message within message.
const MAX_DEPTH: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not begin as it must.
    #[error("protobuf body does not begin with the prefix k8s\\0")]
    Magic,
    /// It ends early, or breaks the rules of the wire.
    #[error("protobuf body is malformed in {0}")]
    Malformed(String),
    /// No such message is known.
    #[error("protobuf message {kind} of {api_version:?} is not served")]
    Unknown {
        /// As the body says.
        api_version: String,
        /// As the body says.
        kind: String,
    },
}

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Bytes,
    Flag,
    Number,
    Float,
    Message(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    One,
    List,
    Map,
}

struct Field {
    number: u64,
    name: &'static str,
    shape: Shape,
    count: Count,
    /// Zero means something.
    pointer: bool,
}

type Messages = HashMap<&'static str, Vec<Field>>;

fn messages() -> &'static Messages {
    static PARSED: OnceLock<Messages> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut messages = Messages::new();
        let mut current = "";
        for line in include_str!("protobuf/facts.txt").lines().filter(|line| !line.starts_with('#')) {
            match line.strip_prefix('\t').map(field) {
                Some(Some(field)) => messages.entry(current).or_default().push(field),
                Some(None) => {}
                None => {
                    current = line;
                    messages.entry(current).or_default();
                }
            }
        }
        messages
    })
}

fn field(line: &'static str) -> Option<Field> {
    let mut words = line.split(' ');
    let (number, name, shape) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (shape, pointer) = shape.strip_suffix('?').map_or((shape, false), |shape| (shape, true));
    let (count, shape) = match (shape.strip_prefix("[]"), shape.strip_prefix("{}")) {
        (Some(shape), _) => (Count::List, shape),
        (_, Some(shape)) => (Count::Map, shape),
        _ => (Count::One, shape),
    };
    let shape = match shape {
        "str" => Shape::Text,
        "bytes" => Shape::Bytes,
        "bool" => Shape::Flag,
        "int" => Shape::Number,
        "float" => Shape::Float,
        other => Shape::Message(other.strip_prefix('@')?),
    };
    Some(Field { number, name, shape, count, pointer })
}

/// The document of a body.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let wire = body.strip_prefix(MAGIC).ok_or(Error::Magic)?;
    let unknown = || Error::Malformed("runtime.Unknown".into());
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for part in Parts(wire) {
        match part.ok_or_else(unknown)? {
            (1, Part::Bytes(meta)) => {
                for part in Parts(meta) {
                    match part.ok_or_else(unknown)? {
                        (1, Part::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Part::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Part::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name = message_of(&api_version, &kind)
        .ok_or_else(|| Error::Unknown { api_version: api_version.clone(), kind: kind.clone() })?;
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    fill(&mut object, name, raw, 0)?;
    Ok(Value::Object(object))
}

fn message_of(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("core", api_version));
    let package = group.split('.').next().unwrap_or_default();
    let own = format!("io.k8s.api.{package}.{version}.{kind}");
    let common = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
    let all = messages();
    all.get_key_value(own.as_str()).or_else(|| all.get_key_value(common.as_str())).map(|(name, _)| *name)
}

/// Adds the fields of a message to an object.
fn fill(object: &mut Map<String, Value>, message: &'static str, wire: &[u8], depth: usize) -> Result<(), Error> {
    let malformed = || Error::Malformed(message.rsplit('.').next().unwrap_or(message).to_owned());
    if depth > MAX_DEPTH {
        return Err(malformed());
    }
    let fields = messages().get(message).map_or(&[][..], Vec::as_slice);
    for part in Parts(wire) {
        let (number, part) = part.ok_or_else(malformed)?;
        let Some(field) = fields.iter().find(|f| f.number == number) else { continue };
        match (field.count, field.shape, part) {
            (Count::One, Shape::Message(inner), Part::Bytes(bytes)) if field.name == "^" => {
                fill(object, inner, bytes, depth + 1)?;
            }
            (Count::Map, shape, Part::Bytes(bytes)) => {
                let (key, value) = pair(shape, bytes, depth).map_err(|()| malformed())?;
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                map.as_object_mut().ok_or_else(malformed)?.insert(key, value);
            }
            (Count::List, shape, part) => {
                let one = value(shape, part, depth)?.ok_or_else(malformed)?;
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().ok_or_else(malformed)?.push(one);
            }
            (Count::One, shape, part) => {
                let one = value(shape, part, depth)?.ok_or_else(malformed)?;
                if field.pointer || !is_zero(&one) {
                    object.insert(field.name.to_owned(), one);
                }
            }
            (Count::Map, _, Part::Number(_) | Part::Fixed(_)) => return Err(malformed()),
        }
    }
    Ok(())
}

/// Go writes fields that are not set as zeroes; JSON leaves them out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn pair(shape: Shape, wire: &[u8], depth: usize) -> Result<(String, Value), ()> {
    let empty = match shape {
        Shape::Message(name) => message(name, &[], depth + 1).map_err(|_| ())?,
        Shape::Text | Shape::Bytes => Value::String(String::new()),
        Shape::Flag => Value::Bool(false),
        Shape::Number | Shape::Float => 0.into(),
    };
    let (mut key, mut found) = (String::new(), empty);
    for part in Parts(wire) {
        match part.ok_or(())? {
            (1, Part::Bytes(text)) => key = std::str::from_utf8(text).map_err(|_| ())?.to_owned(),
            (2, part) => found = value(shape, part, depth).map_err(|_| ())?.ok_or(())?,
            _ => {}
        }
    }
    Ok((key, found))
}

/// One value; none when the wire holds something else than the shape says.
fn value(shape: Shape, part: Part<'_>, depth: usize) -> Result<Option<Value>, Error> {
    Ok(match (shape, part) {
        (Shape::Text, Part::Bytes(text)) => std::str::from_utf8(text).ok().map(Into::into),
        (Shape::Bytes, Part::Bytes(bytes)) => Some(base64::engine::general_purpose::STANDARD.encode(bytes).into()),
        (Shape::Flag, Part::Number(number)) => Some((number != 0).into()),
        (Shape::Number, Part::Number(number)) => Some(number.cast_signed().into()),
        (Shape::Float, Part::Fixed(bits)) => Some(f64::from_bits(bits).into()),
        (Shape::Message(name), Part::Bytes(bytes)) => Some(message(name, bytes, depth + 1)?),
        _ => None,
    })
}

/// A message: an object, but for those that are something else in JSON.
fn message(name: &'static str, wire: &[u8], depth: usize) -> Result<Value, Error> {
    let malformed = || Error::Malformed(name.rsplit('.').next().unwrap_or(name).to_owned());
    let parts: Option<Vec<_>> = Parts(wire).collect();
    let parts = parts.ok_or_else(malformed)?;
    let number = |n: u64| {
        parts.iter().find_map(|(f, part)| match part {
            Part::Number(number) if *f == n => Some(*number),
            _ => None,
        })
    };
    let bytes = |n: u64| {
        parts.iter().find_map(|(f, part)| match part {
            Part::Bytes(bytes) if *f == n => Some(*bytes),
            _ => None,
        })
    };
    let text = |n: u64| bytes(n).map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default();
    Ok(match name.rsplit('.').next().unwrap_or_default() {
        "Time" | "MicroTime" => match number(1) {
            None => Value::Null,
            Some(seconds) => {
                let nanos = i32::try_from(number(2).unwrap_or(0)).unwrap_or(0);
                let time = jiff::Timestamp::new(seconds.cast_signed(), nanos).map_err(|_| malformed())?;
                let shown = if name.ends_with("MicroTime") { format!("{time:.6}") } else { format!("{time:.0}") };
                shown.into()
            }
        },
        "Quantity" => text(1).into(),
        "IntOrString" if number(1).unwrap_or(0) == 0 => {
            // an int32 is sent as the 64 bits of its sign extension
            number(2).unwrap_or(0).cast_signed().into()
        }
        "IntOrString" => text(3).into(),
        "RawExtension" | "FieldsV1" => serde_json::from_slice(bytes(1).unwrap_or(b"null")).map_err(|_| malformed())?,
        "ExtraValue" | "Verbs" => {
            let items = parts.iter().filter_map(|(_, part)| match part {
                Part::Bytes(bytes) => Some(Value::String(String::from_utf8_lossy(bytes).into_owned())),
                Part::Number(_) | Part::Fixed(_) => None,
            });
            Value::Array(items.collect())
        }
        _ => {
            let mut object = Map::new();
            fill(&mut object, name, wire, depth)?;
            Value::Object(object)
        }
    })
}

/// What stands behind a field's number on the wire.
#[derive(Clone, Copy)]
enum Part<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message as they come; none once for what breaks the rules.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn part(&mut self) -> Option<(u64, Part<'a>)> {
        let tag = self.varint()?;
        let part = match tag & 7 {
            0 => Part::Number(self.varint()?),
            1 => Part::Fixed(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let count = usize::try_from(self.varint()?).ok()?;
                Part::Bytes(self.take(count)?)
            }
            5 => Part::Fixed(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some((tag >> 3, part))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Option<(u64, Part<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_none() {
            self.0 = &[];
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_map_as_kubectl_sends_it() {
        let hex = "6b3873000a0f0a02763112 09436f6e6669674d617012260a1c0a0873657474696e677312001a047465616d22002a003200380042 00120 60a01611201621a002200";
        let body = hex::decode(hex.replace(' ', "")).unwrap();
        let expected = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "team"},
            "data": {"a": "b"},
        });
        assert_eq!(decode(&body), Ok(expected));
        for end in 4..body.len() {
            // cut anywhere: an error or a smaller document, never a panic
            drop(decode(&body[..end]));
        }
        assert_eq!(decode(b"{}"), Err(Error::Magic));
    }
}
