//! The system calls that have no safe wrapper. Everything `unsafe` of this crate is here.
#![allow(unsafe_code, reason = "fork, capabilities and terminal ioctls have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::{ForkResult, Pid};

/// The two sides of a [`fork`].
pub(crate) enum Forked {
    /// In the parent: the child, as seen from the parent's PID namespace.
    Parent(Pid),
    /// In the child.
    Child,
}

/// Forks. Only for single-threaded processes: the child goes on with ordinary Rust code (it allocates and takes locks).
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: `fairway pod` has one thread, so no lock can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Ends the process at once, without destructors or exit handlers: for forked children.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Owns a descriptor that the kernel just handed over (`SCM_RIGHTS`).
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: called once for every descriptor number of a control message, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes `fd` the descriptor with number `number` (0, 1 or 2), inherited by programs.
pub(crate) fn become_fd(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // dup2 onto itself would keep close-on-exec.
        // SAFETY: fcntl with an integer argument on a valid descriptor.
        return check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) });
    }
    // SAFETY: dup2 of a valid descriptor; nothing in the forked child owns 0, 1 or 2.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) })
}

/// Default action for SIGPIPE (Rust ignores it, and ignoring is inherited by programs).
pub(crate) fn restore_sigpipe() -> io::Result<()> {
    // SAFETY: SIG_DFL is a valid disposition.
    let previous = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if previous == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the terminal `fd` the controlling one of this session.
pub(crate) fn control_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// Sets the size of a terminal, in character cells.
pub(crate) fn resize_terminal(fd: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives until the call returns.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// Removes one capability from the bounding set.
pub(crate) fn drop_bounding_capability(number: u32) -> io::Result<()> {
    // SAFETY: prctl with integer arguments.
    check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) })
}

/// Registers a descriptor with the async runtime.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always refers to the same open file until it is dropped, which AsyncFd does after deregistering it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(fd) }?)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
