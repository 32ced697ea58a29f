//! The one unsafe call of the crate.
#![allow(unsafe_code, reason = "running code between fork and exec has no safe interface")]

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};

/// Makes the child of `command` enter the network namespace before it executes.
pub(crate) fn enter_before_exec(command: &mut Command, namespace: Arc<OwnedFd>) {
    let enter = move || setns(&*namespace, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes one system call, setns(2), on a
    // descriptor that it owns, allocates nothing and takes no lock; the error it returns is a bare number.
    unsafe { command.pre_exec(enter) };
}
