//! The head that a client gets.

use http::header::{self, HeaderMap};

use super::remove_hop_by_hop;

/// Removes what is between the endpoint and us, and `Server` (ingress-nginx 11.2). Framing is added by the codec of the client's protocol.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(header::SERVER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_fields_and_server_go_the_rest_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("server", "nginx"),
            ("keep-alive", "timeout=5"),
            ("content-length", "5"),
            ("x-powered-by", "php"),
            ("trailer", "x-sum"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        clean_response(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(header::HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "trailer", "x-powered-by"]);
    }
}
