//! One step of the way to a field, as `metadata.managedFields` writes it.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

use crate::schema::Text;

/// A step from a value to one inside it. The order is that of FieldsV1: fields, keys, values, indexes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathElement {
    /// `f:name`: a field of a structure or an entry of a map.
    Field(Text),
    /// `k:{"name":"x"}`: the item of a list with these keys; canonical JSON.
    Key(String),
    /// `v:"x"`: the item of a set; canonical JSON.
    Value(String),
    /// `i:3`: the item of a list without schema.
    Index(usize),
}

impl PathElement {
    /// Reads the form on the wire; what is not canonical JSON becomes so. `None`: it is none of the four forms.
    pub fn parse(text: &str) -> Option<PathElement> {
        let (kind, rest) = text.split_once(':')?;
        Some(match kind {
            "f" => Self::Field(Cow::Owned(rest.to_owned())),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
                Self::Key(Value::Object(keys).to_string())
            }
            "v" => Self::Value(serde_json::from_str::<Value>(rest).ok()?.to_string()),
            "i" => Self::Index(rest.parse().ok()?),
            _ => return None,
        })
    }

    /// The form on the wire.
    pub fn to_wire(&self) -> String {
        match self {
            Self::Field(name) => ["f:", name].concat(),
            Self::Key(keys) => ["k:", keys].concat(),
            Self::Value(value) => ["v:", value].concat(),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

/// The form in messages: `.name`, `[name="x"]`, `[="x"]`, `[3]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                f.write_str("[")?;
                for (index, (name, value)) in keys.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_what_they_write_and_show_what_messages_say() {
        let cases = [
            ("f:spec", "f:spec", ".spec"),
            ("f:a.b/c:d", "f:a.b/c:d", ".a.b/c:d"),
            (r#"k:{"name":"x"}"#, r#"k:{"name":"x"}"#, r#"[name="x"]"#),
            (
                r#"k:{ "protocol": "TCP", "port": 80 }"#,
                r#"k:{"port":80,"protocol":"TCP"}"#,
                r#"[port=80,protocol="TCP"]"#,
            ),
            (r#"v:"a""#, r#"v:"a""#, r#"[="a"]"#),
            ("v:5", "v:5", "[=5]"),
            ("i:3", "i:3", "[3]"),
        ];
        for (text, wire, shown) in cases {
            let element = PathElement::parse(text).unwrap();
            assert_eq!((element.to_wire().as_str(), element.to_string().as_str()), (wire, shown));
        }
        for text in ["", "f", ".", "x:y", "k:[]", "k:{", "v:", "i:-1", "i:x"] {
            assert_eq!(PathElement::parse(text), None, "{text}");
        }
    }
}
