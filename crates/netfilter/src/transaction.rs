//! Commands, and their encoding as one batch that the kernel takes whole or not at all.

use std::fmt;

use crate::codec::{ATTRIBUTE_LEN_MAX, Attributes, Header, MESSAGE_HEADER_LEN, NETFILTER_HEADER_LEN, Writer};
use crate::expression::{encode_value, encode_verdict};
use crate::netlink::{self, flag, message};
use crate::object::{
    Base, Chain, ChainKind, Comment, Data, DataType, Element, Name, Rule, Set, SetKind, Table, TableId, Value,
};
use crate::statement::Statement;

/// A list of elements is cut here, so that its attribute stays below 64 KiB with the largest element to come.
const ELEMENT_LIST_LEN_MAX: usize = ATTRIBUTE_LEN_MAX - 1024;

/// One step. "Add" leaves alone what is there already with the same properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The table itself.
    AddTable(Table),
    /// The table with everything in it. It must exist.
    DeleteTable,
    /// A chain.
    AddChain(Chain),
    /// The rules of a chain, not the chain.
    FlushChain(Name),
    /// An empty chain that nothing refers to.
    DeleteChain(Name),
    /// A rule, behind those of its chain.
    AddRule(Rule),
    /// A set or map.
    AddSet(Set),
    /// A set that no rule uses.
    DeleteSet(Name),
    /// Members; a key that is there already must have the same value.
    AddElements {
        /// The set.
        set: Name,
        /// The members.
        elements: Vec<Element>,
    },
    /// Members, by key. They must exist.
    DeleteElements {
        /// The set.
        set: Name,
        /// The members.
        elements: Vec<Element>,
    },
    /// All members.
    FlushSet(Name),
}

/// Commands for one table that take effect at once: a packet sees all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The table.
    pub table: TableId,
    /// The steps in order.
    pub commands: Vec<Command>,
}

/// What a refusal of the kernel is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The batch as a whole.
    Batch,
    /// The table.
    Table(TableId),
    /// A chain.
    Chain(TableId, Name),
    /// A rule: its chain and comment.
    Rule(TableId, Name, Comment),
    /// A set or map.
    Set(TableId, Name),
    /// Elements of a set; the key when the kernel said which.
    Element {
        /// The table.
        table: TableId,
        /// The set.
        set: Name,
        /// The element.
        key: Option<Data>,
    },
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch => f.write_str("the transaction"),
            Self::Table(table) => write!(f, "table {table}"),
            Self::Chain(table, name) => write!(f, "chain {table} {name}"),
            Self::Rule(table, chain, comment) if comment.as_str().is_empty() => {
                write!(f, "a rule of chain {table} {chain}")
            }
            Self::Rule(table, chain, comment) => {
                write!(f, "the rule {:?} of chain {table} {chain}", comment.as_str())
            }
            Self::Set(table, name) => write!(f, "set {table} {name}"),
            Self::Element { table, set, key: None } => write!(f, "an element of set {table} {set}"),
            Self::Element { table, set, key: Some(key) } => {
                write!(f, "element 0x")?;
                key.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, " of set {table} {set}")
            }
        }
    }
}

/// An encoded batch.
#[derive(Debug)]
pub struct Batch {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// Where each message begins and what it is about; the index is its sequence number.
    origins: Vec<(usize, Object)>,
}

impl Batch {
    /// What the kernel refused, from the sequence number of the refusal and the offset of the offending attribute in that message.
    pub fn refused(&self, sequence: u32, offset: Option<u32>) -> Object {
        let Some((start, object)) = usize::try_from(sequence).ok().and_then(|index| self.origins.get(index))
        else {
            return Object::Batch;
        };
        match object {
            Object::Element { table, set, key: None } => {
                let key = offset.and_then(|offset| find_element_key(&self.bytes, *start, offset as usize));
                Object::Element { table: table.clone(), set: set.clone(), key }
            }
            other => other.clone(),
        }
    }

    /// The sequence number of the last message before the end of the batch: the one that is asked for an acknowledgement.
    pub(crate) fn last_sequence(&self) -> u32 {
        u32::try_from(self.origins.len().saturating_sub(2)).unwrap_or(u32::MAX)
    }
}

/// The key of the element whose attribute contains byte `offset` of the message at `start`.
fn find_element_key(bytes: &[u8], start: usize, offset: usize) -> Option<Data> {
    let message = bytes.get(start..)?;
    let body = message.get(MESSAGE_HEADER_LEN + NETFILTER_HEADER_LEN..)?;
    let elements = Attributes::new(body).find(netlink::element_list::ELEMENTS)?;
    let position = |value: &[u8]| value.as_ptr() as usize - message.as_ptr() as usize;
    let element = elements.nested().find_map(|element| {
        let begin = position(element.value) - 4;
        (begin..begin + 4 + element.value.len()).contains(&offset).then_some(element)
    })?;
    let key = element.nested().find(netlink::element::KEY)?.nested().find(netlink::data::VALUE)?;
    Some(Data::raw(key.value))
}

