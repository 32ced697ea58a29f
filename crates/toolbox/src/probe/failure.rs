//! How exactly a request failed: the classes that a test tells apart, and the phase it happened in.

use std::error::Error;
use std::io::{self, ErrorKind};

use serde::{Deserialize, Serialize};

use crate::resolver::ResolveError;

/// The classes that a test tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// Somebody said no at once: TCP RST to our SYN, ICMP port unreachable.
    Refused,
    /// Nothing came before the deadline.
    TimedOut,
    /// The connection was made and then broken off.
    Reset,
    /// The network said that there is no way (ICMP host or network unreachable, prohibited, no route).
    Unreachable,
    /// The name does not exist, or has no such record.
    NoName,
    /// The DNS servers failed or did not answer.
    DnsFailed,
    /// The TLS handshake failed, or the certificate is not trusted.
    Tls,
    /// What came is not the protocol that was asked for.
    Protocol,
    /// The request itself makes no sense (bad URL, bad header).
    Invalid,
}

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading the plan.
    Prepare,
    /// Resolving the name.
    Resolve,
    /// Opening the connection.
    Connect,
    /// The TLS handshake.
    Secure,
    /// Sending the request and waiting for the head of the answer.
    Request,
    /// Reading the body.
    Read,
}

/// No answer, and how exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{class:?} while {phase:?}: {detail}")]
pub struct Failure {
    /// What a test tells apart.
    pub class: FailureClass,
    /// What was being done.
    pub phase: Phase,
    /// The error in full, for people.
    pub detail: String,
}

impl Failure {
    /// The plan itself makes no sense.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self { class: FailureClass::Invalid, phase: Phase::Prepare, detail: detail.into() }
    }

    /// What came is not the protocol.
    pub fn protocol(phase: Phase, detail: impl Into<String>) -> Self {
        Self { class: FailureClass::Protocol, phase, detail: detail.into() }
    }

    /// The deadline was met.
    pub fn timed_out(phase: Phase) -> Self {
        Self { class: FailureClass::TimedOut, phase, detail: "no answer before the deadline".to_owned() }
    }

    /// The class of any error, by the operating system's word at the end of its chain of causes.
    pub fn of(phase: Phase, error: &(dyn Error + 'static)) -> Self {
        Self { class: class_of(phase, error), phase, detail: chain(error) }
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let class = match &error {
            ResolveError::NoSuchName { .. } | ResolveError::NoSuchRecord { .. } => FailureClass::NoName,
            ResolveError::ServerFailed { .. } | ResolveError::NoAnswer { .. } | ResolveError::NoServers => {
                FailureClass::DnsFailed
            }
            ResolveError::BadName { .. } | ResolveError::BadType { .. } => FailureClass::Invalid,
        };
        Self { class, phase: Phase::Resolve, detail: error.to_string() }
    }
}

fn class_of(phase: Phase, error: &(dyn Error + 'static)) -> FailureClass {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            if let Some(class) = class_of_io(io) {
                return class;
            }
            // An io::Error that wraps another error hides it from `source`.
            if let Some(inner) = io.get_ref() {
                if inner.is::<rustls::Error>() {
                    return FailureClass::Tls;
                }
                cause = Some(inner);
                continue;
            }
        }
        if current.is::<rustls::Error>() {
            return FailureClass::Tls;
        }
        if let Some(hyper) = current.downcast_ref::<hyper::Error>()
            && (hyper.is_incomplete_message() || hyper.is_closed() || hyper.is_canceled())
        {
            return FailureClass::Reset;
        }
        cause = current.source();
    }
    match phase {
        Phase::Secure => FailureClass::Tls,
        // HTTP/2 reports a stream that the peer gave up only in words.
        _ if chain(error).contains("stream error") => FailureClass::Reset,
        _ => FailureClass::Protocol,
    }
}

fn class_of_io(error: &io::Error) -> Option<FailureClass> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Some(FailureClass::Refused),
        ErrorKind::TimedOut => Some(FailureClass::TimedOut),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => Some(FailureClass::Reset),
        // EACCES and EPERM are how the kernel tells "administratively prohibited" (and an nftables drop on the way out).
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::AddrNotAvailable
        | ErrorKind::PermissionDenied => Some(FailureClass::Unreachable),
        _ => None,
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let said = current.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = current.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_word_decides() {
        let cases = [
            (ErrorKind::ConnectionRefused, FailureClass::Refused),
            (ErrorKind::ConnectionReset, FailureClass::Reset),
            (ErrorKind::UnexpectedEof, FailureClass::Reset),
            (ErrorKind::HostUnreachable, FailureClass::Unreachable),
            (ErrorKind::PermissionDenied, FailureClass::Unreachable),
            (ErrorKind::TimedOut, FailureClass::TimedOut),
            (ErrorKind::InvalidData, FailureClass::Protocol),
        ];
        for (kind, want) in cases {
            assert_eq!(Failure::of(Phase::Connect, &io::Error::from(kind)).class, want, "{kind:?}");
        }
    }

    #[test]
    fn an_alert_inside_an_io_error_is_still_tls() {
        let inner = rustls::Error::General("bad".into());
        assert_eq!(Failure::of(Phase::Secure, &io::Error::other(inner)).class, FailureClass::Tls);
    }
}
