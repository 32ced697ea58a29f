//! `metadata.managedFields`: who owns which fields of an object.

use std::fmt;

use serde_json::{Value, json};

use super::set::{FieldSet, FieldsError};
use crate::document::Document;

/// Entries of operation Update that an object keeps; older ones are united.
pub const UPDATERS_MAX: usize = 10;
/// Who owns what updates beyond [`UPDATERS_MAX`] owned.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to own its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// It applied a configuration: what it leaves out next time goes.
    Apply,
    /// It wrote them by any other request.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who owns fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// The name it gave itself.
    pub name: String,
    /// Applied or wrote otherwise.
    pub operation: Operation,
    /// `apiVersion` of what it wrote.
    pub api_version: String,
    /// Through which subresource; "" is the object.
    pub subresource: String,
}

impl Manager {
    /// Whether both are one manager: an applier stays itself when it goes to another version.
    pub fn is_same(&self, other: &Manager) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// `"m"`, `"m" with subresource "status"`, `"m" using v1`.
impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        match self.operation {
            Operation::Apply => Ok(()),
            Operation::Update => write!(f, " using {}", self.api_version),
        }
    }
}

/// What one manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub manager: Manager,
    /// When it last wrote, RFC 3339 to the second; "" is unknown.
    pub time: String,
    /// What.
    pub fields: FieldSet,
}

/// Why `managedFields` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// An operation that is neither Apply nor Update.
    #[error("metadata.managedFields.operation: Invalid value: {0:?}: must be `Apply` or `Update`")]
    Operation(String),
    /// A form of the set that is not FieldsV1.
    #[error("metadata.managedFields.fieldsType: Invalid value: {0:?}: must be `FieldsV1`")]
    FieldsType(String),
    /// A set that cannot be read.
    #[error("metadata.managedFields.fieldsV1: {0}")]
    Fields(#[from] FieldsError),
}

/// All owners of fields of an object, each manager once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManagedFields {
    entries: Vec<Entry>,
}

impl ManagedFields {
    /// Reads `metadata.managedFields`; none is empty.
    pub fn read(object: &Value) -> Result<ManagedFields, EntryError> {
        Self::read_entries(object.list(&["metadata", "managedFields"]))
    }

    fn read_entries(entries: &[Value]) -> Result<ManagedFields, EntryError> {
        let mut managed = ManagedFields::default();
        for value in entries {
            let operation = match value.text(&["operation"]) {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                other => return Err(EntryError::Operation(other.to_owned())),
            };
            let fields_type = value.text(&["fieldsType"]);
            if fields_type != "FieldsV1" {
                return Err(EntryError::FieldsType(fields_type.to_owned()));
            }
            let fields = match value.at(&["fieldsV1"]) {
                Value::Null => FieldSet::default(),
                fields => FieldSet::from_fields_v1(fields)?,
            };
            let text = |name: &str| value.text(&[name]).to_owned();
            let manager = Manager {
                name: text("manager"),
                operation,
                api_version: text("apiVersion"),
                subresource: text("subresource"),
            };
            managed.take(&manager);
            managed.entries.push(Entry { manager, time: text("time"), fields });
        }
        Ok(managed)
    }

    /// Writes `metadata.managedFields`. Nothing when nobody owns anything.
    pub fn write(self, object: &mut Value) {
        let entries = self.into_entries();
        if entries.is_empty() {
            object.take_at(&["metadata", "managedFields"]);
        } else {
            object.put(&["metadata", "managedFields"], entries);
        }
    }

