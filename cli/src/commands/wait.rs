//! `orlop wait`: waits until objects are in a condition, or gone.

use std::io::Write;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    args::Wait,
    follow::Patience,
    manifest::title,
    rest::{Rest, refused_with},
    subject,
};

/// What is waited for.
#[derive(Debug, PartialEq, Eq)]
enum Until {
    Created,
    Deleted,
    Condition { name: String, value: String },
}

impl Until {
    fn parse(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("condition=")) {
            ("create", _) => Ok(Self::Created),
            ("delete", _) => Ok(Self::Deleted),
            (_, Some(rest)) => {
                let (name, value) = rest.split_once('=').unwrap_or((rest, "True"));
                Ok(Self::Condition { name: name.to_lowercase(), value: value.to_lowercase() })
            }
            (_, None) => bail!("--for takes condition=NAME, condition=NAME=VALUE, create or delete, not {text:?}"),
        }
    }

    fn met(&self, object: Option<&Value>) -> bool {
        match self {
            Self::Created => object.is_some(),
            Self::Deleted => object.is_none(),
            Self::Condition { name, value } => {
                let conditions = object.and_then(|o| o.pointer("/status/conditions")).and_then(Value::as_array);
                let is = |c: &Value, field: &str, wanted: &str| {
                    c.get(field).and_then(Value::as_str).is_some_and(|v| v.to_lowercase() == wanted)
                };
                conditions.is_some_and(|all| all.iter().any(|c| is(c, "type", name) && is(c, "status", value)))
            }
        }
    }
}

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Wait, out: &mut impl Write) -> Result<()> {
    let until = Until::parse(&args.until)?;
    let mut patience = Patience::until(Instant::now() + args.timeout);
    let subjects = subject::resolve(rest, &args.what, args.selector.as_deref(), false).await?;
    if subjects.is_empty() && until != Until::Deleted {
        bail!("no matching resources found");
    }
    for (kind, name) in subjects {
        let path = subject::path(kind, &rest.namespace, &name);
        let met = patience.look(async || {
            let object: Option<Value> = match rest.get(&path).await {
                Ok(object) => Some(object),
                Err(error) if refused_with(&error, 404) && matches!(until, Until::Created | Until::Deleted) => None,
                Err(error) => return Err(error),
            };
            Ok(until.met(object.as_ref()).then_some(()))
        });
        if met.await?.is_none() {
            bail!("timed out waiting for the condition on {}", title(kind, &name));
        }
        writeln!(out, "{} condition met", title(kind, &name)).context("print")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_met_by_name_and_value_in_any_case() {
        let ready = serde_json::json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(Until::parse("condition=ready").unwrap().met(Some(&ready)));
        assert!(!Until::parse("condition=Ready=False").unwrap().met(Some(&ready)));
        assert!(Until::parse("delete").unwrap().met(None));
        assert!(Until::parse("create").unwrap().met(Some(&ready)));
        assert!(Until::parse("Ready").is_err());
    }
}
