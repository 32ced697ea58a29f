//! Reads the embedded type tables.

use std::borrow::Cow;

use super::{
    Field, List, ListTopology, Map, PatchStrategy, Scalar, Struct, StructId, Tag, Text, Type, Types,
};

/// A table: the name its types go by in other tables, the prefix of their OpenAPI names, the text.
pub(super) struct Package {
    alias: &'static str,
    prefix: &'static str,
    text: &'static str,
}

macro_rules! package {
    ($alias:literal, $prefix:literal) => {
        Package { alias: $alias, prefix: $prefix, text: include_str!(concat!("types/", $alias, ".txt")) }
    };
}

pub(super) const PACKAGES: &[Package] = &[
    package!("meta", "io.k8s.apimachinery.pkg.apis.meta.v1."),
    package!("resource", "io.k8s.apimachinery.pkg.api.resource."),
    package!("runtime", "io.k8s.apimachinery.pkg.runtime."),
    package!("intstr", "io.k8s.apimachinery.pkg.util.intstr."),
    package!("core", "io.k8s.api.core.v1."),
    package!("apps", "io.k8s.api.apps.v1."),
    package!("batch", "io.k8s.api.batch.v1."),
    package!("autoscaling", "io.k8s.api.autoscaling.v1."),
    package!("discovery", "io.k8s.api.discovery.v1."),
    package!("networking", "io.k8s.api.networking.v1."),
    package!("coordination", "io.k8s.api.coordination.v1."),
    package!("events", "io.k8s.api.events.v1."),
    package!("policy", "io.k8s.api.policy.v1."),
    package!("authentication", "io.k8s.api.authentication.v1."),
    package!("authorization", "io.k8s.api.authorization.v1."),
    package!("rbac", "io.k8s.api.rbac.v1."),
    package!("scheduling", "io.k8s.api.scheduling.v1."),
    package!("storage", "io.k8s.api.storage.v1."),
    package!("admissionregistration", "io.k8s.api.admissionregistration.v1."),
    package!("apiextensions", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."),
];

/// A table line that is not well formed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    /// A field line that does not read `name tag type flags…`.
    #[error("{package}:{line}: {what}")]
    Line {
        /// The table.
        package: &'static str,
        /// Line number from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A type that no table defines.
    #[error("no table defines {name}")]
    UnknownType {
        /// Its full name.
        name: String,
    },
}

impl Types {
    pub(super) fn parse(packages: &[Package]) -> Result<Types, TableError> {
        let mut types = Types::default();
        for package in packages {
            for line in package.text.lines() {
                if let Some(header) = header(line) {
                    types.declare(package, header);
                }
            }
        }
        for package in packages {
            types.fill(package)?;
        }
        Ok(types)
    }

    fn declare(&mut self, package: &Package, header: &'static str) {
        let mut words = header.split(' ');
        let name: Text = Cow::Owned(format!("{}{}", package.prefix, words.next().unwrap_or_default()));
        let (mut atomic, mut opaque) = (false, None);
        for word in words {
            match word {
                "atomic" => atomic = true,
                word => opaque = word.strip_prefix('=').and_then(scalar),
            }
        }
        let id = StructId(u32::try_from(self.structs.len()).unwrap_or(u32::MAX));
        self.by_name.insert(name.clone(), id);
        self.structs.push(Struct { name, atomic, opaque, fields: Vec::new() });
    }

    fn fill(&mut self, package: &Package) -> Result<(), TableError> {
        let mut current: Option<StructId> = None;
        for (index, line) in package.text.lines().enumerate() {
            if let Some(header) = header(line) {
                let short = header.split(' ').next().unwrap_or_default();
                current = self.find(&format!("{}{short}", package.prefix));
                continue;
            }
            let Some(line) = line.strip_prefix("  ") else { continue };
            let field = self.field(package, line).map_err(|what| TableError::Line {
                package: package.alias,
                line: index + 1,
                what,
            })?;
            if let Some(structure) = current.and_then(|id| self.structs.get_mut(id.0 as usize)) {
                structure.fields.push(field);
            }
        }
        Ok(())
    }

    fn field(&self, package: &Package, line: &'static str) -> Result<Field, String> {
        let mut words = line.split(' ');
        let (Some(name), Some(tag), Some(ty)) = (words.next(), words.next(), words.next()) else {
            return Err("a field line is `name tag type flags…`".to_owned());
        };
        let (name, required, zero_is_value) = match (name.strip_suffix('!'), name.strip_suffix('?')) {
            (Some(name), _) => (name, true, false),
            (None, Some(name)) => (name, false, true),
            (None, None) => (name, false, false),
        };
        let mut field = Field {
            name: Cow::Borrowed(name),
            required,
            zero_is_value,
            tag: parse_tag(tag)?,
            ty: self.ty(package, ty)?,
            patch: PatchStrategy::default(),
            key_default: None,
            always: false,
        };
        for flag in words {
            apply_flag(flag, &mut field)?;
        }
        Ok(field)
    }

    fn ty(&self, package: &Package, text: &'static str) -> Result<Type, String> {
        if let Some(item) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let item = self.ty(package, item)?;
            return Ok(Type::List(Box::new(List { item, topology: ListTopology::Atomic })));
        }
        if let Some(value) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let value = self.ty(package, value)?;
            return Ok(Type::Map(Box::new(Map { value, atomic: false })));
        }
        if let Some(scalar) = scalar(text) {
            return Ok(Type::Scalar(scalar));
        }
        let full = match text.split_once(':') {
            Some((alias, name)) => match PACKAGES.iter().find(|other| other.alias == alias) {
                Some(other) => format!("{}{name}", other.prefix),
                None => return Err(format!("no package `{alias}`")),
            },
            None => format!("{}{text}", package.prefix),
        };
        let id = self.find(&full).ok_or_else(|| TableError::UnknownType { name: full }.to_string())?;
        Ok(match self.get(id).opaque {
            Some(scalar) => Type::Scalar(scalar),
            None => Type::Struct(id),
        })
    }
}

