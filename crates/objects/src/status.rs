//! `Status`, the answer of an API server that is not an object: every failure, and some successes.
//!
//! The messages are part of the protocol: clients and conformance tests match on them.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::field::{FieldError, Path};
use crate::registry::ObjectType;

mod reason;

pub use reason::Reason;

/// One of several causes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// Machine-readable.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field it is about, if any.
    pub field: String,
}

impl From<&FieldError> for Cause {
    fn from(error: &FieldError) -> Cause {
        let (reason, message) = (error.kind.reason().to_owned(), error.message.clone());
        let field = if error.field.is_empty() { "<nil>".to_owned() } else { error.field.clone() };
        Cause { reason, message, field }
    }
}

/// What a [`Status`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group.
    pub group: String,
    /// Plural resource, or the kind for [`Reason::Invalid`].
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// Causes, in order.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: u32,
}

/// A resource or kind with its group, as messages name it: `deployments.apps`, `services`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qualified<'a> {
    /// API group, `""` for core.
    pub group: &'a str,
    /// Plural resource or kind.
    pub name: &'a str,
}

impl fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            "" => f.write_str(self.name),
            group => write!(f, "{}.{group}", self.name),
        }
    }
}

/// The answer that is not an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: Reason,
    /// For people, and for clients that match on it.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// `metadata.continue`: where a list that expired may go on, at another revision.
    pub continue_token: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A status without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: None, continue_token: String::new() }
    }

    fn about(code: u16, reason: Reason, message: String, what: Qualified<'_>, name: &str) -> Status {
        let (name, group, kind) = (name.to_owned(), what.group.to_owned(), what.name.to_owned());
        let details = Some(Box::new(Details { name, group, kind, ..Details::default() }));
        Status { details, ..Status::new(code, reason, message) }
    }

    fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Status {
        let cause = Cause { reason: reason.to_owned(), message: message.to_owned(), field: field.to_owned() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// 200: something was done and there is no object to show, such as a deletion.
    pub fn success(code: u16, what: Option<(Qualified<'_>, &str, &str)>) -> Status {
        let details = what.map(|(what, name, uid)| {
            let (group, kind) = (what.group.to_owned(), what.name.to_owned());
            Box::new(Details {
                name: name.to_owned(),
                group,
                kind,
                uid: uid.to_owned(),
                ..Details::default()
            })
        });
        Status { details, ..Status::new(code, Reason::Unstated, "") }
    }

    /// Whether it reports success.
    pub fn is_success(&self) -> bool {
        self.code < 400
    }

    /// 400
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, Reason::BadRequest, message)
    }

    /// 401
    pub fn unauthorized() -> Status {
        Status::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// 403: `pods is forbidden: …` or `configmaps "x" is forbidden: …`.
    pub fn forbidden(resource: Qualified<'_>, name: &str, why: &str) -> Status {
        let message = match name {
            "" => format!("{resource} is forbidden: {why}"),
            name => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Status::about(403, Reason::Forbidden, message, resource, name)
    }

    /// 403 of the authorizer: who may not do what, where. An empty namespace is the cluster scope.
    pub fn unauthorized_action(
        resource: Qualified<'_>,
        name: &str,
        user: &str,
        verb: &str,
        subresource: &str,
        namespace: &str,
    ) -> Status {
        let target = match subresource {
            "" => resource.name.to_owned(),
            subresource => format!("{}/{subresource}", resource.name),
        };
        let scope = match namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let group = resource.group;
        let why = format!("User {user:?} cannot {verb} resource {target:?} in API group {group:?} {scope}");
        Status::forbidden(resource, name, &why)
    }

    /// 403: creation in a namespace that is being deleted.
    pub fn namespace_terminating(resource: Qualified<'_>, name: &str, namespace: &str) -> Status {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let message = format!("namespace {namespace} is being terminated");
        Status::forbidden(resource, name, &why).with_cause(
            "NamespaceTerminating",
            &message,
            "metadata.namespace",
        )
    }

    /// 404 of an object.
    pub fn not_found(resource: Qualified<'_>, name: &str) -> Status {
        let message = format!("{resource} {name:?} not found");
        Status::about(404, Reason::NotFound, message, resource, name)
    }

    /// 404 of a resource or subresource.
    pub fn resource_not_found() -> Status {
        let mut status =
            Status::new(404, Reason::NotFound, "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// 405
    pub fn method_not_allowed() -> Status {
        let message = "the server does not allow this method on the requested resource";
        let mut status = Status::new(405, Reason::MethodNotAllowed, message);
        status.details = Some(Box::default());
        status
    }

    /// 406
    pub fn not_acceptable(accepted: &[&str]) -> Status {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Status::new(406, Reason::NotAcceptable, message)
    }

    /// 409: there is an object of this name. `terminating`: it is being deleted.
    pub fn already_exists(resource: Qualified<'_>, name: &str, terminating: bool) -> Status {
        let prefix = if terminating { "object is being deleted: " } else { "" };
        let message = format!("{prefix}{resource} {name:?} already exists");
        Status::about(409, Reason::AlreadyExists, message, resource, name)
    }

    /// 409: the write was based on an older version of the object.
    pub fn modified(resource: Qualified<'_>, name: &str) -> Status {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(resource, name, why)
    }

    /// 409: the object is another one than the client thinks.
    pub fn uid_mismatch(resource: Qualified<'_>, name: &str, wanted: &str, actual: &str) -> Status {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({actual}). The object might \
             have been deleted and then recreated"
        );
        Status::conflict(resource, name, &why)
    }

    /// 409: the version in a delete precondition is not current.
    pub fn version_mismatch(resource: Qualified<'_>, name: &str, wanted: &str, actual: &str) -> Status {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
             ({actual}). The object might have been modified"
        );
        Status::conflict(resource, name, &why)
    }

    /// 409 with another explanation.
    pub fn conflict(resource: Qualified<'_>, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Status::about(409, Reason::Conflict, message, resource, name)
    }

    /// 410 in a watch: the events after `wanted` are gone; `oldest` is the first still there.
    pub fn too_old(wanted: u64, oldest: u64) -> Status {
        Status::new(410, Reason::Expired, format!("too old resource version: {wanted} ({oldest})"))
    }

    /// 410 of a list that took too long between pages. With `continue_token` the client may go on inconsistently.
    pub fn continue_expired(continue_token: String) -> Status {
        let message = if continue_token.is_empty() {
            "The provided continue parameter is too old to display a consistent list result. You must start a new \
             list without the continue parameter."
        } else {
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list."
        };
        Status { continue_token, ..Status::new(410, Reason::Expired, message) }
    }

    /// 410 of a list at an exact version that is gone.
    pub fn version_expired(version: u64) -> Status {
        let message = format!(
            "The provided resource version {version} is too old to display a consistent list result."
        );
        Status::new(410, Reason::Expired, message)
    }

    /// 413
    pub fn too_large(bytes_max: usize) -> Status {
        let message = format!("Request entity too large: limit is {bytes_max}");
        Status::new(413, Reason::RequestEntityTooLarge, message)
    }

    /// 413: too many operations in a JSON patch.
    pub fn too_many_operations(operations: usize, operations_max: usize) -> Status {
        let message = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {operations_max}, got \
             {operations}"
        );
        Status::new(413, Reason::RequestEntityTooLarge, message)
    }

    /// 415
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::new(415, Reason::UnsupportedMediaType, message)
    }

    /// 422: `Service "x" is invalid: spec.ports: Required value`.
    pub fn invalid(object: &ObjectType, name: &str, errors: &[FieldError]) -> Status {
        let kind = Qualified { group: &object.group, name: &object.kind };
        Status::invalid_kind(kind, name, errors)
    }

    /// 422 of something that is no object, such as `PatchOptions.meta.k8s.io "" is invalid: …`.
    pub fn invalid_kind(kind: Qualified<'_>, name: &str, errors: &[FieldError]) -> Status {
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        let text = match texts.as_slice() {
            [] => String::new(),
            [one] => format!(": {one}"),
            several => format!(": [{}]", several.join(", ")),
        };
        let message = format!("{kind} {name:?} is invalid{text}");
        let mut status = Status::about(422, Reason::Invalid, message, kind, name);
        status.details.get_or_insert_default().causes = errors.iter().map(Cause::from).collect();
        status
    }

    /// 422: an update without resource version, of a kind that demands one.
    pub fn version_required(resource: Qualified<'_>, name: &str) -> Status {
        let metadata = Path::new("metadata");
        let path = metadata.field("resourceVersion");
        Status::invalid_kind(
            resource,
            name,
            &[FieldError::invalid(&path, 0, "must be specified for an update")],
        )
    }

    /// 422 without a cause: a JSON patch whose test failed or whose path does not exist.
    pub fn patch_failed() -> Status {
        Status::new(422, Reason::Invalid, "the server rejected our request due to an error in our request")
    }

    /// 429
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let mut status = Status::new(429, Reason::TooManyRequests, message);
        status.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        status
    }

    /// 429: an eviction that a disruption budget does not allow now.
    pub fn disruption_budget(message: &str) -> Status {
        Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
            .with_cause("DisruptionBudget", message, "")
    }

    /// 500
    pub fn internal(error: impl fmt::Display) -> Status {
        let message = format!("Internal error occurred: {error}");
        let status = Status::new(500, Reason::InternalError, message);
        status.with_cause("", &error.to_string(), "")
    }

    /// 500 without a reason: a create whose object carries a resource version.
    pub fn version_on_create() -> Status {
        Status::new(500, Reason::Unstated, "resourceVersion should not be set on objects to be created")
    }

    /// 503
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(503, Reason::ServiceUnavailable, message)
    }

    /// 504: a read at a version that is not reached.
    pub fn version_in_future(wanted: u64, current: u64) -> Status {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        let status = Status::new(504, Reason::Timeout, format!("Timeout: {message}"));
        let mut status = status.with_cause("ResourceVersionTooLarge", "Too large resource version", "");
        status.details.get_or_insert_default().retry_after_seconds = 1;
        status
    }

    /// 504: an operation that did not end in time.
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Status {
        let mut status = Status::new(504, Reason::Timeout, format!("Timeout: {message}"));
        status.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        status
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if !self.continue_token.is_empty() {
            metadata.insert("continue".to_owned(), self.continue_token.clone().into());
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": if self.is_success() { "Success" } else { "Failure" },
            "code": self.code,
        });
        if let Some(object) = status.as_object_mut() {
            insert_text(object, "message", &self.message);
            insert_text(object, "reason", self.reason.as_str());
            if let Some(details) = &self.details {
                object.insert("details".to_owned(), details.to_value());
            }
        }
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        insert_text(&mut object, "name", &self.name);
        insert_text(&mut object, "group", &self.group);
        insert_text(&mut object, "kind", &self.kind);
        insert_text(&mut object, "uid", &self.uid);
        if !self.causes.is_empty() {
            object.insert("causes".to_owned(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            object.insert("retryAfterSeconds".to_owned(), self.retry_after_seconds.into());
        }
        Value::Object(object)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        insert_text(&mut object, "reason", &self.reason);
        insert_text(&mut object, "message", &self.message);
        insert_text(&mut object, "field", &self.field);
        Value::Object(object)
    }
}

fn insert_text(object: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        object.insert(key.to_owned(), text.into());
    }
}

#[cfg(test)]
mod tests;
