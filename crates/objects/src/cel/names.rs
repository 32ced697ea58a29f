//! Names of fields in expressions: what is no identifier is escaped.

use std::borrow::Cow;

/// Words that are no identifiers.
pub(super) const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

const ESCAPES: &[(&str, &str)] =
    &[("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];

/// The field that an expression calls `name`.
pub(super) fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("__") {
        return Cow::Borrowed(name);
    }
    let inner = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"));
    if let Some(word) = inner.filter(|word| RESERVED.contains(word)) {
        return Cow::Borrowed(word);
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        match ESCAPES.iter().find_map(|(escaped, plain)| Some((plain, rest.strip_prefix(escaped)?))) {
            Some((plain, after)) => {
                out.push_str(plain);
                rest = after;
            }
            None => {
                out.push(c);
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
        }
    }
    Cow::Owned(out)
}

/// The name by which expressions call a field; none for a field that they cannot name.
pub(super) fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '-' | '/')) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some((escaped, after)) =
            ESCAPES.iter().find_map(|(escaped, plain)| Some((escaped, rest.strip_prefix(plain)?)))
        {
            out.push_str(escaped);
            rest = after;
        } else if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            rest = rest.get(1..).unwrap_or_default();
        } else {
            return None;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_double_underscores_and_special_characters_are_escaped() {
        let cases = [
            ("plain", Some("plain")),
            ("with_one", Some("with_one")),
            ("with__two", Some("with__underscores__two")),
            ("a.b", Some("a__dot__b")),
            ("a-b", Some("a__dash__b")),
            ("a/b", Some("a__slash__b")),
            ("namespace", Some("__namespace__")),
            ("self", Some("self")),
            ("1a", None),
            ("ä", None),
        ];
        for (name, want) in cases {
            assert_eq!(escape(name).as_deref(), want, "{name}");
            if let Some(escaped) = want {
                assert_eq!(unescape(escaped), name);
            }
        }
    }
}
