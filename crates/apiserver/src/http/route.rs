//! What a path names.

/// What a request path names, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`, with the check named after it.
    Health(Option<String>),
    /// `/metrics`
    Metrics,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`
    Resources {
        /// "" for core.
        group: String,
        /// Version.
        version: String,
    },
    /// `/openapi/v2`
    Swagger,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`
    OpenApi {
        /// "" for core.
        group: String,
        /// Version.
        version: String,
    },
    /// `/.well-known/openid-configuration`
    OpenIdConfiguration,
    /// `/openid/v1/jwks`
    Jwks,
    /// A collection, an object or a part of one.
    Resource(Target),
    /// `/`
    Root,
    /// Anything else.
    Unknown,
}

/// A collection, an object or a subresource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// "" for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// "" for cluster-wide kinds and for all namespaces.
    pub namespace: String,
    /// Plural.
    pub resource: String,
    /// The object, or none for the collection.
    pub name: Option<String>,
    /// A part of the object.
    pub subresource: Option<String>,
    /// What follows `…/proxy`, as it came (percent-encoded); empty or beginning with a slash.
    pub proxied: String,
    /// The old `/watch/` form of the path.
    pub watch: bool,
}

/// Reads a path (still percent-encoded).
pub fn parse(path: &str) -> Route {
    let (path, proxied) = path.split_at(proxied_from(path).unwrap_or(path.len()));
    let mut route = parse_own(path);
    if let Route::Resource(target) = &mut route {
        target.proxied = proxied.to_owned();
    }
    route
}

/// Where the path of a proxied request begins: after `/api/v1/[namespaces/<namespace>/]<resource>/<name>/proxy`.
fn proxied_from(path: &str) -> Option<usize> {
    let rest = path.strip_prefix("/api/v1/")?;
    let before_proxy = if rest.starts_with("namespaces/") { 4 } else { 2 };
    let mut from = path.len() - rest.len();
    for (index, segment) in rest.split('/').enumerate() {
        from += segment.len() + 1;
        if index == before_proxy {
            return (segment == "proxy").then_some(from - 1);
        }
    }
    None
}

/// Reads a path without what is only to be passed on.
fn parse_own(path: &str) -> Route {
    let segments: Option<Vec<String>> =
        path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
    let Some(segments) = segments.filter(|segments| segments.iter().all(|segment| is_plain(segment))) else {
        return Route::Unknown;
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [] => Route::Root,
        ["version"] => Route::Version,
        ["healthz" | "livez" | "readyz"] => Route::Health(None),
        ["healthz" | "livez" | "readyz", check] => Route::Health(Some((*check).to_owned())),
        ["metrics"] => Route::Metrics,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => Route::Resources { group: String::new(), version: (*version).to_owned() },
        ["apis", group, version] => {
            Route::Resources { group: (*group).to_owned(), version: (*version).to_owned() }
        }
        ["openapi", "v2"] => Route::Swagger,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", "api", version] => {
            Route::OpenApi { group: String::new(), version: (*version).to_owned() }
        }
        ["openapi", "v3", "apis", group, version] => {
            Route::OpenApi { group: (*group).to_owned(), version: (*version).to_owned() }
        }
        [".well-known", "openid-configuration"] => Route::OpenIdConfiguration,
        ["openid", "v1", "jwks"] => Route::Jwks,
        ["api", version, rest @ ..] => target("", version, rest),
        ["apis", group, version, rest @ ..] => target(group, version, rest),
        _ => Route::Unknown,
    }
}

/// What may be a part of a path: nothing that could be read as another path once it is decoded.
fn is_plain(segment: &str) -> bool {
    segment != "." && segment != ".." && !segment.contains(['/', '%', '\0'])
}

fn target(group: &str, version: &str, rest: &[&str]) -> Route {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, None, None),
        [resource, name] => (*resource, Some(*name), None),
        [resource, name, subresource] => (*resource, Some(*name), Some(*subresource)),
        _ => return Route::Unknown,
    };
    Route::Resource(Target {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
        proxied: String::new(),
        watch,
    })
}

/// Decodes `%xx`; none when the result is not text or an escape is broken.
pub(crate) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let mut digit = || (*rest.next()? as char).to_digit(16);
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_kubernetes_says() {
        struct Case {
            path: &'static str,
            want: &'static str,
        }
        let cases = [
            Case { path: "/api/v1/pods", want: "/v1 pods" },
            Case { path: "/api/v1/namespaces", want: "/v1 namespaces" },
            Case { path: "/api/v1/namespaces/a", want: "/v1 namespaces a" },
            Case { path: "/api/v1/namespaces/a/status", want: "/v1 namespaces a status" },
            Case { path: "/api/v1/namespaces/a/finalize", want: "/v1 namespaces a finalize" },
            Case { path: "/api/v1/namespaces/a/pods", want: "/v1 (a) pods" },
            Case { path: "/api/v1/namespaces/a/pods/p", want: "/v1 (a) pods p" },
            Case { path: "/api/v1/namespaces/a/pods/p/log", want: "/v1 (a) pods p log" },
            Case { path: "/api/v1/watch/namespaces/a/pods/p", want: "watch /v1 (a) pods p" },
            Case { path: "/apis/apps/v1/deployments/", want: "apps/v1 deployments" },
            Case { path: "/api/v1/nodes/n%2D1", want: "/v1 nodes n-1" },
        ];
        for case in cases {
            let Route::Resource(target) = parse(case.path) else { panic!("{}", case.path) };
            let mut words = Vec::new();
            if target.watch {
                words.push("watch".to_owned());
            }
            words.push(format!("{}/{}", target.group, target.version));
            if !target.namespace.is_empty() {
                words.push(format!("({})", target.namespace));
            }
            words.push(target.resource);
            words.extend(target.name);
            words.extend(target.subresource);
            assert_eq!(words.join(" "), case.want, "{}", case.path);
        }
        for (path, proxied) in [
            ("/api/v1/namespaces/a/services/s:http/proxy", ""),
            ("/api/v1/namespaces/a/services/https%3As%3A443/proxy/", "/"),
            ("/api/v1/namespaces/a/pods/p/proxy/x%2Fy//z/../w/", "/x%2Fy//z/../w/"),
            ("/api/v1/nodes/n/proxy/pods/p/proxy", "/pods/p/proxy"),
        ] {
            let Route::Resource(target) = parse(path) else { panic!("{path}") };
            assert_eq!(
                (target.subresource.as_deref(), target.proxied.as_str()),
                (Some("proxy"), proxied),
                "{path}"
            );
        }
        for path in ["/api/v1/pods/%ff", "/api/v1/nodes/a%2Fb", "/api/v1/nodes/%2e%2e", "/api/v1/nodes/a%25b"]
        {
            assert_eq!(parse(path), Route::Unknown, "{path}");
        }
        assert_eq!(parse("/api/v1/pods/%f"), Route::Unknown);
        assert_eq!(parse("/readyz/ping"), Route::Health(Some("ping".to_owned())));
        assert_eq!(parse("/nothing"), Route::Unknown);
    }
}
