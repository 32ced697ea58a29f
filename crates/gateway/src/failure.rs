//! What goes wrong with a request: whose fault it is, whether another endpoint may get it, and what the client is told. All total
//! functions of one enum, so a new kind of failure cannot forget one of them.

use http::StatusCode;

use crate::head::BadHead;

/// Why a request was not answered by an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client's head is refused.
    BadHead(BadHead),
    /// The client's body broke off or is malformed.
    ClientBody,
    /// The client stopped sending its body.
    ClientTimeout,
    /// The client's body is longer than allowed.
    BodyTooLarge,
    /// No rule matches.
    NoRule,
    /// The backend has nothing to send to.
    NoEndpoint,
    /// The endpoint did not take a connection.
    ConnectRefused,
    /// The endpoint did not answer to a connection attempt.
    ConnectTimeout,
    /// The last endpoint left the pool while we connected to it.
    LeftPool,
    /// The connection was closed before the request was sent.
    Unsent,
    /// The connection was closed after the request was sent, before a response came.
    Lost,
    /// What came back is no HTTP response, or one beyond the limits.
    BadResponse,
    /// The endpoint stopped talking.
    UpstreamTimeout,
}

/// When a request may be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replay {
    /// Its method is idempotent and it has no body: until a response has begun.
    UntilResponse,
    /// Everything else: as long as nothing of it was sent.
    UntilSent,
}

impl Replay {
    /// Of a request (RFC 9110 §9.2.2).
    pub(crate) fn of(method: &http::Method, has_body: bool) -> Self {
        if method.is_idempotent() && !has_body { Self::UntilResponse } else { Self::UntilSent }
    }
}

impl Failure {
    /// Whether another try may succeed and can do no harm.
    pub(crate) fn may_retry(self, replay: Replay) -> bool {
        match self {
            Self::ConnectRefused | Self::ConnectTimeout | Self::LeftPool | Self::Unsent => true,
            Self::Lost => replay == Replay::UntilResponse,
            // An endpoint that is slow once is so for everybody: three times the wait helps nobody.
            Self::UpstreamTimeout | Self::BadResponse => false,
            Self::BadHead(_) | Self::ClientBody | Self::ClientTimeout | Self::BodyTooLarge => false,
            Self::NoRule | Self::NoEndpoint => false,
        }
    }

    /// What the client gets.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BadHead(BadHead::MethodNotAllowed) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadHead(BadHead::UnknownExpectation) => StatusCode::EXPECTATION_FAILED,
            Self::BadHead(_) | Self::ClientBody => StatusCode::BAD_REQUEST,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRule => StatusCode::NOT_FOUND,
            Self::NoEndpoint | Self::LeftPool => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectRefused | Self::Unsent | Self::Lost | Self::BadResponse => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The body of the answer: what it means and where to look.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::BadHead(_) | Self::ClientBody => {
                "400 Bad Request\nThe request is malformed or ambiguous.\n"
            }
            Self::ClientTimeout => "408 Request Timeout\nThe request body did not arrive in time.\n",
            Self::BodyTooLarge => "413 Payload Too Large\nThe request body is longer than allowed.\n",
            Self::NoRule => "404 Not Found\nNo Ingress rule serves this host and path.\n",
            Self::NoEndpoint | Self::LeftPool => {
                "503 Service Temporarily Unavailable\nThe Service behind this route has no ready endpoint.\n"
            }
            Self::ConnectRefused | Self::Unsent => {
                "502 Bad Gateway\nNo endpoint of the Service takes connections.\n"
            }
            Self::Lost => "502 Bad Gateway\nThe endpoint closed the connection without an answer.\n",
            Self::BadResponse => "502 Bad Gateway\nThe endpoint's answer is not valid HTTP or too large.\n",
            Self::ConnectTimeout => "504 Gateway Time-out\nNo endpoint answered to a connection attempt.\n",
            Self::UpstreamTimeout => "504 Gateway Time-out\nThe endpoint did not answer in time.\n",
        }
    }

    /// A label for metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BadHead(_) => "bad_head",
            Self::ClientBody => "client_body",
            Self::ClientTimeout => "client_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::NoRule => "no_rule",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::LeftPool => "left_pool",
            Self::Unsent => "unsent",
            Self::Lost => "lost",
            Self::BadResponse => "bad_response",
            Self::UpstreamTimeout => "upstream_timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn a_request_is_sent_again_only_when_that_can_do_no_harm() {
        let cases = [
            (Failure::ConnectRefused, Method::POST, true, true),
            (Failure::Unsent, Method::POST, true, true),
            (Failure::Lost, Method::POST, false, false),
            (Failure::Lost, Method::GET, true, false),
            (Failure::Lost, Method::GET, false, true),
            (Failure::Lost, Method::DELETE, false, true),
            (Failure::UpstreamTimeout, Method::GET, false, false),
            (Failure::BadResponse, Method::GET, false, false),
            (Failure::ClientBody, Method::GET, true, false),
        ];
        for (failure, method, has_body, want) in cases {
            assert_eq!(
                failure.may_retry(Replay::of(&method, has_body)),
                want,
                "{failure:?} {method} body {has_body}"
            );
        }
    }

    #[test]
    fn statuses_are_those_of_nginx() {
        for (failure, want) in [
            (Failure::NoRule, 404),
            (Failure::NoEndpoint, 503),
            (Failure::ConnectRefused, 502),
            (Failure::ConnectTimeout, 504),
            (Failure::UpstreamTimeout, 504),
            (Failure::BadHead(BadHead::MethodNotAllowed), 405),
            (Failure::BadHead(BadHead::LengthAndChunked), 400),
            (Failure::BodyTooLarge, 413),
        ] {
            assert_eq!(failure.status().as_u16(), want);
            assert!(failure.text().starts_with(&want.to_string()) || want == 405, "{failure:?}");
        }
    }
}
