//! Image names, made comparable.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a whole name.
const NAME_BYTES_MAX: usize = 512;

/// A full image name: `registry/repository:tag` or `registry/repository@sha256:…`. Ordered and compared as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    repository: String,
    /// With its separator, `:tag` or `@digest`.
    version: String,
}

impl ImageName {
    /// Parses a name as written in a manifest; what is left out is filled in (`docker.io/library/`, `:latest`). The error is the rule
    /// that was broken.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err("it needs 1 to 512 bytes");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon after the last slash is a tag; before it, a port.
        let last = rest.rfind('/').map_or(0, |at| at + 1);
        let (path, tag) = match rest.get(last..).and_then(|name| name.rfind(':')) {
            Some(at) => rest.split_at_checked(last + at).unwrap_or((rest, "")),
            None => (rest, ":latest"),
        };
        let first = path.split('/').next().unwrap_or_default();
        let has_registry = path.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        let repository = match (has_registry, path.contains('/')) {
            (true, _) => path.to_owned(),
            (false, true) => format!("docker.io/{path}"),
            (false, false) => format!("docker.io/library/{path}"),
        };
        let host = repository.split('/').next().unwrap_or_default();
        if !host.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte))
        {
            return Err("its registry is a host name, with a port where needed");
        }
        let parts_ok = repository.split('/').skip(1).all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
        });
        if !parts_ok {
            return Err("its path is lower-case letters, digits, '.', '_' and '-' between slashes");
        }
        let version = match digest {
            Some(digest) => match digest.strip_prefix("sha256:") {
                Some(hex) if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                    format!("@{digest}")
                }
                _ => return Err("its digest is sha256: and 64 hexadecimal digits"),
            },
            None => tag.to_owned(),
        };
        let version_ok = version.len() > 1
            && version.bytes().skip(1).all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte));
        if !version_ok {
            return Err("its tag is letters, digits, '.', '_' and '-'");
        }
        Ok(Self { repository, version })
    }

    /// The part before the tag or digest.
    pub fn repository(&self) -> &str {
        &self.repository
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository, self.version)
    }
}

impl TryFrom<String> for ImageName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let cases = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/b:x", "localhost/b:x"),
            ("r.example:5000/b", "r.example:5000/b:latest"),
            ("r.example:5000/b/c:1", "r.example:5000/b/c:1"),
        ];
        for (given, want) in cases {
            assert_eq!(ImageName::parse(given).unwrap().to_string(), want);
        }
        let digest = format!("r.example/b@sha256:{}", "a".repeat(64));
        assert_eq!(ImageName::parse(&digest).unwrap().to_string(), digest);
        for bad in ["", "A", "a//b", "a:", "a@md5:1", "a b", "../x"] {
            assert!(ImageName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
