//! A set of fields of an object: a trie of path elements, and its form on the wire, FieldsV1.

use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::path::PathElement;

/// What marks a member of FieldsV1 that has others below it.
const MEMBER: &str = ".";

/// A set of paths. Every branch ends in a member, so an empty set has no branches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by element.
    branches: Vec<(PathElement, Branch)>,
}

/// What a set has at one path and below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Branch {
    /// Whether the path itself is in the set.
    pub member: bool,
    /// What is below it.
    pub below: FieldSet,
}

/// Why a document is no FieldsV1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// A node that is no JSON object.
    #[error("a node of fieldsV1 must be an object")]
    NotObject,
    /// A name that is neither `.` nor `f:…`, `k:…`, `v:…`, `i:…`.
    #[error("{0:?} is no path element")]
    Element(String),
}

impl Branch {
    /// A path without anything below it.
    pub fn leaf() -> Branch {
        Branch { member: true, below: FieldSet::default() }
    }

    /// Whether nothing is in the set here.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    fn into_fields_v1(self) -> Value {
        let mut node = match self.below.into_fields_v1() {
            Value::Object(node) => node,
            _ => Map::new(),
        };
        mark(&mut node, self.member);
        Value::Object(node)
    }

    fn subtract_from(&self, node: &mut Map<String, Value>) -> bool {
        let member = is_member(node) && !self.member;
        node.remove(MEMBER);
        let nothing_below = self.below.subtract_from(node);
        mark(node, member);
        nothing_below && !member
    }

    fn unite(&mut self, other: &Branch) {
        self.member |= other.member;
        self.below.unite(&other.below);
    }
}

/// Whether a node of FieldsV1 is in the set itself.
fn is_member(node: &Map<String, Value>) -> bool {
    node.is_empty() || node.contains_key(MEMBER)
}

/// Says so of a node that has others below it.
fn mark(node: &mut Map<String, Value>, member: bool) {
    if member && !node.is_empty() {
        node.insert(MEMBER.to_owned(), Value::Object(Map::new()));
    }
}

