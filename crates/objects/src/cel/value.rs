//! Values of expressions. What comes from an object is borrowed from it and only looked at when it is used.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use super::{Budget, EvalError, names};
use crate::custom::format::Format;
use crate::custom::structural::{Kind, ListType, Node};
use crate::quantity::Quantity;

/// A value. Cloning copies no list and no map.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number without sign.
    Uint(u64),
    /// A number.
    Double(f64),
    /// Text.
    String(Cow<'a, str>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// A list that an expression made.
    List(Rc<Vec<Value<'a>>>),
    /// A map that an expression made.
    Map(Rc<BTreeMap<Key, Value<'a>>>),
    /// A list of an object.
    JsonList(&'a [Json], Option<&'a Node>),
    /// A map or structure of an object.
    JsonMap(&'a Map<String, Json>, Option<&'a Node>),
    /// Nanoseconds.
    Duration(i64),
    /// A moment.
    Timestamp(Timestamp),
    /// A value that may be absent.
    Optional(Option<Rc<Value<'a>>>),
    /// The name of a type.
    Type(&'static str),
    /// An address.
    Ip(IpAddr),
    /// An address range.
    Cidr(ipnet::IpNet),
    /// A URL.
    Url(Rc<super::library::Url>),
    /// An amount.
    Quantity(Rc<Quantity>),
    /// A version.
    Semver(Rc<super::library::Semver>),
    /// A named format that text can be checked against.
    Format(&'static str),
}

/// A key of a map that an expression made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A truth value.
    Bool(bool),
    /// A number, however it was written.
    Int(i128),
    /// Text.
    String(String),
}

impl Key {
    pub(super) fn value<'a>(&self) -> Value<'a> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(number) => match i64::try_from(*number) {
                Ok(number) => Value::Int(number),
                Err(_) => Value::Uint(u64::try_from(*number).unwrap_or(u64::MAX)),
            },
            Self::String(text) => Value::String(Cow::Owned(text.clone())),
        }
    }
}

impl<'a> Value<'a> {
    /// A part of an object, read by its place in the schema if it has one.
    pub fn json(json: &'a Json, node: Option<&'a Node>) -> Value<'a> {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) if node.is_some_and(|node| node.kind == Kind::Number) => {
                Self::Double(number.as_f64().unwrap_or(f64::NAN))
            }
            Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), _, _) => Self::Int(number),
                (None, Some(number), _) => Self::Uint(number),
                (None, None, Some(number)) if is_whole_kind(node) && number.fract() == 0.0 => {
                    Self::Int(number as i64)
                }
                (None, None, number) => Self::Double(number.unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::formatted(text, node),
            Json::Array(items) => Self::JsonList(items, node),
            Json::Object(entries) => Self::JsonMap(entries, node),
        }
    }

    /// Text whose format makes it something else.
    fn formatted(text: &'a str, node: Option<&'a Node>) -> Value<'a> {
        let format = node.and_then(|node| node.checks.format);
        let other = match format {
            Some(Format::DateTime) => text.parse().ok().map(Self::Timestamp),
            Some(Format::Date) => format!("{text}T00:00:00Z").parse().ok().map(Self::Timestamp),
            Some(Format::Duration) => super::duration_ns(text).map(Self::Duration),
            Some(Format::Byte) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                bytes.ok().map(|bytes| Self::Bytes(bytes.into()))
            }
            _ => None,
        };
        other.unwrap_or(Self::String(Cow::Borrowed(text)))
    }

    /// Text that an expression made.
    pub fn text(text: impl Into<String>) -> Value<'a> {
        Self::String(Cow::Owned(text.into()))
    }

    /// Items that an expression made.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Self::List(Rc::new(items))
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) | Self::JsonList(..) => "list",
            Self::Map(_) | Self::JsonMap(..) => "map",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
        }
    }

    /// Items of a list.
    pub(super) fn items(&self, budget: &mut Budget) -> Result<Option<Vec<Value<'a>>>, EvalError> {
        let items = match self {
            Self::List(items) => items.to_vec(),
            Self::JsonList(items, node) => {
                let node = node.and_then(|node| node.items.as_deref());
                items.iter().map(|item| Self::json(item, node)).collect()
            }
            _ => return Ok(None),
        };
        budget.spend(items.len() as u64 / 16 + items.iter().map(Value::copied_cost).sum::<u64>())?;
        Ok(Some(items))
    }

    /// What it costs that this value was cloned or read: text that an expression made, and bytes that were decoded, are copied.
    pub(super) fn copied_cost(&self) -> u64 {
        match self {
            Self::String(Cow::Owned(text)) => text.len() as u64 / 10,
            Self::Bytes(bytes) => bytes.len() as u64 / 10,
            _ => 0,
        }
    }

    /// What it costs that this value was made.
    pub(super) fn made_cost(&self) -> u64 {
        match self {
            Self::List(items) => items.len() as u64,
            other => other.copied_cost(),
        }
    }

    /// How many items, entries or characters.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Self::List(items) => items.len(),
            Self::Map(entries) => entries.len(),
            Self::JsonList(items, _) => items.len(),
            Self::JsonMap(entries, _) => entries.len(),
            Self::String(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
            _ => return None,
        })
    }

    /// Keys of a map. Fields of a structure have the names by which expressions call them.
    pub(super) fn keys(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Self::Map(entries) => Some(entries.keys().map(Key::value).collect()),
            Self::JsonMap(entries, node) => {
                let structure = node.is_some_and(|node| !node.properties.is_empty());
                let key = |name: &'a String| match structure {
                    true => Self::text(names::escape(name).unwrap_or_else(|| name.clone())),
                    false => Self::String(Cow::Borrowed(name)),
                };
                Some(entries.keys().map(key).collect())
            }
            _ => None,
        }
    }

    /// The entry or field of a name.
    pub(super) fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Self::Map(entries) => entries.get(&Key::String(name.to_owned())).cloned(),
            Self::JsonMap(entries, Some(node)) if !node.properties.is_empty() => {
                let name = names::unescape(name);
                Some(Self::json(entries.get(&*name)?, node.child(&name)))
            }
            Self::JsonMap(entries, node) => {
                Some(Self::json(entries.get(name)?, node.and_then(|node| node.child(name))))
            }
            _ => None,
        }
    }

    /// As a key of a map.
    pub(super) fn key(&self) -> Option<Key> {
        Some(match self {
            Self::Bool(value) => Key::Bool(*value),
            Self::Int(number) => Key::Int((*number).into()),
            Self::Uint(number) => Key::Int((*number).into()),
            Self::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => Key::Int(*number as i128),
            Self::String(text) => Key::String(text.to_string()),
            _ => return None,
        })
    }

    /// Whether two values are the same. Sets and keyed lists are, in any order. Paid while it is done: what an expression made may hold
    /// the same list many times over, at every level.
    pub(super) fn equals(&self, other: &Value<'a>, budget: &mut Budget) -> Result<bool, EvalError> {
        budget.spend(1)?;
        Ok(match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => {
                budget.spend(a.len().min(b.len()) as u64 / 16)?;
                a == b
            }
            (Self::Bytes(a), Self::Bytes(b)) => {
                budget.spend(a.len().min(b.len()) as u64 / 16)?;
                a == b
            }
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Type(a), Self::Type(b)) | (Self::Format(a), Self::Format(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Optional(Some(a)), Self::Optional(Some(b))) => a.equals(b, budget)?,
            (Self::Optional(a), Self::Optional(b)) => a.is_none() && b.is_none(),
            (Self::List(_) | Self::JsonList(..), Self::List(_) | Self::JsonList(..)) => {
                self.equal_lists(other, budget)?
            }
            (Self::Map(_) | Self::JsonMap(..), Self::Map(_) | Self::JsonMap(..)) => {
                self.equal_maps(other, budget)?
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        })
    }

    fn equal_lists(&self, other: &Value<'a>, budget: &mut Budget) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        let (Some(a), Some(b)) = (self.items(budget)?, other.items(budget)?) else { return Ok(false) };
        if let Self::JsonList(_, Some(node)) = self
            && node.list != ListType::Atomic
        {
            for item in &a {
                if !item.is_among(&b, budget)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        for (a, b) in a.iter().zip(&b) {
            if !a.equals(b, budget)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn equal_maps(&self, other: &Value<'a>, budget: &mut Budget) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for key in self.keys().unwrap_or_default() {
            match (self.entry(&key), other.entry(&key)) {
                (Some(a), Some(b)) if a.equals(&b, budget)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether one of the items is the same.
    pub(super) fn is_among(&self, items: &[Value<'a>], budget: &mut Budget) -> Result<bool, EvalError> {
        for item in items {
            if item.equals(self, budget)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The entry of a key.
    pub(super) fn entry(&self, key: &Value<'a>) -> Option<Value<'a>> {
        match (self, key) {
            (Self::Map(entries), key) => entries.get(&key.key()?).cloned(),
            (_, Self::String(name)) => self.field(name),
            _ => None,
        }
    }

    /// The order of two values of comparable types; numbers compare across types.
    pub(super) fn compare(&self, other: &Value<'a>) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Self::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Int(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Self::Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Uint(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::String(a), Self::String(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Quantity(a), Self::Quantity(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

fn is_whole_kind(node: Option<&Node>) -> bool {
    node.is_some_and(|node| matches!(node.kind, Kind::Integer | Kind::IntOrString))
}
