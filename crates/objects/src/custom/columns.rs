//! Printer columns, and the simple paths that they, `scale` and selectable fields name values by.

use jiff::Timestamp;
use serde_json::Value;

use crate::document::Document;

/// Steps of one path at most.
const STEPS_MAX: usize = 64;

/// A path into an object in the subset of JSONPath that Kubernetes uses: `.spec.a["b.c"][0]`, `[*]`, `[?(@.type=="Ready")]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Where { path: Vec<String>, equal: bool, value: Value },
}

impl JsonPath {
    /// Parses a path; the error says what is wrong.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        let mut rest = text.trim();
        rest = rest.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(rest);
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == STEPS_MAX {
                return Err(format!("has more than {STEPS_MAX} steps"));
            }
            let (step, after) = step(rest).ok_or_else(|| format!("cannot be read from {rest:?} on"))?;
            steps.push(step);
            rest = after;
        }
        Ok(JsonPath { steps })
    }

    /// The fields from the root down, when the path is nothing but fields.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let field = |step: &Step| match step {
            Step::Field(_) => true,
            Step::Index(_) | Step::All | Step::Where { .. } => false,
        };
        self.steps.iter().all(field).then(|| {
            let names = self.steps.iter().filter_map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                Step::Index(_) | Step::All | Step::Where { .. } => None,
            });
            names.collect()
        })
    }

    /// Everything that the path names in an object.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.steps {
            found = found.into_iter().flat_map(|value| step.select(value)).collect();
        }
        found
    }
}

impl Step {
    fn select<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = || value.as_array().into_iter().flatten();
        match self {
            Self::Field(name) => value.as_object().and_then(|object| object.get(name)).into_iter().collect(),
            Self::Index(index) => {
                let len = value.as_array().map_or(0, Vec::len);
                let from_end = |index: i64| i64::try_from(len).ok().map(|len| len + index);
                let index = if *index < 0 { from_end(*index) } else { Some(*index) };
                let index = index.and_then(|index| usize::try_from(index).ok());
                index.and_then(|index| value.get(index)).into_iter().collect()
            }
            Self::All => match value {
                Value::Object(entries) => entries.values().collect(),
                _ => items().collect(),
            },
            Self::Where { path, equal, value } => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                items().filter(|item| item.has(&path) && (item.at(&path) == value) == *equal).collect()
            }
        }
    }
}

/// The first step of a path and what follows it.
fn step(text: &str) -> Option<(Step, &str)> {
    if let Some(rest) = text.strip_prefix('.') {
        if rest.starts_with('[') {
            return step(rest);
        }
        let (name, rest) = name(rest)?;
        return Some((if name == "*" { Step::All } else { Step::Field(name) }, rest));
    }
    let rest = text.strip_prefix('[')?;
    if let Some(rest) = rest.strip_prefix("?(") {
        let end = rest.find(")]")?;
        let (condition, rest) = (rest.get(..end)?, rest.get(end + 2..)?);
        return Some((condition_step(condition)?, rest));
    }
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let inner = rest.get(1..)?;
        let end = inner.find(quote)?;
        return Some((Step::Field(inner.get(..end)?.to_owned()), inner.get(end + 1..)?.strip_prefix(']')?));
    }
    let (inside, rest) = rest.split_once(']')?;
    match inside.trim() {
        "*" => Some((Step::All, rest)),
        index => Some((Step::Index(index.parse().ok()?), rest)),
    }
}

/// A field name, where a backslash keeps the dot that follows.
fn name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => return (!name.is_empty()).then_some((name, text.get(at..)?)),
            ' ' | ']' | '(' | ')' => return None,
            c => name.push(c),
        }
    }
    (!name.is_empty()).then_some((name, ""))
}

