//! `/openapi/v2` and `/openapi/v3`: the documents of `api::openapi`, made when first asked for and kept.

use std::sync::OnceLock;

use api::openapi;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{
    negotiate,
    reply::{self, Answer, Response},
};

/// What has been made.
#[derive(Default)]
pub struct Documents {
    v2: OnceLock<Bytes>,
    v2_protobuf: OnceLock<Bytes>,
    /// The index, then each group's document by its path below `/openapi/v3/`.
    v3: OnceLock<(Bytes, Vec<(String, Bytes)>)>,
}

impl Documents {
    /// The document of this path; none when there is none.
    pub fn find(&self, path: &str, headers: &HeaderMap) -> Option<Answer<Response>> {
        match path {
            "/openapi/v2" => Some(self.v2(headers)),
            "/openapi/v3" | "/openapi/v3/" => Some(Ok(reply::json_bytes(StatusCode::OK, self.v3().0.clone()))),
            _ => {
                let root = path.strip_prefix("/openapi/v3/")?;
                let (_, bytes) = self.v3().1.iter().find(|(r, _)| r == root)?;
                let mut response = reply::json_bytes(StatusCode::OK, bytes.clone());
                // the address names the content
                let forever = HeaderValue::from_static("public, immutable");
                response.headers_mut().insert(header::CACHE_CONTROL, forever);
                Some(Ok(response))
            }
        }
    }

    fn v2(&self, headers: &HeaderMap) -> Answer<Response> {
        let json =
            || reply::json_bytes(StatusCode::OK, self.v2.get_or_init(|| openapi::v2().to_string().into()).clone());
        let accepted = negotiate::accepted(headers);
        if accepted.is_empty() {
            return Ok(json());
        }
        for entry in accepted {
            if openapi::V2_PROTOBUF_ACCEPTED.contains(&entry.media_type) {
                let bytes = self.v2_protobuf.get_or_init(|| openapi::v2_protobuf().into()).clone();
                return Ok(reply::typed(StatusCode::OK, openapi::V2_PROTOBUF, bytes));
            }
            if matches!(entry.media_type, "application/json" | "application/*" | "*/*") {
                return Ok(json());
            }
        }
        Err(negotiate::not_acceptable())
    }

    fn v3(&self) -> &(Bytes, Vec<(String, Bytes)>) {
        self.v3.get_or_init(|| {
            let index = openapi::v3_index(&openapi::v3_hash()).to_string();
            let documents = openapi::group_versions().into_iter().filter_map(|(group, version)| {
                let root = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
                Some((root, openapi::v3_document(group, version)?.to_string().into()))
            });
            (index.into(), documents.collect())
        })
    }
}
