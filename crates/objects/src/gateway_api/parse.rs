//! Reads the tables into definitions.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{BUNDLE_VERSION, Channel};

/// Types may contain types this deep.
const DEPTH_MAX: usize = 32;

/// A table and what messages call it.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

/// A table that is not well formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A line that does not read as it should.
    #[error("{table}: {line:?}: {what}")]
    Line {
        /// The table.
        table: &'static str,
        /// The line.
        line: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A type that is named but not defined, or that contains itself.
    #[error("the type {0} is not defined, or contains itself")]
    Type(String),
}

/// A line and the lines indented below it.
#[derive(Debug)]
struct Node {
    table: &'static str,
    text: &'static str,
    /// The `#` line before it.
    doc: Option<&'static str>,
    children: Vec<Node>,
}

impl Node {
    fn fault(&self, what: &'static str) -> TableError {
        TableError::Line { table: self.table, line: self.text.to_owned(), what }
    }

    /// The `#` line among its children.
    fn own_doc(&self) -> Option<&'static str> {
        self.children.iter().find_map(|child| child.text.strip_prefix("# "))
    }
}

/// All definitions of `channel`, in the order of the tables.
pub(super) fn definitions(tables: &[Table], channel: Channel) -> Result<Vec<Value>, TableError> {
    let mut types = HashMap::new();
    let mut kinds = Vec::new();
    for table in tables {
        for node in nodes(table, channel) {
            match node.text.split_once(' ') {
                Some(("kind", _)) => kinds.push(node),
                Some(("type", rest)) => {
                    let name = rest.split(' ').next().unwrap_or_default();
                    types.insert(name, node);
                }
                _ => return Err(node.fault("neither a kind nor a type")),
            }
        }
    }
    let types = Types(types);
    kinds.iter().map(|kind| types.definition(kind, channel)).collect()
}

/// The lines of one channel as a forest.
fn nodes(table: &Table, channel: Channel) -> Vec<Node> {
    let lines = table.text.lines().filter_map(|line| {
        let (marker, text) = line.split_at_checked(1)?;
        let here = match marker {
            " " => true,
            "+" => channel == Channel::Experimental,
            "-" => channel == Channel::Standard,
            _ => false,
        };
        here.then(|| (text.len() - text.trim_start().len(), text.trim()))
    });
    let lines: Vec<(usize, &'static str)> = lines.filter(|(_, text)| !text.is_empty()).collect();
    below(table.name, &mut lines.as_slice(), 0)
}

/// Takes the lines that are indented by `indent` or more; the deeper ones are children of the last before them.
fn below(table: &'static str, lines: &mut &[(usize, &'static str)], indent: usize) -> Vec<Node> {
    let mut found = Vec::new();
    let mut doc = None;
    while let Some(((depth, text), rest)) = lines.split_first()
        && *depth >= indent
    {
        *lines = rest;
        let children = below(table, lines, depth + 1);
        found.push(Node { table, text, doc, children });
        doc = text.strip_prefix("# ");
    }
    found
}

