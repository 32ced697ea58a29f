//! Other processes: found by the mark that all processes of a cluster carry in their environment, signalled and awaited through
//! handles that cannot come to mean another process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::settings::ClusterName;
use crate::sys;

/// The environment variable that says which cluster a process belongs to.
pub const MARK: &str = "FAIRWAY_CLUSTER";

/// A longer environment is read in part; the mark is set first by those who set it.
const ENVIRONMENT_BYTES_MAX: u64 = 1 << 20;

/// A process held by a handle.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    handle: OwnedFd,
}

impl Process {
    /// The process of that number, or `None` when there is none.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        Some(Self { pid, handle: sys::open_process(pid).ok()? })
    }

    /// Sends a signal; a process that is gone already is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match sys::signal_process(self.handle.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Waits until it has ended; false when it has not within `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(nix::Error::EINTR) if Instant::now() < deadline => {}
                Ok(ended) => return ended > 0,
                Err(_) => return false,
            }
        }
    }
}

/// All processes that carry the mark of the cluster, without this one and those that it descends from (a user may have set the variable
/// in the shell).
pub(crate) fn marked(cluster: &ClusterName) -> io::Result<Vec<Process>> {
    let spared = ancestry();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if spared.contains(&pid) || !is_marked(pid, cluster) {
            continue;
        }
        // The number may have passed to another process between the look and the handle: look again through the handle's process.
        if let Some(process) = Process::open(pid)
            && is_marked(pid, cluster)
        {
            found.push(process);
        }
    }
    Ok(found)
}

fn is_marked(pid: u32, cluster: &ClusterName) -> bool {
    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment));
    read.is_ok() && carries_mark(&environment, cluster)
}

fn carries_mark(environment: &[u8], cluster: &ClusterName) -> bool {
    let mark = format!("{MARK}={cluster}");
    environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
}

/// This process and its parents up to the first.
fn ancestry() -> BTreeSet<u32> {
    let mut pids = BTreeSet::new();
    let mut pid = std::process::id();
    while pid > 1 && pids.insert(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        pid = parent_in(&stat).unwrap_or(0);
    }
    pids
}

/// The parent's number in the text of `/proc/<pid>/stat`; the name in the second field may contain anything, also ')'.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_a_whole_entry() {
        let cluster = ClusterName::parse("dev").unwrap();
        assert!(carries_mark(b"PATH=/bin\0FAIRWAY_CLUSTER=dev\0X=1\0", &cluster));
        assert!(!carries_mark(b"FAIRWAY_CLUSTER=dev-2\0XFAIRWAY_CLUSTER=dev\0", &cluster));
        assert!(!carries_mark(b"", &cluster));
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_in("12 (a) b) S 7 12 12"), Some(7));
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn a_marked_process_is_found_killed_and_awaited() {
        let cluster = ClusterName::parse(&format!("t{}mark", std::process::id())).unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").env(MARK, cluster.as_str()).spawn().unwrap();
        // A process that is just executing shows no environment for some microseconds.
        let found = std::iter::repeat_with(|| marked(&cluster).unwrap())
            .take(1000)
            .find(|found| !found.is_empty())
            .unwrap();
        assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [child.id()]);
        assert!(!found[0].wait(Duration::from_millis(1)));
        found[0].signal(Signal::SIGKILL).unwrap();
        assert!(found[0].wait(Duration::from_secs(5)));
        child.wait().unwrap();
        found[0].signal(Signal::SIGKILL).unwrap();
        assert!(marked(&cluster).unwrap().is_empty());
    }
}
