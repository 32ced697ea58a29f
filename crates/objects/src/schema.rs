//! The schema of object types: what fields exist, of which type, and how lists and maps merge.
//!
//! One arena ([`Types`]) holds all structures; a [`Schema`] is an arena and a root. Built-in types come from the
//! text tables in `schema/types/`, one line a field; custom resources bring an arena of their own. Everything that
//! knows types (decoding, protobuf, patches, OpenAPI, defaults of merge keys) walks this and nothing else.
//!
//! A table line reads `name tag type flags…`:
//! - `name!` is required; `name?` is a scalar whose zero value is not the same as absence (a pointer in the protocol).
//!   Any other optional scalar that is zero, and any optional list or map that is empty, is absent.
//! - `tag` is the protobuf field number; `1.2` is number 2 in the message that field 1 embeds; `-` has none.
//! - `[T]` is a list, `{T}` a map from strings; `pkg:Name` is a structure of another package.
//! - `set`, `map(k,…)`: list topology for apply (otherwise atomic); on a map, `atomic` makes it one.
//! - `merge`, `merge(k)`, `retain`, `replace`: the strategic-merge strategy.
//! - `default(v)`: what a list key that an item leaves out stands for.
//! - `always`: a structure (or list) that is there, maybe empty, whenever its owner is: no pointer in the protocol.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

mod build;
mod parse;

pub use build::{Builder, field};
pub use parse::TableError;

/// A string that is borrowed from the embedded table or owned by a custom resource.
pub type Text = Cow<'static, str>;

/// A structure in its arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StructId(u32);

impl StructId {
    /// Of types without fields.
    pub const NOTHING: StructId = StructId(u32::MAX);
}

/// All structures of one origin.
#[derive(Debug, Default)]
pub struct Types {
    structs: Vec<Struct>,
    by_name: HashMap<Text, StructId>,
}

impl Types {
    /// The built-in types of Kubernetes 1.36.
    pub fn builtin() -> &'static Arc<Types> {
        static BUILTIN: LazyLock<Arc<Types>> = LazyLock::new(|| {
            #[expect(clippy::expect_used, reason = "the embedded tables are parsed in tests")]
            Arc::new(Types::parse(parse::PACKAGES).expect("the embedded type tables are well formed"))
        });
        &BUILTIN
    }

    /// The structure of `id`; an id of another arena gives an empty structure.
    pub fn get(&self, id: StructId) -> &Struct {
        static NOTHING: Struct =
            Struct { name: Cow::Borrowed(""), atomic: false, fields: Vec::new(), opaque: None };
        self.structs.get(id.0 as usize).unwrap_or(&NOTHING)
    }

    /// Finds a structure by its OpenAPI name, such as `io.k8s.api.core.v1.Pod`.
    pub fn find(&self, name: &str) -> Option<StructId> {
        self.by_name.get(name).copied()
    }

    /// All structures, in table order.
    pub fn iter(&self) -> impl Iterator<Item = (StructId, &Struct)> {
        (0..).map(StructId).zip(&self.structs)
    }
}

/// A message, a JSON object with known fields.
#[derive(Debug, Clone)]
pub struct Struct {
    /// The OpenAPI component name.
    pub name: Text,
    /// Whether apply treats it as one value.
    pub atomic: bool,
    /// A named scalar (`Time`, `Quantity` …) has no fields but stands for this.
    pub opaque: Option<Scalar>,
    fields: Vec<Field>,
}

impl Struct {
    /// The fields, sorted by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field of this JSON name (case sensitive).
    pub fn field(&self, name: &str) -> Option<&Field> {
        Some(self.indexed_field(name)?.1)
    }

    /// The same, with its place among the fields.
    pub(crate) fn indexed_field(&self, name: &str) -> Option<(usize, &Field)> {
        let index = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        Some((index, self.fields.get(index)?))
    }

    /// The field with this outermost protobuf number; several when the number holds an embedded message.
    pub(crate) fn tagged_fields(&self, path: &[u8], number: u8) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |field| {
            let rest = field.tag.numbers().strip_prefix(path);
            rest.is_some_and(|rest| rest.first() == Some(&number))
        })
    }

    /// In which message a field of [`Scalar::Any`] (or a list or map of such) travels.
    pub fn any_form(&self, field: &Field) -> AnyForm {
        match (self.short_name(), &*field.name) {
            ("JSONSchemaProps", "additionalItems" | "additionalProperties") => AnyForm::SchemaOrBool,
            ("JSONSchemaProps", "items") => AnyForm::SchemaOrArray,
            ("JSONSchemaProps", "dependencies") => AnyForm::SchemaOrStrings,
            ("CustomResourceSubresources", "status") => AnyForm::Empty,
            _ => AnyForm::Raw,
        }
    }

    /// The last part of the name: `ServicePort`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    /// Version and short name as messages of Go servers print them: `v1.ServicePort`.
    pub fn versioned_name(&self) -> &str {
        match self.name.rmatch_indices('.').nth(1) {
            Some((dot, _)) => self.name.get(dot + 1..).unwrap_or_default(),
            None => &self.name,
        }
    }
}

