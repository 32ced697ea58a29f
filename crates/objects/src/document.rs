//! Objects are JSON documents; this is how the rest of the crate (and its users) read and change them.
//!
//! Reading never fails: what is absent or of another type reads as null, `""`, 0 or empty, as a protocol with
//! optional fields does. [`crate::decode`] has already refused documents with fields of a wrong type.

use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

const NULL: Value = Value::Null;

/// Reading and changing parts of a document.
pub trait Document {
    /// What is at the path of field names; null when absent.
    fn at(&self, path: &[&str]) -> &Value;
    /// Text at the path; `""` when absent.
    fn text(&self, path: &[&str]) -> &str;
    /// Integer at the path.
    fn int(&self, path: &[&str]) -> Option<i64>;
    /// Whether the path holds `true`.
    fn is_true(&self, path: &[&str]) -> bool;
    /// List at the path; empty when absent.
    fn list(&self, path: &[&str]) -> &[Value];
    /// Object at the path, if there is one.
    fn map(&self, path: &[&str]) -> Option<&Object>;
    /// Whether the path holds anything but null.
    fn has(&self, path: &[&str]) -> bool;
    /// Sets the value at the path, making objects on the way; does nothing when something else is in the way.
    fn put(&mut self, path: &[&str], value: impl Into<Value>);
    /// Sets the value at the path unless there is one.
    fn put_default(&mut self, path: &[&str], value: impl Into<Value>);
    /// Takes the value at the path out.
    fn take_at(&mut self, path: &[&str]) -> Option<Value>;
    /// The value at the path, for changing, if there is one.
    fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value>;
    /// The list at the path, for changing; empty when absent.
    fn list_mut(&mut self, path: &[&str]) -> &mut [Value];
    /// The object at the path, for changing; made when absent, `None` when something else is there.
    fn map_mut(&mut self, path: &[&str]) -> Option<&mut Object>;
}

impl Document for Value {
    fn at(&self, path: &[&str]) -> &Value {
        let mut value = self;
        for name in path {
            match value.as_object().and_then(|object| object.get(*name)) {
                Some(inner) => value = inner,
                None => return &NULL,
            }
        }
        value
    }

    fn text(&self, path: &[&str]) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    fn int(&self, path: &[&str]) -> Option<i64> {
        self.at(path).as_i64()
    }

    fn is_true(&self, path: &[&str]) -> bool {
        self.at(path).as_bool() == Some(true)
    }

    fn list(&self, path: &[&str]) -> &[Value] {
        self.at(path).as_array().map(Vec::as_slice).unwrap_or_default()
    }

    fn map(&self, path: &[&str]) -> Option<&Object> {
        self.at(path).as_object()
    }

    fn has(&self, path: &[&str]) -> bool {
        !self.at(path).is_null()
    }

    fn put(&mut self, path: &[&str], value: impl Into<Value>) {
        if let Some((last, parents)) = path.split_last()
            && let Some(object) = self.map_mut(parents)
        {
            object.insert((*last).to_owned(), value.into());
        }
    }

    fn put_default(&mut self, path: &[&str], value: impl Into<Value>) {
        if !self.has(path) {
            self.put(path, value);
        }
    }

    fn take_at(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        self.at_mut(parents)?.as_object_mut()?.remove(*last)
    }

    fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        let mut value = self;
        for name in path {
            value = value.as_object_mut()?.get_mut(*name)?;
        }
        Some(value)
    }

    fn list_mut(&mut self, path: &[&str]) -> &mut [Value] {
        match self.at_mut(path).and_then(Value::as_array_mut) {
            Some(list) => list,
            None => &mut [],
        }
    }

    fn map_mut(&mut self, path: &[&str]) -> Option<&mut Object> {
        let mut value = self;
        for name in path {
            if value.is_null() {
                *value = Value::Object(Object::new());
            }
            value = value.as_object_mut()?.entry(*name).or_insert(Value::Null);
        }
        if value.is_null() {
            *value = Value::Object(Object::new());
        }
        value.as_object_mut()
    }
}

/// `metadata.name`
pub fn name(object: &Value) -> &str {
    object.text(&["metadata", "name"])
}

/// `metadata.namespace`, `""` for objects of the cluster.
pub fn namespace(object: &Value) -> &str {
    object.text(&["metadata", "namespace"])
}

/// `metadata.uid`
pub fn uid(object: &Value) -> &str {
    object.text(&["metadata", "uid"])
}

/// `metadata.resourceVersion` as a number; `None` when absent or not one.
pub fn resource_version(object: &Value) -> Option<u64> {
    object.text(&["metadata", "resourceVersion"]).parse().ok()
}

/// Whether deletion of the object has begun.
pub fn is_terminating(object: &Value) -> bool {
    object.has(&["metadata", "deletionTimestamp"])
}

/// `metadata.finalizers`
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object.list(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
}

/// The value of a label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.at(&["metadata", "labels", key]).as_str()
}

/// The value of an annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.at(&["metadata", "annotations", key]).as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reading_what_is_not_there_is_empty() {
        let object = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
        assert_eq!(object.text(&["spec", "type"]), "ClusterIP");
        assert_eq!(object.text(&["spec", "type", "deeper"]), "");
        assert_eq!(object.list(&["spec", "ports"]).len(), 1);
        assert_eq!(object.int(&["status", "replicas"]), None);
    }

    #[test]
    fn writing_makes_the_way_but_destroys_nothing() {
        let mut object = json!({"spec": 5});
        object.put(&["status", "loadBalancer"], json!({}));
        object.put(&["spec", "type"], "x");
        assert_eq!(object, json!({"spec": 5, "status": {"loadBalancer": {}}}));
        assert_eq!(object.take_at(&["status", "loadBalancer"]), Some(json!({})));
        assert_eq!(object.take_at(&["nothing", "here"]), None);
    }
}
