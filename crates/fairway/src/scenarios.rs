//! `fairway test`.

use std::path::PathBuf;
use std::process::ExitCode;

use fairway_kit::{logging, shutdown};
use fairway_scenario::{Format, Options, run as run_scenarios};

use crate::cli::{TestArgs, TestOutput};
use crate::outcome;

/// Runs scenarios; the exit code says whether all passed.
pub(crate) fn run(arguments: TestArgs) -> ExitCode {
    logging::init("warn");
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(error) => return outcome::failed(format_args!("cannot find this executable: {error}")),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return outcome::failed(error),
    };
    // Signals are caught by the runtime that runs the scenarios.
    let shutdown = match runtime.block_on(async { shutdown::on_signals() }) {
        Ok(shutdown) => shutdown,
        Err(error) => return outcome::failed(format_args!("cannot catch signals: {error}")),
    };
    let options = Options {
        files: arguments.files,
        cluster: arguments.cluster,
        executable,
        // Steps run in the folders of their scenarios.
        kubectl: absolute(arguments.kubectl),
        state_root: arguments.state,
        run_root: arguments.run,
        format: match arguments.output {
            TestOutput::Text => Format::Text,
            TestOutput::Json => Format::Json,
        },
        junit: arguments.junit,
        json: arguments.json,
        keep: arguments.keep,
        fail_fast: arguments.fail_fast,
        shutdown,
    };
    match runtime.block_on(run_scenarios(options)) {
        Ok(summary) if summary.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(outcome::FINDINGS),
        Err(error) if error.is_usage() => {
            eprintln!("fairway: {error}");
            ExitCode::from(outcome::USAGE)
        }
        Err(error) => outcome::failed(error),
    }
}

/// A path is made independent of the folder; a bare name stays one, to be found in PATH.
fn absolute(path: PathBuf) -> PathBuf {
    if path.components().count() > 1 { std::path::absolute(&path).unwrap_or(path) } else { path }
}