/// `@.type=="Ready"`
fn condition_step(text: &str) -> Option<Step> {
    let (left, right, equal) = match (text.split_once("=="), text.split_once("!=")) {
        (Some((left, right)), _) => (left, right, true),
        (None, Some((left, right))) => (left, right, false),
        (None, None) => return None,
    };
    let mut rest = left.trim().strip_prefix('@')?;
    let mut path = Vec::new();
    while !rest.is_empty() {
        let (step, after) = step(rest)?;
        let Step::Field(name) = step else { return None };
        path.push(name);
        rest = after;
    }
    let right = right.trim();
    let unquoted = ['"', '\''].iter().find_map(|quote| right.strip_prefix(*quote)?.strip_suffix(*quote));
    let value = match unquoted {
        Some(text) => Value::from(text),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Where { path, equal, value })
}

/// One printer column.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// `integer`, `number`, `string`, `boolean` or `date`.
    pub ty: String,
    /// The format in its definition.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0 is always shown.
    pub priority: i64,
    /// Where the value is.
    pub path: JsonPath,
}

impl Column {
    /// The cell of an object; null when there is nothing to show.
    pub fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.find(object);
        let Some(first) = found.first().filter(|value| !value.is_null()) else { return Value::Null };
        match (self.ty.as_str(), *first) {
            ("integer", Value::Number(number)) => {
                number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)).into()
            }
            ("integer", Value::String(text)) => text.parse::<i64>().map_or(Value::Null, Value::from),
            ("number", Value::Number(number)) => Value::Number(number.clone()),
            ("number", Value::String(text)) => text.parse::<f64>().map_or(Value::Null, Value::from),
            ("boolean", Value::Bool(value)) => Value::Bool(*value),
            ("boolean", Value::String(text)) => text.parse::<bool>().map_or(Value::Null, Value::from),
            ("date", Value::String(text)) => crate::table::since(text, now).into(),
            ("string", value) => text(value).into(),
            _ => Value::Null,
        }
    }
}

/// A value as text: lists and objects as JSON.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_they_name() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"ports": [{"port": 1}, {"port": 2}], "hosts": ["a", "b"]},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let cases = [
            (".spec.ports[0].port", json!([1])),
            (".spec.ports[-1].port", json!([2])),
            (".spec.ports[*].port", json!([1, 2])),
            (".spec.hosts", json!([["a", "b"]])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='A')].status", json!(["False"])),
            (".status.conditions[?(@.type!='A')].status", json!(["True"])),
            (".metadata.annotations.a\\.b/c", json!(["x"])),
            (".metadata.annotations['a.b/c']", json!(["x"])),
            ("{.spec.nothing}", json!([])),
        ];
        for (path, want) in cases {
            let found = JsonPath::parse(path).unwrap_or_else(|error| panic!("{path} {error}"));
            assert_eq!(json!(found.find(&object)), want, "{path}");
        }
        for path in [".spec.", "spec", ".a[", ".a[x]", ".a[?(x)]", ".a b"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn cells_have_the_type_of_their_column() {
        let object =
            json!({"a": 5, "b": "7", "c": true, "d": "1970-01-01T00:00:00Z", "e": {"f": 1}, "g": ["x", "y"]});
        let now = "1970-01-01T00:00:09Z".parse().unwrap();
        let cell = |ty: &str, path: &str| {
            let column = Column {
                name: String::new(),
                ty: ty.to_owned(),
                format: String::new(),
                description: String::new(),
                priority: 0,
                path: JsonPath::parse(path).unwrap(),
            };
            column.cell(&object, now)
        };
        let cases = [
            (cell("integer", ".a"), json!(5)),
            (cell("integer", ".b"), json!(7)),
            (cell("string", ".a"), json!("5")),
            (cell("boolean", ".c"), json!(true)),
            (cell("date", ".d"), json!("9s")),
            (cell("string", ".e"), json!("{\"f\":1}")),
            (cell("string", ".g"), json!("[\"x\",\"y\"]")),
            (cell("string", ".g[*]"), json!("x")),
            (cell("string", ".nothing"), json!(null)),
            (cell("integer", ".c"), json!(null)),
        ];
        for (got, want) in cases {
            assert_eq!(got, want);
        }
    }
}
