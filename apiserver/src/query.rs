//! The query of a request, and the options that each verb reads from it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};

use crate::reply::Answer;

/// Longest `fieldManager`, characters (upstream `MaxLengthFieldManager`).
const MAX_MANAGER: usize = 128;

/// The parameters, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The parameters of a URI's query.
    pub fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).map(|(k, v)| (k.into_owned(), v.into_owned())).collect())
    }

    /// The first value; empty when absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    /// The same without this parameter.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|(key, _)| key != name).cloned().collect())
    }

    /// All values.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A flag: present and neither `false` nor `0`, as upstream's conversion reads it.
    pub fn flag(&self, name: &str) -> bool {
        self.0.iter().find(|(k, _)| k == name).is_some_and(|(_, v)| !matches!(v.as_str(), "false" | "0"))
    }

    /// A flag that may be absent.
    pub fn maybe_flag(&self, name: &str) -> Option<bool> {
        self.0.iter().any(|(k, _)| k == name).then(|| self.flag(name))
    }

    /// A number; 400 when it is none.
    pub fn number(&self, name: &str) -> Answer<Option<i64>> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Box::new(api::status::bad_request(format!(
                    "strconv.ParseInt: parsing \"{text}\": invalid syntax (parameter {name})"
                )))
            }),
        }
    }
}

/// How `resourceVersion` of a list is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Not older than that.
    NotOlderThan,
    /// Exactly that.
    Exact,
}

/// What list and watch read.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// `labelSelector`.
    pub labels: String,
    /// `fieldSelector`.
    pub fields: String,
    /// `limit`; 0 for all.
    pub limit: usize,
    /// `continue`.
    pub continues: String,
    /// `resourceVersion`; none when absent.
    pub revision: Option<store::Revision>,
    /// `resourceVersionMatch`.
    pub matching: Option<Match>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial: Option<bool>,
    /// `timeoutSeconds`.
    pub timeout: Option<u64>,
}

