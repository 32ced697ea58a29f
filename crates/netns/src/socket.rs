//! One route-netlink socket: a request, then its answers up to the kernel's acknowledgement.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

/// The kernel fills at most 32 KiB per datagram of a dump.
const RECEIVE_BYTES: usize = 64 * 1024;
/// A dump that was overtaken by changes is taken again, this often at most.
const DUMP_ATTEMPTS_MAX: usize = 8;
const HEADER_BYTES: usize = 16;

/// A blocking socket. The kernel answers a request before `sendto` returns, so no read waits for anything but memory.
#[derive(Debug)]
pub(crate) struct RouteSocket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

/// What a received message means for the request under way.
enum Received {
    Item(Box<RouteNetlinkMessage>),
    Skipped,
    End,
}

impl RouteSocket {
    /// Opens it in the namespace of the calling thread, in which it stays.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; RECEIVE_BYTES].into_boxed_slice() })
    }

    /// Sends one request and returns what came before the acknowledgement. `flags` is added to REQUEST and ACK.
    pub(crate) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        Ok(self.receive()?.0)
    }

    /// Lists all objects of a kind, taken anew when a change came in between.
    pub(crate) fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if let (items, Complete(true)) = self.receive()? {
                return Ok(items);
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the kernel's list kept changing while it was read"))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        sendto(self.fd.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// All messages up to the end of the answer, and whether the list was consistent.
    fn receive(&mut self) -> io::Result<(Vec<RouteNetlinkMessage>, Complete)> {
        let mut items = Vec::new();
        let mut complete = Complete(true);
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let (message, next) = split(rest)?;
                rest = next;
                if message.sequence != self.sequence {
                    // The rest of an answer that was abandoned after an error.
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    complete = Complete(false);
                }
                match interpret(&message)? {
                    Received::Item(item) => items.push(*item),
                    Received::Skipped => {}
                    Received::End => return Ok((items, complete)),
                }
            }
        }
    }
}

/// Whether a list was read without a change in between.
struct Complete(bool);

/// One message, header decoded.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// Header and payload.
    bytes: &'a [u8],
}

/// The first message of a datagram and what follows it.
fn split(datagram: &[u8]) -> io::Result<(Message<'_>, &[u8])> {
    let parse = || {
        let length = usize::try_from(read_u32(datagram, 0)?).ok().filter(|&length| length >= HEADER_BYTES)?;
        let bytes = datagram.get(..length)?;
        let message = Message {
            kind: read_u16(bytes, 4)?,
            flags: read_u16(bytes, 6)?,
            sequence: read_u32(bytes, 8)?,
            bytes,
        };
        Some((message, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
    };
    parse().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message"))
}

fn interpret(message: &Message<'_>) -> io::Result<Received> {
    match message.kind {
        NLMSG_NOOP => Ok(Received::Skipped),
        // Both carry an errno, negated; 0 is the acknowledgement.
        NLMSG_ERROR | NLMSG_DONE => match read_u32(message.bytes, HEADER_BYTES).map_or(0, u32::cast_signed) {
            0 => Ok(Received::End),
            negated => Err(io::Error::from_raw_os_error(negated.wrapping_neg())),
        },
        _ => Ok(decode(message.bytes)),
    }
}

/// An object of a kind that the decoder does not know (a foreign link with new attributes) must not hide all others.
fn decode(message: &[u8]) -> Received {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map(NetlinkMessage::into_parts) {
        Ok((_, NetlinkPayload::InnerMessage(item))) => Received::Item(Box::new(item)),
        Ok(_) => Received::Skipped,
        Err(error) => {
            tracing::debug!(%error, "netlink object left out: it cannot be decoded");
            Received::Skipped
        }
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn datagrams_are_split_and_never_read_past_their_end() {
        let mut datagram = message(NLMSG_NOOP, &[1, 2, 3]);
        datagram.push(0);
        datagram.extend(message(NLMSG_DONE, &0u32.to_ne_bytes()));
        let (first, rest) = split(&datagram).unwrap();
        assert_eq!((first.kind, first.sequence, first.bytes.len()), (NLMSG_NOOP, 7, 19));
        let (second, rest) = split(rest).unwrap();
        assert_eq!((second.kind, rest.len()), (NLMSG_DONE, 0));
        for cut in 1..20 {
            assert!(split(&datagram[..cut]).is_err() || cut == 19, "cut at {cut}");
        }
        assert!(split(&[0; 16]).is_err(), "a length of 0 must not loop");
    }

    #[test]
    fn an_errno_becomes_an_error_and_zero_the_end() {
        let refused = message(NLMSG_ERROR, &(-libc::EEXIST).to_ne_bytes());
        let error = interpret(&split(&refused).unwrap().0).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let fine = message(NLMSG_ERROR, &0u32.to_ne_bytes());
        assert!(matches!(interpret(&split(&fine).unwrap().0), Ok(Received::End)));
    }
}
