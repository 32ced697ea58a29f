//! Log files of roles, limited in size: when a file is full it becomes `<file>.1`, in place of the one before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A full file and the one before it are kept: at most twice this much for each role.
const FILE_BYTES_MAX: u64 = 4 << 20;
const TAIL_BYTES_MAX: u64 = 4096;
const TAIL_LINES_MAX: usize = 12;

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct RotatingLog {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl RotatingLog {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, FILE_BYTES_MAX)
    }

    fn with_limit(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max })
    }

    pub(crate) fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if self.bytes > 0 && self.bytes.saturating_add(length) > self.bytes_max {
            fs::rename(&self.path, self.path.with_added_extension("1"))?;
            *self = Self::with_limit(&self.path, self.bytes_max)?;
        }
        self.file.write_all(chunk)?;
        self.bytes += length;
        Ok(())
    }
}

/// The last lines of a log, or nothing when there is none; what is said again and again is one line.
pub(crate) fn tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.dedup();
    lines.get(lines.len().saturating_sub(TAIL_LINES_MAX)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_never_grows_beyond_two_files_and_its_tail_is_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("role.log");
        let mut log = RotatingLog::with_limit(&path, 100).unwrap();
        for line in 0..50 {
            log.append(format!("line {line}\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["role.log", "role.log.1"]);
        assert!(fs::metadata(path.with_added_extension("1")).unwrap().len() <= 100);
        assert!(tail(&path).ends_with("line 49"));
        assert!(tail(&path).lines().count() <= TAIL_LINES_MAX);
        assert_eq!(tail(&directory.path().join("none")), "");
    }
}
