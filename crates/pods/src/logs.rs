//! Reading the logs that PID 1 writes: entries, tails, and following.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{mpsc, watch};

use crate::init::log::{FILES_MAX, rotated};

/// Bytes looked at first when a file is read from its end; four times as many in every further step.
const BLOCK_BYTES: u64 = 64 << 10;
/// A followed file is looked at this often.
const FOLLOW_POLL: Duration = Duration::from_millis(50);
/// Bytes of one entry with its head.
const ENTRY_BYTES_MAX: usize = 32 << 10;

/// What a reader wants (the parameters of `pods/log`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogQuery {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// Only this one of the two; with a terminal there is only `stdout`.
    pub stream: Option<&'static str>,
}

impl LogQuery {
    /// From decoded query parameters; the error names the parameter.
    pub(crate) fn parse(parameters: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut query = Self::default();
        for (name, value) in parameters {
            let flag = || matches!(value.as_str(), "true" | "1");
            let number = || value.parse::<u64>().map_err(|_| format!("{name}={value:?} is no number"));
            match name.as_str() {
                "follow" => query.follow = flag(),
                "previous" => query.previous = flag(),
                "timestamps" => query.timestamps = flag(),
                "tailLines" => query.tail_lines = Some(number()?),
                "stream" => {
                    query.stream = match value.as_str() {
                        "" | "All" => None,
                        "Stdout" => Some("stdout"),
                        "Stderr" => Some("stderr"),
                        _ => return Err(format!("{name}={value:?} is none of All, Stdout, Stderr")),
                    };
                }
                "limitBytes" => query.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let secs = i64::try_from(number()?).unwrap_or(i64::MAX);
                    query.since =
                        Some(now.checked_sub(SignedDuration::from_secs(secs)).unwrap_or(Timestamp::MIN));
                }
                "sinceTime" => {
                    query.since =
                        Some(value.parse().map_err(|_| format!("{name}={value:?} is no RFC 3339 time"))?);
                }
                _ => {}
            }
        }
        Ok(query)
    }
}

/// One entry of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry<'a> {
    time: &'a str,
    stream: &'a [u8],
    complete: bool,
    text: &'a [u8],
}

fn parse_entry(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next()?;
    let complete = parts.next()? == b"F";
    Some(Entry { time, stream, complete, text: parts.next()? })
}

/// Turns entries into what the reader sees.
#[derive(Debug)]
struct Renderer {
    query: LogQuery,
    inside_line: bool,
    left_bytes: u64,
}

impl Renderer {
    fn new(query: LogQuery) -> Self {
        let left_bytes = query.limit_bytes.unwrap_or(u64::MAX);
        Self { query, inside_line: false, left_bytes }
    }

    /// The text of one entry (without its end of line in the file); empty when it is not wanted.
    fn render(&mut self, line: &[u8]) -> Vec<u8> {
        let Some(entry) = parse_entry(line) else { return Vec::new() };
        let too_old = |since: &Timestamp| entry.time.parse::<Timestamp>().is_ok_and(|time| time < *since);
        let other = self.query.stream.is_some_and(|stream| stream.as_bytes() != entry.stream);
        if other || self.query.since.as_ref().is_some_and(too_old) {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(entry.text.len() + 40);
        if self.query.timestamps && !self.inside_line {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if entry.complete {
            out.push(b'\n');
        }
        self.inside_line = !entry.complete;
        out.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        self.left_bytes -= out.len() as u64;
        out
    }
}

/// Where the last `lines` lines of a file begin, and how many are missing to `lines` because the file is shorter. A line that was written
/// in parts is one line.
fn tail_start(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let len = file.seek(SeekFrom::End(0))?;
    let mut window = BLOCK_BYTES;
    loop {
        let from = len.saturating_sub(window);
        file.seek(SeekFrom::Start(from))?;
        let mut block = Vec::new();
        file.take(len - from).read_to_end(&mut block)?;
        let begins = line_starts(&block, from == 0);
        let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
        if let Some(start) = begins.len().checked_sub(wanted).and_then(|index| begins.get(index)) {
            return Ok((from + *start as u64, 0));
        }
        if from == 0 {
            return Ok((0, lines.saturating_sub(begins.len() as u64)));
        }
        window = window.saturating_mul(4);
    }
}

/// Where lines begin in a piece of a log. `whole` says that the piece is the file's beginning; otherwise its first entry is cut, and nothing
/// is known of how the line of the second began.
fn line_starts(block: &[u8], whole: bool) -> Vec<usize> {
    let (mut starts, mut at, mut begins) = (Vec::new(), 0, whole);
    let mut entries = block.split_inclusive(|&byte| byte == b'\n');
    if !whole {
        at = entries.next().map_or(0, <[u8]>::len);
    }
    for entry in entries {
        if begins {
            starts.push(at);
        }
        at += entry.len();
        begins = parse_entry(entry).is_none_or(|entry| entry.complete);
    }
    starts
}

/// The text of the last lines of a log, at most so many bytes; empty when there is none.
pub(crate) fn last_lines(path: &Path, lines: usize, bytes_max: usize) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let (start, _) = tail_start(&mut file, lines as u64)?;
        file.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        file.take(4 << 20).read_to_end(&mut text)?;
        Ok(text)
    };
    let mut renderer = Renderer::new(LogQuery::default());
    let mut out: Vec<u8> = read()
        .unwrap_or_default()
        .split(|&byte| byte == b'\n')
        .flat_map(|line| renderer.render(line))
        .collect();
    out.split_off(out.len().saturating_sub(bytes_max))
}

