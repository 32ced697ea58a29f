//! `fairway up --detach`: the supervisor in a session of its own, its progress shown until it is ready.

use std::ffi::OsString;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::error::Error;
use crate::files::create_directory;
use crate::progress::{Event, EventKind, Reporter};
use crate::settings::Directories;
use crate::supervisor::detached;

/// Starts `program arguments…`, which must call [`crate::up()`] with [`Reporter::json_lines`], and returns when it reports ready; what it
/// reports is passed on. Ctrl-C while waiting stops it. Call it outside any async runtime.
pub fn up_detached(
    program: &Path,
    arguments: &[OsString],
    directories: &Directories,
    reporter: &Reporter,
) -> Result<(), Error> {
    create_directory(&directories.logs())?;
    let log = directories.logs().join("supervisor.log");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { action: "start the runtime", source })?;
    let outcome = runtime.block_on(follow(program, arguments, &log, reporter));
    if outcome.is_err() {
        forget_empty(&log, directories);
    }
    outcome
}

/// A start that was refused leaves no log of nothing; only what is empty goes.
fn forget_empty(log: &Path, directories: &Directories) {
    if std::fs::metadata(log).is_ok_and(|found| found.len() == 0) {
        // Best effort: the error to tell is the one that made the start fail.
        let _ = std::fs::remove_file(log);
    }
    for directory in [directories.logs(), directories.run.clone()] {
        let _ = std::fs::remove_dir(directory);
    }
}

async fn follow(
    program: &Path,
    arguments: &[OsString],
    log: &Path,
    reporter: &Reporter,
) -> Result<(), Error> {
    let failed = |source| Error::Spawn { role: "supervisor".into(), source };
    let mut child =
        detached(program, arguments, log).and_then(|mut command| command.spawn()).map_err(failed)?;
    let output = child.stdout.take().ok_or_else(|| failed(std::io::Error::other("it has no output")))?;
    let mut lines = BufReader::new(output).lines();
    let mut problems = None;
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line,
            _ = tokio::signal::ctrl_c() => {
                interrupt(&child);
                continue;
            }
        };
        let Ok(Some(line)) = line else { break };
        let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
        match event.kind {
            EventKind::Failed { problems: reported } => problems = Some(reported),
            EventKind::Ready(_) => {
                reporter.pass_on(event);
                return Ok(());
            }
            _ => reporter.pass_on(event),
        }
    }
    let exit = child.wait().await.map_err(failed)?;
    Err(match problems {
        Some(problems) => Error::Reported(problems),
        None => Error::Detached { reason: exit.to_string(), log: log.to_owned() },
    })
}

fn interrupt(child: &tokio::process::Child) {
    // It then reports that it was interrupted, and ends.
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}
