//! Swagger 2.0 in protobuf: the messages of `openapi.v2` as gnostic defines them (`openapiv2/OpenAPIv2.proto`; the numbers
//! here are its field numbers). Extensions are YAML inside, for which JSON serves.

use serde_json::{Map, Value};

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: usize, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: usize, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// A string, where the value is one.
    fn text(&mut self, field: usize, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    /// A string for each item, where the value is a list.
    fn texts(&mut self, field: usize, value: &Value) {
        value.as_array().into_iter().flatten().for_each(|v| self.text(field, v));
    }

    fn truth(&mut self, field: usize, value: &Value) {
        if value == true {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    /// A message for each entry of a map: its name, and what `write` makes of its value.
    fn named(&mut self, field: usize, map: &Value, write: impl Fn(&Value) -> Self) {
        for (name, value) in map.as_object().into_iter().flatten() {
            self.named_one(field, name, &write(value));
        }
    }

    fn named_one(&mut self, field: usize, name: &str, value: &Self) {
        let mut entry = Self::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, value);
        self.message(field, &entry);
    }

    /// `vendor_extension`: every `x-` field.
    fn extensions(&mut self, field: usize, value: &Value) {
        let fields = value.as_object().into_iter().flat_map(Map::iter);
        for (name, value) in fields.filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Self::default();
            any.bytes(2, format!("{value}\n").as_bytes());
            self.named_one(field, name, &any);
        }
    }
}

/// The `Document`.
pub(super) fn document(swagger: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.text(1, &swagger["info"]["title"]);
    info.text(2, &swagger["info"]["version"]);
    let mut paths = Message::default();
    paths.named(2, &swagger["paths"], path_item);
    let mut definitions = Message::default();
    definitions.named(1, &swagger["definitions"], schema);
    let mut document = Message::default();
    document.text(1, &swagger["swagger"]);
    document.message(2, &info);
    document.message(8, &paths);
    document.message(9, &definitions);
    document.0
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = item.get(method) {
            message.message(field, &operation(value));
        }
    }
    parameters(&mut message, 9, &item["parameters"]);
    message
}

fn operation(value: &Value) -> Message {
    let mut responses = Message::default();
    responses.named(1, &value["responses"], |response| {
        let mut item = Message::default();
        item.message(1, &schema(&response["schema"]));
        let mut plain = Message::default();
        plain.text(1, &response["description"]);
        plain.message(2, &item);
        let mut choice = Message::default();
        choice.message(1, &plain);
        choice
    });
    let mut message = Message::default();
    message.texts(1, &value["tags"]);
    message.text(5, &value["operationId"]);
    message.texts(6, &value["produces"]);
    message.texts(7, &value["consumes"]);
    parameters(&mut message, 8, &value["parameters"]);
    message.message(9, &responses);
    message.extensions(13, value);
    message
}

/// Each a `ParametersItem` that holds a `Parameter`.
fn parameters(message: &mut Message, field: usize, values: &Value) {
    for value in values.as_array().into_iter().flatten() {
        let mut parameter = Message::default();
        match value["in"].as_str() {
            Some("body") => parameter.message(1, &body_parameter(value)),
            place => {
                let path = place == Some("path");
                let mut choice = Message::default();
                choice.message(if path { 4 } else { 3 }, &plain_parameter(value, if path { 5 } else { 6 }));
                parameter.message(2, &choice);
            }
        }
        let mut item = Message::default();
        item.message(1, &parameter);
        message.message(field, &item);
    }
}

fn body_parameter(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(2, &value["name"]);
    message.text(3, &value["in"]);
    message.truth(4, &value["required"]);
    message.message(5, &schema(&value["schema"]));
    message
}

/// `QueryParameterSubSchema` and `PathParameterSubSchema` differ in the number of `type` alone.
fn plain_parameter(value: &Value, type_field: usize) -> Message {
    let mut message = Message::default();
    message.truth(1, &value["required"]);
    message.text(2, &value["in"]);
    message.text(4, &value["name"]);
    message.text(type_field, &value["type"]);
    message
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, &value["$ref"]);
    message.text(2, &value["format"]);
    message.text(4, &value["description"]);
    message.texts(19, &value["required"]);
    if let Some(inner) = value.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, &schema(inner));
        message.message(21, &item);
    }
    if let Some(kind) = value.get("type") {
        let mut item = Message::default();
        item.text(1, kind);
        message.message(22, &item);
    }
    if let Some(inner) = value.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(inner));
        message.message(23, &item);
    }
    if let Some(inner) = value.get("properties") {
        let mut properties = Message::default();
        properties.named(1, inner, schema);
        message.message(25, &properties);
    }
    message.extensions(31, value);
    message
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The fields of a message whose fields are all strings, messages and flags.
    fn fields(mut bytes: &[u8]) -> BTreeMap<usize, Vec<&[u8]>> {
        fn varint(bytes: &mut &[u8]) -> usize {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (byte, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                value |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        let mut found: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = varint(&mut bytes);
            let (value, rest) = bytes.split_at(if key & 7 == 2 { length } else { 0 });
            bytes = rest;
            found.entry(key >> 3).or_default().push(value);
        }
        found
    }

    /// The value of the entry of this name in field `field` of a map.
    fn named<'a>(map: &'a [u8], field: usize, name: &str) -> &'a [u8] {
        let entries = fields(map).remove(&field).unwrap();
        let entry = entries.into_iter().find(|e| fields(e)[&1] == [name.as_bytes()]).unwrap();
        fields(entry)[&2][0]
    }

    #[test]
    fn the_document_says_the_same_as_the_json() {
        let json = crate::openapi::v2();
        let bytes = document(&json);
        let top = fields(&bytes);
        assert_eq!(top[&1], [b"2.0"]);
        assert_eq!(fields(top[&8][0])[&2].len(), json["paths"].as_object().unwrap().len());
        assert_eq!(fields(top[&9][0])[&1].len(), json["definitions"].as_object().unwrap().len());

        let service = fields(named(top[&9][0], 1, "io.k8s.api.core.v1.ServiceSpec"));
        let ports = fields(named(service[&25][0], 1, "ports"));
        assert_eq!(fields(ports[&22][0])[&1], [b"array"]);
        let item = fields(fields(ports[&23][0])[&1][0])[&1][0];
        assert_eq!(item, b"#/definitions/io.k8s.api.core.v1.ServicePort");
        let extension = ports[&31].iter().find(|e| fields(e)[&1] == [b"x-kubernetes-list-map-keys"]).unwrap();
        assert_eq!(fields(fields(extension)[&2][0])[&2], [b"[\"port\",\"protocol\"]\n"]);

        let pod = fields(named(top[&8][0], 2, "/api/v1/namespaces/{namespace}/pods/{name}"));
        let patch = fields(pod[&8][0]);
        let names: Vec<_> = patch[&8]
            .iter()
            .filter_map(|p| {
                let choice = fields(fields(p)[&1][0]).remove(&2)?;
                let query = fields(choice[0]).remove(&3)?;
                Some(String::from_utf8_lossy(fields(query[0])[&4][0]).into_owned())
            })
            .collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    }
}