impl Transaction {
    /// No steps yet.
    pub fn new(table: TableId) -> Self {
        Self { table, commands: Vec::new() }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Appends a step.
    pub fn push(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// Appends members to add, unless there are none.
    pub fn add_elements(&mut self, set: &Name, elements: Vec<Element>) {
        if !elements.is_empty() {
            self.push(Command::AddElements { set: set.clone(), elements });
        }
    }

    /// Appends members to delete, unless there are none.
    pub fn delete_elements(&mut self, set: &Name, elements: Vec<Element>) {
        if !elements.is_empty() {
            self.push(Command::DeleteElements { set: set.clone(), elements });
        }
    }

    /// Elements that are added or deleted: the size of the change.
    pub fn element_count(&self) -> usize {
        self.commands
            .iter()
            .map(|command| match command {
                Command::AddElements { elements, .. } | Command::DeleteElements { elements, .. } => {
                    elements.len()
                }
                _ => 0,
            })
            .sum()
    }

    /// The bytes of one batch with the steps of all `transactions` in order.
    pub fn encode(transactions: &[Self]) -> Batch {
        let elements: usize = transactions.iter().map(Self::element_count).sum();
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
    let flags = match set.kind {
        SetKind::Set => 0,
        SetKind::Ranges => netlink::set_flag::INTERVAL,
        SetKind::Map(_) | SetKind::VerdictMap => netlink::set_flag::MAP,
    };
    body.u32(netlink::set::FLAGS, flags);
    body.u32(netlink::set::KEY_TYPE, concatenated_type(&set.key));
    body.u32(netlink::set::KEY_LEN, concatenated_len(&set.key));
    match &set.kind {
        SetKind::Set | SetKind::Ranges => {}
        SetKind::Map(data) => {
            body.u32(netlink::set::DATA_TYPE, concatenated_type(data));
            body.u32(netlink::set::DATA_LEN, concatenated_len(data));
        }
        SetKind::VerdictMap => {
            body.u32(netlink::set::DATA_TYPE, netlink::DATA_TYPE_VERDICT);
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
        Value::Data(data) => encode_value(writer, netlink::element::DATA, data.as_bytes()),
        Value::Verdict(verdict) => {
            writer.nested(netlink::element::DATA, |data| encode_verdict(data, verdict))
        }
    }
    encode_comment(writer, netlink::element::USERDATA, 0, &element.comment);
}

/// The number of a concatenation: six bits a field, the last one lowest.
fn concatenated_type(fields: &[DataType]) -> u32 {
    fields.iter().fold(0, |number, field| number << 6 | field.number())
}

/// Fields of a concatenation are padded to words; a field alone has its own length.
fn concatenated_len(fields: &[DataType]) -> u32 {
    let len = match fields {
        [single] => single.len(),
        several => several.iter().map(|field| field.len().next_multiple_of(4)).sum(),
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
        [DataType::Word] => 1u32,
        [_] => 2,
        _ => 0,
    };
    let mut userdata = Vec::new();
    put_userdata(&mut userdata, KEY_BYTE_ORDER, &order(&set.key).to_ne_bytes());
    if let SetKind::Map(data) = &set.kind {
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
    use crate::codec::Messages;
    use crate::object::{Family, Protocol};

    fn table() -> TableId {
        TableId { family: Family::Ip, name: Name::fixed("t") }
    }

    fn member(number: u32) -> Element {
        Element::member(Data::new().word(number))
    }

    #[test]
    fn many_elements_are_split_so_that_no_attribute_overflows_and_none_is_lost() {
        let mut transaction = Transaction::new(table());
        transaction.add_elements(&Name::fixed("s"), (0..20_000).map(member).collect());
        let batch = Transaction::encode(&[transaction]);
        let mut seen = 0u32;
        for message in Messages::new(&batch.bytes) {
            let message = message.unwrap();
            if let Some(list) = message.attributes().find(netlink::element_list::ELEMENTS) {
                assert!(list.value.len() < ATTRIBUTE_LEN_MAX - 4);
                for element in list.nested() {
                    let key = element
                        .nested()
                        .find(netlink::element::KEY)
                        .unwrap()
                        .nested()
                        .find(netlink::data::VALUE)
                        .unwrap();
                    assert_eq!(key.value, seen.to_ne_bytes());
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 20_000);
    }

    #[test]
    fn sequence_numbers_count_the_messages_and_lead_back_to_the_object() {
        let mut transaction = Transaction::new(table());
        transaction.push(Command::AddTable(Table { comment: Comment::default() }));
        transaction.add_elements(&Name::fixed("s"), vec![member(1), member(2)]);
        let batch = Transaction::encode(&[transaction]);
        let sequences: Vec<u32> =
            Messages::new(&batch.bytes).map(|message| message.unwrap().sequence).collect();
        assert_eq!(sequences, [0, 1, 2, 3]);
        assert_eq!(batch.refused(1, None).to_string(), "table ip t");
        assert_eq!(batch.refused(2, None).to_string(), "an element of set ip t s");
        // 16 + 4 header, 8 + 8 names, 4 list; the first element has 4 + 4 + 4 + 4 bytes.
        assert_eq!(batch.refused(2, Some(40)).to_string(), "element 0x01000000 of set ip t s");
        assert_eq!(batch.refused(2, Some(56)).to_string(), "element 0x02000000 of set ip t s");
        assert_eq!(batch.refused(9, None), Object::Batch);
    }

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

    #[test]
    fn fingerprints_follow_the_code_not_the_comment() {
        let chain = Name::fixed("c");
        let tcp = Rule::new(&chain, [Statement::Protocol(Protocol::Tcp)]);
        assert_eq!(tcp.fingerprint(), tcp.clone().with_comment("x").fingerprint());
        assert_ne!(tcp.fingerprint(), Rule::new(&chain, [Statement::Protocol(Protocol::Udp)]).fingerprint());
    }
}