impl FieldSet {
    /// The set without paths.
    pub const EMPTY: FieldSet = FieldSet { branches: Vec::new() };

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }

    /// What is in the set at and below one step.
    pub fn get(&self, element: &PathElement) -> Option<&Branch> {
        let index = self.branches.binary_search_by(|(known, _)| known.cmp(element)).ok()?;
        Some(&self.branches.get(index)?.1)
    }

    /// The same for a field or map entry.
    pub fn field(&self, name: &str) -> Option<&Branch> {
        let index = self.branches.binary_search_by(|(known, _)| match known {
            PathElement::Field(known) => known.as_ref().cmp(name),
            PathElement::Key(_) | PathElement::Value(_) | PathElement::Index(_) => {
                std::cmp::Ordering::Greater
            }
        });
        Some(&self.branches.get(index.ok()?)?.1)
    }

    /// Adds a branch; one that is empty adds nothing.
    pub fn insert(&mut self, element: PathElement, branch: Branch) {
        if branch.is_empty() {
            return;
        }
        if self.branches.last().is_none_or(|(last, _)| *last < element) {
            self.branches.push((element, branch));
            return;
        }
        match self.branches.binary_search_by(|(known, _)| known.cmp(&element)) {
            Ok(index) => {
                if let Some((_, known)) = self.branches.get_mut(index) {
                    known.unite(&branch);
                }
            }
            Err(index) => self.branches.insert(index, (element, branch)),
        }
    }

    /// Takes the branch of a field out.
    pub fn take_field(&mut self, name: &str) -> Option<Branch> {
        let found =
            |(known, _): &(PathElement, Branch)| matches!(known, PathElement::Field(known) if known == name);
        let index = self.branches.iter().position(found)?;
        Some(self.branches.remove(index).1)
    }

    /// Keeps the branches of fields that `keep` says yes to.
    pub fn retain_fields(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.branches.retain(|(element, _)| match element {
            PathElement::Field(name) => keep(name),
            PathElement::Key(_) | PathElement::Value(_) | PathElement::Index(_) => true,
        });
    }

    /// Adds all of `other`.
    pub fn unite(&mut self, other: &FieldSet) {
        for (element, branch) in &other.branches {
            match self.branches.binary_search_by(|(known, _)| known.cmp(element)) {
                Ok(index) => {
                    if let Some((_, known)) = self.branches.get_mut(index) {
                        known.unite(branch);
                    }
                }
                Err(index) => self.branches.insert(index, (element.clone(), branch.clone())),
            }
        }
    }

    /// Removes all of `other`; what is below a path of `other` stays unless it is in `other` too.
    pub fn subtract(&mut self, other: &FieldSet) {
        if other.is_empty() {
            return;
        }
        self.branches.retain_mut(|(element, branch)| {
            if let Some(other) = other.get(element) {
                branch.member &= !other.member;
                branch.below.subtract(&other.below);
            }
            !branch.is_empty()
        });
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet::default();
        for (element, branch) in &self.branches {
            let Some(other) = other.get(element) else { continue };
            let branch = Branch {
                member: branch.member && other.member,
                below: branch.below.intersection(&other.below),
            };
            both.insert(element.clone(), branch);
        }
        both
    }

    /// All paths as messages show them; shorter ones before those below them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut String, paths: &mut Vec<String>) {
        let members = self.branches.iter().filter(|(_, branch)| branch.member);
        paths.extend(members.map(|(element, _)| format!("{prefix}{element}")));
        for (element, branch) in &self.branches {
            let length = prefix.len();
            prefix.push_str(&element.to_string());
            branch.below.collect(prefix, paths);
            prefix.truncate(length);
        }
    }

    /// FieldsV1: a JSON object of path elements; `.` marks a member with others below it.
    pub fn to_fields_v1(&self) -> Value {
        self.clone().into_fields_v1()
    }

    /// The same of a set that is needed no longer.
    pub(super) fn into_fields_v1(self) -> Value {
        let nodes = self.branches.into_iter();
        nodes.map(|(element, branch)| (element.to_wire(), branch.into_fields_v1())).collect()
    }

    /// Takes the set out of a FieldsV1 document; whether nothing is left of that. Costs what this set has, however much the document has.
    pub(super) fn subtract_from(&self, fields: &mut Map<String, Value>) -> bool {
        for (element, branch) in &self.branches {
            let name = element.to_wire();
            if let Some(Value::Object(node)) = fields.get_mut(&name)
                && branch.subtract_from(node)
            {
                fields.remove(&name);
            }
        }
        fields.is_empty()
    }

    /// Puts the set into a FieldsV1 document.
    pub(super) fn unite_into(self, fields: &mut Map<String, Value>) {
        for (element, branch) in self.branches {
            match fields.entry(element.to_wire()) {
                Entry::Vacant(place) => {
                    place.insert(branch.into_fields_v1());
                }
                Entry::Occupied(mut place) => {
                    if let Value::Object(node) = place.get_mut() {
                        let member = branch.member || is_member(node);
                        branch.below.unite_into(node);
                        mark(node, member);
                    }
                }
            }
        }
    }

    /// Reads FieldsV1.
    pub fn from_fields_v1(fields: &Value) -> Result<FieldSet, FieldsError> {
        let fields = fields.as_object().ok_or(FieldsError::NotObject)?;
        let mut set = FieldSet::default();
        for (name, below) in fields {
            if name == MEMBER {
                continue;
            }
            let element = PathElement::parse(name).ok_or_else(|| FieldsError::Element(name.clone()))?;
            let object = below.as_object().ok_or(FieldsError::NotObject)?;
            let member = is_member(object);
            set.insert(element, Branch { member, below: FieldSet::from_fields_v1(below)? });
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(fields: Value) -> FieldSet {
        FieldSet::from_fields_v1(&fields).unwrap()
    }

    #[test]
    fn sets_read_what_they_write() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:ports": {".": {}, r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:port": {}}},
                "f:finalizers": {"v:\"a\"": {}},
            },
        });
        assert_eq!(set(fields.clone()).to_fields_v1(), fields);
        assert_eq!(
            set(fields).paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec.ports",
                r#".spec.finalizers[="a"]"#,
                r#".spec.ports[port=80,protocol="TCP"]"#,
                r#".spec.ports[port=80,protocol="TCP"].port"#,
            ]
        );
    }

    #[test]
    fn sets_are_sets() {
        let left = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}));
        let right = set(json!({"f:a": {"f:b": {}}, "f:d": {"f:e": {}}}));
        assert_eq!(left.intersection(&right).to_fields_v1(), json!({"f:a": {"f:b": {}}}));
        let mut less = left.clone();
        less.subtract(&right);
        assert_eq!(less.to_fields_v1(), json!({"f:a": {".": {}, "f:c": {}}, "f:d": {}}));
        let mut more = left.clone();
        more.unite(&right);
        assert_eq!(
            more.to_fields_v1(),
            json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {".": {}, "f:e": {}}})
        );
        less.subtract(&left);
        assert!(less.is_empty());
    }

    #[test]
    fn documents_change_as_sets_do() {
        let documents = [
            json!({}),
            json!({"f:a": {}}),
            json!({"f:a": {".": {}, "f:b": {}}}),
            json!({"f:a": {"f:b": {}, "f:c": {".": {}, "f:d": {}}}}),
            json!({"f:a": {"f:c": {}}, "f:x": {"f:y": {}}}),
        ];
        for left in &documents {
            for right in &documents {
                let (mut less, mut more) = (set(left.clone()), set(left.clone()));
                less.subtract(&set(right.clone()));
                more.unite(&set(right.clone()));
                let (mut less_v1, mut more_v1) = (left.clone(), left.clone());
                let is_empty = set(right.clone()).subtract_from(less_v1.as_object_mut().unwrap());
                set(right.clone()).unite_into(more_v1.as_object_mut().unwrap());
                assert_eq!((less_v1, is_empty), (less.to_fields_v1(), less.is_empty()), "{left} - {right}");
                assert_eq!(more_v1, more.to_fields_v1(), "{left} + {right}");
            }
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        assert_eq!(FieldSet::from_fields_v1(&json!([])), Err(FieldsError::NotObject));
        assert_eq!(FieldSet::from_fields_v1(&json!({"f:a": 1})), Err(FieldsError::NotObject));
        let unknown = FieldSet::from_fields_v1(&json!({"g:a": {}}));
        assert_eq!(unknown, Err(FieldsError::Element("g:a".to_owned())));
    }
}
