//! Exit codes, the same for every command.

use std::fmt::Display;
use std::process::ExitCode;

/// Findings, or assertions that failed.
pub(crate) const FINDINGS: u8 = 1;
/// What was typed, or a file that it names, is wrong.
pub(crate) const USAGE: u8 = 2;
/// It could not run.
pub(crate) const FAILED: u8 = 3;

/// Prints why a command could not run.
pub(crate) fn failed(error: impl Display) -> ExitCode {
    eprintln!("fairway: {error}");
    ExitCode::from(FAILED)
}

/// The exit code of a role: fine, or printed.
pub(crate) fn of<E: Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error),
    }
}

/// Everything that a chain of errors says, each part once: many of our errors name their cause in their own words already.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut causes = error.chain().map(|cause| {
        let boxed = || cause.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref);
        match cause.downcast_ref::<kube::Error>().or_else(boxed) {
            Some(request) => fairway_kit::reason(request),
            None => cause.to_string(),
        }
    });
    let mut text = causes.next().unwrap_or_default();
    for cause in causes.filter(|cause| !cause.is_empty()) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn each_part_is_said_once() {
        let missing = || std::io::Error::from_raw_os_error(2);
        let plain = anyhow::Error::from(missing()).context("cannot read x");
        assert_eq!(words(&plain), "cannot read x: No such file or directory (os error 2)");
        let said =
            anyhow::Error::from(missing()).context("cannot read x: No such file or directory (os error 2)");
        assert_eq!(words(&said), "cannot read x: No such file or directory (os error 2)");
        let request: Result<(), kube::Error> = Err(kube::Error::Service(Box::new(missing())));
        let text = words(&request.context("Services").unwrap_err());
        assert_eq!(
            text,
            "Services: the API server cannot be reached: No such file or directory (os error 2)"
        );
    }
}
