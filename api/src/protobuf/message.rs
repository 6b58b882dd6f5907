//! The message: its fields, read into an object as JSON has them.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::{
    Error,
    facts::{Field, Message, Shape, Table},
    wire::{self, Part, Parts},
};

type Fields = Map<String, Value>;

/// Why a value is no value of its field.
enum Wrong {
    /// This value is wrong.
    Here(Box<dyn std::error::Error + Send + Sync>),
    /// A field somewhere inside it is wrong.
    Inside(Error),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Wrong {
    fn from(error: E) -> Self {
        Self::Here(Box::new(error))
    }
}

/// Adds the fields of a message to an object. Fields that the table does not have are those of newer clients: left out.
pub(super) fn fill(object: &mut Fields, message: &Message, bytes: &[u8]) -> Result<(), Error> {
    let wrong = |field: &str, wrong| match wrong {
        Wrong::Here(source) => Error::Field { message: message.short_name(), field: field.to_owned(), source },
        Wrong::Inside(error) => error,
    };
    for part in Parts::of(bytes) {
        let (number, part) = part.map_err(|error| wrong("?", error.into()))?;
        if let Some(field) = message.field(number) {
            add(object, field, part).map_err(|error| wrong(field.name.unwrap_or("inline"), error))?;
        }
    }
    Ok(())
}

fn add(object: &mut Fields, field: &Field, part: Part<'_>) -> Result<(), Wrong> {
    let Some(name) = field.name else {
        let Shape::Message(place) = &field.shape else { return Err(wire::Error::Type.into()) };
        return fill(object, Table::message(*place), part.bytes()?).map_err(Wrong::Inside);
    };
    match &field.shape {
        Shape::List(item) => {
            let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Err(wire::Error::Type.into()) };
            match (&**item, part) {
                (Shape::Int, Part::Bytes(bytes)) => {
                    let mut packed = Parts::of(bytes);
                    while let Some(number) = packed.packed() {
                        items.push(number?.into());
                    }
                }
                _ => items.push(value(item, part)?.unwrap_or(Value::Null)),
            }
        }
        Shape::Map(item) => {
            let (key, value) = entry(item, part.bytes()?)?;
            let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { return Err(wire::Error::Type.into()) };
            map.insert(key, value);
        }
        shape => {
            if let Some(value) = value(shape, part)?
                && !(field.always_sent && is_zero(&value))
            {
                object.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// What Go leaves out of JSON where the field is not a pointer, and objects of which nothing is set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// An entry of a map: a message of key and value, either of which may be left out.
fn entry(shape: &Shape, bytes: &[u8]) -> Result<(String, Value), Wrong> {
    let (mut key, mut found) = (String::new(), None);
    for part in Parts::of(bytes) {
        match part? {
            (1, part) => part.text()?.clone_into(&mut key),
            (2, part) => found = value(shape, part)?,
            _ => {}
        }
    }
    let zero = match shape {
        Shape::Bool | Shape::Int => Part::Number(0),
        _ => Part::Bytes(&[]),
    };
    let found = if found.is_none() { value(shape, zero)? } else { found };
    Ok((key, found.unwrap_or(Value::Null)))
}

/// One value; none for a time that is not set.
fn value(shape: &Shape, part: Part<'_>) -> Result<Option<Value>, Wrong> {
    Ok(Some(match shape {
        Shape::String => part.text()?.into(),
        Shape::Bytes => base64::engine::general_purpose::STANDARD.encode(part.bytes()?).into(),
        Shape::Bool => (part.number()? != 0).into(),
        Shape::Int => part.number()?.into(),
        Shape::Time | Shape::MicroTime => return time(part.bytes()?, matches!(shape, Shape::MicroTime)),
        Shape::Quantity => match field(part, 1)? {
            Some(text) => text.text()?.into(),
            None => "0".into(),
        },
        Shape::IntOrString => match field(part, 1)?.map_or(Ok(0), Part::number)? {
            0 => field(part, 2)?.map_or(Ok(0), Part::number)?.into(),
            1 => field(part, 3)?.map_or(Ok(""), Part::text)?.into(),
            _ => return Err(wire::Error::Type.into()),
        },
        Shape::Json => match field(part, 1)? {
            Some(text) => serde_json::from_slice(text.bytes()?)?,
            None => return Ok(None),
        },
        Shape::Wrapped => {
            let items = Parts::of(part.bytes()?).map(|part| Ok(part?.1.text()?.into()));
            Value::Array(items.collect::<Result<_, wire::Error>>()?)
        }
        Shape::Message(place) => {
            let mut object = Map::new();
            fill(&mut object, Table::message(*place), part.bytes()?).map_err(Wrong::Inside)?;
            Value::Object(object)
        }
        Shape::List(_) | Shape::Map(_) => return Err(wire::Error::Type.into()),
    }))
}

/// The last field of this number in a message.
fn field(message: Part<'_>, number: u64) -> Result<Option<Part<'_>>, wire::Error> {
    let mut found = None;
    for part in Parts::of(message.bytes()?) {
        let (at, part) = part?;
        found = if at == number { Some(part) } else { found };
    }
    Ok(found)
}

/// Seconds, and below them no more than JSON shows (upstream's `time_proto.go`, `micro_time_proto.go`).
fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, Wrong> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let number = |at| field(Part::Bytes(bytes), at)?.map_or(Ok(0), Part::number);
    let (seconds, nanos) = (number(1)?, i32::try_from(number(2)?)?);
    let text = if micro {
        format!("{:.6}", jiff::Timestamp::new(seconds, nanos)?)
    } else {
        jiff::Timestamp::from_second(seconds)?.to_string()
    };
    Ok(Some(text.into()))
}
