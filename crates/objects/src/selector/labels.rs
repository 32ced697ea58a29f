//! Label selectors: the text form of queries and the object form of specs.

use std::fmt;
use std::iter::Peekable;

use serde_json::Value;

use crate::document::Document;
use crate::names;
use crate::status::Status;

/// Most requirements in one selector.
const REQUIREMENTS_MAX: usize = 1_000;

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What must hold.
    pub operator: Operator,
}

/// What must hold for a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// Has this value.
    Equals(String),
    /// Is absent or has another value.
    NotEquals(String),
    /// Has one of these values (sorted).
    In(Vec<String>),
    /// Is absent or has none of these values (sorted).
    NotIn(Vec<String>),
    /// Is present.
    Exists,
    /// Is absent.
    DoesNotExist,
    /// Is an integer above.
    GreaterThan(i64),
    /// Is an integer below.
    LessThan(i64),
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match (&self.operator, value) {
            (Operator::Equals(want), Some(value)) => value == want,
            (Operator::NotEquals(unwanted), Some(value)) => value != unwanted,
            (Operator::In(wanted), Some(value)) => wanted.iter().any(|want| want == value),
            (Operator::NotIn(unwanted), Some(value)) => !unwanted.iter().any(|other| other == value),
            (Operator::Exists, Some(_)) => true,
            (Operator::DoesNotExist, Some(_)) => false,
            (Operator::GreaterThan(bound), Some(value)) => {
                value.parse().is_ok_and(|value: i64| value > *bound)
            }
            (Operator::LessThan(bound), Some(value)) => value.parse().is_ok_and(|value: i64| value < *bound),
            (Operator::NotEquals(_) | Operator::NotIn(_) | Operator::DoesNotExist, None) => true,
            (
                Operator::Equals(_)
                | Operator::In(_)
                | Operator::Exists
                | Operator::GreaterThan(_)
                | Operator::LessThan(_),
                None,
            ) => false,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::Equals(value) => write!(f, "{key}={value}"),
            Operator::NotEquals(value) => write!(f, "{key}!={value}"),
            Operator::In(values) => write!(f, "{key} in ({})", values.join(",")),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan(bound) => write!(f, "{key}>{bound}"),
            Operator::LessThan(bound) => write!(f, "{key}<{bound}"),
        }
    }
}

/// Requirements on labels, all of which must hold. The empty selector matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl LabelSelector {
    /// The selector that matches no object.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Parses the text form of the `labelSelector` query parameter.
    pub fn parse(text: &str) -> Result<LabelSelector, Status> {
        parse(text)
            .map(Self::of)
            .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))
    }

    /// From a `LabelSelector` object: null matches nothing, `{}` everything.
    pub fn from_object(object: &Value) -> Result<LabelSelector, SelectorError> {
        if object.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Self::from_map(object.at(&["matchLabels"])).requirements;
        for expression in object.list(&["matchExpressions"]) {
            let mut values: Vec<String> =
                expression.list(&["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            values.sort();
            let operator = match expression.text(&["operator"]) {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError { operator: other.to_owned() }),
            };
            requirements.push(Requirement { key: expression.text(&["key"]).to_owned(), operator });
        }
        Ok(Self::of(requirements))
    }

    /// From a map of labels, as Services and replication controllers have: null matches nothing.
    pub fn from_map(labels: &Value) -> LabelSelector {
        let labels = labels.as_object().into_iter().flatten();
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals(value.as_str().unwrap_or_default().to_owned()),
        };
        Self::of(labels.map(requirement).collect())
    }

    fn of(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// The requirements, by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether there is no requirement, so that everything matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether a map of labels matches; null is a map without labels.
    pub fn matches(&self, labels: &Value) -> bool {
        let value = |requirement: &Requirement| labels.get(&requirement.key).and_then(Value::as_str);
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(value(requirement)))
    }

    /// The value that the label `key` must have, if the selector says so: lets a lookup replace a scan.
    pub fn exact(&self, key: &str) -> Option<&str> {
        self.requirements.iter().filter(|requirement| requirement.key == key).find_map(|requirement| {
            match &requirement.operator {
                Operator::Equals(value) => Some(value.as_str()),
                _ => None,
            }
        })
    }

    /// Whether the labels of an object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(object.at(&["metadata", "labels"]))
    }
}

/// An operator that label selectors do not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operator:?} is not a valid label selector operator")]
pub struct SelectorError {
    /// As given.
    pub operator: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Open,
    Close,
    Comma,
    Equals,
    DoubleEquals,
    NotEquals,
    Not,
    Greater,
    Less,
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::Word(word) => word,
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Not => "!",
            Token::Greater => ">",
            Token::Less => "<",
        }
    }
}

fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let (token, length) = match rest.as_bytes() {
            [] => return None,
            [b'=', b'=', ..] => (Token::DoubleEquals, 2),
            [b'!', b'=', ..] => (Token::NotEquals, 2),
            [b'=', ..] => (Token::Equals, 1),
            [b'!', ..] => (Token::Not, 1),
            [b'(', ..] => (Token::Open, 1),
            [b')', ..] => (Token::Close, 1),
            [b',', ..] => (Token::Comma, 1),
            [b'>', ..] => (Token::Greater, 1),
            [b'<', ..] => (Token::Less, 1),
            _ => {
                let end = rest
                    .find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<'])
                    .unwrap_or(rest.len());
                (Token::Word(rest.get(..end).unwrap_or_default()), end.max(1))
            }
        };
        rest = rest.get(length..).unwrap_or_default();
        Some(token)
    })
}

struct Parser<'a, I: Iterator<Item = Token<'a>>> {
    tokens: Peekable<I>,
}

