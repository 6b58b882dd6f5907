//! Label selectors.

use std::{collections::BTreeMap, fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Error;
use crate::{field, names};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is a larger whole number.
    GreaterThan,
    /// The label is a smaller whole number.
    LessThan,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// With what; ordered, each once.
    pub values: Vec<String>,
}

impl Requirement {
    /// A requirement whose key, values and number of values are as the operator wants them.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, Error> {
        if let Some(complaint) = names::qualified_name(key).first() {
            return Err(Error::new(format!("key: Invalid value: {key:?}: {complaint}")));
        }
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return Err(Error::new(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
                ));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return Err(Error::new("values set must be empty for exists and does not exist"));
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 || values[0].parse::<i64>().is_err() => {
                return Err(Error::new("for 'Gt', 'Lt' operators, the value must be an integer"));
            }
            _ => {}
        }
        for value in &values {
            if let Some(complaint) = names::label_value(value).first() {
                return Err(Error::new(format!("values[0][{key}]: Invalid value: {value:?}: {complaint}")));
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    /// Whether the labels fulfil this.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let among = |v: &String| self.values.binary_search(v).is_ok();
        let compared = |holds: fn(i64, i64) -> bool| {
            let number = |text: &String| text.parse::<i64>().ok();
            value.and_then(number).zip(self.values.first().and_then(number)).is_some_and(|(a, b)| holds(a, b))
        };
        match self.operator {
            Operator::In => value.is_some_and(among),
            Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compared(|a, b| a > b),
            Operator::LessThan => compared(|a, b| a < b),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match (self.operator, self.values.len()) {
            (Operator::In, 1) => write!(f, "{key}={values}"),
            (Operator::In, _) => write!(f, "{key} in ({values})"),
            (Operator::NotIn, 1) => write!(f, "{key}!={values}"),
            (Operator::NotIn, _) => write!(f, "{key} notin ({values})"),
            (Operator::Exists, _) => write!(f, "{key}"),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::GreaterThan, _) => write!(f, "{key}>{values}"),
            (Operator::LessThan, _) => write!(f, "{key}<{values}"),
        }
    }
}

/// Requirements that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Option<Vec<Requirement>>,
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self { requirements: Some(Vec::new()) }
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: None }
    }

    /// These requirements, ordered by key.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements: Some(requirements) }
    }

    /// Each label has exactly this value: selectors of services and `nodeSelector`. Values are not checked.
    pub fn of_map(labels: &BTreeMap<String, String>) -> Self {
        let equal = |(k, v): (&String, &String)| Requirement {
            key: k.clone(),
            operator: Operator::In,
            values: vec![v.clone()],
        };
        Self { requirements: Some(labels.iter().map(equal).collect()) }
    }

    /// The requirements; none where nothing matches.
    pub fn requirements(&self) -> Option<&[Requirement]> {
        self.requirements.as_deref()
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether labels match.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|r| r.matches(labels)))
    }

    /// The same for labels that may be absent.
    pub fn matches_option(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.matches(labels.unwrap_or(&NONE))
    }

    /// As upstream's `LabelSelectorAsSelector`: an absent selector matches nothing, an empty one everything.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, Error> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::In, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(Error::new(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::new(requirements))
    }
}

impl TryFrom<&LabelSelector> for Selector {
    type Error = Error;

    fn try_from(selector: &LabelSelector) -> Result<Self, Error> {
        Self::from_label_selector(Some(selector))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().flatten().enumerate() {
            write!(f, "{}{requirement}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// What is wrong with a `LabelSelector` in an object, each with its field: upstream's `ValidateLabelSelector`.
pub fn validate(selector: &LabelSelector, path: &field::Path) -> field::Errors {
    let mut errors = validate_labels(selector.match_labels.as_ref(), &path.child("matchLabels"));
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.push(field::Error::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(field::Error::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(field::Error::invalid(&path.child("operator"), other, "not a valid selector operator"))
            }
        }
        for complaint in names::qualified_name(&expression.key) {
            errors.push(field::Error::invalid(&path.child("key"), &expression.key, complaint));
        }
        for (j, value) in values.iter().enumerate() {
            for complaint in names::label_value(value) {
                errors.push(field::Error::invalid(&path.child("values").index(j), value, complaint));
            }
        }
    }
    errors
}

/// What is wrong with an object's labels, each with its field: upstream's `ValidateLabels`.
pub fn validate_labels(labels: Option<&BTreeMap<String, String>>, path: &field::Path) -> field::Errors {
    let mut errors = field::Errors::new();
    for (key, value) in labels.into_iter().flatten() {
        errors.extend(names::qualified_name(key).into_iter().map(|c| field::Error::invalid(path, key, c)));
        errors.extend(names::label_value(value).into_iter().map(|c| field::Error::invalid(path, value, c)));
    }
    errors
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parser = Parser { rest: text };
        let mut requirements = Vec::new();
        parser.skip_spaces();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            if !parser.take(",") {
                break;
            }
            if parser.peek().is_empty() {
                return Err(parser.unexpected("identifier after ','"));
            }
        }
        if parser.rest.is_empty() {
            Ok(Self::new(requirements))
        } else {
            Err(parser.unexpected("',' or 'end of string'"))
        }
    }
}

/// Reads a selector from left to right; spaces may stand between any two tokens.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn requirement(&mut self) -> Result<Requirement, Error> {
        if self.take("!") {
            let key = self.word("identifier")?;
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        let key = self.word("!, identifier")?;
        if self.peek().is_empty() || self.rest.starts_with(',') {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        // The longer operators first.
        let symbols = [
            ("!=", Operator::NotIn),
            ("==", Operator::In),
            ("=", Operator::In),
            (">", Operator::GreaterThan),
            ("<", Operator::LessThan),
        ];
        if let Some((_, operator)) = symbols.into_iter().find(|(symbol, _)| self.take(symbol)) {
            let value = self.value();
            return Requirement::new(key, operator, vec![value.to_owned()]);
        }
        match self.word("in, notin, =, ==, !=, gt, lt")? {
            "in" => Requirement::new(key, Operator::In, self.values()?),
            "notin" => Requirement::new(key, Operator::NotIn, self.values()?),
            other => Err(Error::new(format!(
                "unable to parse requirement: found '{other}', expected: in, notin, =, ==, !=, gt, lt"
            ))),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, Error> {
        if !self.take("(") {
            return Err(self.unexpected("'('"));
        }
        let mut values = vec![self.value().to_owned()];
        while self.take(",") {
            values.push(self.value().to_owned());
        }
        if self.take(")") { Ok(values) } else { Err(self.unexpected("',', or ')'")) }
    }

    /// A value, which may be empty.
    fn value(&mut self) -> &'a str {
        self.skip_spaces();
        let end = self.rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_spaces();
        word
    }

    fn word(&mut self, expected: &str) -> Result<&'a str, Error> {
        match self.value() {
            "" => Err(self.unexpected(expected)),
            word => Ok(word),
        }
    }

    fn take(&mut self, symbol: &str) -> bool {
        self.skip_spaces();
        let rest = self.rest.strip_prefix(symbol);
        self.rest = rest.unwrap_or(self.rest);
        self.skip_spaces();
        rest.is_some()
    }

    fn peek(&mut self) -> &'a str {
        self.skip_spaces();
        self.rest
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn unexpected(&self, expected: &str) -> Error {
        let found: String = self.rest.chars().take(1).collect();
        Error::new(format!("unable to parse requirement: found '{found}', expected: {expected}"))
    }
}
