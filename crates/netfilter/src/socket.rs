//! The netlink socket: sends a batch, hears what became of it, and lists what is installed.
#![allow(
    unsafe_code,
    reason = "two netlink socket options that nix does not wrap; the unsafe is one setsockopt call"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};

use crate::codec::{Attributes, Header, Message, Messages, Writer, u32_ne};
use crate::error::Error;
use crate::netlink::{self, control, flag, message};
use crate::object::{Element, Name, TableId};
use crate::readback::{InstalledTable, decode_chain, decode_elements, decode_rule, decode_set};
use crate::transaction::Transaction;

/// Room for a batch: 100,000 endpoints are about 8 MB.
const SEND_BUFFER_LEN: usize = 64 << 20;
/// Room for the refusals of a batch.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
/// The kernel fills at most 32 KiB in one answer of a dump.
const RECEIVE_LEN: usize = 64 << 10;
/// A list that changed while it was read is read again this often.
const ATTEMPTS_MAX: u32 = 32;

/// A socket to the netfilter of the network namespace that the calling thread was in when it was opened.
#[derive(Debug)]
pub struct Socket {
    raw: Raw,
}

impl Socket {
    /// Opens it. Needs CAP_NET_ADMIN in the namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { raw: Raw::open(netlink::subsystem::NFTABLES)? })
    }

    /// Applies the transactions as one: all or nothing. Returns when packets see the result.
    pub fn commit(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        if transactions.iter().all(Transaction::is_empty) {
            return Ok(());
        }
        let batch = Transaction::encode(transactions);
        let last = batch.last_sequence();
        self.raw.send(&batch.bytes)?;
        let mut refusal = None;
        let mut acknowledged = false;
        // The kernel works a batch off within the send call: every answer is there already.
        while let Some(received) = self.raw.receive(MsgFlags::MSG_DONTWAIT)? {
            for answer in Messages::new(received) {
                match Answer::of(&answer?) {
                    Answer::Acknowledged { sequence } => acknowledged |= sequence == last,
                    Answer::Refused { sequence, errno, offset, reason } if refusal.is_none() => {
                        let object = Box::new(batch.refused(sequence, offset));
                        refusal = Some(Error::Refused {
                            object,
                            source: io::Error::from_raw_os_error(errno),
                            reason,
                        });
                    }
                    Answer::Refused { .. } | Answer::Done | Answer::Other => {}
                }
            }
        }
        match refusal {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(Error::Unacknowledged),
        }
    }

    /// A number that grows with every change to nftables in this namespace, whoever makes it: as long as it stays, nothing has to be read back.
    pub fn generation(&mut self) -> Result<u32, Error> {
        let mut found = None;
        self.raw.ask(
            0,
            message::GET_GENERATION,
            0,
            "the generation of nftables",
            |_| {},
            |attributes| {
                found = attributes.find(netlink::generation::ID).and_then(|id| id.u32());
            },
        )?;
        found.ok_or(Error::Malformed(crate::codec::Malformed { what: "generation" }))
    }

    /// The table with its chains, rules and sets, `None` when there is no such table.
    pub fn read_table(&mut self, table: &TableId) -> Result<Option<InstalledTable>, Error> {
        let named = |body: &mut Writer| body.string(netlink::table::NAME, table.name.as_str());
        match self.raw.ask(
            table.family.number(),
            message::GET_TABLE,
            0,
            &format!("table {table}"),
            named,
            |_| {},
        ) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        }
        let family = table.family.number();
        let ours = |found: &str| found == table.name.as_str();
        let in_table = |body: &mut Writer| body.string(netlink::rule::TABLE, table.name.as_str());
        let mut installed = InstalledTable::default();
        let chains = self.raw.list(
            family,
            message::GET_CHAIN,
            &format!("chains of {table}"),
            |_| {},
            |attributes| {
                decode_chain(attributes)
                    .filter(|(found, ..)| ours(found))
                    .map(|(_, name, chain)| (name, chain))
            },
        )?;
        installed.chains.extend(chains);
        let rules = self.raw.list(
            family,
            message::GET_RULE,
            &format!("rules of {table}"),
            in_table,
            |attributes| {
                decode_rule(attributes)
                    .filter(|(found, ..)| ours(found))
                    .map(|(_, chain, rule)| (chain, rule))
            },
        )?;
        for (chain, rule) in rules {
            installed.chains.entry(chain).or_default().rules.push(rule);
        }
        let sets =
            self.raw.list(family, message::GET_SET, &format!("sets of {table}"), in_table, |attributes| {
                decode_set(attributes).filter(|(found, ..)| ours(found)).map(|(_, name, set)| (name, set))
            })?;
        installed.sets.extend(sets);
        Ok(Some(installed))
    }

    /// The elements of a set or map, in the kernel's order.
    pub fn read_elements(&mut self, table: &TableId, set: &Name) -> Result<Vec<Element>, Error> {
        let of_set = |body: &mut Writer| {
            body.string(netlink::element_list::TABLE, table.name.as_str());
            body.string(netlink::element_list::SET, set.as_str());
        };
        let what = format!("elements of {table} {set}");
        let lists =
            self.raw.list(table.family.number(), message::GET_ELEMENT, &what, of_set, |attributes| {
                Some(decode_elements(attributes))
            })?;
        Ok(lists.into_iter().flatten().collect())
    }
}