struct Types(HashMap<&'static str, Node>);

impl Types {
    fn definition(&self, kind: &Node, channel: Channel) -> Result<Value, TableError> {
        let words: Vec<&str> = kind.text.split(' ').collect();
        let [_, name, group, plural, scope, short_names @ ..] = words.as_slice() else {
            return Err(kind.fault("a kind has a name, group, plural and scope"));
        };
        let mut labels = Map::new();
        let mut versions = Vec::new();
        for child in &kind.children {
            match child.text.split_once(' ') {
                Some(("label", label)) => {
                    let (key, value) =
                        label.split_once(' ').ok_or_else(|| child.fault("a label has a value"))?;
                    labels.insert(key.to_owned(), value.into());
                }
                Some(("version", version)) => versions.push(self.version(kind, child, version)?),
                Some(("#", _)) => {}
                _ => return Err(child.fault("neither a label nor a version")),
            }
        }
        let mut names = json!({
            "kind": name, "listKind": format!("{name}List"), "plural": plural, "singular": name.to_lowercase(),
            "categories": ["gateway-api"],
        });
        if !short_names.is_empty() {
            put(&mut names, "shortNames", json!(short_names));
        }
        let mut metadata = json!({"name": format!("{plural}.{group}"), "annotations": {
            "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/4530",
            "gateway.networking.k8s.io/bundle-version": BUNDLE_VERSION,
            "gateway.networking.k8s.io/channel": channel.to_string(),
        }});
        if !labels.is_empty() {
            put(&mut metadata, "labels", labels.into());
        }
        Ok(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
            "spec": {"group": group, "names": names, "scope": scope, "versions": versions},
        }))
    }

    fn version(&self, kind: &Node, node: &Node, text: &str) -> Result<Value, TableError> {
        let mut words = text.split(' ');
        let name = words.next().unwrap_or_default();
        let flags: Vec<&str> = words.collect();
        let mut root = json!({"type": "object", "properties": {
            "apiVersion": {"type": "string", "description": "Group and version of the object's schema."},
            "kind": {"type": "string", "description": "The object's kind."},
            "metadata": {"type": "object"},
        }});
        if let Some(doc) = kind.own_doc() {
            put(&mut root, "description", doc.into());
        }
        let mut columns = Vec::new();
        let mut version =
            json!({"name": name, "served": flags.contains(&"served"), "storage": flags.contains(&"storage")});
        let subresources = if flags.contains(&"status") { json!({"status": {}}) } else { json!({}) };
        put(&mut version, "subresources", subresources);
        for child in &node.children {
            match child.text.split_once(' ') {
                Some(("deprecated", warning)) => {
                    put(&mut version, "deprecated", true.into());
                    put(&mut version, "deprecationWarning", literal(child, warning)?);
                }
                Some(("column", column)) => columns.push(printer_column(child, column)?),
                Some(("rule", _)) => add_rule(&mut root, child)?,
                _ => self.field(child, &mut root, 0)?,
            }
        }
        put(&mut version, "schema", json!({"openAPIV3Schema": root}));
        if !columns.is_empty() {
            put(&mut version, "additionalPrinterColumns", columns.into());
        }
        Ok(version)
    }

    /// Adds the property of a field line to the object schema `object`.
    fn field(&self, node: &Node, object: &mut Value, depth: usize) -> Result<(), TableError> {
        let (name, rest) = node.text.split_once(' ').ok_or_else(|| node.fault("a field has a type"))?;
        let bare = name.trim_end_matches('!');
        let mut cursor = Cursor { node, rest };
        let mut schema = self.expression(&mut cursor, depth)?;
        if let Some(default) = cursor.rest.strip_prefix(" = ") {
            put(&mut schema, "default", literal(node, default)?);
        } else if !cursor.rest.is_empty() {
            return Err(node.fault("something follows the type"));
        }
        for rule in &node.children {
            add_rule(&mut schema, rule)?;
        }
        if let Some(doc) = node.doc {
            put(&mut schema, "description", doc.into());
        }
        if name.ends_with('!') {
            push(object, "required", bare.into());
        }
        if let Some(properties) = object.get_mut("properties") {
            put(properties, bare, schema);
        }
        Ok(())
    }

    /// The schema of a named type.
    fn named(&self, name: &str, depth: usize) -> Result<Value, TableError> {
        let unknown = || TableError::Type(name.to_owned());
        let node = self.0.get(name).filter(|_| depth < DEPTH_MAX).ok_or_else(unknown)?;
        let rest =
            node.text.strip_prefix("type ").and_then(|rest| rest.strip_prefix(name)).unwrap_or_default();
        let mut cursor = Cursor { node, rest };
        if let Some(alias) = rest.strip_prefix(" = ") {
            cursor.rest = alias;
            let mut schema = self.expression(&mut cursor, depth + 1)?;
            for rule in &node.children {
                add_rule(&mut schema, rule)?;
            }
            return Ok(schema);
        }
        let mut schema = json!({"type": "object", "properties": {}});
        if cursor.take(" atomic") {
            put(&mut schema, "x-kubernetes-map-type", "atomic".into());
        }
        cursor.range(&mut schema, "minProperties", "maxProperties")?;
        for child in &node.children {
            match child.text.split_once(' ') {
                Some(("#", _)) => {}
                Some(("rule", _)) => add_rule(&mut schema, child)?,
                Some(("oneOf", alternatives)) => put(&mut schema, "oneOf", literal(child, alternatives)?),
                _ => self.field(child, &mut schema, depth + 1)?,
            }
        }
        Ok(schema)
    }
}

