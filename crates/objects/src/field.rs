//! Where in an object something is wrong, and how that is said.

use std::fmt;

use serde_json::Value;

/// A path into an object, built on the stack while walking: nothing is allocated until it is shown.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Segment<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path of one field.
    pub const fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, segment: Segment::Name(name) }
    }

    /// The object as a whole: shown as nothing.
    pub const ROOT: Path<'static> = Path::new("");

    fn is_root(&self) -> bool {
        self.parent.is_none() && matches!(self.segment, Segment::Name(""))
    }

    /// A field of the object at this path.
    pub const fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Name(name) }
    }

    /// An item of the list at this path.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// An entry of the map at this path.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match (self.segment, self.parent.filter(|parent| !parent.is_root())) {
            (Segment::Name(name), None) => f.write_str(name),
            (Segment::Name(name), Some(_)) => write!(f, ".{name}"),
            (Segment::Index(index), _) => write!(f, "[{index}]"),
            (Segment::Key(key), _) => write!(f, "[{key}]"),
        }
    }
}

/// The class of a [`FieldError`]; its name is the `reason` of the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldErrorKind {
    /// Must be given.
    Required,
    /// Has a value that is not allowed.
    Invalid,
    /// Is not one of a list of values.
    NotSupported,
    /// Is given twice.
    Duplicate,
    /// May not be given here.
    Forbidden,
    /// Names something that does not exist.
    NotFound,
    /// Has too many bytes.
    TooLong,
    /// Has too many items.
    TooMany,
    /// Has a value of another type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The `reason` of the cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One thing that is wrong with one field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Its class.
    pub kind: FieldErrorKind,
    /// The field, such as `spec.ports[0].port`; empty for the object as a whole.
    pub field: String,
    /// The message without the field.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() { "<nil>" } else { &self.field };
        write!(f, "{field}: {}", self.message)
    }
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: &Path<'_>, message: String) -> FieldError {
        FieldError { kind, field: path.to_string(), message }
    }

    /// `Required value[: detail]`
    pub fn required(path: &Path<'_>, detail: &str) -> FieldError {
        Self::new(FieldErrorKind::Required, path, with_detail("Required value".to_owned(), detail))
    }

    /// `Invalid value: <json>: detail`
    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: &str) -> FieldError {
        let text = format!("Invalid value: {}", value.into());
        Self::new(FieldErrorKind::Invalid, path, with_detail(text, detail))
    }

    /// `Unsupported value: "X": supported values: "A", "B"`, in the order given.
    pub fn not_supported(path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) -> FieldError {
        let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let text = format!("Unsupported value: {}", value.into());
        let detail =
            if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, path, with_detail(text, &detail))
    }

    /// `Invalid value: <json>: detail`, for a value of another type.
    pub fn type_invalid(path: &Path<'_>, value: impl Into<Value>, detail: &str) -> FieldError {
        Self { kind: FieldErrorKind::TypeInvalid, ..Self::invalid(path, value, detail) }
    }

    /// `Invalid value: detail`, where the value is not shown.
    pub fn invalid_unshown(path: &Path<'_>, detail: &str) -> FieldError {
        Self::new(FieldErrorKind::Invalid, path, with_detail("Invalid value".to_owned(), detail))
    }

    /// `Duplicate value: <json>`
    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> FieldError {
        Self::new(FieldErrorKind::Duplicate, path, format!("Duplicate value: {}", value.into()))
    }

    /// `Forbidden: detail`
    pub fn forbidden(path: &Path<'_>, detail: &str) -> FieldError {
        Self::new(FieldErrorKind::Forbidden, path, with_detail("Forbidden".to_owned(), detail))
    }

    /// `Not found: <json>`
    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> FieldError {
        Self::new(FieldErrorKind::NotFound, path, format!("Not found: {}", value.into()))
    }

    /// `Too long: may not be more than N bytes`
    pub fn too_long(path: &Path<'_>, bytes_max: usize) -> FieldError {
        let text = format!("Too long: may not be more than {bytes_max} bytes");
        Self::new(FieldErrorKind::TooLong, path, text)
    }

    /// `Too many: N: must have at most M items`
    pub fn too_many(path: &Path<'_>, items: usize, items_max: usize) -> FieldError {
        let text = format!("Too many: {items}: must have at most {items_max} items");
        Self::new(FieldErrorKind::TooMany, path, text)
    }
}

fn with_detail(mut text: String, detail: &str) -> String {
    if !detail.is_empty() {
        text.push_str(": ");
        text.push_str(detail);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_on_the_wire() {
        let spec = Path::new("spec");
        let ports = spec.field("ports");
        let first = ports.index(0);
        let port = first.field("port");
        let cases: [(FieldError, &str); 8] = [
            (FieldError::required(&ports, ""), "spec.ports: Required value"),
            (FieldError::invalid(&port, 0, "bad"), "spec.ports[0].port: Invalid value: 0: bad"),
            (
                FieldError::not_supported(&port, "X", &["A", "B"]),
                r#"spec.ports[0].port: Unsupported value: "X": supported values: "A", "B""#,
            ),
            (FieldError::duplicate(&port, "a"), r#"spec.ports[0].port: Duplicate value: "a""#),
            (FieldError::forbidden(&spec.key("k"), "no"), "spec[k]: Forbidden: no"),
            (FieldError::not_found(&port, "v"), r#"spec.ports[0].port: Not found: "v""#),
            (FieldError::too_long(&spec, 63), "spec: Too long: may not be more than 63 bytes"),
            (FieldError::too_many(&spec, 9, 8), "spec: Too many: 9: must have at most 8 items"),
        ];
        for (error, want) in cases {
            assert_eq!(error.to_string(), want);
        }
    }
}