/// One field of a structure.
#[derive(Debug, Clone)]
pub struct Field {
    /// The JSON name.
    pub name: Text,
    /// Whether an object without it is malformed (the validation of the kind says how).
    pub required: bool,
    /// Whether the zero value differs from absence.
    pub zero_is_value: bool,
    /// The protobuf numbers from the message down; empty when the field is not on that wire.
    pub tag: Tag,
    /// Its type.
    pub ty: Type,
    /// How a strategic merge patch treats it.
    pub patch: PatchStrategy,
    /// What an item of a list that leaves out this key has (apply needs it to tell items apart).
    pub key_default: Option<Text>,
    /// Whether the field, a structure or list, is there (maybe empty) whenever its owner is. Apply does not count its presence as a change.
    pub always: bool,
}

/// A path of protobuf field numbers: more than one when JSON flattens what protobuf nests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tag {
    numbers: [u8; 3],
    len: u8,
}

impl Tag {
    /// The numbers, outermost first.
    pub fn numbers(&self) -> &[u8] {
        self.numbers.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// No inner structure.
    Scalar(Scalar),
    /// A structure of the same arena.
    Struct(StructId),
    /// A list.
    List(Box<List>),
    /// A map from strings.
    Map(Box<Map>),
}

/// A list type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Type of the items.
    pub item: Type,
    /// What identifies an item for apply.
    pub topology: ListTopology,
}

/// What identifies an item of a list (server-side apply).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListTopology {
    /// The list is one value.
    Atomic,
    /// Items are their own identity.
    Set,
    /// These fields of an item identify it.
    Map(Vec<Text>),
}

/// A map type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Type of the values.
    pub value: Type,
    /// Whether apply treats it as one value.
    pub atomic: bool,
}

/// How a strategic merge patch treats a field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PatchStrategy {
    /// Structures and maps merge, lists are replaced.
    #[default]
    Unstated,
    /// The field is replaced as a whole.
    Replace,
    /// A structure that merges, where `$retainKeys` may drop what the patch does not list.
    RetainKeys,
    /// A list of scalars that is united with the patch.
    Union,
    /// A list whose items merge by this field.
    Merge {
        /// The merge key.
        key: Text,
        /// Whether items may carry `$retainKeys`.
        retain_keys: bool,
    },
}

/// A value without inner structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    /// Text.
    String,
    /// Base64 in JSON.
    Bytes,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// True or false.
    Bool,
    /// 64-bit floating point number.
    Double,
    /// Resource quantity, see [`crate::quantity`].
    Quantity,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    /// Integer or string.
    IntOrString,
    /// Any JSON document.
    Any,
}

impl Scalar {
    /// The Go type that messages of Kubernetes name.
    pub fn go_name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Bytes => "[]uint8",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Bool => "bool",
            Self::Double => "float64",
            Self::Quantity => "resource.Quantity",
            Self::Time => "v1.Time",
            Self::MicroTime => "v1.MicroTime",
            Self::IntOrString => "intstr.IntOrString",
            Self::Any => "interface {}",
        }
    }
}

/// What JSON holds in any form has several messages in protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnyForm {
    /// JSON text in field 1.
    Raw,
    /// A truth value in field 1, or `true` there and a schema in field 2.
    SchemaOrBool,
    /// A schema in field 1, or several in field 2.
    SchemaOrArray,
    /// A schema in field 1, or names in field 2.
    SchemaOrStrings,
    /// Nothing.
    Empty,
}

impl AnyForm {
    /// The structure that schemas are in, by its OpenAPI name.
    pub const SCHEMA: &'static str =
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
}

/// An arena and the structure that describes an object in it.
#[derive(Debug, Clone)]
pub struct Schema {
    /// Where the structures live.
    pub types: Arc<Types>,
    /// The object's own structure.
    pub root: StructId,
}

impl Schema {
    /// The schema of a built-in type, by its OpenAPI name.
    pub fn builtin(name: &str) -> Option<Schema> {
        let types = Types::builtin();
        Some(Schema { types: Arc::clone(types), root: types.find(name)? })
    }

    /// The object's structure.
    pub fn structure(&self) -> &Struct {
        self.types.get(self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_port_knows_its_keys_and_numbers() {
        let types = Types::builtin();
        let spec = types.get(types.find("io.k8s.api.core.v1.ServiceSpec").unwrap());
        let ports = spec.field("ports").unwrap();
        assert_eq!(ports.patch, PatchStrategy::Merge { key: "port".into(), retain_keys: false });
        assert_eq!(ports.tag.numbers(), [1]);
        let Type::List(list) = &ports.ty else { panic!("ports is a list") };
        assert_eq!(list.topology, ListTopology::Map(vec!["port".into(), "protocol".into()]));
        let Type::Struct(item) = list.item else { panic!("of structures") };
        assert_eq!(types.get(item).versioned_name(), "v1.ServicePort");
        assert_eq!(types.get(item).field("protocol").unwrap().key_default, Some("TCP".into()));
    }

    #[test]
    fn embedded_messages_are_paths_of_numbers() {
        let types = Types::builtin();
        let volume = types.get(types.find("io.k8s.api.core.v1.Volume").unwrap());
        assert_eq!(volume.field("emptyDir").unwrap().tag.numbers(), [2, 2]);
        assert_eq!(volume.field("name").unwrap().tag.numbers(), [1]);
    }

    #[test]
    fn every_reference_resolves_and_fields_are_sorted() {
        for (_, structure) in Types::builtin().iter() {
            assert!(structure.fields.is_sorted_by(|a, b| a.name < b.name), "{}", structure.name);
        }
    }
}
