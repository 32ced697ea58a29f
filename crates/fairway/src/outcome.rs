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
