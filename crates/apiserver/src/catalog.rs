//! What the server serves at one moment: the registry, and the documents that tell clients about it. Documents are made once, when they are
//! first asked for, and kept with their tag; a new registry comes with documents of its own, so neither can be newer than the other.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fairway_objects::discovery::{self, Aggregated};
use fairway_objects::openapi;
use fairway_objects::registry::Registry;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::http::body::{self, Body};
use crate::http::negotiate;
use crate::http::route::Route;

/// A document that many clients ask for.
#[derive(Debug)]
struct Document {
    plain: Bytes,
    gzip: Bytes,
    /// With quotes.
    tag: String,
}

impl Document {
    fn new(plain: Bytes) -> Self {
        let mut tag = String::from("\"");
        for byte in Sha256::digest(&plain) {
            tag.push_str(&format!("{byte:02X}"));
        }
        tag.push('"');
        let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 8), Compression::default());
        let gzip =
            encoder.write_all(&plain).and_then(|()| encoder.finish()).map(Bytes::from).unwrap_or_default();
        Self { plain, gzip, tag }
    }
}

/// A registry and the documents made from it so far. Their number is bounded by the registry: paths it does not know make none.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) registry: Arc<Registry>,
    documents: Mutex<HashMap<String, Arc<Document>>>,
}

impl Catalog {
    /// No document is made yet.
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, documents: Mutex::default() }
    }

    /// Answers a discovery or OpenAPI path.
    pub(crate) fn answer(&self, address: &str, route: &Route, headers: &HeaderMap) -> Response<Body> {
        let registry = &*self.registry;
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let wanted = negotiate::discovery(accept);
        let aggregated = match wanted {
            negotiate::Discovery::V2 => Some(Aggregated::V2),
            negotiate::Discovery::V2Beta1 => Some(Aggregated::V2Beta1),
            negotiate::Discovery::Legacy => None,
        };
        let (name, content_type, make): (String, &'static str, Box<dyn FnOnce() -> Option<Bytes> + '_>) =
            match route {
                Route::CoreVersions | Route::Groups => {
                    let core = *route == Route::CoreVersions;
                    let make = move || {
                        text(Some(match (aggregated, core) {
                            (Some(version), core) => discovery::aggregated(registry, core, version),
                            (None, true) => discovery::api_versions(address),
                            (None, false) => discovery::group_list(registry),
                        }))
                    };
                    (format!("groups {core} {wanted:?}"), wanted.content_type(), Box::new(make))
                }
                Route::Group(group) => (
                    format!("group {group}"),
                    "application/json",
                    Box::new(move || text(discovery::group(registry, group))),
                ),
                Route::Resources { group, version } => (
                    format!("resources {group}/{version}"),
                    "application/json",
                    Box::new(move || text(discovery::resource_list(registry, group, version))),
                ),
                Route::Swagger => match negotiate::swagger_protobuf(accept) {
                    Some(content_type) => (
                        "openapi 2 protobuf".to_owned(),
                        content_type,
                        Box::new(move || Some(Bytes::from(openapi::v2_protobuf(&openapi::v2(registry))))),
                    ),
                    None => (
                        "openapi 2".to_owned(),
                        "application/json",
                        Box::new(move || text(Some(openapi::v2(registry)))),
                    ),
                },
                Route::OpenApiIndex => (
                    "openapi".to_owned(),
                    "application/json",
                    Box::new(move || text(Some(openapi::index(registry)))),
                ),
                Route::OpenApi { group, version } => (
                    format!("openapi {group}/{version}"),
                    "application/json",
                    Box::new(move || text(openapi::v3(registry, group, version))),
                ),
                _ => return body::text(404, "404 page not found\n"),
            };
        match self.document(&name, make) {
            Some(document) => respond(&document, content_type, headers),
            None => body::text(404, "404 page not found\n"),
        }
    }

    fn document(&self, name: &str, make: impl FnOnce() -> Option<Bytes>) -> Option<Arc<Document>> {
        let mut known = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = known.get(name) {
            return Some(Arc::clone(document));
        }
        let document = Arc::new(Document::new(make()?));
        known.insert(name.to_owned(), Arc::clone(&document));
        Some(document)
    }
}

fn text(value: Option<Value>) -> Option<Bytes> {
    value.map(|value| Bytes::from(value.to_string()))
}

fn respond(document: &Document, content_type: &'static str, request: &HeaderMap) -> Response<Body> {
    let contains = |name, wanted: &str| {
        let values = request.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|item| item.trim() == wanted)
    };
    let mut response = if contains(header::IF_NONE_MATCH, &document.tag) {
        let mut response = body::respond(200, content_type, body::full(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if contains(header::ACCEPT_ENCODING, "gzip") && !document.gzip.is_empty() {
        let mut response = body::respond(200, content_type, body::full(document.gzip.clone()));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        body::respond(200, content_type, body::full(document.plain.clone()))
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&document.tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}
