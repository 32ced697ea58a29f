//! SPDY/3.1 as far as Kubernetes needs it: frames in, frames out, nothing of sockets.
//!
//! kubectl forwards ports over it (tunnelled in WebSocket messages, or on the bare connection), and runs exec and attach over it when
//! WebSocket is not to be had. The client opens all streams; nobody uses priorities or pushed streams there, so frames of these are read
//! over. What we answer carries no headers worth compressing: an empty block is sent as a stored piece of the zlib stream.
//! <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>, clause 2.
//!
//! [`Decoder`] and [`Encoder`] are the frames, [`Connection`] is the state of one connection between them.

mod connection;
mod dictionary;

use bytes::{Buf, BufMut, Bytes, BytesMut};
pub use connection::{Connection, Event, STREAMS_MAX, WINDOW_BYTES};
use flate2::{Decompress, FlushDecompress, Status};

/// Bytes of one frame's payload. kubectl writes at most 32 KiB at once.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Bytes of one header block, decompressed.
const HEADERS_BYTES_MAX: usize = 16 << 10;
const HEAD_BYTES: usize = 8;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const WINDOW_UPDATE: u16 = 9;
const FLAG_FIN: u8 = 1;
/// The setting that says how many bytes a new stream may carry before the first WINDOW_UPDATE (clause 2.6.4).
const INITIAL_WINDOW_SIZE: u32 = 7;

/// Number of a stream: 31 bits, odd when the client opened it.
pub type StreamId = u32;

/// A frame from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins; with `last` the client sends nothing on it.
    Open {
        /// Its number.
        stream: StreamId,
        /// Names (lower case) and values.
        headers: Vec<(String, String)>,
        /// No data follows.
        last: bool,
    },
    /// Bytes of a stream; after `last` the client sends no more on it.
    Data {
        /// Which.
        stream: StreamId,
        /// What.
        bytes: Bytes,
        /// No data follows.
        last: bool,
    },
    /// The client is no longer interested in a stream.
    Reset {
        /// Which.
        stream: StreamId,
    },
    /// So many bytes more may be sent.
    Window {
        /// On which stream; 0 is all of them together.
        stream: StreamId,
        /// How many.
        bytes: u32,
    },
    /// How many bytes may be sent on a stream before the first [`Frame::Window`] of it.
    InitialWindow {
        /// How many.
        bytes: u32,
    },
    /// To be sent back as it is.
    Ping {
        /// A number of the client's.
        id: u32,
    },
    /// The client opens no more streams.
    GoAway,
}

/// The bytes are not SPDY/3.1, or more than a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Another version in a control frame.
    #[error("a control frame of SPDY version {0}, 3 is spoken here")]
    Version(u16),
    /// More bytes than are kept.
    #[error("a frame of {0} bytes, {PAYLOAD_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A control frame with less in it than its kind needs.
    #[error("a control frame is cut short")]
    Short,
    /// A stream number that the client may not take (clause 2.3.2): even, or not above the one before.
    #[error("stream {0} cannot begin: a client's streams are odd and each is above the one before")]
    Stream(StreamId),
    /// A header block that cannot be read.
    #[error(
        "a header block is not what its length and the dictionary say, or longer than {HEADERS_BYTES_MAX} bytes"
    )]
    Headers,
}

/// Frames from bytes as they come.
#[derive(Debug)]
pub struct Decoder {
    pending: BytesMut,
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { pending: BytesMut::new(), inflate: Decompress::new(true) }
    }
}

impl Decoder {
    /// More bytes from the client.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        loop {
            let Some((mut head, _)) = self.pending.split_at_checked(HEAD_BYTES) else { return Ok(None) };
            let (kind, flags_and_length) = (head.get_u32(), head.get_u32());
            let (flags, length) = ((flags_and_length >> 24) as u8, (flags_and_length & 0x00ff_ffff) as usize);
            if length > PAYLOAD_BYTES_MAX {
                return Err(Broken::TooLong(length));
            }
            if self.pending.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            self.pending.advance(HEAD_BYTES);
            let payload = self.pending.split_to(length).freeze();
            if kind & 0x8000_0000 == 0 {
                return Ok(Some(Frame::Data { stream: kind, bytes: payload, last: flags & FLAG_FIN != 0 }));
            }
            let (version, kind) = ((kind >> 16) as u16 & 0x7fff, kind as u16);
            if version != VERSION {
                return Err(Broken::Version(version));
            }
            if let Some(frame) = self.control(kind, flags, payload)? {
                return Ok(Some(frame));
            }
        }
    }

    /// A control frame; none for those that say nothing here.
    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Option<Frame>, Broken> {
        let number = |payload: &mut Bytes| payload.try_get_u32().map_err(|_| Broken::Short);
        let stream = |payload: &mut Bytes| number(payload).map(|number| number & 0x7fff_ffff);
        Ok(match kind {
            SYN_STREAM => {
                let stream = stream(&mut payload)?;
                // The associated stream, the priority and a slot.
                number(&mut payload)?;
                payload.try_get_u16().map_err(|_| Broken::Short)?;
                let headers = headers(&self.inflate(&payload)?)?;
                Some(Frame::Open { stream, headers, last: flags & FLAG_FIN != 0 })
            }
            WINDOW_UPDATE => {
                let stream = stream(&mut payload)?;
                Some(Frame::Window { stream, bytes: number(&mut payload)? & 0x7fff_ffff })
            }
            SETTINGS => initial_window(&mut payload)?.map(|bytes| Frame::InitialWindow { bytes }),
            RST_STREAM => Some(Frame::Reset { stream: stream(&mut payload)? }),
            PING => Some(Frame::Ping { id: number(&mut payload)? }),
            GOAWAY => Some(Frame::GoAway),
            _ => None,
        })
    }

    /// One header block. All of a connection are one zlib stream with a preset dictionary (clause 2.6.10.1), flushed after each.
    fn inflate(&mut self, mut compressed: &[u8]) -> Result<Bytes, Broken> {
        let mut plain = Vec::with_capacity(HEADERS_BYTES_MAX);
        while !compressed.is_empty() {
            let (before, length) = (self.inflate.total_in(), plain.len());
            let result = self.inflate.decompress_vec(compressed, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.inflate.total_in() - before).map_err(|_| Broken::Headers)?;
            compressed = compressed.get(taken..).ok_or(Broken::Headers)?;
            match result {
                Ok(Status::Ok) if taken > 0 || plain.len() > length => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary::bytes()).map_err(|_| Broken::Headers)?;
                }
                Ok(_) | Err(_) => return Err(Broken::Headers),
            }
        }
        Ok(plain.into())
    }
}

