//! `/openapi/v2` and `/openapi/v3`: the documents of `api::openapi`, made when first asked for and kept compressed: with all
//! that is written about every field they are large, and clients ask for each once.

use std::{
    io::{self, Read as _, Write as _},
    sync::OnceLock,
};

use api::openapi;
use bytes::Bytes;
use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{
    negotiate,
    reply::{self, Answer, Response},
};

/// A document as it is kept.
struct Packed(Bytes);

impl Packed {
    fn new(text: &[u8]) -> Self {
        let pack = |mut to: GzEncoder<Vec<u8>>| {
            to.write_all(text)?;
            to.finish()
        };
        let packed: io::Result<_> = pack(GzEncoder::new(Vec::new(), Compression::default()));
        Self(packed.expect("invariant: writing to a vector does not fail").into())
    }

    /// The document, as it is kept where the client can read that.
    fn show(&self, media_type: &str, headers: &HeaderMap) -> Answer<Response> {
        let codings = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
        let gzip = codings.flat_map(|v| v.split(',')).any(|coding| coding.trim() == "gzip");
        let mut response = if gzip {
            reply::typed(StatusCode::OK, media_type, self.0.clone())
        } else {
            let mut text = Vec::new();
            GzDecoder::new(&*self.0).read_to_end(&mut text).map_err(|error| Box::new(api::status::internal(error)))?;
            reply::typed(StatusCode::OK, media_type, text)
        };
        if gzip {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        Ok(response)
    }
}

/// What has been made.
#[derive(Default)]
pub struct Documents {
    v2: OnceLock<Packed>,
    v2_protobuf: OnceLock<Packed>,
    /// The index, then each group's document by its path below `/openapi/v3/`.
    v3: OnceLock<(Bytes, Vec<(String, Packed)>)>,
}

impl Documents {
    /// The document of this path; none when there is none.
    pub fn find(&self, path: &str, headers: &HeaderMap) -> Option<Answer<Response>> {
        match path {
            "/openapi/v2" => Some(self.v2(headers)),
            "/openapi/v3" | "/openapi/v3/" => Some(Ok(reply::json_bytes(StatusCode::OK, self.v3().0.clone()))),
            _ => {
                let root = path.strip_prefix("/openapi/v3/")?;
                let (_, document) = self.v3().1.iter().find(|(r, _)| r == root)?;
                Some(document.show(reply::JSON, headers).map(|mut response| {
                    // the address names the content
                    let forever = HeaderValue::from_static("public, immutable");
                    response.headers_mut().insert(header::CACHE_CONTROL, forever);
                    response
                }))
            }
        }
    }

    fn v2(&self, headers: &HeaderMap) -> Answer<Response> {
        let json = || {
            let document = self.v2.get_or_init(|| Packed::new(openapi::v2().to_string().as_bytes()));
            document.show(reply::JSON, headers)
        };
        let accepted = negotiate::accepted(headers);
        if accepted.is_empty() {
            return json();
        }
        for entry in accepted {
            if openapi::V2_PROTOBUF_ACCEPTED.contains(&entry.media_type) {
                let document = self.v2_protobuf.get_or_init(|| Packed::new(&openapi::v2_protobuf()));
                return document.show(openapi::V2_PROTOBUF, headers);
            }
            if matches!(entry.media_type, "application/json" | "application/*" | "*/*") {
                return json();
            }
        }
        Err(negotiate::not_acceptable())
    }

    fn v3(&self) -> &(Bytes, Vec<(String, Packed)>) {
        self.v3.get_or_init(|| {
            let documents: Vec<_> =
                openapi::v3().into_iter().map(|(root, document)| (root, document.to_string())).collect();
            let index = openapi::v3_index(documents.iter().map(|(root, text)| (root.as_str(), text.as_bytes())));
            let packed = documents.into_iter().map(|(root, text)| (root, Packed::new(text.as_bytes())));
            (index.to_string().into(), packed.collect())
        })
    }
}
