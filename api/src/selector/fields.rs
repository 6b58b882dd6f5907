//! Field selectors: `metadata.name=a,status.phase!=Running`.

use std::{fmt, str::FromStr};

use super::Error;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// `status.phase`.
    pub field: String,
    /// What the field is compared with.
    pub value: String,
    /// Equal is meant; otherwise unequal.
    pub equal: bool,
}

/// Comparisons that must all hold. Empty: everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// In the order written.
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Whether all comparisons hold, where `value` tells a field's text.
    pub fn matches<'a>(&self, value: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.terms.iter().all(|t| (value(&t.field) == t.value) == t.equal)
    }

    /// The value that the field must have, if the selector says so: for lookups by name.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

impl FromStr for FieldSelector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut terms = Vec::new();
        for part in split(text).filter(|p| !p.is_empty()) {
            let (field, equal, value) = operator(part)
                .ok_or_else(|| Error::new(format!("invalid selector: '{text}'; can't understand '{part}'")))?;
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, equal });
        }
        Ok(Self { terms })
    }
}

/// The terms: commas after a backslash do not end one.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let literal = escaped;
        escaped = c == '\\' && !literal;
        c == ',' && !literal
    })
}

/// The first of `!=`, `==`, `=`, whichever stands first.
fn operator(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.char_indices().find_map(|(i, _)| {
        let rest = &term[i..];
        [("!=", false), ("==", true), ("=", true)].into_iter().find(|(word, _)| rest.starts_with(word)).map(|o| (i, o))
    });
    at.map(|(i, (word, equal))| (&term[..i], equal, &term[i + word.len()..]))
}

fn unescape(value: &str) -> Result<String, Error> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    let sequence = other.map_or_else(String::new, String::from);
                    return Err(Error::new(format!("invalid field selector: invalid escape sequence: \\{sequence}")));
                }
            },
            ',' | '=' => {
                return Err(Error::new(format!("invalid field selector: unescaped character in value: {c}")));
            }
            c => plain.push(c),
        }
    }
    Ok(plain)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let operator = if term.equal { "=" } else { "!=" };
            let value = term.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{comma}{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}
