//! Commands as netlink messages.

use crate::codec::{ATTRIBUTE_LEN_MAX, Header, Writer};
use crate::data::DataType;
use crate::expression::{encode_value, encode_verdict};
use crate::netlink::{self, flag, message};
use crate::object::{
    Base, Chain, ChainKind, Comment, Element, Name, Rule, Set, SetKind, Table, TableId, Value,
};
use crate::statement::Statement;
use crate::transaction::{Batch, Command, Object, Transaction};

/// A list of elements is cut here, so that its attribute stays below 64 KiB with the largest element to come.
const ELEMENT_LIST_LEN_MAX: usize = ATTRIBUTE_LEN_MAX - 1024;

/// The bytes of one batch with the steps of all `transactions` in order.
pub(super) fn encode(transactions: &[Transaction]) -> Batch {
    let elements: usize = transactions.iter().map(Transaction::element_count).sum();
    let mut encoder =
        Encoder { writer: Writer::with_capacity(4096 + elements * 72), origins: Vec::new(), set_id: 0 };
    encoder.control(netlink::batch::BEGIN);
    for transaction in transactions {
        transaction.commands.iter().for_each(|command| encoder.command(&transaction.table, command));
    }
    encoder.acknowledge_last();
    encoder.control(netlink::batch::END);
    Batch { bytes: encoder.writer.into_bytes(), origins: encoder.origins }
}

struct Encoder {
    writer: Writer,
    origins: Vec<(usize, Object)>,
    /// `NFTA_SET_ID`: the kernel wants one, unique within the batch.
    set_id: u32,
}

impl Encoder {
    fn header(&self, kind: u16, flags: u16, family: u8, resource: u16) -> Header {
        let sequence = u32::try_from(self.origins.len()).unwrap_or(u32::MAX);
        Header { kind, flags: flag::REQUEST | flags, sequence, family, resource }
    }

    fn control(&mut self, kind: u16) {
        let header = self.header(kind, 0, 0, netlink::subsystem::NFTABLES);
        self.origins.push((self.writer.len(), Object::Batch));
        self.writer.message(header, |_| {});
    }

    /// One acknowledgement is enough: the kernel works a batch off in order, and always reports refusals.
    fn acknowledge_last(&mut self) {
        if let Some((start, object)) = self.origins.last()
            && *object != Object::Batch
        {
            self.writer.add_flags(*start, flag::ACK);
        }
    }

    fn message(
        &mut self,
        table: &TableId,
        kind: u16,
        flags: u16,
        object: Object,
        body: impl FnOnce(&mut Writer),
    ) {
        let header = self.header(netlink::subsystem::NFTABLES << 8 | kind, flags, table.family.number(), 0);
        self.origins.push((self.writer.len(), object));
        self.writer.message(header, body);
    }

    fn command(&mut self, table: &TableId, command: &Command) {
        match command {
            Command::AddTable(Table { comment }) => {
                self.message(table, message::NEW_TABLE, flag::CREATE, Object::Table(table.clone()), |body| {
                    body.string(netlink::table::NAME, table.name.as_str());
                    body.u32(netlink::table::FLAGS, 0);
                    encode_comment(body, netlink::table::USERDATA, 0, comment);
                });
            }
            Command::DeleteTable => {
                self.message(table, message::DELETE_TABLE, 0, Object::Table(table.clone()), |body| {
                    body.string(netlink::table::NAME, table.name.as_str());
                });
            }
            Command::AddChain(chain) => {
                self.chain(table, message::NEW_CHAIN, flag::CREATE, &chain.name, |body| {
                    encode_chain(body, chain)
                })
            }
            Command::DeleteChain(name) => self.chain(table, message::DELETE_CHAIN, 0, name, |_| {}),
            Command::FlushChain(name) => {
                self.message(
                    table,
                    message::DELETE_RULE,
                    0,
                    Object::Chain(table.clone(), name.clone()),
                    |body| {
                        body.string(netlink::rule::TABLE, table.name.as_str());
                        body.string(netlink::rule::CHAIN, name.as_str());
                    },
                );
            }
            Command::AddRule(rule) => self.rule(table, rule),
            Command::AddSet(set) => {
                self.set_id += 1;
                let id = self.set_id;
                self.message(
                    table,
                    message::NEW_SET,
                    flag::CREATE,
                    Object::Set(table.clone(), set.name.clone()),
                    |body| {
                        body.string(netlink::set::TABLE, table.name.as_str());
                        encode_set(body, set, id);
                    },
                );
            }
            Command::DeleteSet(name) => {
                self.message(
                    table,
                    message::DELETE_SET,
                    0,
                    Object::Set(table.clone(), name.clone()),
                    |body| {
                        body.string(netlink::set::TABLE, table.name.as_str());
                        body.string(netlink::set::NAME, name.as_str());
                    },
                );
            }
            Command::AddElements { set, elements } => {
                self.elements(table, message::NEW_ELEMENT, flag::CREATE, set, elements)
            }
            Command::DeleteElements { set, elements } => {
                self.elements(table, message::DELETE_ELEMENT, 0, set, elements)
            }
            Command::FlushSet(set) => {
                self.message(
                    table,
                    message::DELETE_ELEMENT,
                    0,
                    Object::Set(table.clone(), set.clone()),
                    |body| {
                        body.string(netlink::element_list::TABLE, table.name.as_str());
                        body.string(netlink::element_list::SET, set.as_str());
                    },
                );
            }
        }
    }

