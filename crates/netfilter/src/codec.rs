//! Netlink messages and attributes as bytes: a [`Writer`] that nests, and readers that check every length.
//!
//! Layout (linux/netlink.h): a message is a 16-byte header and a body, an attribute a 4-byte header (length, type) and a value; both are padded to
//! four bytes. Headers are in host order; attribute values of netfilter are in network order unless a constant says otherwise.

use std::fmt;

/// Bytes of `struct nlmsghdr`.
pub const MESSAGE_HEADER_LEN: usize = 16;
/// Bytes of `struct nfgenmsg` that follow the header in every netfilter message.
pub const NETFILTER_HEADER_LEN: usize = 4;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// The longest attribute: its length field has 16 bits.
pub const ATTRIBUTE_LEN_MAX: usize = u16::MAX as usize;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// What a message starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Subsystem in the high byte, message in the low one; below 16 the netlink control messages.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Chosen by the sender; the kernel's answers repeat it.
    pub sequence: u32,
    /// `nfgen_family`: an address family or 0.
    pub family: u8,
    /// `res_id`: the subsystem in batch begin and end, else 0.
    pub resource: u16,
}

/// Appends messages to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// One message; `body` writes its attributes.
    pub fn message(&mut self, header: Header, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&header.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&header.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&header.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[header.family, 0]);
        self.bytes.extend_from_slice(&header.resource.to_be_bytes());
        body(self);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.patch(start, &len.to_ne_bytes());
    }

    /// Sets more flags of the message that begins at byte `start`.
    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        const FLAGS_AT: usize = 6;
        let old = self.bytes.get(start + FLAGS_AT..start + FLAGS_AT + 2).and_then(u16_ne).unwrap_or_default();
        self.patch(start + FLAGS_AT, &(old | flags).to_ne_bytes());
    }

    /// An attribute with these bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
    }

    /// A NUL-terminated string.
    pub fn string(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// One byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// 16 bits in network order.
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// 32 bits in network order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Attributes inside an attribute.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NESTED);
        body(self);
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// A length that does not fit is written as the maximum: the kernel then refuses the message, it never reads another one into it.
    fn close(&mut self, start: usize) {
        let len = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.patch(start, &len.to_ne_bytes());
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

/// Bytes from the kernel that are not netlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a netlink answer is malformed at {}", self.what)
    }
}

impl std::error::Error for Malformed {}

/// A received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Subsystem and message, or a control message.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The sequence number of the request that it answers.
    pub sequence: u32,
    /// Everything behind the 16-byte header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind the netfilter header.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.body.get(NETFILTER_HEADER_LEN..).unwrap_or_default() }
    }
}

/// The messages of a received buffer; stops behind the first malformed one, which it reports.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Messages in what one receive call delivered.
    pub fn new(received: &'a [u8]) -> Self {
        Self { rest: received }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = take_message(self.rest);
        match message {
            Some((message, rest)) => {
                self.rest = rest;
                Some(Ok(message))
            }
            None => {
                self.rest = &[];
                Some(Err(Malformed { what: "message header" }))
            }
        }
    }
}

fn take_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let len = u32_ne(bytes.get(0..4)?)? as usize;
    let message = Message {
        kind: u16_ne(bytes.get(4..6)?)?,
        flags: u16_ne(bytes.get(6..8)?)?,
        sequence: u32_ne(bytes.get(8..12)?)?,
        body: bytes.get(MESSAGE_HEADER_LEN..len)?,
    };
    Some((message, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number, without the nesting bits.
    pub kind: u16,
    /// Its bytes, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attributes inside.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes { rest: self.value }
    }

    /// 32 bits in network order.
    pub fn u32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    /// 16 bits in network order.
    pub fn u16(&self) -> Option<u16> {
        Some(u16::from_be_bytes(self.value.try_into().ok()?))
    }

    /// 64 bits in network order.
    pub fn u64(&self) -> Option<u64> {
        Some(u64::from_be_bytes(self.value.try_into().ok()?))
    }

    /// One byte.
    pub fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    /// A string, with or without its NUL.
    pub fn string(&self) -> Option<&'a str> {
        let end = self.value.iter().position(|&byte| byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(self.value.get(..end)?).ok()
    }
}

/// The attributes of a message or of a nested attribute; a malformed rest ends the list.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Attributes in these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of that number.
    pub fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        let mut all = *self;
        Iterator::find(&mut all, |attribute| attribute.kind == kind)
    }

    fn split(&self) -> Option<(Attribute<'a>, &'a [u8])> {
        let len = usize::from(u16_ne(self.rest.get(0..2)?)?);
        let kind = u16_ne(self.rest.get(2..4)?)? & TYPE_MASK;
        let value = self.rest.get(ATTRIBUTE_HEADER_LEN..len)?;
        Some((Attribute { kind, value }, self.rest.get(len.next_multiple_of(4)..).unwrap_or_default()))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (attribute, rest) = self.split()?;
        self.rest = rest;
        Some(attribute)
    }
}

fn u16_ne(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// Host-order 32 bits, as headers and error codes have them.
pub(crate) fn u32_ne(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u16) -> Header {
        Header { kind, flags: 5, sequence: 7, family: 2, resource: 10 }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut writer = Writer::default();
        writer.message(header(0xa00), |message| {
            message.string(1, "fairway");
            message.nested(2, |inner| inner.u32(3, 0x0102_0304));
            message.u8(4, 9);
        });
        writer.message(header(0xa01), |message| message.u16(1, 80));
        let bytes = writer.into_bytes();
        let messages: Vec<_> = Messages::new(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(
            messages.iter().map(|m| (m.kind, m.flags, m.sequence)).collect::<Vec<_>>(),
            [(0xa00, 5, 7), (0xa01, 5, 7)]
        );
        let first = messages[0].attributes();
        assert_eq!(first.find(1).and_then(|a| a.string()), Some("fairway"));
        assert_eq!(first.find(2).and_then(|a| a.nested().find(3)).and_then(|a| a.u32()), Some(0x0102_0304));
        assert_eq!(first.find(4).and_then(|a| a.u8()), Some(9));
        assert_eq!(messages[1].attributes().find(1).and_then(|a| a.u16()), Some(80));
    }

    #[test]
    fn every_cut_and_every_wrong_length_is_an_error_or_an_end_never_a_panic() {
        let mut writer = Writer::default();
        writer.message(header(1), |message| message.nested(1, |inner| inner.string(2, "abcdefg")));
        let bytes = writer.into_bytes();
        for cut in 1..bytes.len() {
            assert!(Messages::new(&bytes[..cut]).next().unwrap().is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut broken = bytes.clone();
                broken[at] = value;
                for message in Messages::new(&broken).flatten() {
                    for attribute in message.attributes() {
                        attribute.nested().for_each(|inner| assert!(inner.value.len() < 64));
                    }
                }
            }
        }
    }
}
