//! One connection of a node agent: lines in, lines out, descriptors beside them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::unistd::Pid;

use super::launch::{receive, send_fd};
use crate::protocol::{LINE_BYTES_MAX, Message, Request};

/// Bytes waiting for a connection that does not read; it is closed then, and a node agent connects anew.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Descriptors waiting for their request.
const FDS_MAX: usize = 4;

/// A non-blocking connection.
pub(super) struct Connection {
    /// Descriptors that came and belong to the next request.
    pub fds: Vec<OwnedFd>,
    /// Whether changes are told here.
    pub subscribed: bool,
    /// The process that lives as long as this connection.
    pub exec: Option<Pid>,
    stream: UnixStream,
    input: Vec<u8>,
    requests: VecDeque<Result<Request, String>>,
    output: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (fds, input, output) = (Vec::new(), Vec::new(), Vec::new());
        Self { fds, subscribed: false, exec: None, stream, input, requests: VecDeque::new(), output }
    }

    /// Reads what is there; false when the other side is gone or breaks a limit.
    pub(super) fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        loop {
            match receive(self.stream.as_fd(), &mut chunk) {
                Ok((0, _)) => return false,
                Ok((read, fds)) => {
                    self.fds.extend(fds);
                    self.input.extend_from_slice(chunk.get(..read).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            if self.input.len() > LINE_BYTES_MAX || self.fds.len() > FDS_MAX {
                return false;
            }
        }
        while let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let request = serde_json::from_slice(&line).map_err(|error| format!("not a request: {error}"));
            self.requests.push_back(request);
        }
        true
    }

    /// The next whole request, or why it is none.
    pub(super) fn next_request(&mut self) -> Option<Result<Request, String>> {
        self.requests.pop_front()
    }

    /// Queues a message and sends what goes out at once.
    pub(super) fn send(&mut self, message: &Message) {
        self.queue(message);
        self.flush();
    }

    /// The same with a descriptor beside it; nothing must be queued before, which holds for a connection that asked once.
    pub(super) fn send_with(&mut self, message: &Message, fd: &OwnedFd) {
        self.queue(message);
        match send_fd(self.stream.as_fd(), &self.output, fd.as_fd()) {
            Ok(()) => self.output.clear(),
            Err(error) => tracing::warn!(%error, "a descriptor could not be handed over"),
        }
    }

    /// Writes what is queued; false when the other side is gone.
    pub(super) fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether the other side stopped reading.
    pub(super) fn is_stuck(&self) -> bool {
        self.output.len() > OUTPUT_BYTES_MAX
    }

    fn queue(&mut self, message: &Message) {
        match serde_json::to_vec(message) {
            Ok(line) => {
                self.output.extend(line);
                self.output.push(b'\n');
            }
            Err(error) => tracing::error!(%error, "a message could not be encoded"),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
