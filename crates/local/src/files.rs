//! Small files written whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A file of the cluster could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} {path}: {source}{}", remedy(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The contents make no sense.
    #[error("{path} is broken: {reason}; repair it, or forget the cluster with fairway down --purge")]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl FileError {
    /// Whether the file is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a writable place with --state or --run",
        io::ErrorKind::PermissionDenied => "; run as root",
        io::ErrorKind::NotADirectory => {
            "; a part of that path is a file: choose another place with --state or --run"
        }
        _ => "",
    }
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { action, path: path.to_owned(), source }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(failed("read", path))
}

pub(crate) fn create_directory(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

/// Writes aside, flushes to disk and renames: a reader, also after a crash, sees the old file or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        create_directory(parent)?;
    }
    let aside = path.with_added_extension("new");
    let write = || {
        // A leftover of a crash may have other permissions, and `mode` counts only for new files.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&aside, path)
    };
    write().map_err(failed("write", path))
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize, mode: u32) -> Result<(), FileError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| failed("write", path)(error.into()))?;
    bytes.push(b'\n');
    write(path, &bytes, mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_write_replaces_also_what_a_crash_left_and_has_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/secret.key");
        write(&path, b"one", 0o600).unwrap();
        fs::write(path.with_added_extension("new"), "half").unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.with_added_extension("new").exists());
        assert!(read(&directory.path().join("none")).unwrap_err().is_missing());
    }
}