impl ListOptions {
    /// Reads them; 400 for what makes no sense, 422 for combinations that upstream refuses.
    pub fn new(query: &Query, watch: bool) -> Answer<Self> {
        let revision = match query.get("resourceVersion") {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
                let text = format!("resourceVersion: Invalid value: \"{text}\": {why}");
                Box::new(api::status::bad_request(text))
            })?),
        };
        let matching = match query.get("resourceVersionMatch") {
            "" => None,
            "NotOlderThan" => Some(Match::NotOlderThan),
            "Exact" => Some(Match::Exact),
            other => {
                return Err(invalid(&format!(
                    "resourceVersionMatch: Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""
                )));
            }
        };
        let options = Self {
            labels: query.get("labelSelector").to_owned(),
            fields: query.get("fieldSelector").to_owned(),
            limit: query.number("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            continues: query.get("continue").to_owned(),
            revision,
            matching,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial: query.maybe_flag("sendInitialEvents"),
            timeout: query.number("timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0),
        };
        options.check(watch)?;
        Ok(options)
    }

    /// The rules of upstream's `ValidateListOptions`.
    fn check(&self, watch: bool) -> Answer<()> {
        if watch {
            return match (self.initial, self.matching) {
                (None, Some(_)) => Err(invalid(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                )),
                (Some(_), None) => Err(invalid(
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                )),
                (Some(_), Some(Match::Exact)) => Err(invalid(
                    "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"",
                )),
                (Some(true), _) if !self.bookmarks => {
                    Err(invalid("sendInitialEvents: Forbidden: sendInitialEvents requires allowWatchBookmarks"))
                }
                _ => Ok(()),
            };
        }
        if self.initial.is_some() {
            return Err(invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"));
        }
        if self.matching.is_some() && self.revision.is_none() {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if self.matching.is_some() && !self.continues.is_empty() {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if self.matching == Some(Match::Exact) && self.revision == Some(0) {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        Ok(())
    }
}

fn invalid(text: &str) -> Box<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status> {
    Box::new(api::status::failure(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {text}")))
}

/// What to do about fields that the schema does not know, or that appear twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// What create, update and patch read.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldManager`; or derived from the user agent.
    pub manager: String,
    /// `fieldValidation`.
    pub validation: FieldValidation,
    /// `force`, for apply.
    pub force: bool,
}

impl WriteOptions {
    /// Reads them.
    pub fn new(query: &Query, user_agent: &str) -> Answer<Self> {
        let validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                return Err(Box::new(api::status::failure(
                    422,
                    "Invalid",
                    format!(
                        "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
                    ),
                )));
            }
        };
        let manager = query.get("fieldManager");
        if manager.chars().count() > MAX_MANAGER || manager.chars().any(char::is_control) {
            let text = format!("fieldManager: Invalid value: must be at most {MAX_MANAGER} printable characters");
            return Err(Box::new(api::status::failure(422, "Invalid", text)));
        }
        let manager = if manager.is_empty() { user_agent.split('/').next().unwrap_or_default() } else { manager };
        let manager = if manager.is_empty() { "unknown" } else { manager };
        Ok(Self {
            dry_run: dry_run(query.all("dryRun"))?,
            manager: manager.chars().take(MAX_MANAGER).collect(),
            validation,
            force: query.flag("force"),
        })
    }
}

/// Whether `dryRun` asks for all stages; 422 for any other value.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Answer<bool> {
    let mut asked = false;
    for value in values.filter(|v| !v.is_empty()) {
        if value != "All" {
            let text = format!("dryRun: Unsupported value: \"{value}\": supported values: \"All\"");
            return Err(Box::new(api::status::failure(422, "Invalid", text)));
        }
        asked = true;
    }
    Ok(asked)
}

/// Delete options from the query, for clients that send no body.
pub fn delete_options(query: &Query) -> Answer<DeleteOptions> {
    let text = |name: &str| Some(query.get(name).to_owned()).filter(|v| !v.is_empty());
    let preconditions =
        Preconditions { uid: text("preconditions.uid"), resource_version: text("preconditions.resourceVersion") };
    Ok(DeleteOptions {
        grace_period_seconds: query.number("gracePeriodSeconds")?,
        propagation_policy: text("propagationPolicy"),
        orphan_dependents: query.maybe_flag("orphanDependents"),
        dry_run: Some(query.all("dryRun").map(Into::into).collect::<Vec<_>>()).filter(|v| !v.is_empty()),
        preconditions: Some(preconditions).filter(|p| p.uid.is_some() || p.resource_version.is_some()),
        ..DeleteOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_options_refuse_what_upstream_refuses() {
        let list = |q: &str| ListOptions::new(&Query::parse(q), false).map_err(|s| s.code.unwrap());
        let watch = |q: &str| ListOptions::new(&Query::parse(q), true).map_err(|s| s.code.unwrap());
        assert_eq!(list("resourceVersion=x").unwrap_err(), 400);
        assert_eq!(list("resourceVersionMatch=Exact").unwrap_err(), 422);
        assert_eq!(list("resourceVersion=0&resourceVersionMatch=Exact").unwrap_err(), 422);
        assert_eq!(list("sendInitialEvents=true").unwrap_err(), 422);
        assert_eq!(watch("sendInitialEvents=true").unwrap_err(), 422);
        assert!(watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true").is_ok());
        let options = list("limit=500&labelSelector=a%3Db&resourceVersion=7").unwrap();
        assert_eq!((options.limit, options.labels.as_str(), options.revision), (500, "a=b", Some(7)));
    }

    #[test]
    fn the_manager_falls_back_to_the_user_agent() {
        let manager = |q: &str, agent: &str| WriteOptions::new(&Query::parse(q), agent).unwrap().manager;
        assert_eq!(manager("fieldManager=me", "kubectl/v1.32"), "me");
        assert_eq!(manager("", "kubectl/v1.32 (linux)"), "kubectl");
        assert_eq!(manager("", ""), "unknown");
        assert!(WriteOptions::new(&Query::parse("dryRun=Some"), "").is_err());
    }
}
