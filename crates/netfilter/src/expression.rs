//! The kernel's register code: what a rule is made of on the wire. `Display` prints it as `nft --debug=netlink` does.

use std::fmt;

use crate::codec::Writer;
use crate::data::Data;
use crate::netlink;
use crate::object::{Family, Name, Verdict};
use crate::statement::Write;

/// One of the sixteen 32-bit registers. The verdict has a register of its own that no expression here can name by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u8);

impl Register {
    /// The number of registers.
    pub const COUNT: u8 = 16;

    /// The register `index` words behind the first; beyond the last it stays at the last, and the kernel refuses the rule for its length.
    pub const fn word(index: u8) -> Self {
        Self(if index < Self::COUNT { index } else { Self::COUNT - 1 })
    }

    /// `NFT_REG32_00` and up.
    const fn number(self) -> u32 {
        8 + self.0 as u32
    }
}

impl fmt::Display for Register {
    /// Every fourth one has a second name as the start of a 128-bit register, which `nft` prefers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reg {}", Bare(*self))
    }
}

/// The register's name without the word before it.
struct Bare(Register);

impl fmt::Display for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Register(index)) = self;
        write!(f, "{}", if index.is_multiple_of(4) { 1 + index / 4 } else { 8 + index })
    }
}

/// Where a payload load counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// The IP header.
    Network,
    /// The TCP, UDP or SCTP header.
    Transport,
}

/// What connection tracking knows of a packet. The original destination port is left out on purpose: nft 1.0.6 aborts when it lists a
/// concatenation with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    /// State bits of the packet.
    State,
    /// Status bits of the connection.
    Status,
}

impl CtKey {
    const fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Status => 2,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Status => "status",
        }
    }
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Bytes of the packet.
    Payload {
        /// Counted from here,
        base: PayloadBase,
        /// this many bytes in,
        offset: u32,
        /// this many bytes,
        len: u32,
        /// into this register.
        to: Register,
    },
    /// The transport protocol.
    MetaL4Protocol {
        /// Into this register.
        to: Register,
    },
    /// The packet's mark.
    MetaMark {
        /// Into this register.
        to: Register,
    },
    /// Sets the packet's mark.
    SetMetaMark {
        /// From this register.
        from: Register,
    },
    /// The packet's priority.
    MetaPriority {
        /// Into this register.
        to: Register,
    },
    /// Sets the packet's priority.
    SetMetaPriority {
        /// From this register.
        from: Register,
    },
    /// A fact of connection tracking.
    Ct {
        /// Which.
        key: CtKey,
        /// Into this register.
        to: Register,
    },
    /// The type of the destination address in the routing table.
    FibDestinationType {
        /// Into this register.
        to: Register,
    },
    /// The type of the source address in the routing table.
    FibSourceType {
        /// Into this register.
        to: Register,
    },
    /// A random number from `offset` on, below `offset + modulus`.
    NumgenRandom {
        /// How many numbers.
        modulus: u32,
        /// The first one.
        offset: u32,
        /// Into this register.
        to: Register,
    },
    /// `(register & mask) ^ xor`, in place.
    Bitwise {
        /// The register.
        register: Register,
        /// The mask; its length is that of the value.
        mask: Data,
        /// As long as the mask.
        xor: Data,
    },
    /// The rule ends unless the comparison holds.
    Cmp {
        /// The register.
        from: Register,
        /// Equal or not.
        equal: bool,
        /// With this.
        value: Data,
    },
    /// The rule ends unless the registers from `from` on are (or are not) in the set.
    Lookup {
        /// The key's first register.
        from: Register,
        /// The set.
        set: Name,
        /// Not in the set.
        inverted: bool,
    },
    /// As [`Expression::Lookup`]; loads the value.
    LookupData {
        /// The key's first register.
        from: Register,
        /// The map.
        map: Name,
        /// The value's first register.
        to: Register,
    },
    /// As [`Expression::Lookup`]; the value is the verdict.
    LookupVerdict {
        /// The key's first register.
        from: Register,
        /// The map.
        map: Name,
    },
    /// Writes an entry of a map.
    Dynset {
        /// What to do.
        write: Write,
        /// The key's first register.
        key: Register,
        /// The value's first register.
        data: Register,
        /// The map.
        map: Name,
    },
    /// A verdict.
    Immediate(Verdict),
    /// Destination NAT.
    DestinationNat {
        /// IPv4 or IPv6.
        family: Family,
        /// Where the address is.
        address: Register,
        /// Where the port is.
        port: Register,
    },
    /// Source NAT to an address of the outgoing interface, with a port that is drawn at random.
    Masquerade,
    /// A TCP RST.
    RejectTcpReset,
    /// ICMP or ICMPv6 port unreachable, by family.
    RejectPortUnreachable {
        /// IPv4 or IPv6.
        family: Family,
    },
    /// Packets and bytes that came by.
    Counter,
}