/// The files of a log with the place to begin, oldest first. All are open before the first is read, so that a rotation meanwhile loses
/// nothing. The newest is there even when nothing of it is wanted.
fn sources(path: &Path, query: &LogQuery) -> io::Result<Vec<(File, u64)>> {
    let mut missing = query.tail_lines;
    let mut all = Vec::new();
    for age in 0..FILES_MAX {
        let mut file = match File::open(rotated(path, age)) {
            Err(error) if age > 0 && error.kind() == io::ErrorKind::NotFound => break,
            opened => opened?,
        };
        let start = match missing {
            None => 0,
            Some(0) if age > 0 => break,
            Some(0) => file.metadata()?.len(),
            Some(lines) => {
                let (start, left) = tail_start(&mut file, lines)?;
                missing = Some(left);
                start
            }
        };
        all.push((file, start));
    }
    all.reverse();
    Ok(all)
}

/// The file that was begun when the one with that inode was full; `None` while it is the newest.
fn successor(path: &Path, inode: u64) -> io::Result<Option<File>> {
    let mut newer = None;
    for age in 0..FILES_MAX {
        let file = match File::open(rotated(path, age)) {
            Err(error) if age > 0 && error.kind() == io::ErrorKind::NotFound => break,
            opened => opened?,
        };
        if file.metadata()?.ino() == inode {
            return Ok(newer);
        }
        newer = Some(file);
    }
    // So much was written meanwhile that the file is gone: the oldest that is left comes next.
    Ok(newer)
}

/// Reads a log into `out` until its end, or with `follow` until `over` says that no more will come. A reader that is gone ends it.
pub(crate) async fn stream(
    path: PathBuf,
    query: LogQuery,
    mut over: watch::Receiver<bool>,
    out: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let files = {
        let (path, query) = (path.clone(), query.clone());
        tokio::task::spawn_blocking(move || sources(&path, &query)).await.map_err(io::Error::other)??
    };
    let follow = query.follow;
    let mut renderer = Renderer::new(query);
    let mut files = std::collections::VecDeque::from(files);
    while let Some((file, start)) = files.pop_front() {
        let mut reader = Reader::new(file, start).await?;
        loop {
            // Asked before reading: what was written before the end is then surely read.
            let ended = *over.borrow();
            // Likewise: a file that has a successor is complete.
            let next = if files.is_empty() && follow { successor(&path, reader.inode)? } else { None };
            let text = reader.read(&mut renderer).await?;
            if !text.is_empty() {
                if out.send(text.into()).await.is_err() || renderer.left_bytes == 0 {
                    return Ok(());
                }
                continue;
            }
            if let Some(next) = next {
                files.push_back((next, 0));
                break;
            }
            if !files.is_empty() || !follow || ended {
                break;
            }
            tokio::select! {
                _ = over.changed() => {}
                () = tokio::time::sleep(FOLLOW_POLL) => {}
                () = out.closed() => return Ok(()),
            }
        }
    }
    Ok(())
}

struct Reader {
    file: BufReader<tokio::fs::File>,
    inode: u64,
    /// An entry whose end is not written yet.
    pending: Vec<u8>,
}

