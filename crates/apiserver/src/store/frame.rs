//! Frames: the unit that is on disk as a whole or not at all. Both the write-ahead log and snapshot files are sequences of them.
//!
//! ```text
//! frame  = magic "\xFFFW1"  length u32  crc32c(payload) u32  payload       (all integers little-endian)
//! payload = time_ms u64  record*
//! record = tag u8 (1 put, 2 remove, 3 end)  revision u64  collection_len u32  key_len u32  value_len u32  collection key value
//! ```
//!
//! The magic starts with a byte that no text contains, so that a search for the next frame is not led astray by stored documents.

/// Start of every frame.
pub(super) const MAGIC: [u8; 4] = [0xFF, b'F', b'W', b'1'];
const HEADER_LEN: usize = 12;
/// Where the time of a frame ends.
pub(super) const TIME_END: usize = HEADER_LEN + 8;
/// A payload longer than this is damage, not data.
const PAYLOAD_LEN_MAX: usize = 256 << 20;

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// The object is there with this value.
    Put,
    /// The object is gone.
    Remove,
    /// A snapshot is complete; `revision` is the store's.
    End,
}

/// One record, borrowed from its payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) tag: Tag,
    pub(super) revision: u64,
    pub(super) collection: &'a str,
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the frame is cut short")]
    Short,
    #[error("no frame starts here")]
    Magic,
    #[error("the frame claims an impossible length")]
    Length,
    #[error("the checksum does not match")]
    Checksum,
    #[error("a record in the frame is malformed")]
    Record,
}

/// Builds one frame at the end of a buffer.
#[derive(Debug)]
pub(super) struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    pub(super) fn new(time_ms: u64) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes.extend_from_slice(&time_ms.to_le_bytes());
        Self { bytes }
    }

    /// Appends a record. Parts of 4 GiB do not occur: request bodies end at 3 MiB.
    pub(super) fn push(&mut self, record: &Record<'_>) {
        let tag = match record.tag {
            Tag::Put => 1,
            Tag::Remove => 2,
            Tag::End => 3,
        };
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&record.revision.to_le_bytes());
        for part in [record.collection.as_bytes(), record.key.as_bytes(), record.value] {
            self.bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.bytes.extend_from_slice(record.collection.as_bytes());
        self.bytes.extend_from_slice(record.key.as_bytes());
        self.bytes.extend_from_slice(record.value);
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished frame.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let (header, payload) = self.bytes.split_at_mut(HEADER_LEN);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let checksum = crc32c::crc32c(payload);
        for (to, from) in
            header.iter_mut().zip(MAGIC.into_iter().chain(length.to_le_bytes()).chain(checksum.to_le_bytes()))
        {
            *to = from;
        }
        self.bytes
    }
}

/// A frame read back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) time_ms: u64,
    pub(super) records: Vec<Record<'a>>,
    /// Bytes of the whole frame.
    pub(super) len: usize,
}

/// The time in the head of a frame, unchecked.
pub(super) fn time_ms(head: &[u8; TIME_END]) -> u64 {
    let mut time = [0; 8];
    time.iter_mut().zip(head.iter().skip(HEADER_LEN)).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(time)
}

/// Reads the frame at the start of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let mut reader = Reader(bytes);
    if reader.take(4)? != MAGIC {
        return Err(FrameError::Magic);
    }
    let length = reader.u32()? as usize;
    let checksum = reader.u32()?;
    if length > PAYLOAD_LEN_MAX {
        return Err(FrameError::Length);
    }
    let payload = reader.take(length)?;
    if crc32c::crc32c(payload) != checksum {
        return Err(FrameError::Checksum);
    }
    let malformed = |_| FrameError::Record;
    let mut reader = Reader(payload);
    let time_ms = reader.u64().map_err(malformed)?;
    let mut records = Vec::new();
    while !reader.0.is_empty() {
        records.push(reader.record().map_err(malformed)?);
    }
    Ok(Frame { time_ms, records, len: HEADER_LEN + length })
}

/// True if a whole frame begins anywhere in `bytes`.
pub(super) fn any_within(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.windows(MAGIC.len()).position(|window| window == MAGIC) {
        let (_, from) = rest.split_at(at);
        if parse(from).is_ok() {
            return true;
        }
        rest = from.get(1..).unwrap_or_default();
    }
    false
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        self.take(N)?.try_into().map_err(|_| FrameError::Short)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self, count: usize) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.take(count)?).map_err(|_| FrameError::Record)
    }

    fn record(&mut self) -> Result<Record<'a>, FrameError> {
        let [tag] = self.array()?;
        let tag = match tag {
            1 => Tag::Put,
            2 => Tag::Remove,
            3 => Tag::End,
            _ => return Err(FrameError::Record),
        };
        let revision = self.u64()?;
        let collection_len = self.u32()?;
        let key_len = self.u32()?;
        let value_len = self.u32()?;
        Ok(Record {
            tag,
            revision,
            collection: self.text(collection_len as usize)?,
            key: self.text(key_len as usize)?,
            value: self.take(value_len as usize)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let mut builder = Builder::new(5);
        builder.push(&Record { tag: Tag::Put, revision: 1, collection: "pods", key: "a/b", value: b"{}" });
        builder.push(&Record { tag: Tag::Remove, revision: 2, collection: "pods", key: "a/b", value: b"" });
        builder.finish()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = frame();
        let frame = parse(&bytes).unwrap();
        assert_eq!((frame.time_ms, frame.len), (5, bytes.len()));
        assert_eq!(
            frame.records[0],
            Record { tag: Tag::Put, revision: 1, collection: "pods", key: "a/b", value: b"{}" }
        );
        assert_eq!(frame.records[1].tag, Tag::Remove);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let whole = frame();
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Err(FrameError::Short), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            assert!(parse(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_frame_after_damage_is_found() {
        let mut bytes = b"\xFFFW1 not a frame \xFFFW".to_vec();
        assert!(!any_within(&bytes));
        bytes.extend(frame());
        assert!(any_within(&bytes));
    }
}
