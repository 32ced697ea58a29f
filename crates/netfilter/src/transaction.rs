//! Commands, and their encoding as one batch that the kernel takes whole or not at all.

mod encode;

use std::fmt;

use crate::codec::{Attributes, MESSAGE_HEADER_LEN, NETFILTER_HEADER_LEN};
use crate::data::Data;
use crate::netlink;
use crate::object::{Chain, Comment, Element, Name, Rule, Set, Table, TableId};

pub(crate) use encode::{RULE_FINGERPRINT, concatenated_type, data_type, set_flags};

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
    let element = Iterator::find(&mut elements.nested(), |element| {
        let begin = position(element.value) - 4;
        (begin..begin + 4 + element.value.len()).contains(&offset)
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
        encode::encode(transactions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{ATTRIBUTE_LEN_MAX, Messages};
    use crate::data::Protocol;
    use crate::object::Family;
    use crate::statement::Statement;

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
    fn fingerprints_follow_the_code_not_the_comment() {
        let chain = Name::fixed("c");
        let tcp = Rule::new(&chain, [Statement::Protocol(Protocol::Tcp)]);
        assert_eq!(tcp.fingerprint(), tcp.clone().with_comment("x").fingerprint());
        assert_ne!(tcp.fingerprint(), Rule::new(&chain, [Statement::Protocol(Protocol::Udp)]).fingerprint());
    }
}