/// What is left to read of a line.
struct Cursor<'a> {
    node: &'a Node,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, prefix: &str, what: &'static str) -> Result<(), TableError> {
        if self.take(prefix) { Ok(()) } else { Err(self.node.fault(what)) }
    }

    /// The longest head of `wanted` characters.
    fn word(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// ` 1..63`, either end may be open.
    fn range(&mut self, schema: &mut Value, low: &str, high: &str) -> Result<(), TableError> {
        let after = self.rest.strip_prefix(' ').unwrap_or_default();
        if !after.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with("..") {
            return Ok(());
        }
        self.rest = after;
        for key in [low, high] {
            let digits = self.word(|c| c.is_ascii_digit());
            if !digits.is_empty() {
                put(schema, key, literal(self.node, digits)?);
            }
            self.take("..");
        }
        Ok(())
    }

    /// `(One|Two)`
    fn alternatives(&mut self) -> Result<Vec<&'a str>, TableError> {
        self.expect("(", "alternatives begin with a parenthesis")?;
        let list = self.word(|c| c != ')');
        self.expect(")", "a parenthesis is not closed")?;
        Ok(list.split('|').map(|word| if word == "\"\"" { "" } else { word }).collect())
    }
}

impl Types {
    /// Reads a type; stops before a default or a closing bracket.
    fn expression(&self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Value, TableError> {
        if cursor.take("[") {
            let item = self.expression(cursor, depth)?;
            cursor.expect("]", "a bracket is not closed")?;
            let mut schema = json!({"type": "array", "items": item});
            cursor.range(&mut schema, "minItems", "maxItems")?;
            list_type(cursor, &mut schema)?;
            return Ok(schema);
        }
        if cursor.take("{") {
            let value = self.expression(cursor, depth)?;
            cursor.expect("}", "a brace is not closed")?;
            let mut schema = json!({"type": "object", "additionalProperties": value});
            cursor.range(&mut schema, "minProperties", "maxProperties")?;
            return Ok(schema);
        }
        if cursor.rest.starts_with('(') {
            let mut schema = json!({"type": "string", "enum": cursor.alternatives()?});
            text_limits(cursor, &mut schema)?;
            return Ok(schema);
        }
        match cursor.word(|c| c.is_ascii_alphanumeric()) {
            "string" => {
                let mut schema = json!({"type": "string"});
                text_limits(cursor, &mut schema)?;
                Ok(schema)
            }
            "bool" => Ok(json!({"type": "boolean"})),
            "object" => Ok(json!({"type": "object"})),
            integer @ ("int" | "int32" | "int64") => {
                let mut schema = json!({"type": "integer"});
                if integer != "int" {
                    put(&mut schema, "format", integer.into());
                }
                cursor.range(&mut schema, "minimum", "maximum")?;
                if cursor.rest.starts_with(" (") {
                    cursor.take(" ");
                    let values = cursor.alternatives()?;
                    let values: Result<Vec<Value>, _> =
                        values.into_iter().map(|value| literal(cursor.node, value)).collect();
                    put(&mut schema, "enum", values?.into());
                }
                Ok(schema)
            }
            name => self.named(name, depth + 1),
        }
    }
}

/// Length, pattern and format of a string.
fn text_limits(cursor: &mut Cursor<'_>, schema: &mut Value) -> Result<(), TableError> {
    cursor.range(schema, "minLength", "maxLength")?;
    if cursor.take(" ~") {
        let mut values = serde_json::Deserializer::from_str(cursor.rest).into_iter::<Value>();
        let pattern = values
            .next()
            .and_then(Result::ok)
            .ok_or_else(|| cursor.node.fault("a pattern is a JSON string"))?;
        cursor.rest = cursor.rest.get(values.byte_offset()..).unwrap_or_default();
        put(schema, "pattern", pattern);
    }
    if cursor.take(" %") {
        put(schema, "format", cursor.word(|c| c.is_ascii_alphanumeric() || c == '-').into());
    }
    Ok(())
}

/// What identifies the items of a list.
fn list_type(cursor: &mut Cursor<'_>, schema: &mut Value) -> Result<(), TableError> {
    let topology = if cursor.take(" atomic") {
        "atomic"
    } else if cursor.take(" set") {
        "set"
    } else if cursor.take(" map(") {
        let keys = cursor.word(|c| c != ')');
        cursor.expect(")", "a parenthesis is not closed")?;
        put(schema, "x-kubernetes-list-map-keys", keys.split(',').collect::<Vec<_>>().into());
        "map"
    } else {
        return Ok(());
    };
    put(schema, "x-kubernetes-list-type", topology.into());
    Ok(())
}

/// `rule "expression"` with `says "message"` below it.
fn add_rule(schema: &mut Value, node: &Node) -> Result<(), TableError> {
    let rule = node.text.strip_prefix("rule ").ok_or_else(|| node.fault("only rules stand below a field"))?;
    let message = node.children.iter().find_map(|child| child.text.strip_prefix("says "));
    let message = message.ok_or_else(|| node.fault("a rule says a message"))?;
    let rule = json!({"rule": literal(node, rule)?, "message": literal(node, message)?});
    push(schema, "x-kubernetes-validations", rule);
    Ok(())
}

/// `"Name" type .json.path [priority 1]`
fn printer_column(node: &Node, text: &str) -> Result<Value, TableError> {
    let fault = || node.fault("a column has a name, type and path");
    let (name, rest) = text.strip_prefix('"').and_then(|rest| rest.split_once("\" ")).ok_or_else(fault)?;
    let (kind, rest) = rest.split_once(' ').ok_or_else(fault)?;
    let (path, priority) =
        rest.split_once(" priority ").map_or((rest, None), |(path, rest)| (path, Some(rest)));
    let mut column = json!({"name": name, "type": kind, "jsonPath": path});
    if let Some(priority) = priority {
        put(&mut column, "priority", literal(node, priority)?);
    }
    Ok(column)
}

fn literal(node: &Node, text: &str) -> Result<Value, TableError> {
    serde_json::from_str(text).map_err(|_| node.fault("this is not JSON"))
}

fn put(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn push(object: &mut Value, key: &str, item: Value) {
    if let Some(object) = object.as_object_mut() {
        let list = object.entry(key).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &'static str, of: &str) -> Result<Value, TableError> {
        let table = Table { name: "test", text };
        let types = nodes(&table, Channel::Standard).into_iter();
        let types = types.map(|node| (node.text.split(' ').nth(1).unwrap(), node)).collect();
        Types(types).named(of, 0)
    }

    #[test]
    fn expressions_read_as_json_schema() {
        struct Case {
            line: &'static str,
            want: Value,
        }
        let cases = [
            Case {
                line: " type T = string 1..63",
                want: json!({"type": "string", "minLength": 1, "maxLength": 63}),
            },
            Case {
                line: " type T = string ..9 ~\"^[a-z ]$\" %date-time",
                want: json!({"type": "string", "maxLength": 9, "pattern": "^[a-z ]$", "format": "date-time"}),
            },
            Case { line: " type T = (A|B|\"\")", want: json!({"type": "string", "enum": ["A", "B", ""]}) },
            Case {
                line: " type T = int32 (301|302)",
                want: json!({"type": "integer", "format": "int32", "enum": [301, 302]}),
            },
            Case {
                line: " type T = [int64 0..] 1..2 map(a,b)",
                want: json!({"type": "array", "items": {"type": "integer", "format": "int64", "minimum": 0}, "minItems": 1,
                    "maxItems": 2, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"]}),
            },
            Case {
                line: " type T = {[bool] set} ..3",
                want: json!({"type": "object", "maxProperties": 3, "additionalProperties":
                    {"type": "array", "items": {"type": "boolean"}, "x-kubernetes-list-type": "set"}}),
            },
        ];
        for case in cases {
            assert_eq!(schema(case.line, "T").unwrap(), case.want, "{}", case.line);
        }
    }

    #[test]
    fn fields_have_defaults_rules_descriptions_and_channels() {
        let text = " type T atomic 1..\n   rule \"has(self.a)\"\n     says \"a!\"\n   # The first.\n   a! Name = \"x\"\n+  b bool\n-  c bool\n type Name = string";
        let want = json!({
            "type": "object", "x-kubernetes-map-type": "atomic", "minProperties": 1, "required": ["a"],
            "x-kubernetes-validations": [{"rule": "has(self.a)", "message": "a!"}],
            "properties": {"a": {"type": "string", "default": "x", "description": "The first."}, "c": {"type": "boolean"}},
        });
        assert_eq!(schema(text, "T").unwrap(), want);
    }

    #[test]
    fn faults_name_the_line() {
        let cases = [
            (" type T\n   a Missing", "the type Missing is not defined"),
            (" type T\n   a T", "the type T is not defined, or contains itself"),
            (" type T\n   a [string", "a bracket is not closed"),
            (" type T\n   a string = x", "this is not JSON"),
            (" type T\n   a string 1..2 what", "something follows the type"),
        ];
        for (text, want) in cases {
            let error = schema(text, "T").unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
