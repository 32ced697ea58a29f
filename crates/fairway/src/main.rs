//! The `fairway` command: command line and wiring, nothing clever.
//!
//! [`cli`] says what can be typed, [`cluster`] is `up`, `down` and `status`, [`roles`] turns a cluster's settings into each role's
//! configuration, [`why`] lists objects and prints the explanation. Everything else is in the crates that these call.

mod cli;
mod cluster;
mod image;
mod kubectl;
mod outcome;
mod roles;
mod scenarios;
mod why;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The built-in image calls this executable by that name.
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().map(std::path::PathBuf::from);
    if called_as.as_deref().and_then(|path| path.file_name()).is_some_and(|name| name == "toolbox") {
        return fairway_toolbox::main(std::env::args_os());
    }
    cli::run()
}
