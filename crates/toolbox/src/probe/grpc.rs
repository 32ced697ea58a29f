//! The few bytes of gRPC and protobuf that a unary call with one string needs; both ends use them.

use bytes::{BufMut, Bytes, BytesMut};

/// The method that answers who it is: `message EchoRequest { string message = 1; }`, `message EchoReply { string json = 1; }`.
pub const ECHO_METHOD: &str = "/fairway.toolbox.v1.Echo/Unary";

/// Field 1, wire type 2 (length-delimited).
const FIELD_1_STRING: u8 = 0x0a;

/// The length-prefixed message of gRPC: not compressed, length, message.
pub fn encode_frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// The message of a frame; `None` when it is cut short or compressed.
pub fn decode_frame(frame: &[u8]) -> Option<Bytes> {
    let (head, rest) = frame.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (compressed == 0).then_some(())?;
    rest.get(..length).map(Bytes::copy_from_slice)
}

/// A protobuf message whose field 1 is this string.
pub fn encode_string(text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + 6);
    out.put_u8(FIELD_1_STRING);
    let mut length = text.len();
    while length >= 0x80 {
        out.put_u8(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    out.put_u8(u8::try_from(length).unwrap_or(0));
    out.put_slice(text.as_bytes());
    out.freeze()
}

/// Field 1 as a string; an empty message is the empty string (proto3 leaves out defaults). `None` when it is something else.
pub fn decode_string(message: &[u8]) -> Option<String> {
    let Some((&tag, mut rest)) = message.split_first() else { return Some(String::new()) };
    (tag == FIELD_1_STRING).then_some(())?;
    let mut length = 0usize;
    for shift in [0, 7, 14, 21] {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return String::from_utf8(rest.get(..length)?.to_vec()).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for text in ["", "a", &"x".repeat(127), &"x".repeat(128), &"ö".repeat(20_000)] {
            let frame = encode_frame(&encode_string(text));
            let message = decode_frame(&frame).unwrap();
            assert_eq!(decode_string(&message).as_deref(), Some(text));
        }
    }

    #[test]
    fn the_bytes_are_those_of_protobuf() {
        assert_eq!(encode_string("hi").as_ref(), b"\x0a\x02hi");
        assert_eq!(encode_frame(b"ab").as_ref(), b"\0\0\0\0\x02ab");
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        for bytes in [&b"\0\0\0\0"[..], b"\0\0\0\0\x05ab", b"\x01\0\0\0\0"] {
            assert_eq!(decode_frame(bytes), None);
        }
        for bytes in [&b"\x0a"[..], b"\x0a\x05ab", b"\x12\x01a", b"\x0a\xff\xff\xff\xff\xff", b"\x0a\x01\xff"]
        {
            assert_eq!(decode_string(bytes), None);
        }
        assert_eq!(decode_string(b"").as_deref(), Some(""));
    }
}
