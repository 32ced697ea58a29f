//! The system calls that have no safe interface: code between fork and exec, and process handles.
#![allow(unsafe_code, reason = "pre_exec and pidfd system calls have no safe interface in std or nix")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid, setsid};

/// Makes the child of `command` get SIGKILL when the thread that spawned it ends. The caller spawns from a thread that lives as long as
/// the process.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let arrange = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above: then no signal will come.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: prctl(2) and getppid(2) are bare system calls, nothing is
    // allocated and the errors are bare numbers.
    unsafe { command.pre_exec(arrange) };
}

/// Makes the child of `command` the leader of a session of its own: it has no terminal and outlives this one.
pub(crate) fn leave_session(command: &mut Command) {
    let leave = || setsid().map(drop).map_err(io::Error::from);
    // SAFETY: setsid(2) is a bare system call and async-signal-safe; nothing is allocated and the error is a bare number.
    unsafe { command.pre_exec(leave) };
}

/// A handle on the process that has this number now; it never comes to mean another one.
pub(crate) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes a number and flags and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal through a handle.
pub(crate) fn signal_process(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) with a null siginfo reads no memory of ours; the descriptor is borrowed and so is open.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal as i32,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
