//! Objects as answers: whole, as metadata, as a table; JSON, YAML or protobuf.

use std::sync::Arc;

use bytes::Bytes;
use fairway_objects::convert::{self, ListMeta};
use fairway_objects::encode::protobuf;
use fairway_objects::registry::Resource;
use fairway_objects::status::Status;
use fairway_objects::table::{self, IncludeObject};
use http::{HeaderMap, HeaderValue, Response, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::http::body::{self, Body};
use crate::http::negotiate::{self, Form, Media, Shape};
use crate::http::query::Query;
use crate::store::Object;

/// What rows of a table carry.
pub(crate) fn include(query: &Query) -> Result<IncludeObject, Status> {
    let text = query.text("includeObject");
    IncludeObject::parse(text).ok_or_else(|| {
        Status::bad_request(format!("invalid includeObject {text:?}: must be None, Metadata or Object"))
    })
}

/// One object.
pub(crate) fn object(
    code: u16,
    form: Form,
    resource: &Resource,
    object: &Object,
    query: &Query,
) -> Result<Response<Body>, Status> {
    match form {
        Form { media: Media::Json, shape: Shape::Whole } if !convert::is_converted(resource) => {
            Ok(body::respond(code, form.content_type(), body::full(object.json().clone())))
        }
        _ => value(code, form, resource, &object.document(), query),
    }
}

/// One document that is not, or not exactly, a stored object.
pub(crate) fn value(
    code: u16,
    form: Form,
    resource: &Resource,
    value: &Value,
    query: &Query,
) -> Result<Response<Body>, Status> {
    let shaped = match form.shape {
        Shape::Whole => return text(code, form, resource, &convert::served(resource, value)),
        Shape::Metadata => convert::partial_metadata(value),
        Shape::Table(version) => {
            let metadata = json!({"resourceVersion": value.pointer("/metadata/resourceVersion")});
            rows(resource, [value], version, &metadata, include(query)?, true)
        }
    };
    text(code, form, resource, &shaped)
}

/// A table of objects.
pub(crate) fn rows<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    version: &str,
    metadata: &Value,
    include: IncludeObject,
    columns: bool,
) -> Value {
    let options = table::Options { now: Timestamp::now(), include, columns, metadata };
    let mut table = table::render(resource, objects, &options);
    if let (true, Some(members)) = (version != "v1", table.as_object_mut()) {
        members.insert("apiVersion".to_owned(), format!("meta.k8s.io/{version}").into());
    }
    table
}

/// A list of objects, compressed when it is long and the client can read it so.
pub(crate) fn list(
    form: Form,
    resource: &Arc<Resource>,
    objects: Vec<Arc<Object>>,
    metadata: &ListMeta,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let plain = form == Form::JSON && !convert::is_converted(resource);
    if !plain {
        let bytes = list_value(form, resource, &objects, metadata, query)?;
        let response = body::respond(200, form.content_type(), body::full(Bytes::new()));
        return Ok(body::compress(headers, response, bytes));
    }
    let pieces = ListText::new(resource, objects, metadata);
    if pieces.len <= body::GZIP_BYTES_MIN {
        let bytes: Vec<Bytes> = pieces.collect();
        return Ok(body::respond(200, form.content_type(), body::full(bytes.concat())));
    }
    Ok(body::respond_long(form.content_type(), headers, pieces))
}

fn list_value(
    form: Form,
    resource: &Resource,
    objects: &[Arc<Object>],
    metadata: &ListMeta,
    query: &Query,
) -> Result<Bytes, Status> {
    let documents: Vec<_> = objects.iter().map(|object| object.document()).collect();
    let values = documents.iter().map(AsRef::as_ref);
    if form == (Form { media: Media::Protobuf, shape: Shape::Whole }) {
        let values: Vec<_> = values.map(|value| convert::served(resource, value)).collect();
        let list = protobuf::list(resource, values.iter().map(AsRef::as_ref), &metadata.to_value());
        return list.map(Bytes::from).ok_or_else(no_message);
    }
    let list = match form.shape {
        Shape::Whole => {
            let values = values.map(|value| convert::served(resource, value).into_owned());
            convert::list(resource, values, metadata)
        }
        Shape::Metadata => convert::partial_metadata_list(values, metadata),
        Shape::Table(version) => rows(resource, values, version, &metadata.to_value(), include(query)?, true),
    };
    render(form, resource, &list)
}

/// A piece of a list's text is at least this long, except the last.
const PIECE_BYTES_MIN: usize = 64 << 10;

/// The text of a list, put together piece by piece from the texts that the objects already have: a list of any length takes the memory of
/// one piece. Items of built-in kinds carry no type.
struct ListText {
    resource: Arc<Resource>,
    head: Option<String>,
    objects: std::vec::IntoIter<Arc<Object>>,
    first: bool,
    /// About how long it is.
    len: usize,
}

impl ListText {
    fn new(resource: &Arc<Resource>, objects: Vec<Arc<Object>>, metadata: &ListMeta) -> Self {
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            resource.list_kind,
            resource.api_version(),
            metadata.to_value()
        );
        let len = head.len() + objects.iter().map(|object| object.json().len()).sum::<usize>();
        let objects = objects.into_iter();
        Self { resource: Arc::clone(resource), head: Some(head), objects, first: true, len }
    }
}

impl Iterator for ListText {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut text = Vec::with_capacity(self.len.min(PIECE_BYTES_MIN + (4 << 10)));
        if let Some(head) = self.head.take() {
            text.extend_from_slice(head.as_bytes());
        } else if self.len == 0 {
            return None;
        }
        while text.len() < PIECE_BYTES_MIN {
            let Some(object) = self.objects.next() else {
                text.extend_from_slice(b"]}");
                self.len = 0;
                break;
            };
            if !std::mem::take(&mut self.first) {
                text.push(b',');
            }
            if self.resource.builtin.is_some() {
                text.push(b'{');
                text.extend_from_slice(object.members());
            } else {
                text.extend_from_slice(object.json());
            }
        }
        Some(Bytes::from(text))
    }
}

fn text(code: u16, form: Form, resource: &Resource, value: &Value) -> Result<Response<Body>, Status> {
    Ok(body::respond(code, form.content_type(), body::full(render(form, resource, value)?)))
}

/// A Status, in protobuf for clients that read it best.
pub(crate) fn status(accept: Option<&HeaderValue>, status: &Status) -> Response<Body> {
    let accept = accept.and_then(|value| value.to_str().ok());
    let mut response = body::status(status);
    if negotiate::prefers_protobuf(accept)
        && let Some(bytes) = protobuf::status(&status.to_value())
    {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(protobuf::MEDIA_TYPE));
        *response.body_mut() = body::full(bytes);
    }
    response
}

fn no_message() -> Status {
    Status::not_acceptable(&["application/json", "application/yaml"])
}

fn render(form: Form, resource: &Resource, value: &Value) -> Result<Bytes, Status> {
    match form.media {
        Media::Json => Ok(Bytes::from(value.to_string())),
        Media::Yaml => serde_saphyr::to_string(value).map(Bytes::from).map_err(Status::internal),
        Media::Protobuf => protobuf::document(resource, value).map(Bytes::from).ok_or_else(no_message),
    }
}

/// Adds `Warning` headers (RFC 9111 §5.5, code 299).
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