impl Reader {
    async fn new(mut file: File, start: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(start))?;
        let inode = file.metadata()?.ino();
        Ok(Self {
            file: BufReader::with_capacity(64 << 10, tokio::fs::File::from_std(file)),
            inode,
            pending: Vec::new(),
        })
    }

    /// The text of some whole entries; empty at the end.
    async fn read(&mut self, renderer: &mut Renderer) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() < ENTRY_BYTES_MAX {
            let read = self.file.read_until(b'\n', &mut self.pending).await?;
            match self.pending.split_last() {
                Some((b'\n', line)) => {
                    text.extend(renderer.render(line));
                    self.pending.clear();
                }
                _ if read == 0 => break,
                _ => {}
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-02T03:04:05.000000000Z stdout F one\n2026-01-02T03:04:06.000000000Z stderr P tw\n\
                       2026-01-02T03:04:07.000000000Z stderr F o\n2026-01-02T03:04:08.000000000Z stdout F three\n";

    async fn read(query: LogQuery) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        std::fs::write(rotated(&path, 1), "2026-01-02T03:04:04.000000000Z stdout F zero\n").unwrap();
        let (sender, mut receiver) = mpsc::channel(16);
        let (_keep, over) = watch::channel(true);
        stream(path, query, over, sender).await.unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn parts_of_a_log() {
        struct Case {
            name: &'static str,
            given: LogQuery,
            want: &'static str,
        }
        let time = |text: &str| Some(text.parse().unwrap());
        let all = LogQuery::default();
        let cases = [
            Case {
                name: "all of it, with the rotated file",
                given: all.clone(),
                want: "zero\none\ntwo\nthree\n",
            },
            Case { name: "tail", given: LogQuery { tail_lines: Some(1), ..all.clone() }, want: "three\n" },
            Case {
                name: "tail over both files",
                given: LogQuery { tail_lines: Some(4), ..all.clone() },
                want: "zero\none\ntwo\nthree\n",
            },
            Case {
                name: "tail of the newer file: a line in two parts is one",
                given: LogQuery { tail_lines: Some(2), ..all.clone() },
                want: "two\nthree\n",
            },
            Case {
                name: "one stream",
                given: LogQuery { stream: Some("stderr"), ..all.clone() },
                want: "two\n",
            },
            Case { name: "nothing", given: LogQuery { tail_lines: Some(0), ..all.clone() }, want: "" },
            Case {
                name: "since",
                given: LogQuery { since: time("2026-01-02T03:04:08Z"), ..all.clone() },
                want: "three\n",
            },
            Case { name: "limit", given: LogQuery { limit_bytes: Some(7), ..all.clone() }, want: "zero\non" },
            Case {
                name: "timestamps",
                given: LogQuery { timestamps: true, tail_lines: Some(2), ..all.clone() },
                want: "2026-01-02T03:04:06.000000000Z two\n2026-01-02T03:04:08.000000000Z three\n",
            },
        ];
        for case in cases {
            assert_eq!(read(case.given).await, case.want, "{}", case.name);
        }
    }

    #[tokio::test]
    async fn following_sees_new_lines_rotation_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-02T03:04:05.000000000Z stdout F {text}\n");
        std::fs::write(&path, line("a")).unwrap();
        let (sender, mut receiver) = mpsc::channel(16);
        let (end, over) = watch::channel(false);
        let task = tokio::spawn(stream(
            path.clone(),
            LogQuery { follow: true, ..LogQuery::default() },
            over,
            sender,
        ));
        assert_eq!(receiver.recv().await.unwrap(), "a\n");
        // Twice between two looks.
        std::fs::rename(&path, rotated(&path, 2)).unwrap();
        std::fs::write(rotated(&path, 1), line("b")).unwrap();
        std::fs::write(&path, line("c")).unwrap();
        let mut text = receiver.recv().await.unwrap().to_vec();
        while text != b"b\nc\n" {
            text.extend_from_slice(&receiver.recv().await.expect("more of it"));
        }
        end.send_replace(true);
        assert_eq!(receiver.recv().await, None);
        task.await.unwrap().unwrap();
    }

    #[test]
    fn the_tail_of_a_long_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line =
            |number: u32, tag: &str| format!("2026-01-02T03:04:05.000000000Z stdout {tag} line {number}\n");
        let text: String =
            (0..20_000).map(|number| line(number, if number % 3 == 0 { "P" } else { "F" })).collect();
        std::fs::write(&path, &text).unwrap();
        for lines in [1, 2, 700, 5000, 13_000] {
            let (start, missing) = tail_start(&mut File::open(&path).unwrap(), lines).unwrap();
            let rest = &text[usize::try_from(start).unwrap()..];
            assert_eq!((rest.matches(" F ").count() as u64, missing), (lines, 0));
            assert!(
                start == 0
                    || text[..usize::try_from(start).unwrap()].rsplit('\n').nth(1).unwrap().contains(" F ")
            );
        }
        assert_eq!(tail_start(&mut File::open(&path).unwrap(), 20_000).unwrap(), (0, 20_000 - 13_333));
    }

    #[test]
    fn queries() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let parse = |name: &str, value: &str| LogQuery::parse(&[(name.to_owned(), value.to_owned())], now);
        assert_eq!(parse("sinceSeconds", "5").unwrap().since, Some("2026-01-02T03:04:00Z".parse().unwrap()));
        assert!(parse("follow", "true").unwrap().follow);
        assert_eq!(parse("tailLines", "x").unwrap_err(), "tailLines=\"x\" is no number");
    }
}
