//! Statements of the `nft` language, and their lowering to register code.

use std::net::IpAddr;

use crate::data::{Data, Protocol};
use crate::expression::{CtKey, Expression, PayloadBase, Register};
use crate::object::{Family, Name, Verdict};

/// Something of a packet that can be compared or be part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `ip saddr`
    IpSource,
    /// `ip daddr`
    IpDestination,
    /// `ip6 saddr`
    Ip6Source,
    /// `ip6 daddr`
    Ip6Destination,
    /// `meta l4proto`
    L4Protocol,
    /// `th dport`. For a protocol without ports the bytes at that place; put [`Field::L4Protocol`] before it.
    DestinationPort,
    /// `meta priority`
    Priority,
    /// `numgen random mod N offset M`
    Random {
        /// How many numbers there are.
        modulus: u32,
        /// The first of them.
        offset: u32,
    },
}

impl Field {
    /// Registers that it fills.
    const fn words(self) -> u8 {
        match self {
            Self::Ip6Source | Self::Ip6Destination => 4,
            Self::IpSource
            | Self::IpDestination
            | Self::L4Protocol
            | Self::DestinationPort
            | Self::Priority
            | Self::Random { .. } => 1,
        }
    }

    fn load(self, to: Register) -> Expression {
        let network = |offset, len| Expression::Payload { base: PayloadBase::Network, offset, len, to };
        match self {
            Self::IpSource => network(12, 4),
            Self::IpDestination => network(16, 4),
            Self::Ip6Source => network(8, 16),
            Self::Ip6Destination => network(24, 16),
            Self::L4Protocol => Expression::MetaL4Protocol { to },
            Self::DestinationPort => {
                Expression::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to }
            }
            Self::Priority => Expression::MetaPriority { to },
            Self::Random { modulus, offset } => Expression::NumgenRandom { modulus, offset, to },
        }
    }
}

/// Whether a match asks for membership or its opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Is, or is in.
    Is,
    /// Is not, or is not in.
    IsNot,
}

/// What a packet does to a [`crate::SetKind::Dynamic`] map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// `add`: a new entry; one that is there already stays as it is. The rule ends if the map is full.
    Add {
        /// How long it stays, 1 and up.
        timeout_s: u32,
    },
    /// `update`: as `Add`, but the time of an entry that is there begins anew. Its value stays.
    Update {
        /// How long it stays, 1 and up.
        timeout_s: u32,
    },
    /// `delete`: the entry, if there is one.
    Delete,
}

/// A part of a rule. Matches come first; the rule ends at the first that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `meta l4proto tcp`
    Protocol(Protocol),
    /// `ip daddr != 127.0.0.0/8`: the field is (not) in the range of addresses that share `prefix_len` bits with `address`.
    Prefix {
        /// An address field of the same family.
        field: Field,
        /// In or out.
        relation: Relation,
        /// Any address of the range.
        address: IpAddr,
        /// Bits that count.
        prefix_len: u8,
    },
    /// `fib daddr type local`: the destination is an address of this host.
    DestinationIsLocal,
    /// `fib saddr type local`
    SourceIsLocal,
    /// `ct status dnat`: the destination of this connection was rewritten.
    DestinationWasRewritten,
    /// `ct state new`
    StateIsNew,
    /// `ct state invalid`
    StateIsInvalid,
    /// `meta mark & bit != 0`
    MarkHas {
        /// One bit.
        bit: u32,
    },
    /// `meta mark set meta mark | bit`
    SetMark {
        /// One bit.
        bit: u32,
    },
    /// `meta mark set meta mark & ~bit`
    ClearMark {
        /// One bit.
        bit: u32,
    },
    /// `ip daddr . meta l4proto @set`
    InSet {
        /// The key.
        fields: Vec<Field>,
        /// In or out.
        relation: Relation,
        /// The set.
        set: Name,
    },
    /// `ip daddr . meta l4proto vmap @verdicts`. The key cannot be the value of another map: nft 1.0.6 aborts when it lists such a rule.
    Dispatch {
        /// The key.
        fields: Vec<Field>,
        /// From key to verdict.
        verdicts: Name,
    },
    /// `dnat ip to ip daddr . … map @map`: address and port come from the map.
    DestinationNatFrom {
        /// `ip` or `ip6`.
        family: Family,
        /// The key.
        fields: Vec<Field>,
        /// From key to address and port.
        map: Name,
    },
    /// `meta priority set ip daddr . … map @map`: the rule ends when the key is not in the map. Priorities (`skb->priority`) serve as a variable
    /// that later statements read with [`Field::Priority`]: unlike the mark they take no part in routing, and forwarding sets them anew.
    SetPriorityFrom {
        /// The key.
        fields: Vec<Field>,
        /// From key to priority.
        map: Name,
    },
    /// `update @map { ip daddr . … timeout 10s : meta priority }`
    WritePriority {
        /// What to do.
        write: Write,
        /// The key.
        fields: Vec<Field>,
        /// From key to priority.
        map: Name,
    },
    /// `masquerade fully-random`
    Masquerade,
    /// `reject with tcp reset`
    RejectTcpReset,
    /// `reject`: ICMP port unreachable
    RejectPortUnreachable(Family),
    /// `counter`
    Counter,
    /// A verdict.
    Verdict(Verdict),
}

