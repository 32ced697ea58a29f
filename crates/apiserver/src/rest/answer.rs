//! Objects as answers: whole, as metadata, as a table; JSON or YAML.

use std::sync::Arc;

use bytes::Bytes;
use fairway_objects::convert::{self, ListMeta};
use fairway_objects::registry::Resource;
use fairway_objects::status::Status;
use fairway_objects::table::{self, IncludeObject};
use http::{HeaderValue, Response, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::http::body::{self, Body};
use crate::http::negotiate::{Form, Media, Shape};
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
        Form { media: Media::Json, shape: Shape::Whole } => {
            Ok(body::respond(code, form.content_type(), body::full(object.json().clone())))
        }
        _ => value(code, form, resource, object.value(), query),
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
        Shape::Whole => return text(code, form, value),
        Shape::Metadata => convert::partial_metadata(value),
        Shape::Table(version) => {
            let metadata = json!({"resourceVersion": value.pointer("/metadata/resourceVersion")});
            rows(resource, [value], version, &metadata, include(query)?, true)
        }
    };
    text(code, form, &shaped)
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

/// A list of objects.
pub(crate) fn list(
    form: Form,
    resource: &Resource,
    objects: &[Arc<Object>],
    metadata: &ListMeta,
    query: &Query,
) -> Result<(Response<Body>, Bytes), Status> {
    let values = objects.iter().map(|object| object.value());
    let bytes = match form {
        Form { media: Media::Json, shape: Shape::Whole } => list_text(resource, objects, metadata),
        Form { shape: Shape::Whole, .. } => {
            let list = convert::list(resource, values.cloned(), metadata);
            render(form, &list)?
        }
        Form { shape: Shape::Metadata, .. } => {
            render(form, &convert::partial_metadata_list(values, metadata))?
        }
        Form { shape: Shape::Table(version), .. } => {
            render(form, &rows(resource, values, version, &metadata.to_value(), include(query)?, true))?
        }
    };
    Ok((body::respond(200, form.content_type(), body::full(Bytes::new())), bytes))
}

/// A list put together from the texts that the objects already have. Items of built-in kinds carry no type.
fn list_text(resource: &Resource, objects: &[Arc<Object>], metadata: &ListMeta) -> Bytes {
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        resource.list_kind,
        resource.api_version(),
        metadata.to_value()
    );
    let capacity = head.len() + 2 + objects.iter().map(|object| object.json().len() + 1).sum::<usize>();
    let mut text = Vec::with_capacity(capacity);
    text.extend_from_slice(head.as_bytes());
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        if resource.builtin.is_some() {
            text.push(b'{');
            text.extend_from_slice(object.members());
        } else {
            text.extend_from_slice(object.json());
        }
    }
    text.extend_from_slice(b"]}");
    Bytes::from(text)
}

fn text(code: u16, form: Form, value: &Value) -> Result<Response<Body>, Status> {
    Ok(body::respond(code, form.content_type(), body::full(render(form, value)?)))
}

fn render(form: Form, value: &Value) -> Result<Bytes, Status> {
    match form.media {
        Media::Json => Ok(Bytes::from(value.to_string())),
        Media::Yaml => serde_saphyr::to_string(value).map(Bytes::from).map_err(Status::internal),
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