/// The one setting that matters here (clause 2.6.4).
fn initial_window(payload: &mut Bytes) -> Result<Option<u32>, Broken> {
    let mut number = || payload.try_get_u32().map_err(|_| Broken::Short);
    let mut window = None;
    for _ in 0..number()? {
        let (id, value) = (number()? & 0x00ff_ffff, number()?);
        if id == INITIAL_WINDOW_SIZE {
            window = Some(value & 0x7fff_ffff);
        }
    }
    Ok(window)
}

/// Names (lower case) and values of a header block.
fn headers(mut block: &[u8]) -> Result<Vec<(String, String)>, Broken> {
    let text = |block: &mut &[u8]| {
        let length = block.try_get_u32().map_err(|_| Broken::Headers)? as usize;
        let (text, rest) = block.split_at_checked(length).ok_or(Broken::Headers)?;
        *block = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    };
    let count = block.try_get_u32().map_err(|_| Broken::Headers)?;
    (0..count).map(|_| Ok((text(&mut block)?.to_ascii_lowercase(), text(&mut block)?))).collect()
}

/// What goes to the client.
#[derive(Debug, Default)]
pub struct Encoder {
    began: bool,
}

impl Encoder {
    /// The answer to [`Frame::Open`]: without headers.
    pub fn reply(&mut self, stream: StreamId) -> Bytes {
        // The head of the zlib stream comes once; then a stored piece (RFC 1951 clause 3.2.4) with a count of zero headers.
        let zlib_head: &[u8] = if self.began { &[] } else { &[0x78, 0x01] };
        self.began = true;
        let no_headers = [0x00, 4, 0, !4, !0, 0, 0, 0, 0];
        // An empty piece flushes: the reader of kubectl hands out nothing before it.
        let flush = [0x00, 0, 0, !0, !0];
        let mut payload = BytesMut::new();
        payload.put_u32(stream);
        payload.put_slice(zlib_head);
        payload.put_slice(&no_headers);
        payload.put_slice(&flush);
        control(SYN_REPLY, &payload)
    }
}

/// Bytes of a stream (at most 16 MiB at once); `last` when it gets no more.
pub fn data(stream: StreamId, bytes: &[u8], last: bool) -> Bytes {
    frame(stream, if last { FLAG_FIN } else { 0 }, bytes)
}

/// Why a stream is refused (clause 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// A frame for a stream that is not there.
    InvalidStream = 2,
    /// There are too many streams.
    RefusedStream = 3,
}

/// Ends a stream that is not served.
pub fn reset(stream: StreamId, reason: ResetReason) -> Bytes {
    let mut payload = BytesMut::with_capacity(8);
    payload.put_u32(stream);
    payload.put_u32(reason as u32);
    control(RST_STREAM, &payload)
}

/// Room for more bytes of a stream, or of all together (0).
pub fn window(stream: StreamId, bytes: u32) -> Bytes {
    let mut payload = BytesMut::with_capacity(8);
    payload.put_u32(stream);
    payload.put_u32(bytes);
    control(WINDOW_UPDATE, &payload)
}

/// The end of the connection; streams up to `newest` were served.
pub fn go_away(newest: StreamId) -> Bytes {
    let mut payload = BytesMut::with_capacity(8);
    payload.put_u32(newest);
    payload.put_u32(0);
    control(GOAWAY, &payload)
}

/// The answer to [`Frame::Ping`].
pub fn ping(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

fn control(kind: u16, payload: &[u8]) -> Bytes {
    frame(0x8000_0000 | u32::from(VERSION) << 16 | u32::from(kind), 0, payload)
}

fn frame(first: u32, flags: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    bytes.put_u32(first);
    bytes.put_u8(flags);
    bytes.put_uint(payload.len() as u64, 3);
    bytes.put_slice(payload);
    bytes.freeze()
}

#[cfg(test)]
mod tests;
