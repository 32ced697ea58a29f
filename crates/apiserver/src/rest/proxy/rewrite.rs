//! Links that lead through the proxy again.

use std::net::IpAddr;

use super::destination::Destination;

/// Where an answer came from and where the client sees it.
pub(super) struct Place<'a> {
    /// Of the API server.
    pub(super) scheme: &'static str,
    /// The API server as the client calls it.
    pub(super) host: &'a str,
    /// The path of the proxy subresource.
    pub(super) prefix: &'a str,
    /// Where the answer came from.
    pub(super) destination: &'a Destination,
}

/// Attributes that hold a link, by element (HTML 4.01, clause 24, and HTML 5's media).
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("form", &["action"]),
    ("iframe", &["src"]),
    ("img", &["src"]),
    ("input", &["formaction", "src"]),
    ("link", &["href"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where a redirect leads.
pub(super) fn location(link: &str, place: &Place<'_>) -> String {
    let (path, is_absolute) = match link.split_once("://") {
        Some((_, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            if host != place.host && !is_at(host, place.destination) {
                return link.to_owned();
            }
            (path, true)
        }
        None => (link, false),
    };
    if !path.starts_with('/') || path.starts_with("//") {
        return link.to_owned();
    }
    let path =
        if path.starts_with(place.prefix) { path.to_owned() } else { format!("{}{path}", place.prefix) };
    if is_absolute || !place.host.is_empty() {
        format!("{}://{}{path}", place.scheme, place.host)
    } else {
        path
    }
}

fn is_at(text: &str, destination: &Destination) -> bool {
    let Destination::Address { scheme, host, port } = destination else { return false };
    let host = match host {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    text == format!("{host}:{port}")
        || (text == host && *port == if scheme.text() == "https" { 443 } else { 80 })
}

/// A page whose links from the root lead through the proxy. What is no markup stays byte by byte as it is.
pub(super) fn page(page: &[u8], place: &Place<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + 256);
    let mut rest = page;
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        let (before, tag) = rest.split_at(at);
        out.extend_from_slice(before);
        let length = tag.iter().position(|byte| *byte == b'>').map_or(tag.len(), |end| end + 1);
        let (tag, after) = tag.split_at(length);
        match std::str::from_utf8(tag) {
            Ok(text) => out.extend_from_slice(rewrite_tag(text, place).as_bytes()),
            Err(_) => out.extend_from_slice(tag),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out
}

fn rewrite_tag(tag: &str, place: &Place<'_>) -> String {
    let inner = tag.trim_start_matches('<');
    let name_end = inner.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(inner.len());
    let (name, mut rest) = inner.split_at(name_end);
    let Some((_, wanted)) = LINKS.iter().find(|(element, _)| name.eq_ignore_ascii_case(element)) else {
        return tag.to_owned();
    };
    let mut out = format!("<{name}");
    while let Some(equals) = rest.find('=') {
        let (before, value) = rest.split_at(equals + 1);
        out.push_str(before);
        let attribute = before.trim_end_matches('=').trim_end();
        let attribute =
            attribute.rsplit(|letter: char| letter.is_ascii_whitespace()).next().unwrap_or_default();
        let trimmed = value.trim_start();
        out.push_str(value.get(..value.len() - trimmed.len()).unwrap_or_default());
        let (quote, content) = match trimmed.chars().next() {
            Some(quote @ ('"' | '\'')) => (quote.to_string(), trimmed.get(1..).unwrap_or_default()),
            _ => (String::new(), trimmed),
        };
        let end = match quote.chars().next() {
            Some(quote) => content.find(quote),
            None => content.find(|letter: char| letter.is_ascii_whitespace() || letter == '>'),
        };
        let (link, after) = content.split_at(end.unwrap_or(content.len()));
        out.push_str(&quote);
        let is_link = wanted.iter().any(|name| attribute.eq_ignore_ascii_case(name));
        let leads =
            is_link && link.starts_with('/') && !link.starts_with("//") && !link.starts_with(place.prefix);
        if leads {
            out.push_str(place.prefix);
        }
        out.push_str(link);
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::super::Scheme;
    use super::*;

    fn destination() -> Destination {
        Destination::Address { scheme: Scheme::Http, host: "10.0.0.1".parse().unwrap(), port: 8080 }
    }

    struct Case {
        given: &'static str,
        want: &'static str,
    }

    #[test]
    fn redirects_lead_through_the_proxy() {
        let cases = [
            Case { given: "/login", want: "https://api:6443/p/proxy/login" },
            Case { given: "/a/?b=c", want: "https://api:6443/p/proxy/a/?b=c" },
            Case { given: "http://10.0.0.1:8080/x", want: "https://api:6443/p/proxy/x" },
            Case { given: "http://api:6443/x", want: "https://api:6443/p/proxy/x" },
            Case { given: "https://elsewhere.test/x", want: "https://elsewhere.test/x" },
            Case { given: "next", want: "next" },
            Case { given: "//elsewhere.test/x", want: "//elsewhere.test/x" },
            Case { given: "/p/proxy/there", want: "https://api:6443/p/proxy/there" },
        ];
        let destination = destination();
        let place =
            Place { scheme: "https", host: "api:6443", prefix: "/p/proxy", destination: &destination };
        for case in cases {
            assert_eq!(location(case.given, &place), case.want, "{}", case.given);
        }
    }

    #[test]
    fn links_of_pages_lead_through_the_proxy() {
        let cases = [
            Case {
                given: r#"<a href="/rewriteme">test</a>"#,
                want: r#"<a href="/p/proxy/rewriteme">test</a>"#,
            },
            Case {
                given: "<p>1 < 2</p><IMG alt='/x' SRC='/i.png'/>",
                want: "<p>1 < 2</p><IMG alt='/x' SRC='/p/proxy/i.png'/>",
            },
            Case { given: "<link rel=x href=/style.css>", want: "<link rel=x href=/p/proxy/style.css>" },
            Case {
                given: r#"<a href="next"> <a href="//cdn/x"> <a href="http://x/">"#,
                want: r#"<a href="next"> <a href="//cdn/x"> <a href="http://x/">"#,
            },
            Case {
                given: r#"<span href="/x"> /x <a href="/p/proxy/y">"#,
                want: r#"<span href="/x"> /x <a href="/p/proxy/y">"#,
            },
            Case {
                given: r#"<a class="b c" href = "/x" id="/y">"#,
                want: r#"<a class="b c" href = "/p/proxy/x" id="/y">"#,
            },
            Case { given: "<a href=\"/x", want: "<a href=\"/p/proxy/x" },
            Case { given: "no markup", want: "no markup" },
        ];
        let destination = destination();
        let place =
            Place { scheme: "https", host: "api:6443", prefix: "/p/proxy", destination: &destination };
        for case in cases {
            let got = String::from_utf8(page(case.given.as_bytes(), &place)).unwrap();
            assert_eq!(got, case.want, "{}", case.given);
        }
    }
}