const FIRST: Register = Register::word(0);
/// `RTN_LOCAL`
const ROUTE_LOCAL: u32 = 2;
/// `IPS_DST_NAT`
const STATUS_DESTINATION_NAT: u32 = 0x20;
/// `NF_CT_STATE_INVALID_BIT`
const STATE_INVALID: u32 = 1;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`
const STATE_NEW: u32 = 8;

impl Statement {
    /// The register code of a whole rule.
    pub fn lower(statements: &[Self]) -> Vec<Expression> {
        let mut code = Vec::with_capacity(statements.len() * 4);
        statements.iter().for_each(|statement| statement.lower_into(&mut code));
        code
    }

    fn lower_into(&self, code: &mut Vec<Expression>) {
        match self {
            Self::Protocol(protocol) => {
                code.push(Field::L4Protocol.load(FIRST));
                code.push(equals(Data::raw(&[protocol.number()])));
            }
            Self::Prefix { field, relation, address, prefix_len } => {
                lower_prefix(code, *field, *relation, *address, *prefix_len)
            }
            Self::DestinationIsLocal => {
                code.push(Expression::FibDestinationType { to: FIRST });
                code.push(equals(Data::new().word(ROUTE_LOCAL)));
            }
            Self::SourceIsLocal => {
                code.push(Expression::FibSourceType { to: FIRST });
                code.push(equals(Data::new().word(ROUTE_LOCAL)));
            }
            Self::DestinationWasRewritten => has_bit(code, ct(CtKey::Status), STATUS_DESTINATION_NAT),
            Self::StateIsNew => has_bit(code, ct(CtKey::State), STATE_NEW),
            Self::StateIsInvalid => has_bit(code, ct(CtKey::State), STATE_INVALID),
            Self::MarkHas { bit } => has_bit(code, Expression::MetaMark { to: FIRST }, *bit),
            Self::SetMark { bit } => change_mark(code, !bit, *bit),
            Self::ClearMark { bit } => change_mark(code, !bit, 0),
            Self::InSet { fields, relation, set } => {
                load(code, fields);
                code.push(Expression::Lookup {
                    from: FIRST,
                    set: set.clone(),
                    inverted: *relation == Relation::IsNot,
                });
            }
            Self::Dispatch { fields, verdicts } => {
                load(code, fields);
                code.push(Expression::LookupVerdict { from: FIRST, map: verdicts.clone() });
            }
            Self::DestinationNatFrom { family, fields, map } => {
                load(code, fields);
                code.push(Expression::LookupData { from: FIRST, map: map.clone(), to: FIRST });
                let port = Register::word(if *family == Family::Ip6 { 4 } else { 1 });
                code.push(Expression::DestinationNat { family: *family, address: FIRST, port });
            }
            Self::SetPriorityFrom { fields, map } => {
                load(code, fields);
                code.push(Expression::LookupData { from: FIRST, map: map.clone(), to: FIRST });
                code.push(Expression::SetMetaPriority { from: FIRST });
            }
            Self::WritePriority { write, fields, map } => {
                let data = Register::word(load(code, fields));
                // The kernel wants the value also to delete.
                code.push(Field::Priority.load(data));
                code.push(Expression::Dynset { write: *write, key: FIRST, data, map: map.clone() });
            }
            Self::Masquerade => code.push(Expression::Masquerade),
            Self::RejectTcpReset => code.push(Expression::RejectTcpReset),
            Self::RejectPortUnreachable(family) => {
                code.push(Expression::RejectPortUnreachable { family: *family })
            }
            Self::Counter => code.push(Expression::Counter),
            Self::Verdict(verdict) => code.push(Expression::Immediate(verdict.clone())),
        }
    }
}

fn equals(value: Data) -> Expression {
    Expression::Cmp { from: FIRST, equal: true, value }
}

/// Returns the index of the first register behind the fields.
fn load(code: &mut Vec<Expression>, fields: &[Field]) -> u8 {
    let mut next = 0;
    for field in fields {
        code.push(field.load(Register::word(next)));
        next += field.words();
    }
    next
}

const fn ct(key: CtKey) -> Expression {
    Expression::Ct { key, to: FIRST }
}

fn has_bit(code: &mut Vec<Expression>, load: Expression, bit: u32) {
    code.push(load);
    code.push(Expression::Bitwise { register: FIRST, mask: Data::new().word(bit), xor: Data::new().word(0) });
    code.push(Expression::Cmp { from: FIRST, equal: false, value: Data::new().word(0) });
}

fn change_mark(code: &mut Vec<Expression>, mask: u32, xor: u32) {
    code.push(Expression::MetaMark { to: FIRST });
    code.push(Expression::Bitwise {
        register: FIRST,
        mask: Data::new().word(mask),
        xor: Data::new().word(xor),
    });
    code.push(Expression::SetMetaMark { from: FIRST });
}

fn lower_prefix(
    code: &mut Vec<Expression>,
    field: Field,
    relation: Relation,
    address: IpAddr,
    prefix_len: u8,
) {
    let equal = relation == Relation::Is;
    code.push(field.load(FIRST));
    let (mask, network): (IpAddr, IpAddr) = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix_len.into())).unwrap_or(0);
            (IpAddr::V4(mask.into()), IpAddr::V4((u32::from(v4) & mask).into()))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix_len.into())).unwrap_or(0);
            (IpAddr::V6(mask.into()), IpAddr::V6((u128::from(v6) & mask).into()))
        }
    };
    let zero = Data::raw(&vec![0; Data::new().address(mask).as_bytes().len()]);
    code.push(Expression::Bitwise { register: FIRST, mask: Data::new().address(mask), xor: zero });
    code.push(Expression::Cmp { from: FIRST, equal, value: Data::new().address(network) });
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        name: &'static str,
        given: Vec<Statement>,
        want: &'static [&'static str],
    }

    /// `want` is what `nft --debug=netlink` prints for the statement.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn statements_lower_to_the_code_that_nft_writes() {
        let name = |text| Name::parse(text).unwrap();
        let key = vec![Field::IpDestination, Field::L4Protocol, Field::DestinationPort];
        let cases = [
            Case {
                name: "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @endpoints",
                given: vec![Statement::DestinationNatFrom {
                    family: Family::Ip,
                    fields: [key.clone(), vec![Field::Random { modulus: 3, offset: 0 }]].concat(),
                    map: name("endpoints"),
                }],
                want: &[
                    "[ payload load 4b @ network header + 16 => reg 1 ]",
                    "[ meta load l4proto => reg 9 ]",
                    "[ payload load 2b @ transport header + 2 => reg 10 ]",
                    "[ numgen reg 11 = random mod 3 ]",
                    "[ lookup reg 1 set endpoints dreg 1 ]",
                    "[ nat dnat ip addr_min reg 1 proto_min reg 9 ]",
                ],
            },
            Case {
                name: "meta l4proto . th dport @no drop",
                given: vec![
                    Statement::InSet { fields: key[1..].to_vec(), relation: Relation::Is, set: name("no") },
                    Statement::Verdict(Verdict::Drop),
                ],
                want: &[
                    "[ meta load l4proto => reg 1 ]",
                    "[ payload load 2b @ transport header + 2 => reg 9 ]",
                    "[ lookup reg 1 set no ]",
                    "[ immediate reg 0 drop ]",
                ],
            },
            Case {
                name: "ip daddr != 127.0.0.0/8 fib daddr type local",
                given: vec![
                    Statement::Prefix {
                        field: Field::IpDestination,
                        relation: Relation::IsNot,
                        address: [127, 0, 0, 1].into(),
                        prefix_len: 8,
                    },
                    Statement::DestinationIsLocal,
                ],
                // nft loads one byte instead of masking four; both are listed as 127.0.0.0/8.
                want: &[
                    "[ payload load 4b @ network header + 16 => reg 1 ]",
                    "[ bitwise reg 1 = ( reg 1 & 0x000000ff ) ^ 0x00000000 ]",
                    "[ cmp neq reg 1 0x0000007f ]",
                    "[ fib daddr type => reg 1 ]",
                    "[ cmp eq reg 1 0x00000002 ]",
                ],
            },
            Case {
                name: "ct status dnat ip saddr != @ranges masquerade fully-random",
                given: vec![
                    Statement::DestinationWasRewritten,
                    Statement::InSet {
                        fields: vec![Field::IpSource],
                        relation: Relation::IsNot,
                        set: name("ranges"),
                    },
                    Statement::Masquerade,
                ],
                want: &[
                    "[ ct load status => reg 1 ]",
                    "[ bitwise reg 1 = ( reg 1 & 0x00000020 ) ^ 0x00000000 ]",
                    "[ cmp neq reg 1 0x00000000 ]",
                    "[ payload load 4b @ network header + 12 => reg 1 ]",
                    "[ lookup reg 1 set ranges 0x1 ]",
                    "[ masq flags 0x10 ]",
                ],
            },
            Case {
                name: "meta mark & 0x4000 != 0 meta mark set meta mark & 0xffffbfff meta mark set meta mark | 0x4000",
                given: vec![
                    Statement::MarkHas { bit: 0x4000 },
                    Statement::ClearMark { bit: 0x4000 },
                    Statement::SetMark { bit: 0x4000 },
                ],
                want: &[
                    "[ meta load mark => reg 1 ]",
                    "[ bitwise reg 1 = ( reg 1 & 0x00004000 ) ^ 0x00000000 ]",
                    "[ cmp neq reg 1 0x00000000 ]",
                    "[ meta load mark => reg 1 ]",
                    "[ bitwise reg 1 = ( reg 1 & 0xffffbfff ) ^ 0x00000000 ]",
                    "[ meta set mark with reg 1 ]",
                    "[ meta load mark => reg 1 ]",
                    "[ bitwise reg 1 = ( reg 1 & 0xffffbfff ) ^ 0x00004000 ]",
                    "[ meta set mark with reg 1 ]",
                ],
            },
            Case {
                name: "meta priority set ip daddr . meta l4proto . th dport . ip saddr map @affinity",
                given: vec![Statement::SetPriorityFrom {
                    fields: [key.clone(), vec![Field::IpSource]].concat(),
                    map: name("affinity"),
                }],
                want: &[
                    "[ payload load 4b @ network header + 16 => reg 1 ]",
                    "[ meta load l4proto => reg 9 ]",
                    "[ payload load 2b @ transport header + 2 => reg 10 ]",
                    "[ payload load 4b @ network header + 12 => reg 11 ]",
                    "[ lookup reg 1 set affinity dreg 1 ]",
                    "[ meta set priority with reg 1 ]",
                ],
            },
            Case {
                name: "update @affinity { ip daddr . meta l4proto . th dport . ip saddr timeout 10s : meta priority }",
                given: vec![Statement::WritePriority {
                    write: Write::Update { timeout_s: 10 },
                    fields: [key.clone(), vec![Field::IpSource]].concat(),
                    map: name("affinity"),
                }],
                want: &[
                    "[ payload load 4b @ network header + 16 => reg 1 ]",
                    "[ meta load l4proto => reg 9 ]",
                    "[ payload load 2b @ transport header + 2 => reg 10 ]",
                    "[ payload load 4b @ network header + 12 => reg 11 ]",
                    "[ meta load priority => reg 2 ]",
                    "[ dynset update reg_key 1 set affinity sreg_data 2 timeout 10000ms ]",
                ],
            },
            Case {
                name: "add and delete, by node port",
                given: [Write::Delete, Write::Add { timeout_s: 86_400 }]
                    .map(|write| Statement::WritePriority {
                        write,
                        fields: vec![Field::L4Protocol],
                        map: name("affinity"),
                    })
                    .into(),
                want: &[
                    "[ meta load l4proto => reg 1 ]",
                    "[ meta load priority => reg 9 ]",
                    "[ dynset delete reg_key 1 set affinity sreg_data 9 ]",
                    "[ meta load l4proto => reg 1 ]",
                    "[ meta load priority => reg 9 ]",
                    "[ dynset add reg_key 1 set affinity sreg_data 9 timeout 86400000ms ]",
                ],
            },
            Case {
                name: "meta l4proto tcp reject with tcp reset",
                given: vec![Statement::Protocol(Protocol::Tcp), Statement::RejectTcpReset],
                want: &[
                    "[ meta load l4proto => reg 1 ]",
                    "[ cmp eq reg 1 0x00000006 ]",
                    "[ reject type 1 code 0 ]",
                ],
            },
        ];
        for case in cases {
            let code: Vec<String> = Statement::lower(&case.given).iter().map(ToString::to_string).collect();
            assert_eq!(code, case.want, "{}", case.name);
        }
    }

    #[test]
    fn prefixes_of_any_length() {
        for (prefix_len, want) in [(0, "0x00000000"), (32, "0x0100000a"), (40, "0x0100000a")] {
            let given = Statement::Prefix {
                field: Field::IpSource,
                relation: Relation::Is,
                address: [10, 0, 0, 1].into(),
                prefix_len,
            };
            let code = Statement::lower(&[given]);
            assert_eq!(code[2].to_string(), format!("[ cmp eq reg 1 {want} ]"), "/{prefix_len}");
        }
    }
}
