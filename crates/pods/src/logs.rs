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

use crate::init::log::rotated;

/// Bytes looked at in one step when a file is read from its end.
const BLOCK_BYTES: u64 = 64 << 10;
/// A followed file is looked at this often.
const FOLLOW_POLL: Duration = Duration::from_millis(50);
/// Bytes of one entry with its head.
const ENTRY_BYTES_MAX: usize = 32 << 10;

/// Which of a container's streams a reader wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogStream {
    #[default]
    All,
    Stdout,
    Stderr,
}

impl LogStream {
    fn has(self, tag: &str) -> bool {
        match self {
            Self::All => true,
            Self::Stdout => tag == "stdout",
            Self::Stderr => tag == "stderr",
        }
    }
}

/// What a reader wants (the parameters of `pods/log`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogQuery {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    pub stream: LogStream,
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
                "limitBytes" => query.limit_bytes = Some(number()?),
                "stream" => {
                    query.stream = match value.as_str() {
                        "" | "All" => LogStream::All,
                        "Stdout" => LogStream::Stdout,
                        "Stderr" => LogStream::Stderr,
                        _ => return Err(format!("{name}={value:?} is none of All, Stdout, Stderr")),
                    };
                }
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
    stream: &'a str,
    complete: bool,
    text: &'a [u8],
}

fn parse_entry(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
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
        let wanted = |entry: &Entry<'_>| self.query.stream.has(entry.stream);
        let Some(entry) = parse_entry(line).filter(wanted) else { return Vec::new() };
        let too_old = |since: &Timestamp| entry.time.parse::<Timestamp>().is_ok_and(|time| time < *since);
        if self.query.since.as_ref().is_some_and(too_old) {
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

/// Where the last `lines` entries of a file begin, and how many entries are missing to `lines` because the file is shorter.
fn tail_start(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let mut at = file.seek(SeekFrom::End(0))?;
    // The end of line of the last entry begins no entry.
    let mut wanted = lines;
    let mut first = true;
    while at > 0 {
        let from = at.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; usize::try_from(at - from).unwrap_or(0)];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            if *byte != b'\n' {
                continue;
            }
            if std::mem::take(&mut first) {
                continue;
            }
            wanted = wanted.saturating_sub(1);
            if wanted == 0 {
                return Ok((from + index as u64 + 1, 0));
            }
        }
        at = from;
    }
    // The first entry of the file has no end of line before it.
    Ok((0, wanted.saturating_sub(u64::from(!first))))
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

/// The files of a log with the place to begin, oldest first.
fn sources(path: &Path, query: &LogQuery) -> io::Result<Vec<(PathBuf, u64)>> {
    let older = rotated(path);
    let Some(lines) = query.tail_lines else { return Ok(vec![(older, 0), (path.to_owned(), 0)]) };
    if lines == 0 {
        return Ok(vec![(path.to_owned(), std::fs::metadata(path)?.len())]);
    }
    let (start, missing) = tail_start(&mut File::open(path)?, lines)?;
    let mut all = vec![(path.to_owned(), start)];
    if missing > 0
        && let Ok(mut file) = File::open(&older)
    {
        all.insert(0, (older, tail_start(&mut file, missing)?.0));
    }
    Ok(all)
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
    for (file, start) in files {
        let is_last = file == path;
        let opened = match File::open(&file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut reader = Reader::new(opened, start).await?;
        loop {
            // Asked before reading: what was written before the end is then surely read.
            let ended = *over.borrow();
            let text = reader.read(&mut renderer).await?;
            if !text.is_empty() {
                if out.send(text.into()).await.is_err() || renderer.left_bytes == 0 {
                    return Ok(());
                }
                continue;
            }
            if !is_last || !follow {
                break;
            }
            if reader.was_rotated(&path) {
                reader = Reader::new(File::open(&path)?, 0).await?;
                continue;
            }
            if ended {
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

    fn was_rotated(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| meta.ino() != self.inode)
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
        std::fs::write(rotated(&path), "2026-01-02T03:04:04.000000000Z stdout F zero\n").unwrap();
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
                given: LogQuery { tail_lines: Some(5), ..all.clone() },
                want: "zero\none\ntwo\nthree\n",
            },
            Case {
                name: "tail of the newer file",
                given: LogQuery { tail_lines: Some(4), ..all.clone() },
                want: "one\ntwo\nthree\n",
            },
            Case { name: "nothing", given: LogQuery { tail_lines: Some(0), ..all.clone() }, want: "" },
            Case {
                name: "since",
                given: LogQuery { since: time("2026-01-02T03:04:08Z"), ..all.clone() },
                want: "three\n",
            },
            Case {
                name: "one stream",
                given: LogQuery { stream: LogStream::Stderr, ..all.clone() },
                want: "two\n",
            },
            Case { name: "limit", given: LogQuery { limit_bytes: Some(7), ..all.clone() }, want: "zero\non" },
            Case {
                name: "timestamps",
                given: LogQuery { timestamps: true, tail_lines: Some(3), ..all.clone() },
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
        std::fs::rename(&path, rotated(&path)).unwrap();
        std::fs::write(&path, line("b")).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "b\n");
        end.send_replace(true);
        assert_eq!(receiver.recv().await, None);
        task.await.unwrap().unwrap();
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
