//! One value against one expectation: a scalar is equality, a mapping says more.

use std::fmt;

use regex::Regex;
use serde_json::Value;

use super::ExpectError;

/// What a value has to be.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// Equal; numbers, booleans and strings are compared by their text.
    Equals(Value),
    /// A text that has all of these in it, or a list that has all of these as items.
    Contains(Vec<String>),
    /// A text that the expression finds a match in.
    Matches(Regex),
    /// Anything but nothing.
    Present,
    /// Nothing.
    Absent,
    /// A number of at least this.
    AtLeast(f64),
    /// A number of at most this.
    AtMost(f64),
    /// The opposite.
    Not(Box<Matcher>),
    /// All of them.
    All(Vec<Matcher>),
}

impl Matcher {
    /// Reads the right-hand side of an expectation.
    pub fn parse(field: &str, value: &Value) -> Result<Self, ExpectError> {
        let Value::Object(map) = value else { return Ok(Self::Equals(value.clone())) };
        let mut all = Vec::with_capacity(map.len());
        for (word, value) in map {
            all.push(Self::parse_word(field, word, value)?);
        }
        match (all.len(), all.pop()) {
            (1, Some(only)) => Ok(only),
            (_, Some(last)) => {
                all.push(last);
                Ok(Self::All(all))
            }
            (_, None) => Err(ExpectError::value(field, "{}", "an expectation")),
        }
    }

    fn parse_word(field: &str, word: &str, value: &Value) -> Result<Self, ExpectError> {
        let number =
            || value.as_f64().ok_or_else(|| ExpectError::value(format!("{field}.{word}"), value, "a number"));
        match word {
            "equals" => Ok(Self::Equals(value.clone())),
            "contains" => match value {
                Value::Array(items) => Ok(Self::Contains(items.iter().map(text_of).collect())),
                scalar => Ok(Self::Contains(vec![text_of(scalar)])),
            },
            "matches" => Regex::new(&text_of(value))
                .map(Self::Matches)
                .map_err(|error| ExpectError::Regex { field: field.to_owned(), detail: error.to_string() }),
            "present" if value.as_bool().is_some() => {
                Ok(if value == &Value::Bool(true) { Self::Present } else { Self::Absent })
            }
            "at_least" => number().map(Self::AtLeast),
            "at_most" => number().map(Self::AtMost),
            "not" => Ok(Self::Not(Box::new(Self::parse(field, value)?))),
            other => Err(ExpectError::value(
                field,
                other,
                "one of equals, contains, matches, present, at_least, at_most, not",
            )),
        }
    }

    /// Whether the value is as expected; `None` when there is none.
    pub fn accepts(&self, value: Option<&Value>) -> bool {
        let number = || match value {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        match (self, value) {
            (Self::Present, value) => value.is_some_and(|value| !value.is_null()),
            (Self::Absent, value) => value.is_none_or(Value::is_null),
            (Self::Not(inner), value) => !inner.accepts(value),
            (Self::All(all), value) => all.iter().all(|one| one.accepts(value)),
            (Self::AtLeast(bound), _) => number().is_some_and(|number| number >= *bound),
            (Self::AtMost(bound), _) => number().is_some_and(|number| number <= *bound),
            (Self::Equals(want), value) => equal(want, value.unwrap_or(&Value::Null)),
            (Self::Contains(parts), Some(Value::Array(items))) => {
                parts.iter().all(|part| items.iter().any(|item| text_of(item) == *part))
            }
            (Self::Contains(parts), Some(value)) => {
                let text = text_of(value);
                parts.iter().all(|part| text.contains(part.as_str()))
            }
            (Self::Matches(regex), Some(value)) => regex.is_match(&text_of(value)),
            (Self::Contains(_) | Self::Matches(_), None) => false,
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals(value) => write!(f, "{value}"),
            Self::Contains(parts) => write!(f, "containing {}", quoted(parts)),
            Self::Matches(regex) => write!(f, "matching /{regex}/"),
            Self::Present => f.write_str("anything"),
            Self::Absent => f.write_str("nothing"),
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
            Self::AtMost(bound) => write!(f, "at most {bound}"),
            Self::Not(inner) => write!(f, "not {inner}"),
            Self::All(all) => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                f.write_str(&all.join(" and "))
            }
        }
    }
}

