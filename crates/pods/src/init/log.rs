//! Container output on disk: a line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, P for a part of a line that goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Bytes of one entry; a longer line is written in parts.
const ENTRY_BYTES_MAX: usize = 16 << 10;
/// Bytes of one file before it is renamed to `<name>.1`.
const FILE_BYTES_MAX: u64 = 10 << 20;
/// Files of one attempt: the newest, and older ones up to `<name>.4`.
pub(crate) const FILES_MAX: u32 = 5;

/// Where bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn tag(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts the bytes of one stream into entries.
#[derive(Debug)]
pub(super) struct Splitter {
    stream: Stream,
    /// A terminal's output is shown as it comes: a prompt has no end of line.
    eager: bool,
    pending: Vec<u8>,
}

impl Splitter {
    pub(super) fn new(stream: Stream, eager: bool) -> Self {
        Self { stream, eager, pending: Vec::new() }
    }

    /// Entries for these bytes, appended to `out`.
    pub(super) fn push(&mut self, bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, complete) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            self.pending.extend_from_slice(text);
            while self.pending.len() > ENTRY_BYTES_MAX {
                let rest = self.pending.split_off(ENTRY_BYTES_MAX);
                self.write_entry(now, false, out);
                self.pending = rest;
            }
            if complete {
                self.write_entry(now, true, out);
            }
        }
        if self.eager {
            self.finish(now, out);
        }
    }

    /// What is left without an end of line.
    pub(super) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.write_entry(now, false, out);
        }
    }

    fn write_entry(&mut self, now: Timestamp, complete: bool, out: &mut Vec<u8>) {
        let tag = if complete { "F" } else { "P" };
        out.extend_from_slice(format!("{now:.9} {} {tag} ", self.stream.tag()).as_bytes());
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

/// The file of one attempt.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    written_bytes: u64,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written_bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, written_bytes })
    }

    /// Appends whole entries.
    pub(super) fn append(&mut self, entries: &[u8]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let len = entries.len() as u64;
        if self.written_bytes > 0 && self.written_bytes + len > FILE_BYTES_MAX {
            for age in (0..FILES_MAX - 1).rev() {
                match std::fs::rename(rotated(&self.path, age), rotated(&self.path, age + 1)) {
                    Err(error) if age == 0 || error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            *self = Self::open(&self.path.clone())?;
        }
        self.file.write_all(entries)?;
        self.written_bytes += len;
        Ok(())
    }
}

/// The file that was full so many times ago; 0 is the one that is written.
pub(crate) fn rotated(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    PathBuf::from(name)
}

/// Removes the logs of attempts before the previous one: that is how far back anybody may ask. `path` is the file of `attempt`.
pub(super) fn forget_old(path: &Path, attempt: u32) {
    let Some(entries) = path.parent().and_then(|directory| std::fs::read_dir(directory).ok()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.split('.').next()?.parse::<u32>().ok());
        if number.is_some_and(|number| number.saturating_add(1) < attempt) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pushes: &[&str], eager: bool) -> String {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut splitter = Splitter::new(Stream::Stdout, eager);
        let mut out = Vec::new();
        for bytes in pushes {
            splitter.push(bytes.as_bytes(), now, &mut out);
        }
        splitter.finish(now, &mut out);
        String::from_utf8(out).unwrap().replace("2026-01-02T03:04:05.000000000Z stdout ", "")
    }

    #[test]
    fn lines_are_whole_whatever_the_reads_were() {
        struct Case {
            name: &'static str,
            given: &'static [&'static str],
            eager: bool,
            want: &'static str,
        }
        let cases = [
            Case { name: "one line", given: &["a\n"], eager: false, want: "F a\n" },
            Case { name: "a line in two reads", given: &["a", "b\n"], eager: false, want: "F ab\n" },
            Case { name: "two lines in a read", given: &["a\nb\n"], eager: false, want: "F a\nF b\n" },
            Case { name: "empty line", given: &["\n"], eager: false, want: "F \n" },
            Case { name: "no end of line at the end", given: &["a\nb"], eager: false, want: "F a\nP b\n" },
            Case { name: "a prompt on a terminal", given: &["$ ", "x\n"], eager: true, want: "P $ \nF x\n" },
        ];
        for case in cases {
            assert_eq!(entries(case.given, case.eager), case.want, "{}", case.name);
        }
    }

    #[test]
    fn a_long_line_is_written_in_parts() {
        let text = entries(&[&"x".repeat(ENTRY_BYTES_MAX + 1), "\n"], false);
        let parts: Vec<_> = text.lines().map(|line| (line.chars().next().unwrap(), line.len() - 2)).collect();
        assert_eq!(parts, [('P', ENTRY_BYTES_MAX), ('F', 1)]);
    }

    #[test]
    fn full_files_are_rotated_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/0.log");
        let mut log = LogFile::open(&path).unwrap();
        for number in b'a'..b'h' {
            let mut chunk = vec![b'x'; (FILE_BYTES_MAX - 1) as usize];
            chunk[0] = number;
            log.append(&chunk).unwrap();
        }
        log.append(b"next\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"next\n");
        let first = |age| std::fs::read(rotated(&path, age)).unwrap()[0];
        assert_eq!([1, 2, 3, 4].map(first), *b"gfed");
        assert!(!rotated(&path, 5).exists());
    }

    #[test]
    fn logs_of_this_and_the_previous_attempt_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.log", "2.log", "2.log.1", "3.log", "3.log.2", "4.log", "other"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        forget_old(&dir.path().join("4.log"), 4);
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["3.log", "3.log.2", "4.log", "other"]);
    }
}
