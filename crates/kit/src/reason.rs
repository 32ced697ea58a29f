//! Errors of the API client in a person's words.

use std::error::Error;

/// Why a request to the API server failed, in one line: the server's own message when it answered, otherwise the innermost cause (such
/// as "Connection refused") said to be the connection's. Works through whatever wraps the client's error.
pub fn reason(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    loop {
        if let Some(request) = as_request(innermost) {
            return reason_of_request(request);
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => return innermost.to_string(),
        }
    }
}

/// A box around an error is an error of its own type.
fn as_request<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a kube::Error> {
    let boxed = || error.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref);
    error.downcast_ref::<kube::Error>().or_else(boxed)
}

fn reason_of_request(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let message = if status.message.is_empty() { &status.reason } else { &status.message };
        return format!("the API server answered {}: {message}", status.code);
    }
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match error {
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
            format!("the API server cannot be reached: {cause}")
        }
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot create pod a/b: {source}")]
    struct Wrapped {
        source: Box<kube::Error>,
    }

    #[test]
    fn the_servers_message_or_the_innermost_cause_without_types_of_the_client() {
        struct Case {
            name: &'static str,
            given: kube::Error,
            want: &'static str,
        }
        let refused = std::io::Error::other("Connection refused");
        let cases = [
            Case {
                name: "an answer",
                given: kube::Error::Api(Box::new(
                    Status::failure("pods \"b\" is forbidden", "Forbidden").with_code(403),
                )),
                want: "the API server answered 403: pods \"b\" is forbidden",
            },
            Case {
                name: "an answer without words",
                given: kube::Error::Api(Box::new(Status::failure("", "ServiceUnavailable").with_code(503))),
                want: "the API server answered 503: ServiceUnavailable",
            },
            Case {
                name: "no answer",
                given: kube::Error::Service(Box::new(refused)),
                want: "the API server cannot be reached: Connection refused",
            },
        ];
        for case in cases {
            assert_eq!(reason(&case.given), case.want, "{}", case.name);
            let wrapped = Wrapped { source: Box::new(case.given) };
            assert_eq!(reason(&wrapped), case.want, "{}, wrapped", case.name);
        }
    }
}