    /// The entries on the wire: appliers before others, each in the order of time.
    pub(super) fn into_entries(mut self) -> Vec<Value> {
        self.entries.retain(|entry| !entry.fields.is_empty());
        self.entries.sort_by(|a, b| a.order().cmp(&b.order()));
        self.entries.into_iter().map(Entry::into_value).collect()
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// What a manager owns.
    pub fn of(&self, manager: &Manager) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.manager.is_same(manager))
    }

    /// Takes a manager's entry out.
    pub fn take(&mut self, manager: &Manager) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.manager.is_same(manager))?;
        Some(self.entries.remove(index))
    }

    /// Puts an entry in the place of the manager's last.
    pub fn put(&mut self, entry: Entry) {
        self.take(&entry.manager);
        if !entry.fields.is_empty() {
            self.entries.push(entry);
        }
    }

    /// Takes fields from everybody.
    pub fn subtract(&mut self, fields: &FieldSet) {
        for entry in &mut self.entries {
            entry.fields.subtract(fields);
        }
        self.entries.retain(|entry| !entry.fields.is_empty());
    }

    /// Unites the oldest entries of updates, of each version apart, until there are no more than [`UPDATERS_MAX`].
    pub fn cap(&mut self) {
        let is_update = |entry: &&Entry| entry.manager.operation == Operation::Update;
        let mut excess = self.entries.iter().filter(is_update).count().saturating_sub(UPDATERS_MAX);
        if excess == 0 {
            return;
        }
        self.entries.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut oldest: Vec<Entry> = Vec::new();
        let mut kept = Vec::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            if entry.manager.operation == Operation::Apply || excess == 0 {
                kept.push(entry);
                continue;
            }
            let version = &entry.manager.api_version;
            match oldest.iter_mut().find(|bucket| bucket.manager.api_version == *version) {
                Some(bucket) => {
                    bucket.manager.name = ANCIENT.to_owned();
                    bucket.manager.subresource.clear();
                    bucket.fields.unite(&entry.fields);
                    bucket.time = entry.time;
                    excess -= 1;
                }
                None => oldest.push(entry),
            }
        }
        for bucket in oldest {
            match kept.iter_mut().find(|entry| entry.manager.is_same(&bucket.manager)) {
                Some(entry) => entry.fields.unite(&bucket.fields),
                None => kept.push(bucket),
            }
        }
        self.entries = kept;
    }
}

impl Entry {
    fn order(&self) -> (Operation, &str, &str, &str, &str) {
        let Manager { name, operation, api_version, subresource } = &self.manager;
        (*operation, &self.time, name, api_version, subresource)
    }

    fn into_value(self) -> Value {
        let Manager { name, operation, api_version, subresource } = self.manager;
        let mut value = json!({
            "manager": name,
            "operation": operation.as_str(),
            "apiVersion": api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.into_fields_v1(),
        });
        if !self.time.is_empty() {
            value.put(&["time"], self.time);
        }
        if !subresource.is_empty() {
            value.put(&["subresource"], subresource);
        }
        value
    }
}

/// Adds what an update wrote to the entry of its manager, among entries as they are on the wire, and sorts and caps those. They are not
/// read for it: most of them are long and none of this touches their fields.
pub(super) fn take_over(entries: &mut Vec<Value>, manager: &Manager, written: FieldSet, time: &str) {
    let is_own = |entry: &&mut Value| {
        entry.text(&["operation"]) == manager.operation.as_str()
            && entry.text(&["manager"]) == manager.name
            && entry.text(&["apiVersion"]) == manager.api_version
            && entry.text(&["subresource"]) == manager.subresource
    };
    match entries.iter_mut().find(is_own) {
        Some(entry) => {
            entry.put(&["time"], time);
            if let Some(fields) = entry.map_mut(&["fieldsV1"]) {
                written.unite_into(fields);
            }
        }
        None => {
            let entry = Entry { manager: manager.clone(), time: time.to_owned(), fields: written };
            entries.push(entry.into_value());
        }
    }
    entries.sort_by(|a, b| wire_order(a).cmp(&wire_order(b)));
    let updates = entries.iter().filter(|entry| entry.text(&["operation"]) == Operation::Update.as_str());
    if updates.count() > UPDATERS_MAX
        && let Ok(mut managed) = ManagedFields::read_entries(entries)
    {
        managed.cap();
        *entries = managed.into_entries();
    }
}

fn wire_order(entry: &Value) -> [&str; 5] {
    ["operation", "time", "manager", "apiVersion", "subresource"].map(|name| entry.text(&[name]))
}
