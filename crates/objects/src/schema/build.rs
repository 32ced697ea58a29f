//! Makes arenas for custom resources.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Field, List, Map, PatchStrategy, Struct, StructId, Tag, Text, Type, Types};

/// An arena under construction.
#[derive(Debug, Default)]
pub struct Builder {
    types: Types,
    imported: HashMap<StructId, StructId>,
}

/// A field that no protobuf message has, whose zero is a value.
pub fn field(name: Text, ty: Type, required: bool) -> Field {
    let (tag, patch) = (Tag::default(), PatchStrategy::default());
    Field { name, required, zero_is_value: true, tag, ty, patch, key_default: None, always: false }
}

impl Builder {
    /// A new structure, without fields so far.
    pub fn declare(&mut self, name: String) -> StructId {
        let id = StructId(u32::try_from(self.types.structs.len()).unwrap_or(u32::MAX));
        let name = Text::Owned(name);
        self.types.by_name.insert(name.clone(), id);
        self.types.structs.push(Struct { name, atomic: false, opaque: None, fields: Vec::new() });
        id
    }

    /// Gives a structure its fields, in any order.
    pub fn fill(&mut self, id: StructId, mut fields: Vec<Field>, atomic: bool) {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(structure) = self.types.structs.get_mut(id.0 as usize) {
            structure.fields = fields;
            structure.atomic = atomic;
        }
    }

    /// A built-in structure with all that it reaches.
    pub fn import(&mut self, name: &str) -> Option<StructId> {
        Some(self.copy(Types::builtin().find(name)?))
    }

    fn copy(&mut self, from: StructId) -> StructId {
        if let Some(known) = self.imported.get(&from) {
            return *known;
        }
        let structure = Types::builtin().get(from);
        let id = self.declare(structure.name.to_string());
        self.imported.insert(from, id);
        let fields =
            structure.fields.iter().map(|field| Field { ty: self.copy_type(&field.ty), ..field.clone() });
        let fields: Vec<Field> = fields.collect();
        self.fill(id, fields, structure.atomic);
        if let Some(copy) = self.types.structs.get_mut(id.0 as usize) {
            copy.opaque = structure.opaque;
        }
        id
    }

    fn copy_type(&mut self, ty: &Type) -> Type {
        match ty {
            Type::Scalar(scalar) => Type::Scalar(*scalar),
            Type::Struct(id) => Type::Struct(self.copy(*id)),
            Type::List(list) => Type::List(Box::new(List {
                item: self.copy_type(&list.item),
                topology: list.topology.clone(),
            })),
            Type::Map(map) => {
                Type::Map(Box::new(Map { value: self.copy_type(&map.value), atomic: map.atomic }))
            }
        }
    }

    /// The arena.
    pub fn finish(self) -> Arc<Types> {
        Arc::new(self.types)
    }
}