impl<'a, I: Iterator<Item = Token<'a>>> Parser<'a, I> {
    fn found(token: Option<Token<'a>>, expected: &str) -> String {
        let text = token.as_ref().map_or("", Token::text);
        format!("found '{text}', expected: {expected}")
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.tokens.next_if_eq(&Token::Not).is_some();
        let key = match self.tokens.next() {
            Some(Token::Word(word)) => word.to_owned(),
            other => return Err(Self::found(other, "identifier")),
        };
        check_key(&key)?;
        let operator = match self.tokens.peek() {
            _ if absent => Operator::DoesNotExist,
            None | Some(Token::Comma) => Operator::Exists,
            Some(_) => self.operator()?,
        };
        Ok(Requirement { key, operator })
    }

    fn operator(&mut self) -> Result<Operator, String> {
        match self.tokens.next() {
            Some(Token::Word("in")) => Ok(Operator::In(self.values()?)),
            Some(Token::Word("notin")) => Ok(Operator::NotIn(self.values()?)),
            Some(Token::Equals | Token::DoubleEquals) => Ok(Operator::Equals(self.value()?)),
            Some(Token::NotEquals) => Ok(Operator::NotEquals(self.value()?)),
            Some(Token::Greater) => Ok(Operator::GreaterThan(self.integer()?)),
            Some(Token::Less) => Ok(Operator::LessThan(self.integer()?)),
            other => Err(Self::found(other, "in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// A value may be empty: `a=,b`.
    fn value(&mut self) -> Result<String, String> {
        let value = match self.tokens.peek() {
            None | Some(Token::Comma) => "",
            Some(Token::Word(word)) => {
                let word = *word;
                self.tokens.next();
                word
            }
            Some(other) => return Err(Self::found(Some(*other), "identifier")),
        };
        check_value(value)?;
        Ok(value.to_owned())
    }

    fn integer(&mut self) -> Result<i64, String> {
        let value = self.value()?;
        let what = "for 'Gt', 'Lt' operators, the value must be an integer";
        value.parse().map_err(|_| format!("values[0]: Invalid value: {value:?}: {what}"))
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.tokens.next() {
            Some(Token::Open) => {}
            other => return Err(Self::found(other, "'('")),
        }
        let mut values = Vec::new();
        loop {
            match self.tokens.next() {
                Some(Token::Word(word)) => {
                    check_value(word)?;
                    values.push(word.to_owned());
                    match self.tokens.next() {
                        Some(Token::Comma) => {}
                        Some(Token::Close) => break,
                        other => return Err(Self::found(other, "',' or ')'")),
                    }
                }
                Some(Token::Comma) => values.push(String::new()),
                Some(Token::Close) => {
                    values.push(String::new());
                    break;
                }
                other => return Err(Self::found(other, "',', ')' or identifier")),
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: tokens(text).peekable() };
    let mut requirements = Vec::new();
    while parser.tokens.peek().is_some() {
        requirements.push(parser.requirement()?);
        if requirements.len() > REQUIREMENTS_MAX {
            return Err(format!("more than {REQUIREMENTS_MAX} requirements"));
        }
        match parser.tokens.next() {
            None => break,
            Some(Token::Comma) if parser.tokens.peek().is_some() => {}
            Some(Token::Comma) => return Err("found '', expected: identifier after ','".to_owned()),
            Some(other) => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
        }
    }
    Ok(requirements)
}

fn check_key(key: &str) -> Result<(), String> {
    match names::qualified_name(key).first() {
        Some(what) => Err(format!("key: Invalid value: {key:?}: {what}")),
        None => Ok(()),
    }
}

fn check_value(value: &str) -> Result<(), String> {
    match names::label_value(value).first() {
        Some(what) => Err(format!("values[0]: Invalid value: {value:?}: {what}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_selectors_match_as_documented() {
        let labels = json!({"app": "web", "tier": "front", "n": "5"});
        let cases: &[(&str, bool)] = &[
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=db", true),
            ("absent!=x", true),
            ("app in (db, web),tier", true),
            ("app notin (web)", false),
            ("absent notin (web)", true),
            ("absent in (web)", false),
            ("!absent", true),
            ("!app", false),
            ("n>4", true),
            ("n<5", false),
            ("absent>1", false),
            ("app=", false),
        ];
        for (text, want) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), *want, "{text}");
        }
        assert!(LabelSelector::parse("a=").unwrap().matches(&json!({"a": ""})));
    }

    #[test]
    fn malformed_selectors_are_bad_requests() {
        let cases: &[(&str, &str)] = &[
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b', expected: '('"),
            ("a=b c", "unable to parse requirement: found 'c', expected: ',' or 'end of string'"),
            ("a,", "unable to parse requirement: found '', expected: identifier after ','"),
            ("=b", "unable to parse requirement: found '=', expected: identifier"),
        ];
        for (text, want) in cases {
            let status = LabelSelector::parse(text).unwrap_err();
            assert_eq!((status.code, status.message.as_str()), (400, *want), "{text}");
        }
    }

    #[test]
    fn object_selectors_print_as_text() {
        let object = json!({
            "matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["y", "x"]},
                {"key": "d", "operator": "DoesNotExist"},
            ],
        });
        assert_eq!(LabelSelector::from_object(&object).unwrap().to_string(), "a=1,b=2,c in (x,y),!d");
        assert!(LabelSelector::from_object(&json!({})).unwrap().matches(&json!({"any": "thing"})));
        assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(&json!({})));
        let error =
            LabelSelector::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}));
        assert_eq!(error.unwrap_err().to_string(), "\"Is\" is not a valid label selector operator");
    }
}
