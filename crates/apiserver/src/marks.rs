//! When what decides about requests last changed, and what is made of it.
//!
//! Roles and webhooks are read at every request and change rarely. The state carries the revision of their last change ([`Marks`]), so that
//! a request sees with one comparison whether what was made from them ([`Made`]) still holds: a change counts from the next request on.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;

use crate::store::Collection;

/// Revisions of last changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Of a role or binding.
    pub access: u64,
    /// Of a webhook configuration or admission policy.
    pub admission: u64,
}

impl Marks {
    /// Follows a change of an object of `collection`.
    pub(crate) fn note(&mut self, collection: &Collection, revision: u64) {
        let name = collection.as_str();
        if name.ends_with(".rbac.authorization.k8s.io") {
            self.access = revision;
        } else if name.ends_with(".admissionregistration.k8s.io") {
            self.admission = revision;
        }
    }
}

/// What was made from stored objects at a mark.
#[derive(Debug)]
pub(crate) struct Made<T> {
    newest: ArcSwapOption<(u64, Arc<T>)>,
    making: Mutex<()>,
}

impl<T> Default for Made<T> {
    fn default() -> Self {
        Self { newest: ArcSwapOption::empty(), making: Mutex::new(()) }
    }
}

impl<T> Made<T> {
    /// What holds at `mark`, made now when nobody has made it yet.
    pub(crate) fn at(&self, mark: u64, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(made) = self.holding(mark) {
            return made;
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = self.holding(mark) {
            return made;
        }
        let made = Arc::new(make());
        self.newest.store(Some(Arc::new((mark, Arc::clone(&made)))));
        made
    }

    fn holding(&self, mark: u64) -> Option<Arc<T>> {
        let newest = self.newest.load();
        newest.as_ref().filter(|newest| newest.0 >= mark).map(|newest| Arc::clone(&newest.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_role_is_noted_and_made_into_something_once() {
        let mut marks = Marks::default();
        marks.note(&Collection::new("rbac.authorization.k8s.io", "roles"), 7);
        marks.note(&Collection::new("", "pods"), 8);
        marks.note(&Collection::new("admissionregistration.k8s.io", "validatingwebhookconfigurations"), 9);
        assert_eq!(marks, Marks { access: 7, admission: 9 });
        let made = Made::default();
        assert_eq!(*made.at(0, || "none"), "none");
        assert_eq!(*made.at(7, || "some"), "some");
        assert_eq!(*made.at(7, || "again"), "some");
        assert_eq!(*made.at(5, || "old"), "some", "a reader of an older state may see what is newer");
    }
}