impl Expression {
    /// The name of the kernel's expression type.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::MetaL4Protocol { .. }
            | Self::MetaMark { .. }
            | Self::SetMetaMark { .. }
            | Self::MetaPriority { .. }
            | Self::SetMetaPriority { .. } => "meta",
            Self::Ct { .. } => "ct",
            Self::FibDestinationType { .. } | Self::FibSourceType { .. } => "fib",
            Self::NumgenRandom { .. } => "numgen",
            Self::Bitwise { .. } => "bitwise",
            Self::Cmp { .. } => "cmp",
            Self::Lookup { .. } | Self::LookupData { .. } | Self::LookupVerdict { .. } => "lookup",
            Self::Dynset { .. } => "dynset",
            Self::Immediate(_) => "immediate",
            Self::DestinationNat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::RejectTcpReset | Self::RejectPortUnreachable { .. } => "reject",
            Self::Counter => "counter",
        }
    }

    /// Appends the expression as an element of a rule's list.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.nested(netlink::list::ELEMENT, |element| {
            element.string(netlink::expression::NAME, self.name());
            element.nested(netlink::expression::DATA, |data| self.encode_data(data));
        });
    }

    fn encode_data(&self, data: &mut Writer) {
        const META_PRIORITY: u32 = 2;
        const META_MARK: u32 = 3;
        const META_L4_PROTOCOL: u32 = 16;
        const FIB_SOURCE: u32 = 1;
        const FIB_DESTINATION: u32 = 2;
        match self {
            Self::Payload { base, offset, len, to } => {
                data.u32(netlink::payload::DESTINATION, to.number());
                let base = match base {
                    PayloadBase::Network => 1,
                    PayloadBase::Transport => 2,
                };
                data.u32(netlink::payload::BASE, base);
                data.u32(netlink::payload::OFFSET, *offset);
                data.u32(netlink::payload::LEN, *len);
            }
            Self::MetaL4Protocol { to } => encode_meta(data, META_L4_PROTOCOL, *to),
            Self::MetaMark { to } => encode_meta(data, META_MARK, *to),
            Self::SetMetaMark { from } => encode_set_meta(data, META_MARK, *from),
            Self::MetaPriority { to } => encode_meta(data, META_PRIORITY, *to),
            Self::SetMetaPriority { from } => encode_set_meta(data, META_PRIORITY, *from),
            Self::Ct { key, to } => {
                data.u32(netlink::ct::DESTINATION, to.number());
                data.u32(netlink::ct::KEY, key.number());
            }
            Self::FibDestinationType { to } => encode_fib(data, *to, FIB_DESTINATION),
            Self::FibSourceType { to } => encode_fib(data, *to, FIB_SOURCE),
            Self::NumgenRandom { modulus, offset, to } => {
                data.u32(netlink::numgen::DESTINATION, to.number());
                data.u32(netlink::numgen::MODULUS, *modulus);
                data.u32(netlink::numgen::TYPE, 1);
                data.u32(netlink::numgen::OFFSET, *offset);
            }
            Self::Bitwise { register, mask, xor } => {
                let len = mask.as_bytes().len();
                data.u32(netlink::bitwise::SOURCE, register.number());
                data.u32(netlink::bitwise::DESTINATION, register.number());
                data.u32(netlink::bitwise::LEN, u32::try_from(len).unwrap_or(u32::MAX));
                encode_value(data, netlink::bitwise::MASK, mask.as_bytes());
                encode_value(data, netlink::bitwise::XOR, xor.as_bytes());
            }
            Self::Cmp { from, equal, value } => {
                data.u32(netlink::cmp::SOURCE, from.number());
                data.u32(netlink::cmp::OP, u32::from(!equal));
                encode_value(data, netlink::cmp::DATA, value.as_bytes());
            }
            Self::Lookup { .. } | Self::LookupData { .. } | Self::LookupVerdict { .. } => {
                self.encode_lookup(data)
            }
            Self::Dynset { write, key, data: value, map } => encode_dynset(data, *write, *key, *value, map),
            Self::Immediate(_)
            | Self::DestinationNat { .. }
            | Self::Masquerade
            | Self::RejectTcpReset
            | Self::RejectPortUnreachable { .. }
            | Self::Counter => self.encode_outcome(data),
        }
    }

    fn encode_lookup(&self, data: &mut Writer) {
        let (from, set) = match self {
            Self::Lookup { from, set, .. } => (from, set),
            Self::LookupData { from, map, .. } | Self::LookupVerdict { from, map } => (from, map),
            _ => return,
        };
        data.string(netlink::lookup::SET, set.as_str());
        data.u32(netlink::lookup::SOURCE, from.number());
        match self {
            Self::LookupData { to, .. } => data.u32(netlink::lookup::DESTINATION, to.number()),
            Self::LookupVerdict { .. } => data.u32(netlink::lookup::DESTINATION, VERDICT_REGISTER),
            Self::Lookup { inverted: true, .. } => data.u32(netlink::lookup::FLAGS, 1),
            _ => {}
        }
    }

    fn encode_outcome(&self, data: &mut Writer) {
        const RANGE_PROTO_RANDOM_FULLY: u32 = 0x10;
        match self {
            Self::Immediate(verdict) => {
                data.u32(netlink::immediate::DESTINATION, VERDICT_REGISTER);
                data.nested(netlink::immediate::DATA, |value| encode_verdict(value, verdict));
            }
            Self::DestinationNat { family, address, port } => {
                data.u32(netlink::nat::TYPE, 1);
                data.u32(netlink::nat::FAMILY, family.number().into());
                data.u32(netlink::nat::ADDRESS_MIN, address.number());
                data.u32(netlink::nat::PORT_MIN, port.number());
            }
            Self::Masquerade => data.u32(netlink::masquerade::FLAGS, RANGE_PROTO_RANDOM_FULLY),
            Self::RejectTcpReset => {
                data.u32(netlink::reject::TYPE, 1);
                data.u8(netlink::reject::CODE, 0);
            }
            Self::RejectPortUnreachable { family } => {
                let (kind, code) = match family {
                    Family::Ip => (0, 3),
                    Family::Ip6 => (0, 4),
                    // ICMPX: the kernel chooses by packet; 1 is its port unreachable.
                    Family::Inet => (2, 1),
                };
                data.u32(netlink::reject::TYPE, kind);
                data.u8(netlink::reject::CODE, code);
            }
            _ => {}
        }
    }
}

