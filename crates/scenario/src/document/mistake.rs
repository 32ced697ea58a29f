//! A mistake in a scenario file, with its line and the name that was probably meant.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_saphyr::Error;

/// A mistake in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub path: PathBuf,
    /// From 1; 0 when it is about the whole file.
    pub line: u64,
    /// What is wrong and what to do.
    pub what: String,
    /// The line itself.
    pub excerpt: String,
}

impl std::error::Error for Mistake {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)?;
        if !self.excerpt.is_empty() {
            write!(f, "\n{:>5} | {}", self.line, self.excerpt)?;
        }
        Ok(())
    }
}

impl Mistake {
    pub(super) fn at(path: &Path, text: &str, line: u64, what: impl Into<String>) -> Self {
        let index = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
        let excerpt = text.lines().nth(index).unwrap_or("").trim_end().to_owned();
        Self { path: path.to_owned(), line, what: what.into(), excerpt }
    }

    pub(super) fn of_yaml(path: &Path, text: &str, error: &Error) -> Self {
        let error = error.without_snippet();
        let line = error.location().map_or(0, |location| location.line());
        let what = match error {
            Error::SerdeUnknownField { field, expected, .. } => unknown("field", field, expected),
            Error::SerdeUnknownVariant { variant, expected, .. } => unknown("value", variant, expected),
            Error::SerdeMissingField { field, .. } => format!("the field \"{field}\" is missing"),
            other => {
                let rendered = other.to_string();
                rendered.lines().next().unwrap_or("not YAML").to_owned()
            }
        };
        Self::at(path, text, line, what)
    }
}

fn unknown(what: &str, given: &str, expected: &[&str]) -> String {
    match nearest(given, expected) {
        Some(near) => format!("unknown {what} \"{given}\"; did you mean \"{near}\"?"),
        None => format!("unknown {what} \"{given}\"; known are {}", expected.join(", ")),
    }
}

/// The known name with the fewest changes, when these are few.
pub(crate) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let best = known.iter().map(|name| (distance(given, name), *name)).min()?;
    (best.0 <= 1 + given.chars().count() / 4).then_some(best.1)
}

/// Insertions, deletions and replacements from one word to the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, cell) in other.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["request", "resolve", "repeat", "expect"];
        for (given, want) in [
            ("reqest", Some("request")),
            ("expects", Some("expect")),
            ("Request", Some("request")),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, &known), want, "{given}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
