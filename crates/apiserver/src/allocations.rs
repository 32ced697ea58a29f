//! Which addresses and node ports Services hold: derived from the stored Services with every change, so it can neither leak nor need
//! repair. Whether a new Service may have one is decided by `objects`, inside the writer.

use std::sync::Arc;

use fairway_objects::allocate::Used;

use crate::store::{Collection, Object};

/// What is taken. Cloning is a pointer; the first change after a clone copies.
#[derive(Clone, Debug, Default)]
pub struct Allocations(Arc<Used>);

impl Allocations {
    /// What Services use.
    pub fn used(&self) -> &Used {
        &self.0
    }

    /// Follows a change of an object; other kinds than Services are ignored.
    pub(crate) fn replace(&mut self, collection: &Collection, old: Option<&Object>, new: Option<&Object>) {
        if collection.as_str() != "services" {
            return;
        }
        let used = Arc::make_mut(&mut self.0);
        if let Some(old) = old {
            used.remove(&old.document());
        }
        if let Some(new) = new {
            used.add(&new.document());
        }
    }
}
