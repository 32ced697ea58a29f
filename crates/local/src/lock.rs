//! One supervisor a cluster: a lock on a file that also says who holds it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::files::{FileError, create_directory, failed};

/// The lock, held until dropped; the file goes with it. The kernel drops it with the process, so it cannot be left behind.
#[derive(Debug)]
pub(crate) struct SupervisorLock {
    /// Held for its lock; closing it is the release.
    _file: File,
    path: PathBuf,
}

/// Whether the lock was had.
#[derive(Debug)]
pub(crate) enum Locked {
    Mine(SupervisorLock),
    /// Another process has it; 0 when it did not write its number yet.
    By(u32),
}

impl SupervisorLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn try_take(path: &Path) -> Result<Locked, FileError> {
        if let Some(parent) = path.parent() {
            create_directory(parent)?;
        }
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(failed("open", path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Locked::By(pid_in(&mut file))),
                Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
            }
            // Whoever held it before may have removed the file between our open and our lock: then this lock guards nothing.
            if is_still_there(&file, path) {
                let write = |file: &mut File| {
                    file.set_len(0)?;
                    write!(file, "{}", std::process::id())?;
                    file.flush()
                };
                write(&mut file).map_err(failed("write", path))?;
                return Ok(Locked::Mine(Self { _file: file, path: path.to_owned() }));
            }
        }
    }

    /// Who holds it now, without taking it or making any file.
    pub(crate) fn holder(path: &Path) -> Option<u32> {
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(pid_in(&mut file)),
            _ => None,
        }
    }
}

impl Drop for SupervisorLock {
    fn drop(&mut self) {
        // Removed while still held, so that nobody locks a file that is about to go.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_still_there(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn pid_in(file: &mut File) -> u32 {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(16).read_to_string(&mut text));
    read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_others_learn_who_and_release_removes_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/supervisor.lock");
        assert_eq!(SupervisorLock::holder(&path), None);
        let Locked::Mine(lock) = SupervisorLock::try_take(&path).unwrap() else {
            panic!("nobody else holds it")
        };
        assert!(
            matches!(SupervisorLock::try_take(&path).unwrap(), Locked::By(pid) if pid == std::process::id())
        );
        assert_eq!(SupervisorLock::holder(&path), Some(std::process::id()));
        drop(lock);
        assert!(!path.exists());
        assert!(matches!(SupervisorLock::try_take(&path).unwrap(), Locked::Mine(_)));
    }
}