    fn chain(&mut self, table: &TableId, kind: u16, flags: u16, name: &Name, body: impl FnOnce(&mut Writer)) {
        self.message(table, kind, flags, Object::Chain(table.clone(), name.clone()), |writer| {
            writer.string(netlink::chain::TABLE, table.name.as_str());
            writer.string(netlink::chain::NAME, name.as_str());
            body(writer);
        });
    }

    fn rule(&mut self, table: &TableId, rule: &Rule) {
        let object = Object::Rule(table.clone(), rule.chain.clone(), rule.comment.clone());
        self.message(table, message::NEW_RULE, flag::CREATE | flag::APPEND, object, |body| {
            body.string(netlink::rule::TABLE, table.name.as_str());
            body.string(netlink::rule::CHAIN, rule.chain.as_str());
            let start = body.len();
            body.nested(netlink::rule::EXPRESSIONS, |list| {
                Statement::lower(&rule.statements).iter().for_each(|expression| expression.encode(list));
            });
            debug_assert!(body.len() > start, "a rule has code");
            body.bytes(netlink::rule::USERDATA, &rule_userdata(rule));
        });
    }

    fn elements(&mut self, table: &TableId, kind: u16, flags: u16, set: &Name, elements: &[Element]) {
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            let object = Object::Element { table: table.clone(), set: set.clone(), key: None };
            self.message(table, kind, flags, object, |body| {
                body.string(netlink::element_list::TABLE, table.name.as_str());
                body.string(netlink::element_list::SET, set.as_str());
                body.nested(netlink::element_list::ELEMENTS, |list| {
                    let start = list.len();
                    while list.len() - start < ELEMENT_LIST_LEN_MAX
                        && let Some(element) = rest.next()
                    {
                        list.nested(netlink::list::ELEMENT, |writer| encode_element(writer, element));
                    }
                });
            });
        }
    }
}

fn encode_chain(body: &mut Writer, chain: &Chain) {
    const POLICY_ACCEPT: u32 = 1;
    if let Some(Base { kind, hook, priority }) = chain.base {
        body.nested(netlink::chain::HOOK, |attribute| {
            attribute.u32(netlink::hook::NUMBER, hook.number());
            attribute.bytes(netlink::hook::PRIORITY, &priority.to_be_bytes());
        });
        body.u32(netlink::chain::POLICY, POLICY_ACCEPT);
        let kind = match kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        body.string(netlink::chain::TYPE, kind);
    }
    encode_comment(body, netlink::chain::USERDATA, 0, &chain.comment);
}

fn encode_set(body: &mut Writer, set: &Set, id: u32) {
    body.string(netlink::set::NAME, set.name.as_str());
    body.u32(netlink::set::FLAGS, set_flags(&set.kind));
    body.u32(netlink::set::KEY_TYPE, concatenated_type(&set.key));
    body.u32(netlink::set::KEY_LEN, concatenated_len(&set.key));
    match &set.kind {
        SetKind::Set | SetKind::Ranges => {}
        SetKind::FieldRanges => body.nested(netlink::set::DESCRIPTION, |description| {
            description.nested(netlink::set_description::FIELDS, |fields| {
                for field in &set.key {
                    let len = u32::try_from(field.size().next_multiple_of(4)).unwrap_or(u32::MAX);
                    fields.nested(netlink::list::ELEMENT, |one| one.u32(netlink::set_field::LEN, len));
                }
            });
        }),
        SetKind::Map(data) => {
            body.u32(netlink::set::DATA_TYPE, data_type(&set.kind));
            body.u32(netlink::set::DATA_LEN, concatenated_len(data));
        }
        SetKind::Dynamic { data, size } => {
            body.u32(netlink::set::DATA_TYPE, data_type(&set.kind));
            body.u32(netlink::set::DATA_LEN, concatenated_len(data));
            body.nested(netlink::set::DESCRIPTION, |description| {
                description.u32(netlink::set_description::SIZE, *size);
            });
        }
        SetKind::VerdictMap => {
            body.u32(netlink::set::DATA_TYPE, data_type(&set.kind));
            body.u32(netlink::set::DATA_LEN, 16);
        }
    }
    body.u32(netlink::set::ID, id);
    body.bytes(netlink::set::USERDATA, &set_userdata(set));
}