/// What a message of the kernel says.
enum Answer {
    Acknowledged { sequence: u32 },
    Refused { sequence: u32, errno: i32, offset: Option<u32>, reason: String },
    Done,
    Other,
}

impl Answer {
    fn of(message: &Message<'_>) -> Self {
        match message.kind {
            control::DONE => Self::Done,
            control::ERROR => Self::of_error(message),
            _ => Self::Other,
        }
    }

    /// `struct nlmsgerr`: the negative errno, the header of the message that it is about (and all of it unless capped), attributes.
    fn of_error(message: &Message<'_>) -> Self {
        const ERROR_LEN: usize = 4 + 16;
        let errno = message.body.get(..4).and_then(u32_ne).unwrap_or(0).cast_signed();
        if errno == 0 {
            return Self::Acknowledged { sequence: message.sequence };
        }
        let quoted_len = if message.flags & flag::CAPPED != 0 {
            ERROR_LEN
        } else {
            let len = message.body.get(4..8).and_then(u32_ne).map_or(0, |len| len as usize);
            (4 + len).next_multiple_of(4)
        };
        let extended = match message.body.get(quoted_len..) {
            Some(rest) if message.flags & flag::EXTENDED != 0 => Attributes::new(rest),
            _ => Attributes::new(&[]),
        };
        let offset = extended.find(netlink::extended::OFFSET).and_then(|attribute| u32_ne(attribute.value));
        let reason = extended
            .find(netlink::extended::MESSAGE)
            .and_then(|attribute| attribute.string())
            .unwrap_or_default();
        Self::Refused { sequence: message.sequence, errno: -errno, offset, reason: reason.into() }
    }
}

/// The socket itself; conntrack speaks through it too.
#[derive(Debug)]
pub(crate) struct Raw {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
    subsystem: u16,
}

impl Raw {
    pub(crate) fn open(subsystem: u16) -> Result<Self, Error> {
        let failed = |step| move |errno: nix::Error| Error::Open { step, source: errno.into() };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(failed("socket"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed("bind"))?;
        setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER_LEN).map_err(failed("SO_SNDBUFFORCE"))?;
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER_LEN).map_err(failed("SO_RCVBUFFORCE"))?;
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            enable(&fd, option).map_err(|source| Error::Open { step: "NETLINK_EXT_ACK", source })?;
        }
        Ok(Self { fd, buffer: vec![0; RECEIVE_LEN], sequence: 0, subsystem })
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())
            .map(drop)
            .map_err(|errno| Error::Send { len: bytes.len(), source: errno.into() })
    }

    /// One datagram, `None` when there is none (only with `MSG_DONTWAIT`).
    fn receive(&mut self, flags: MsgFlags) -> Result<Option<&[u8]>, Error> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(len) => return Ok(Some(self.buffer.get(..len).unwrap_or_default())),
                Err(nix::Error::EAGAIN) => return Ok(None),
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(Error::Receive { source: errno.into() }),
            }
        }
    }

    /// Lists what `decode` makes of the kernel's objects; read again from the start when it changed meanwhile.
    pub(crate) fn list<T>(
        &mut self,
        family: u8,
        kind: u16,
        what: &str,
        body: impl Fn(&mut Writer),
        decode: impl Fn(&Attributes<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let mut found = Vec::new();
            if self.ask_once(family, kind, flag::DUMP, what, &body, |attributes| {
                found.extend(decode(&attributes))
            })? {
                return Ok(found);
            }
        }
        Err(Error::Interrupted { what: what.into(), attempts: ATTEMPTS_MAX })
    }

    /// One request and its answer or acknowledgement.
    pub(crate) fn ask(
        &mut self,
        family: u8,
        kind: u16,
        flags: u16,
        what: &str,
        body: impl Fn(&mut Writer),
        each: impl FnMut(Attributes<'_>),
    ) -> Result<(), Error> {
        self.ask_once(family, kind, flags | flag::ACK, what, body, each).map(drop)
    }

    /// False when the list changed while it was read.
    fn ask_once(
        &mut self,
        family: u8,
        kind: u16,
        flags: u16,
        what: &str,
        body: impl Fn(&mut Writer),
        mut each: impl FnMut(Attributes<'_>),
    ) -> Result<bool, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let asked = self.sequence;
        let header = Header {
            kind: self.subsystem << 8 | kind,
            flags: flag::REQUEST | flags,
            sequence: asked,
            family,
            resource: 0,
        };
        let mut writer = Writer::default();
        writer.message(header, &body);
        self.send(&writer.into_bytes())?;
        let mut whole = true;
        loop {
            let Some(received) = self.receive(MsgFlags::empty())? else { continue };
            for answer in Messages::new(received) {
                let answer = answer?;
                if answer.sequence != asked {
                    continue;
                }
                whole &= answer.flags & flag::DUMP_INTERRUPTED == 0;
                match Answer::of(&answer) {
                    Answer::Done | Answer::Acknowledged { .. } => return Ok(whole),
                    Answer::Refused { errno: libc::EINTR, .. } => return Ok(false),
                    Answer::Refused { errno, .. } => {
                        return Err(Error::List {
                            what: what.into(),
                            source: io::Error::from_raw_os_error(errno),
                        });
                    }
                    Answer::Other => each(answer.attributes()),
                }
            }
        }
    }
}

fn enable(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, `on` lives through the call, and the length is that of `on`.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
