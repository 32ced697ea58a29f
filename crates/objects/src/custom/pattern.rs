//! Regular expressions of schemas and rules: they are written for RE2, where classes are ASCII and a bracket in a class is a bracket.

use std::sync::Arc;

use regex::Regex;

/// Bytes that a compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A compiled expression with its text. Cloning is a pointer.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Arc<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles an expression; the error says in one line what is wrong.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let regex = regex::RegexBuilder::new(&translate(text)).size_limit(COMPILED_BYTES_MAX).build();
        let regex = regex.map_err(|error| {
            let error = error.to_string();
            error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })?;
        Ok(Pattern { text: text.into(), regex })
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The compiled expression.
    pub fn regex(&self) -> &Regex {
        &self.regex
    }

    /// Whether a part of `text` is described by it.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// The same expression in the syntax of the `regex` crate.
fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
                Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                Some('b') if !in_class => out.push_str("(?-u:\\b)"),
                Some('B') if !in_class => out.push_str("(?-u:\\B)"),
                Some(escaped) => out.extend(['\\', escaped]),
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.extend(chars.next());
                }
                // A bracket right at the beginning is one of the class.
                if chars.peek() == Some(&']') {
                    chars.next();
                    out.push_str("\\]");
                }
            }
            '[' if chars.peek() == Some(&':') => {
                // `[:alpha:]`
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' => out.push_str("\\["),
            ']' => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => out.extend(['\\', c]),
            '-' if in_class && chars.peek() == Some(&'-') => out.push_str("\\-"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_to_re2() {
        struct Case {
            pattern: &'static str,
            matching: &'static [&'static str],
            others: &'static [&'static str],
        }
        let cases = [
            Case { pattern: "^\\d+$", matching: &["123"], others: &["١٢٣", "", "12a"] },
            Case { pattern: "^[\\w.-]+$", matching: &["a_b.c-d"], others: &["é", "a b"] },
            Case { pattern: "^[^\\s]+$", matching: &["ab"], others: &["a b"] },
            Case { pattern: "^[[a]$", matching: &["[", "a"], others: &["b"] },
            Case { pattern: "^[]a]$", matching: &["]", "a"], others: &["b"] },
            Case { pattern: "^[a&&b]$", matching: &["&", "a", "b"], others: &["c"] },
            Case { pattern: "^[[:alpha:]_]+$", matching: &["a_"], others: &["1"] },
            Case {
                pattern: "^(?:[-A-Za-z0-9/._~%!$&'()*+,;=:]|[%][0-9a-fA-F]{2})+$",
                matching: &["/a%20"],
                others: &["#"],
            },
        ];
        for case in cases {
            let pattern = Pattern::new(case.pattern).unwrap();
            for text in case.matching {
                assert!(pattern.matches(text), "{} {text}", case.pattern);
            }
            for text in case.others {
                assert!(!pattern.matches(text), "{} {text}", case.pattern);
            }
        }
    }

    #[test]
    fn what_is_broken_or_too_large_is_refused() {
        for text in ["(", "[a", "a{2,1}", "(?:a{1000}){1000}", "\\"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
