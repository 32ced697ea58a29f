//! The state of one connection: which streams there are, what has to be answered, how much room the client has.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{Broken, Decoder, Encoder, Frame, ResetReason, StreamId, go_away, ping, reset, window};

/// Streams of one connection at the same time.
pub const STREAMS_MAX: usize = 512;
/// Bytes that may be under way on a stream, and on all together, until room is made (clause 2.6.8).
pub const WINDOW_BYTES: u32 = 64 << 10;

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream began, and the reply to it is in the output.
    Opened {
        /// Its number.
        stream: StreamId,
        /// Names (lower case) and values.
        headers: Vec<(String, String)>,
    },
    /// Bytes of a stream. Tell [`Connection::consumed`] when they were used.
    Data {
        /// Which.
        stream: StreamId,
        /// What; not empty.
        bytes: Bytes,
    },
    /// The client sends no more on a stream.
    Ended {
        /// Which.
        stream: StreamId,
    },
    /// The client wants no more of a stream; it is forgotten.
    Reset {
        /// Which.
        stream: StreamId,
    },
    /// Room for more bytes to the client.
    Window {
        /// On which stream; 0 is all of them together.
        stream: StreamId,
        /// How many.
        bytes: u32,
    },
    /// How many bytes a stream may send to the client before the first [`Event::Window`] of it.
    InitialWindow {
        /// How many.
        bytes: u32,
    },
    /// The client is about to end the connection.
    GoAway,
}

/// A stream that the client opened.
#[derive(Debug, Default)]
struct Stream {
    /// The client sends no more.
    ended: bool,
    /// Bytes that were used since room was last made.
    consumed_bytes: u32,
}

/// One connection, the server's side: bytes in, events and bytes out.
#[derive(Debug, Default)]
pub struct Connection {
    decoder: Decoder,
    encoder: Encoder,
    streams: BTreeMap<StreamId, Stream>,
    newest: StreamId,
    consumed_bytes: u32,
    output: BytesMut,
    pending: Option<Event>,
}

impl Connection {
    /// More bytes from the client.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// The next thing that happened, if all its bytes are there. What has to be answered is in [`Connection::take_output`].
    pub fn next_event(&mut self) -> Result<Option<Event>, Broken> {
        if let Some(event) = self.pending.take() {
            return Ok(Some(event));
        }
        while let Some(frame) = self.decoder.next_frame()? {
            if let Some(event) = self.take(frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Event>, Broken> {
        Ok(match frame {
            Frame::Open { stream, headers, last } => self.open(stream, headers, last)?,
            Frame::Data { stream, bytes, last } => self.data(stream, bytes, last),
            Frame::Reset { stream } => self.streams.remove(&stream).map(|_| Event::Reset { stream }),
            Frame::Window { stream, bytes } => Some(Event::Window { stream, bytes }),
            Frame::InitialWindow { bytes } => Some(Event::InitialWindow { bytes }),
            Frame::Ping { id } => {
                self.output.extend_from_slice(&ping(id));
                None
            }
            Frame::GoAway => Some(Event::GoAway),
        })
    }

    fn open(
        &mut self,
        stream: StreamId,
        headers: Vec<(String, String)>,
        ended: bool,
    ) -> Result<Option<Event>, Broken> {
        if stream.is_multiple_of(2) || stream <= self.newest {
            return Err(Broken::Stream(stream));
        }
        self.newest = stream;
        if self.streams.len() >= STREAMS_MAX {
            self.output.extend_from_slice(&reset(stream, ResetReason::RefusedStream));
            return Ok(None);
        }
        self.streams.insert(stream, Stream { ended, consumed_bytes: 0 });
        let reply = self.encoder.reply(stream);
        self.output.extend_from_slice(&reply);
        self.pending = ended.then_some(Event::Ended { stream });
        Ok(Some(Event::Opened { stream, headers }))
    }

    fn data(&mut self, stream: StreamId, bytes: Bytes, last: bool) -> Option<Event> {
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.ended) else {
            self.output.extend_from_slice(&reset(stream, ResetReason::InvalidStream));
            return None;
        };
        state.ended = last;
        match (bytes.is_empty(), last) {
            (true, false) => None,
            (true, true) => Some(Event::Ended { stream }),
            (false, _) => {
                self.pending = last.then_some(Event::Ended { stream });
                Some(Event::Data { stream, bytes })
            }
        }
    }

    /// So many bytes of a stream were used: the client gets room for more in time.
    pub fn consumed(&mut self, stream: StreamId, bytes: u32) {
        let mut room = |stream, consumed: &mut u32| {
            *consumed = consumed.saturating_add(bytes);
            if *consumed >= WINDOW_BYTES / 2 {
                self.output.extend_from_slice(&window(stream, std::mem::take(consumed)));
            }
        };
        if let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.ended) {
            room(stream, &mut state.consumed_bytes);
        }
        room(0, &mut self.consumed_bytes);
    }

    /// Both sides are done with a stream.
    pub fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// The newest stream that the client opened.
    pub fn newest(&self) -> StreamId {
        self.newest
    }

    /// Says that no more streams are served.
    pub fn go_away(&mut self) {
        self.output.extend_from_slice(&go_away(self.newest));
    }

    /// Bytes for the client.
    pub fn take_output(&mut self) -> Bytes {
        self.output.split().freeze()
    }
}
