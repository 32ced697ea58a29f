//! Fields that somebody else owns.

use super::managed::{ManagedFields, Manager};
use super::set::FieldSet;
use crate::status::{Cause, Details, Reason, Status};

/// A field that a configuration would change and another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner.
    pub manager: Manager,
    /// The field, `.spec.replicas`.
    pub path: String,
}

/// What `taken` has of others: by manager, then by path.
pub(super) fn find(others: &ManagedFields, taken: &FieldSet) -> Vec<Conflict> {
    let mut conflicts: Vec<Conflict> = Vec::new();
    for entry in others.iter() {
        let paths = entry.fields.intersection(taken).paths();
        conflicts.extend(paths.into_iter().map(|path| Conflict { manager: entry.manager.clone(), path }));
    }
    conflicts.sort_by_cached_key(|conflict| conflict.manager.to_string());
    conflicts
}

/// 409 with a cause for every field.
pub(super) fn status(conflicts: &[Conflict]) -> Status {
    let causes = conflicts.iter().map(|Conflict { manager, path }| Cause {
        reason: "FieldManagerConflict".to_owned(),
        message: format!("conflict with {manager}"),
        field: path.clone(),
    });
    let details = Details { causes: causes.collect(), ..Details::default() };
    Status { details: Some(Box::new(details)), ..Status::new(409, Reason::Conflict, message(conflicts)) }
}

fn message(conflicts: &[Conflict]) -> String {
    if let [Conflict { manager, path }] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {manager}: {path}");
    }
    let mut lines: Vec<String> = Vec::new();
    let mut last: Option<&Manager> = None;
    for Conflict { manager, path } in conflicts {
        if last != Some(manager) {
            lines.push(format!("conflicts with {manager}:"));
            last = Some(manager);
        }
        lines.push(format!("- {path}"));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