const VERDICT_REGISTER: u32 = 0;

fn encode_meta(data: &mut Writer, key: u32, to: Register) {
    data.u32(netlink::meta::DESTINATION, to.number());
    data.u32(netlink::meta::KEY, key);
}

fn encode_set_meta(data: &mut Writer, key: u32, from: Register) {
    data.u32(netlink::meta::KEY, key);
    data.u32(netlink::meta::SOURCE, from.number());
}

fn encode_dynset(data: &mut Writer, write: Write, key: Register, value: Register, map: &Name) {
    let operation = match write {
        Write::Add { .. } => 0,
        Write::Update { .. } => 1,
        Write::Delete => 2,
    };
    data.string(netlink::dynset::SET, map.as_str());
    data.u32(netlink::dynset::OPERATION, operation);
    data.u32(netlink::dynset::KEY, key.number());
    data.u32(netlink::dynset::DATA, value.number());
    if let Write::Add { timeout_s } | Write::Update { timeout_s } = write {
        data.bytes(netlink::dynset::TIMEOUT, &(u64::from(timeout_s) * 1000).to_be_bytes());
    }
}

fn encode_fib(data: &mut Writer, to: Register, flags: u32) {
    const RESULT_ADDRESS_TYPE: u32 = 3;
    data.u32(netlink::fib::DESTINATION, to.number());
    data.u32(netlink::fib::RESULT, RESULT_ADDRESS_TYPE);
    data.u32(netlink::fib::FLAGS, flags);
}

pub(crate) fn encode_value(writer: &mut Writer, kind: u16, bytes: &[u8]) {
    writer.nested(kind, |value| value.bytes(netlink::data::VALUE, bytes));
}