/// The text of a line that declares a structure.
fn header(line: &'static str) -> Option<&'static str> {
    (!line.is_empty() && !line.starts_with([' ', '#'])).then_some(line)
}

fn scalar(text: &str) -> Option<Scalar> {
    Some(match text {
        "string" => Scalar::String,
        "bytes" => Scalar::Bytes,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "bool" => Scalar::Bool,
        "double" => Scalar::Double,
        "quantity" => Scalar::Quantity,
        "time" => Scalar::Time,
        "microtime" => Scalar::MicroTime,
        "intstr" => Scalar::IntOrString,
        "any" => Scalar::Any,
        _ => return None,
    })
}

fn parse_tag(text: &str) -> Result<Tag, String> {
    let mut tag = Tag::default();
    if text == "-" {
        return Ok(tag);
    }
    for number in text.split('.') {
        let number = number.parse().map_err(|_| format!("tag `{text}` is not a number"))?;
        let place = tag.numbers.get_mut(usize::from(tag.len)).ok_or("a tag nests at most 3 deep")?;
        *place = number;
        tag.len += 1;
    }
    Ok(tag)
}

fn apply_flag(flag: &'static str, field: &mut Field) -> Result<(), String> {
    let patch = &mut field.patch;
    let (word, argument) = match flag.split_once('(') {
        Some((word, rest)) => (word, rest.strip_suffix(')')),
        None => (flag, None),
    };
    match (word, argument, &mut field.ty) {
        ("set", None, Type::List(list)) => list.topology = ListTopology::Set,
        ("map", Some(keys), Type::List(list)) => {
            list.topology = ListTopology::Map(keys.split(',').map(Cow::Borrowed).collect());
        }
        ("atomic", None, Type::Map(map)) => map.atomic = true,
        ("merge", None, Type::List(_)) => *patch = PatchStrategy::Union,
        ("merge", Some(key), Type::List(_)) => {
            *patch = PatchStrategy::Merge { key: Cow::Borrowed(key), retain_keys: false };
        }
        ("merge+retain", Some(key), Type::List(_)) => {
            *patch = PatchStrategy::Merge { key: Cow::Borrowed(key), retain_keys: true };
        }
        ("retain", None, Type::Struct(_)) => *patch = PatchStrategy::RetainKeys,
        ("replace", None, Type::Struct(_)) => *patch = PatchStrategy::Replace,
        ("always", None, Type::Struct(_) | Type::List(_)) => field.always = true,
        ("default", Some(value), Type::Scalar(Scalar::String)) => {
            field.key_default = Some(Cow::Borrowed(value))
        }
        _ => return Err(format!("flag `{flag}` does not fit the type")),
    }
    Ok(())
}
