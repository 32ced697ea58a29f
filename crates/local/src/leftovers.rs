//! What a cluster can leave behind, found from its name alone, and removed.
//!
//! The order matters: processes first (they could make the rest anew), links before namespaces (a namespace is freed some time after its
//! name is gone, a link at once), mounts before the directory that they lie in.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fairway_netns::{Links, Netns};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::error::Error;
use crate::files::failed;
use crate::settings::{ClusterName, Directories};
use crate::{host, masquerade, process, underlay};

const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Processes may start others while they are being killed; after this many rounds something is fighting back.
const KILL_ROUNDS_MAX: usize = 5;

/// What was found and removed, and what could not be removed.
#[derive(Debug, Default)]
pub struct Report {
    /// Killed processes.
    pub processes: usize,
    /// Links of the host.
    pub links: Vec<String>,
    /// Network namespaces.
    pub namespaces: Vec<String>,
    /// The nft table of the host was there.
    pub table: bool,
    /// Mounts below the cluster's directories.
    pub mounts: Vec<PathBuf>,
    /// What could not be removed.
    pub failures: Vec<Error>,
}

impl Report {
    /// Whether there was nothing to remove (files in the run directory do not count).
    pub fn is_empty(&self) -> bool {
        let nothing = self.links.is_empty() && self.namespaces.is_empty() && self.mounts.is_empty();
        self.processes == 0 && nothing && !self.table && self.failures.is_empty()
    }

    /// In words, for people.
    pub fn summary(&self) -> String {
        let counts = [
            (self.processes, "process", "processes"),
            (self.namespaces.len(), "namespace", "namespaces"),
            (self.links.len(), "link", "links"),
            (usize::from(self.table), "nft table", "nft tables"),
            (self.mounts.len(), "mount", "mounts"),
        ];
        let parts: Vec<String> = counts
            .into_iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }))
            .collect();
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    }

    fn into_result(self, name: &ClusterName) -> Result<Self, Error> {
        if self.failures.is_empty() {
            return Ok(self);
        }
        let reasons = self.failures.iter().map(ToString::to_string).collect();
        Err(Error::Leftovers { name: name.clone(), reasons })
    }
}

/// What becomes of the run directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunDirectory {
    /// Emptied except for logs and lock: a start follows, and the logs of a run that crashed are wanted.
    KeepLogs,
    /// Removed.
    Remove,
}

/// Removes everything of the cluster except its state directory. The caller holds the supervisor's lock. A part that cannot be removed
/// does not keep the others.
pub(crate) fn clean(
    name: &ClusterName,
    directories: &Directories,
    run: RunDirectory,
) -> Result<Report, Error> {
    let mut report = Report::default();
    kill_processes(name, &mut report);
    if let Err(error) = remove_links(name, &mut report) {
        report.failures.push(error.into());
    }
    if let Err(error) = remove_namespaces(name, &mut report) {
        report.failures.push(error.into());
    }
    match masquerade::remove(name) {
        Ok(removed) => report.table = removed,
        Err(error) => report.failures.push(error),
    }
    if let Err(error) = host::restore_forwarding(directories) {
        report.failures.push(error);
    }
    // A process that was just executing during the first look had no environment yet and was not seen.
    kill_processes(name, &mut report);
    detach_mounts(directories, &mut report);
    if let Err(error) = empty_run_directory(directories, run) {
        report.failures.push(error);
    }
    report.into_result(name)
}

fn kill_processes(name: &ClusterName, report: &mut Report) {
    for _ in 0..KILL_ROUNDS_MAX {
        let found = match process::marked(name) {
            Ok(found) if found.is_empty() => return,
            Ok(found) => found,
            Err(source) => {
                report.failures.push(Error::System { action: "list the processes in /proc", source });
                return;
            }
        };
        report.processes += found.len();
        for process in &found {
            if let Err(source) = process.signal(Signal::SIGKILL) {
                report.failures.push(Error::System { action: "kill a process of the cluster", source });
            }
        }
        for process in &found {
            if !process.wait(KILL_LIMIT) {
                report.failures.push(Error::StillRunning { name: name.clone(), pid: process.pid });
                return;
            }
        }
    }
}

fn remove_links(name: &ClusterName, report: &mut Report) -> Result<(), fairway_netns::Error> {
    let mut links = Links::open(&Netns::host()?)?;
    let listed = links.list()?;
    for link in underlay::owned_links(name, &listed) {
        if links.delete(&link)? {
            report.links.push(link);
        }
    }
    Ok(())
}

fn remove_namespaces(name: &ClusterName, report: &mut Report) -> Result<(), fairway_netns::Error> {
    for namespace in
        Netns::list(&format!("fw-{name}-"))?.into_iter().filter(|found| name.owns_namespace(found))
    {
        if Netns::remove(&namespace)? {
            report.namespaces.push(namespace);
        }
    }
    Ok(())
}

fn detach_mounts(directories: &Directories, report: &mut Report) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts = mount_points_below(&table, &[&directories.state, &directories.run]);
    // The last mounted lies on top.
    mounts.reverse();
    for mount in mounts {
        match umount2(&mount, MntFlags::MNT_DETACH) {
            Ok(()) => report.mounts.push(mount),
            // Gone with a mount above it.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => report.failures.push(failed("unmount", &mount)(errno.into()).into()),
        }
    }
}

/// The mount points below the directories (not the directories themselves: a user may have mounted a disk there), in the order of the
/// table (proc(5), `/proc/pid/mountinfo`: the fifth field, with blanks and the like as octal escapes).
fn mount_points_below(table: &str, directories: &[&Path]) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points
        .filter(|point| {
            directories.iter().any(|directory| point.starts_with(directory) && point != directory)
        })
        .collect()
}

fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if byte == b'\\' => {
                bytes.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn empty_run_directory(directories: &Directories, run: RunDirectory) -> Result<(), Error> {
    let directory = &directories.run;
    let kept = match run {
        RunDirectory::KeepLogs => vec![directories.lock_file(), directories.logs()],
        // The lock's file goes when the lock is dropped, while it is still held.
        RunDirectory::Remove => vec![directories.lock_file()],
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", directory)(error).into()),
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", directory))?;
        let path = entry.path();
        if kept.contains(&path) {
            continue;
        }
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(failed("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_below_and_unescaped() {
        let table = "\
24 1 0:22 / /var/lib/fairway/dev rw - ext4 /dev/vdb rw
25 1 0:22 / /var/lib/fairway/dev/nodes/a\\040b rw - tmpfs tmpfs rw
26 1 0:22 / /var/lib/fairway/dev-2/nodes rw - tmpfs tmpfs rw
27 1 0:22 / /run/fairway/dev/x rw shared:3 - tmpfs tmpfs rw
28 1 0:22 / /proc rw - proc proc rw
";
        let got =
            mount_points_below(table, &[Path::new("/var/lib/fairway/dev"), Path::new("/run/fairway/dev")]);
        assert_eq!(got, [Path::new("/var/lib/fairway/dev/nodes/a b"), Path::new("/run/fairway/dev/x")]);
    }

    #[test]
    fn a_report_reads_well() {
        assert_eq!(Report::default().summary(), "nothing");
        let report = Report { processes: 2, links: vec!["fw-dev".into()], table: true, ..Report::default() };
        assert_eq!(report.summary(), "2 processes, 1 link, 1 nft table");
        assert!(!report.is_empty());
    }
}
