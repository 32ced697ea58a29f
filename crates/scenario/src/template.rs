//! `${variables}` in a step: found, and replaced when their values are known. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A variable's name without its braces.
pub type Name = String;

/// Why a text cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `${` without `}`.
    #[error("\"{text}\" has a ${{ without a }}; write $${{ for the two characters themselves")]
    Open {
        /// The text.
        text: String,
    },
    /// A variable that has no value.
    #[error("the variable ${{{name}}} is not known")]
    Unknown {
        /// The name.
        name: Name,
    },
}

/// The names of all variables in all strings of a value.
pub fn names(value: &Value) -> BTreeSet<Name> {
    let mut names = BTreeSet::new();
    collect(value, &mut names);
    names
}

fn collect(value: &Value, names: &mut BTreeSet<Name>) {
    match value {
        Value::String(text) => {
            names.extend(pieces(text).into_iter().flatten().filter_map(|piece| match piece {
                Piece::Variable(name) => Some(name.to_owned()),
                Piece::Text(_) => None,
            }))
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        Value::Object(fields) => fields.iter().for_each(|(key, item)| {
            collect(&Value::String(key.clone()), names);
            collect(item, names);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The value with every variable replaced, in keys too.
pub fn fill(value: &Value, values: &BTreeMap<Name, String>) -> Result<Value, TemplateError> {
    Ok(match value {
        Value::String(text) => Value::String(fill_text(text, values)?),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| fill(item, values)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let each = fields.iter().map(|(key, item)| Ok((fill_text(key, values)?, fill(item, values)?)));
            Value::Object(each.collect::<Result<_, TemplateError>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

fn fill_text(text: &str, values: &BTreeMap<Name, String>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Variable(name) => {
                let value =
                    values.get(name).ok_or_else(|| TemplateError::Unknown { name: name.to_owned() })?;
                out.push_str(value);
            }
        }
    }
    Ok(out)
}

enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// Splits at `${name}`; `$${` is the text `${`.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        let after = after.get(2..).unwrap_or("");
        if let Some(before) = before.strip_suffix('$') {
            out.extend([Piece::Text(before), Piece::Text("${")]);
            rest = after;
            continue;
        }
        let (name, after) =
            after.split_once('}').ok_or_else(|| TemplateError::Open { text: text.to_owned() })?;
        out.extend([Piece::Text(before), Piece::Variable(name.trim())]);
        rest = after;
    }
    out.push(Piece::Text(rest));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_are_found_and_replaced_everywhere() {
        let value =
            json!({"url": "http://web.${namespace}/${ a.b }", "list": [1, "${x}"], "${x}": "$${HOME} $x"});
        assert_eq!(names(&value), BTreeSet::from(["namespace".into(), "a.b".into(), "x".into()]));
        let values = [("namespace", "ns"), ("a.b", "c"), ("x", "y")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let filled = fill(&value, &BTreeMap::from(values)).unwrap();
        assert_eq!(filled, json!({"url": "http://web.ns/c", "list": [1, "y"], "y": "${HOME} $x"}));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let none = BTreeMap::new();
        assert_eq!(fill(&json!("${a}"), &none), Err(TemplateError::Unknown { name: "a".into() }));
        assert_eq!(fill(&json!("${a"), &none), Err(TemplateError::Open { text: "${a".into() }));
    }
}
