//! What the server serves at one moment: the registry, and the documents that tell clients about it. Documents are made once, when they are
//! first asked for, and kept with their tag; a new registry comes with documents of its own, so neither can be newer than the other.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fairway_objects::custom::definition;
use fairway_objects::discovery::{self, Aggregated};
use fairway_objects::document::{self, Document as _};
use fairway_objects::openapi;
use fairway_objects::registry::{Registry, Resource};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::http::body::{self, Body};
use crate::http::negotiate;
use crate::http::route::Route;
use crate::store::Key;

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

/// What a definition gives to the registry.
#[derive(Debug, Clone)]
pub(crate) struct Kinds {
    /// Of the definition.
    pub(crate) revision: u64,
    /// One a served version.
    pub(crate) resources: Vec<Arc<Resource>>,
    uid: String,
    generation: i64,
    accepted_names: Value,
    established: bool,
}

impl Kinds {
    /// What was made of this definition.
    pub(crate) fn new(revision: u64, definition: &Value, resources: Vec<Arc<Resource>>) -> Self {
        Self {
            revision,
            resources,
            uid: document::uid(definition).to_owned(),
            generation: definition.int(&["metadata", "generation"]).unwrap_or(0),
            accepted_names: definition.at(&["status", "acceptedNames"]).clone(),
            established: definition::is_established(definition),
        }
    }

    /// Whether the same would be made of this newer definition. A deletion that begins counts as a generation, but changes nothing.
    pub(crate) fn serves(&self, definition: &Value) -> bool {
        let new = Self::new(self.revision, definition, Vec::new());
        let going = document::is_terminating(definition);
        self.uid == new.uid
            && (self.generation == new.generation || going)
            && self.accepted_names == new.accepted_names
            && self.established == new.established
    }
}

/// A registry and the documents made from it so far. Their number is bounded by the registry: paths it does not know make none.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) registry: Arc<Registry>,
    /// By the name of their definition.
    pub(crate) kinds: BTreeMap<Key, Kinds>,
    documents: Mutex<HashMap<String, Arc<Document>>>,
}

impl Catalog {
    /// No document is made yet.
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, kinds: BTreeMap::new(), documents: Mutex::default() }
    }

    /// The catalog after `old`. Documents of versions whose resources are the same are kept.
    pub(crate) fn following(old: &Self, registry: Arc<Registry>, kinds: BTreeMap<Key, Kinds>) -> Self {
        let is_same = |group: &str, version: &str| {
            let (old, new) = (old.registry.of_version(group, version), registry.of_version(group, version));
            old.map(Arc::as_ptr).eq(new.map(Arc::as_ptr))
        };
        let known = old.documents.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = registry.group_versions().into_iter().filter(|(group, version)| is_same(group, version));
        let kept = kept.flat_map(|(group, version)| {
            [format!("resources {group}/{version}"), format!("openapi {group}/{version}")]
        });
        let kept = kept.filter_map(|name| known.get(&name).map(|document| (name, Arc::clone(document))));
        let documents = Mutex::new(kept.collect());
        drop(known);
        Self { registry, kinds, documents }
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
