//! One log format for all roles: time, level, target, message and fields on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The client logs every attempt to reach a server that is not there; whoever made the request says so once, in its own words.
const QUIET: &str = "kube_client=off";

/// Starts logging. `FAIRWAY_LOG` (or else `default_filter`) selects, in the syntax of `tracing_subscriber::EnvFilter`.
/// Calling it twice is harmless: the first call wins.
pub fn init(default_filter: &str) {
    let filter = std::env::var("FAIRWAY_LOG")
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(format!("{default_filter},{QUIET}")));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
