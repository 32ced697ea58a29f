//! Server-side apply, and who owns the fields of every other write.

use std::sync::Arc;

use bytes::Bytes;
use fairway_objects::apply::{self, Author};
use fairway_objects::decode::FieldValidation;
use fairway_objects::document::{self, Document};
use fairway_objects::field::{FieldError, Path};
use fairway_objects::status::{Qualified, Reason, Status};
use http::{Response, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::update::Changed;
use super::{Call, Refusal, TRIES_MAX, WriteOptions};
use crate::http::body::Body;

/// Most bytes of the name of a field manager.
const MANAGER_BYTES_MAX: usize = 128;

/// Whether the owners of the fields of a write are still to be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// By comparing with what was stored.
    Track,
    /// Apply has noted them.
    Known,
}

impl Call<'_> {
    /// PATCH with a configuration: the object, or a part of it, is to have what that states. An object that is not there is created.
    pub(super) async fn apply(&self, name: &str, part: &str, body: &Bytes) -> Result<Response<Body>, Status> {
        let options = self.write_options("PatchOptions")?;
        if self.query.text("fieldManager").is_empty() {
            let error = FieldError::required(&Path::new("fieldManager"), "is required for apply patch");
            let kind = Qualified { group: "meta.k8s.io", name: "PatchOptions" };
            return Err(Status::invalid_kind(kind, "", &[error]));
        }
        let force = self.query.flag("force");
        let config = self.configuration(name, part, body, options.validation)?;
        let key = self.key(name);
        for _ in 0..TRIES_MAX {
            let current = self.api.store.state().object(&self.collection, &key).map(Arc::clone);
            let Some(current) = current else {
                match self.create_applied(name, part, &config, options).await {
                    // Somebody else created it meanwhile.
                    Err(status) if status.reason == Reason::AlreadyExists => continue,
                    answer => return answer,
                }
            };
            let author = self.author(part);
            let new = apply::apply(&self.resource, Some(current.value()), &config, &author, force)?;
            let (admitted, warnings) =
                self.admit_update(name, part, new, &current, options, Owners::Known).await?;
            match self.replace(&key, admitted, current, options).await {
                Ok(object) => return self.answer_part(part, &Changed { object, warnings }),
                Err(Refusal::Final(status)) => return Err(status),
                Err(Refusal::Stale) => {}
            }
        }
        Err(Status::modified(self.resource.qualified(), name))
    }

    /// Reads what is to be applied; a Scale as the part of the object that it is a view of.
    fn configuration(
        &self,
        name: &str,
        part: &str,
        body: &Bytes,
        validation: FieldValidation,
    ) -> Result<Value, Status> {
        let object_type = self.resource.subresource(part).map_or(&self.resource.object, |part| &part.object);
        let config = apply::decode(object_type, body, validation)?;
        self.check_address(name, &config)?;
        if part != "scale" {
            return Ok(config);
        }
        let object = &self.resource.object;
        let mut whole =
            json!({"apiVersion": object.api_version(), "kind": object.kind, "metadata": {"name": name}});
        let replicas = config.at(&["spec", "replicas"]);
        if !replicas.is_null() {
            whole.put(&["spec", "replicas"], replicas.clone());
        }
        for field in ["uid", "resourceVersion"] {
            let value = config.text(&["metadata", field]);
            if !value.is_empty() {
                whole.put(&["metadata", field], value);
            }
        }
        Ok(whole)
    }

    async fn create_applied(
        &self,
        name: &str,
        part: &str,
        config: &Value,
        options: WriteOptions,
    ) -> Result<Response<Body>, Status> {
        if !part.is_empty() {
            return Err(self.not_found(name));
        }
        self.api.allow_resource(self.user, "create", self.target, self.query)?;
        if document::name(config).is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        let uid = document::uid(config);
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(Status::conflict(self.resource.qualified(), name, &why));
        }
        let mut object = apply::apply(&self.resource, None, config, &self.author(part), false)?;
        object.take_at(&["metadata", "resourceVersion"]);
        let (created, warnings) = self.create(object, options, Owners::Known).await?;
        self.answer_created(options, &created, &warnings)
    }

    /// Notes in `new` who owns what the request changed.
    pub(super) fn track(&self, part: &str, old: Option<&Value>, new: &mut Value) {
        apply::track(&self.resource, old, new, &self.author(part));
    }

    fn author<'a>(&'a self, part: &'a str) -> Author<'a> {
        let name = match self.query.text("fieldManager") {
            "" => self.program(),
            name => name,
        };
        Author { name, subresource: part, now: Timestamp::now() }
    }

    /// The program that asks: its User-Agent up to the first slash.
    fn program(&self) -> &str {
        let agent = self.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let name = agent.unwrap_or_default().split('/').next().unwrap_or_default();
        let mut end = name.len().min(MANAGER_BYTES_MAX);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.get(..end).unwrap_or_default()
    }
}

/// What is wrong with the name of a field manager.
pub(super) fn check_manager(name: &str) -> Vec<FieldError> {
    let path = Path::new("fieldManager");
    let mut errors = Vec::new();
    if name.len() > MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long(&path, MANAGER_BYTES_MAX));
    }
    for (position, char) in name.char_indices().filter(|(_, char)| !is_printable(*char)) {
        let why = format!("invalid character U+{:04X} (at position {position})", u32::from(char));
        errors.push(FieldError::invalid(&path, name, &why));
    }
    errors
}

/// As Go counts: of all white space only the space itself.
fn is_printable(char: char) -> bool {
    char == ' ' || !(char.is_control() || char.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_managers_are_short_and_printable() {
        struct Case {
            name: String,
            want: &'static [&'static str],
        }
        let cases = [
            Case { name: "kubectl client, ü".to_owned(), want: &[] },
            Case { name: "x".repeat(128), want: &[] },
            Case { name: "x".repeat(129), want: &["fieldManager: Too long: may not be more than 128 bytes"] },
            Case {
                name: "a\tb".to_owned(),
                want: &["fieldManager: Invalid value: \"a\\tb\": invalid character U+0009 (at position 1)"],
            },
        ];
        for case in cases {
            let errors: Vec<String> = check_manager(&case.name).iter().map(FieldError::to_string).collect();
            assert_eq!(errors, case.want, "{}", case.name);
        }
    }
}