/// Appends the verdict attribute itself.
pub(crate) fn encode_verdict(writer: &mut Writer, verdict: &Verdict) {
    writer.nested(netlink::data::VERDICT, |attribute| {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        attribute.bytes(netlink::verdict::CODE, &i32::to_be_bytes(code));
        if let Some(chain) = chain {
            attribute.string(netlink::verdict::CHAIN, chain.as_str());
        }
    });
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload { base, offset, len, to } => {
                let base = match base {
                    PayloadBase::Network => "network",
                    PayloadBase::Transport => "transport",
                };
                write!(f, "[ payload load {len}b @ {base} header + {offset} => {to} ]")
            }
            Self::MetaL4Protocol { to } => write!(f, "[ meta load l4proto => {to} ]"),
            Self::MetaMark { to } => write!(f, "[ meta load mark => {to} ]"),
            Self::SetMetaMark { from } => write!(f, "[ meta set mark with {from} ]"),
            Self::MetaPriority { to } => write!(f, "[ meta load priority => {to} ]"),
            Self::SetMetaPriority { from } => write!(f, "[ meta set priority with {from} ]"),
            Self::Ct { key, to } => write!(f, "[ ct load {} => {to} ]", key.name()),
            Self::FibDestinationType { to } => write!(f, "[ fib daddr type => {to} ]"),
            Self::FibSourceType { to } => write!(f, "[ fib saddr type => {to} ]"),
            Self::NumgenRandom { modulus, offset: 0, to } => {
                write!(f, "[ numgen {to} = random mod {modulus} ]")
            }
            Self::NumgenRandom { modulus, offset, to } => {
                write!(f, "[ numgen {to} = random mod {modulus} offset {offset} ]")
            }
            Self::Bitwise { register, mask, xor } => {
                write!(f, "[ bitwise {register} = ( {register} & {} ) ^ {} ]", Words(mask), Words(xor))
            }
            Self::Cmp { from, equal, value } => {
                write!(f, "[ cmp {} {from} {} ]", if *equal { "eq" } else { "neq" }, Words(value))
            }
            Self::Lookup { from, set, inverted: false } => write!(f, "[ lookup {from} set {set} ]"),
            Self::Lookup { from, set, inverted: true } => write!(f, "[ lookup {from} set {set} 0x1 ]"),
            Self::LookupData { from, map, to } => write!(f, "[ lookup {from} set {map} d{to} ]"),
            Self::LookupVerdict { from, map } => write!(f, "[ lookup {from} set {map} dreg 0 ]"),
            Self::Dynset { write, key, data, map } => {
                let (operation, timeout_s) = match write {
                    Write::Add { timeout_s } => ("add", Some(timeout_s)),
                    Write::Update { timeout_s } => ("update", Some(timeout_s)),
                    Write::Delete => ("delete", None),
                };
                write!(f, "[ dynset {operation} reg_key {} set {map} sreg_data {}", Bare(*key), Bare(*data))?;
                timeout_s.map_or(Ok(()), |seconds| write!(f, " timeout {}ms", u64::from(*seconds) * 1000))?;
                f.write_str(" ]")
            }
            Self::Immediate(verdict) => match verdict {
                Verdict::Accept => f.write_str("[ immediate reg 0 accept ]"),
                Verdict::Drop => f.write_str("[ immediate reg 0 drop ]"),
                Verdict::Return => f.write_str("[ immediate reg 0 return ]"),
                Verdict::Jump(chain) => write!(f, "[ immediate reg 0 jump -> {chain} ]"),
                Verdict::Goto(chain) => write!(f, "[ immediate reg 0 goto -> {chain} ]"),
            },
            Self::DestinationNat { family, address, port } => {
                write!(f, "[ nat dnat {family} addr_min {address} proto_min {port} ]")
            }
            Self::Masquerade => f.write_str("[ masq flags 0x10 ]"),
            Self::RejectTcpReset => f.write_str("[ reject type 1 code 0 ]"),
            Self::RejectPortUnreachable { family: Family::Ip } => f.write_str("[ reject type 0 code 3 ]"),
            Self::RejectPortUnreachable { family: Family::Ip6 } => f.write_str("[ reject type 0 code 4 ]"),
            Self::RejectPortUnreachable { family: Family::Inet } => f.write_str("[ reject type 2 code 1 ]"),
            Self::Counter => f.write_str("[ counter pkts 0 bytes 0 ]"),
        }
    }
}

/// 32-bit words in host order, as `nft` prints values.
struct Words<'a>(&'a Data);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, chunk) in self.0.as_bytes().chunks(4).enumerate() {
            let mut word = [0; 4];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            write!(f, "{}0x{:08x}", if index == 0 { "" } else { " " }, u32::from_ne_bytes(word))?;
        }
        Ok(())
    }
}