fn encode_element(writer: &mut Writer, element: &Element) {
    encode_value(writer, netlink::element::KEY, element.key.as_bytes());
    match &element.value {
        Value::None => {}
        Value::RangeEnd => writer.u32(netlink::element::FLAGS, netlink::element_flag::INTERVAL_END),
        Value::Through(last) => encode_value(writer, netlink::element::KEY_END, last.as_bytes()),
        Value::Data(data) => encode_value(writer, netlink::element::DATA, data.as_bytes()),
        Value::Verdict(verdict) => {
            writer.nested(netlink::element::DATA, |data| encode_verdict(data, verdict))
        }
    }
    encode_comment(writer, netlink::element::USERDATA, 0, &element.comment);
}

/// The number of a concatenation: six bits a field, the last one lowest.
pub(crate) fn concatenated_type(fields: &[DataType]) -> u32 {
    fields.iter().fold(0, |number, field| number << 6 | field.number())
}

/// What kind of set it is, in the kernel's bits.
pub(crate) fn set_flags(kind: &SetKind) -> u32 {
    use netlink::set_flag::{CONCATENATED, EVAL, INTERVAL, MAP, TIMEOUT};
    match kind {
        SetKind::Set => 0,
        SetKind::Ranges => INTERVAL,
        SetKind::FieldRanges => INTERVAL | CONCATENATED,
        SetKind::Map(_) | SetKind::VerdictMap => MAP,
        SetKind::Dynamic { .. } => MAP | TIMEOUT | EVAL,
    }
}

/// The number of the data type of a map, 0 for a set.
pub(crate) fn data_type(kind: &SetKind) -> u32 {
    match kind {
        SetKind::Set | SetKind::Ranges | SetKind::FieldRanges => 0,
        SetKind::Map(data) | SetKind::Dynamic { data, .. } => concatenated_type(data),
        SetKind::VerdictMap => netlink::DATA_TYPE_VERDICT,
    }
}

/// Fields of a concatenation are padded to words; a field alone has its own length.
fn concatenated_len(fields: &[DataType]) -> u32 {
    let len = match fields {
        [single] => single.size(),
        several => several.iter().map(|field| field.size().next_multiple_of(4)).sum(),
    };
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// User data is a list of (type, length, bytes) that only user space reads.
fn put_userdata(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if let Ok(len) = u8::try_from(value.len()) {
        to.extend_from_slice(&[kind, len]);
        to.extend_from_slice(value);
    }
}

fn put_comment(to: &mut Vec<u8>, kind: u8, comment: &Comment) {
    if !comment.as_str().is_empty() {
        put_userdata(to, kind, &[comment.as_str().as_bytes(), b"\0"].concat());
    }
}

fn encode_comment(writer: &mut Writer, attribute: u16, kind: u8, comment: &Comment) {
    let mut userdata = Vec::new();
    put_comment(&mut userdata, kind, comment);
    if !userdata.is_empty() {
        writer.bytes(attribute, &userdata);
    }
}

/// `nft` needs to be told how to print keys and data: 1 is host order, 2 network order, 0 "each field by its type".
fn set_userdata(set: &Set) -> Vec<u8> {
    const KEY_BYTE_ORDER: u8 = 0;
    const DATA_BYTE_ORDER: u8 = 1;
    const COMMENT: u8 = 7;
    let order = |fields: &[DataType]| match fields {
        [DataType::Word | DataType::Priority] => 1u32,
        [_] => 2,
        _ => 0,
    };
    let mut userdata = Vec::new();
    put_userdata(&mut userdata, KEY_BYTE_ORDER, &order(&set.key).to_ne_bytes());
    if let SetKind::Map(data) | SetKind::Dynamic { data, .. } = &set.kind {
        put_userdata(&mut userdata, DATA_BYTE_ORDER, &order(data).to_ne_bytes());
    }
    put_comment(&mut userdata, COMMENT, &set.comment);
    userdata
}

/// Where [`Rule::fingerprint`] is kept in a rule's user data; `nft` ignores types that it does not know.
pub(crate) const RULE_FINGERPRINT: u8 = 0xf1;

fn rule_userdata(rule: &Rule) -> Vec<u8> {
    let mut userdata = Vec::new();
    put_comment(&mut userdata, 0, &rule.comment);
    put_userdata(&mut userdata, RULE_FINGERPRINT, &rule.fingerprint().to_be_bytes());
    userdata
}

impl Rule {
    /// A hash of the rule's code (FNV-1a). It is stored beside the rule, so that a restarted program knows its own rules again without comparing
    /// what the kernel makes of them.
    pub fn fingerprint(&self) -> u64 {
        let mut writer = Writer::default();
        Statement::lower(&self.statements).iter().for_each(|expression| expression.encode(&mut writer));
        writer.into_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_lengths_of_concatenations() {
        use DataType::{Ipv4, Ipv6, Port, Protocol, Word};
        for (fields, number, len) in [
            (vec![Port], 13, 2),
            (vec![Protocol, Port], 12 << 6 | 13, 8),
            (vec![Ipv4, Protocol, Port, Word], ((7 << 6 | 12) << 6 | 13) << 6 | 19, 16),
            (vec![Ipv6, Port], 8 << 6 | 13, 20),
        ] {
            assert_eq!((concatenated_type(&fields), concatenated_len(&fields)), (number, len), "{fields:?}");
        }
    }
}
