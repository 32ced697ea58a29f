//! Request paths and the paths of rules.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

/// A request path as rules see it: percent-decoded, `//` merged, `.` and `..` resolved, no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a>(Cow<'a, str>);

/// Why a request path cannot be matched; the request is answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// It does not start with `/`.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// `..` leads above `/`.
    #[error("the path leads above the root")]
    AboveRoot,
    /// `%` without two hexadecimal digits, a decoded NUL, or decoded bytes that are not UTF-8.
    #[error("the path has a bad percent escape")]
    BadEscape,
}

impl<'a> NormalPath<'a> {
    /// From the raw path of a request line, without its query. Allocates only when something has to change.
    pub fn parse(raw: &'a str) -> Result<Self, InvalidPath> {
        if !raw.starts_with('/') {
            return Err(InvalidPath::NotAbsolute);
        }
        if !raw.contains('%') && !raw.contains("//") && !raw.contains("/.") {
            return Ok(Self(Cow::Borrowed(raw)));
        }
        let decoded = decode(raw)?;
        let mut kept: Vec<&str> = Vec::new();
        let mut ends_in_slash = true;
        for segment in decoded.split('/') {
            ends_in_slash = matches!(segment, "" | "." | "..");
            match segment {
                "" | "." => {}
                ".." => {
                    kept.pop().ok_or(InvalidPath::AboveRoot)?;
                }
                name => kept.push(name),
            }
        }
        let mut path = String::with_capacity(decoded.len());
        for segment in &kept {
            path.push('/');
            path.push_str(segment);
        }
        if ends_in_slash || path.is_empty() {
            path.push('/');
        }
        Ok(Self(Cow::Owned(path)))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn decode(raw: &str) -> Result<String, InvalidPath> {
    let mut bytes = raw.bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(InvalidPath::BadEscape) };
        match u8::try_from(high * 16 + low) {
            Ok(0) | Err(_) => return Err(InvalidPath::BadEscape),
            Ok(byte) => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).map_err(|_| InvalidPath::BadEscape)
}

/// The path of a rule. The order is the precedence within a host: exact before prefix, then the longest prefix first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(Arc<str>),
    /// Element-wise prefix without a trailing slash ("" is every path): `/foo` matches `/foo`, `/foo/` and `/foo/x`, not `/foobar`.
    Prefix(Reverse<LongerIsGreater>),
}

/// A prefix that compares by length first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LongerIsGreater(usize, Arc<str>);

impl PathMatch {
    /// An exact path, as written.
    pub fn exact(path: &str) -> Self {
        Self::Exact(path.into())
    }

    /// A prefix, as written; a trailing slash does not matter (Ingress, table of examples).
    pub fn prefix(path: &str) -> Self {
        let path = path.trim_end_matches('/');
        Self::Prefix(Reverse(LongerIsGreater(path.len(), path.into())))
    }

    /// Whether a request with this path is meant.
    pub fn matches(&self, path: &NormalPath<'_>) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path.as_str(),
            Self::Prefix(Reverse(LongerIsGreater(_, prefix))) => path
                .as_str()
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(Reverse(LongerIsGreater(0, _))) => f.write_str("Prefix /"),
            Self::Prefix(Reverse(LongerIsGreater(_, path))) => write!(f, "Prefix {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_one_way() {
        let cases = [
            ("/", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("/a//b/", Ok("/a/b/")),
            ("/a/./b/../c", Ok("/a/c")),
            ("/a/..", Ok("/")),
            ("/%61%2fb", Ok("/a/b")),
            ("/a%20b", Ok("/a b")),
            ("/.hidden", Ok("/.hidden")),
            ("/..", Err(InvalidPath::AboveRoot)),
            ("/%2e%2e/x", Err(InvalidPath::AboveRoot)),
            ("/%zz", Err(InvalidPath::BadEscape)),
            ("/%0", Err(InvalidPath::BadEscape)),
            ("/%00", Err(InvalidPath::BadEscape)),
            ("/%ff", Err(InvalidPath::BadEscape)),
            ("*", Err(InvalidPath::NotAbsolute)),
            ("", Err(InvalidPath::NotAbsolute)),
        ];
        for (given, want) in cases {
            assert_eq!(
                NormalPath::parse(given).as_ref().map(NormalPath::as_str),
                want.as_ref().copied(),
                "{given}"
            );
        }
    }

    #[test]
    fn matching_is_by_path_elements() {
        let cases = [
            (PathMatch::exact("/foo"), "/foo", true),
            (PathMatch::exact("/foo"), "/foo/", false),
            (PathMatch::exact("/foo"), "/Foo", false),
            (PathMatch::prefix("/foo"), "/foo", true),
            (PathMatch::prefix("/foo"), "/foo/", true),
            (PathMatch::prefix("/foo/"), "/foo", true),
            (PathMatch::prefix("/foo"), "/foo/x", true),
            (PathMatch::prefix("/foo"), "/foobar", false),
            (PathMatch::prefix("/"), "/anything", true),
            (PathMatch::prefix("/aaa/bb"), "/aaa/bbb", false),
        ];
        for (rule, path, want) in cases {
            assert_eq!(rule.matches(&NormalPath::parse(path).unwrap()), want, "{rule} {path}");
        }
    }

    #[test]
    fn precedence_is_the_order() {
        let mut rules = [
            PathMatch::prefix("/"),
            PathMatch::prefix("/a/b"),
            PathMatch::exact("/a"),
            PathMatch::prefix("/a"),
        ];
        rules.sort();
        assert_eq!(rules.map(|rule| rule.to_string()), ["Exact /a", "Prefix /a/b", "Prefix /a", "Prefix /"]);
    }
}
