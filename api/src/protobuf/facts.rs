//! The reader of `facts.txt`, whose form `scripts/protobuf_facts.py` explains.
//!
//! Read once, on first use. The names stay slices of the text inside the binary.

use std::{collections::HashMap, sync::LazyLock};

static FACTS: &str = include_str!("facts.txt");

static TABLE: LazyLock<Table> = LazyLock::new(|| read(FACTS));

/// Every message that a body may hold.
pub(super) struct Table {
    messages: Vec<Message>,
    kinds: HashMap<&'static str, usize>,
}

/// A message.
pub(super) struct Message {
    /// `io.k8s.api.core.v1.Pod`.
    name: &'static str,
    fields: Vec<Field>,
}

/// A field of a message.
pub(super) struct Field {
    number: u64,
    /// As in JSON; none where the fields of the message are the parent's own.
    pub name: Option<&'static str>,
    /// What the value is.
    pub shape: Shape,
    /// Go sends the field whether or not it is set, so that its zero means absence.
    pub always_sent: bool,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Shape {
    String,
    Bytes,
    Bool,
    Int,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// A message whose first field is JSON.
    Json,
    /// A message whose first field is a list of strings.
    Wrapped,
    Message(usize),
    List(Box<Self>),
    Map(Box<Self>),
}

impl Table {
    /// The message of a group, version and kind, written `apps/v1/Deployment`.
    pub fn kind(gvk: &str) -> Option<&'static Message> {
        TABLE.kinds.get(gvk).map(|place| Self::message(*place))
    }

    /// The message at this place of the table.
    pub fn message(place: usize) -> &'static Message {
        &TABLE.messages[place]
    }
}

impl Message {
    /// The last part of the name, as Go code calls the type: `DeploymentSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// The field of this number.
    pub fn field(&self, number: u64) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.number.cmp(&number)).ok().map(|place| &self.fields[place])
    }
}

fn read(text: &'static str) -> Table {
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    let names = lines().filter(|line| !line.starts_with('\t')).map(|line| line.split(' ').next().unwrap_or_default());
    let places: HashMap<_, _> = names.enumerate().map(|(place, name)| (name, place)).collect();
    let mut table = Table { messages: Vec::with_capacity(places.len()), kinds: HashMap::new() };
    for line in lines() {
        match (line.strip_prefix('\t'), table.messages.last_mut()) {
            (Some(rest), Some(owner)) => owner.fields.push(field(rest, &places)),
            _ => {
                let (name, gvk) = line.split_once(" gvk=").map_or((line, None), |(name, gvk)| (name, Some(gvk)));
                table.kinds.extend(gvk.map(|gvk| (gvk, table.messages.len())));
                table.messages.push(Message { name, fields: Vec::new() });
            }
        }
    }
    table
}

fn field(line: &'static str, places: &HashMap<&str, usize>) -> Field {
    let mut words = line.split(' ');
    let mut next = || words.next().expect("invariant: a field of the table has number, name and shape");
    let number = next().parse().expect("invariant: the table's numbers are numbers");
    let (name, word) = (next(), next());
    Field {
        number,
        name: Some(name).filter(|name| *name != "^"),
        shape: shape(word.trim_end_matches('?'), places),
        always_sent: word.ends_with('?'),
    }
}

fn shape(word: &str, places: &HashMap<&str, usize>) -> Shape {
    let inner = |of: fn(Box<Shape>) -> Shape| of(Box::new(shape(&word[1..word.len() - 1], places)));
    match word {
        "str" => Shape::String,
        "bytes" => Shape::Bytes,
        "bool" => Shape::Bool,
        "int" => Shape::Int,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "quantity" => Shape::Quantity,
        "intstr" => Shape::IntOrString,
        "json" => Shape::Json,
        "wrapped" => Shape::Wrapped,
        _ if word.starts_with('[') => inner(Shape::List),
        _ if word.starts_with('{') => inner(Shape::Map),
        _ => Shape::Message(places[word.trim_start_matches('@')]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kinds::KINDS,
        schema::{self, Schema},
    };

    fn names(message: &Message) -> Vec<&'static str> {
        let of = |field: &Field| match (field.name, &field.shape) {
            (None, Shape::Message(inner)) => names(Table::message(*inner)),
            (name, _) => name.into_iter().collect(),
        };
        message.fields.iter().flat_map(of).collect()
    }

    #[test]
    fn every_kind_has_its_message() {
        for kind in KINDS {
            let gvk = format!("{}/{}/{}", kind.group, kind.version, kind.kind);
            assert!(Table::kind(&gvk).is_some_and(|m| m.field(1).unwrap().name == Some("metadata")), "{gvk}");
        }
    }

    #[test]
    fn messages_have_the_fields_of_the_schema() {
        let mut compared = 0;
        for message in &TABLE.messages {
            let Some(ty) = Schema::named(message.name) else { continue };
            let mut ours = names(message);
            ours.sort_unstable();
            // the type of a whole object stands in the envelope
            let whole = Table::kind(&ty.gvk.map_or(String::new(), |g| format!("{}/{}/{}", g.group, g.version, g.kind)));
            let in_envelope = |f: &&schema::Field| whole.is_some() && matches!(f.name, "apiVersion" | "kind");
            // the kubelet's word on itself, without a number in the sources of the table
            let unnumbered = |f: &&schema::Field| f.name == "runningInUserNamespace";
            let theirs = ty.fields.iter().filter(|f| !in_envelope(f) && !unnumbered(f));
            let theirs: Vec<_> = theirs.map(|f| f.name).collect();
            assert_eq!(ours, theirs, "{}", message.name);
            compared += 1;
        }
        assert!(compared > 150, "{compared}");
    }

    fn holds(shape: &Shape, above: &[&'static str]) {
        match shape {
            Shape::List(inner) | Shape::Map(inner) => holds(inner, above),
            Shape::Message(place) => {
                let message = Table::message(*place);
                assert!(!above.contains(&message.name), "{} contains itself", message.name);
                let above = [above, &[message.name]].concat();
                message.fields.iter().for_each(|field| holds(&field.shape, &above));
            }
            _ => {}
        }
    }

    #[test]
    fn no_message_contains_itself() {
        (0..TABLE.messages.len()).for_each(|place| holds(&Shape::Message(place), &[]));
    }
}
