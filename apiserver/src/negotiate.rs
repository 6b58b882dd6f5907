//! The negotiation: which form of an object a client accepts.

use http::{HeaderMap, header};

use crate::reply::Answer;

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The objects as they are.
    Plain,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata of this version.
    Metadata(&'static str),
}

/// One acceptable media type with its parameters.
pub struct Accepted<'a> {
    /// `application/json`.
    pub media_type: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl Accepted<'_> {
    /// A parameter; empty when absent.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }
}

/// What `Accept` lists, in its order. (Weights are given by no client of this API.)
pub fn accepted(headers: &HeaderMap) -> Vec<Accepted<'_>> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let entries = values.flat_map(|v| v.split(',')).filter(|entry| !entry.trim().is_empty());
    let parse = |entry| {
        let mut parts = str::split(entry, ';').map(str::trim);
        Accepted {
            media_type: parts.next().unwrap_or_default(),
            params: parts
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.trim(), v.trim().trim_matches('"')))
                .collect(),
        }
    };
    entries.map(parse).collect()
}

/// The first acceptable form. `transforms`: tables and metadata are on offer, as they are for reads.
pub fn form(headers: &HeaderMap, transforms: bool) -> Answer<Form> {
    let accepted = accepted(headers);
    if accepted.is_empty() {
        return Ok(Form::Plain);
    }
    for entry in &accepted {
        if !matches!(entry.media_type, "application/json" | "application/*" | "*/*") {
            continue;
        }
        let version = match entry.param("v") {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            _ => "",
        };
        match entry.param("as") {
            "" => return Ok(Form::Plain),
            _ if !transforms || version.is_empty() || entry.param("g") != "meta.k8s.io" => {}
            "Table" => return Ok(Form::Table(version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => return Ok(Form::Metadata(version)),
            _ => {}
        }
    }
    Err(not_acceptable())
}

/// 406, as upstream words it.
pub fn not_acceptable() -> Box<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status> {
    let text = "only the following media types are accepted: application/json";
    Box::new(api::status::failure(406, "NotAcceptable", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_on_offer_wins() {
        let of = |accept: &str, transforms| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            form(&headers, transforms).map_err(|s| s.code.unwrap())
        };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl, true), Ok(Form::Table("v1")));
        assert_eq!(of(kubectl, false), Ok(Form::Plain));
        assert_eq!(of("application/vnd.kubernetes.protobuf,application/json", true), Ok(Form::Plain));
        assert_eq!(
            of("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", true),
            Ok(Form::Metadata("v1"))
        );
        assert_eq!(of("application/json;as=Table;v=v1;g=meta.k8s.io", false), Err(406));
        assert_eq!(of("text/html", true), Err(406));
        assert_eq!(of("*/*", true), Ok(Form::Plain));
    }
}