fn quoted(parts: &[String]) -> String {
    parts.iter().map(|part| format!("{part:?}")).collect::<Vec<_>>().join(" and ")
}

/// The text of a scalar; other values as JSON.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// YAML has `8080` and `"8080"`, and servers answer either: scalars are compared by their text.
fn equal(want: &Value, found: &Value) -> bool {
    let scalar = |value: &Value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_));
    if scalar(want) && scalar(found) { text_of(want) == text_of(found) } else { want == found }
}

/// The value at a dotted path: `headers.x-a`, `items.0.name`. A key that has dots itself is found when it is the rest of the path.
pub fn at_path<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.trim_start_matches('.');
    if path.is_empty() {
        return Some(value);
    }
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    // Every split is tried: annotations and labels have dots in their keys.
    path.match_indices('.')
        .find_map(|(dot, _)| {
            let (head, rest) = path.split_at_checked(dot)?;
            let next = match value {
                Value::Array(items) => items.get(head.parse::<usize>().ok()?)?,
                other => other.get(head)?,
            };
            at_path(next, rest)
        })
        .or_else(|| value.as_array()?.get(path.parse::<usize>().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_matcher_says_what_it_accepts() {
        let cases = [
            (json!("a"), Some(json!("a")), true),
            (json!("a"), Some(json!("b")), false),
            (json!(8080), Some(json!("8080")), true),
            (json!(true), Some(json!("true")), true),
            (json!("a"), None, false),
            (json!(null), None, true),
            (json!({"contains": "b"}), Some(json!("abc")), true),
            (json!({"contains": ["a", "z"]}), Some(json!("abc")), false),
            (json!({"contains": "b"}), Some(json!(["a", "b"])), true),
            (json!({"contains": "b"}), None, false),
            (json!({"matches": "^a.c$"}), Some(json!("abc")), true),
            (json!({"matches": "^b"}), Some(json!("abc")), false),
            (json!({"present": true}), Some(json!("")), true),
            (json!({"present": true}), None, false),
            (json!({"present": false}), None, true),
            (json!({"at_least": 3}), Some(json!(3)), true),
            (json!({"at_most": 3}), Some(json!("4")), false),
            (json!({"at_most": 3}), Some(json!("x")), false),
            (json!({"not": {"contains": "x"}}), Some(json!("abc")), true),
            (json!({"at_least": 1, "at_most": 3}), Some(json!(2)), true),
            (json!({"at_least": 1, "at_most": 3}), Some(json!(4)), false),
            (json!([1, 2]), Some(json!([1, 2])), true),
        ];
        for (expected, found, want) in cases {
            let matcher = Matcher::parse("x", &expected).unwrap();
            assert_eq!(matcher.accepts(found.as_ref()), want, "{expected} against {found:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for value in [json!({"contain": "a"}), json!({}), json!({"matches": "("}), json!({"at_least": "x"})] {
            assert!(Matcher::parse("x", &value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_path_finds_keys_with_dots() {
        let value = json!({"a": {"b": [{"c": 1}]}, "metadata": {"labels": {"app.kubernetes.io/name": "x"}}});
        assert_eq!(at_path(&value, "a.b.0.c"), Some(&json!(1)));
        assert_eq!(at_path(&value, ".a.b.0"), Some(&json!({"c": 1})));
        assert_eq!(at_path(&value, "metadata.labels.app.kubernetes.io/name"), Some(&json!("x")));
        assert_eq!(at_path(&value, "a.x"), None);
        assert_eq!(at_path(&value, "a.b.7"), None);
    }
}
