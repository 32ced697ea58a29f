//! What is installed: dumps of the kernel decoded into the words of [`crate::object`].

use std::collections::BTreeMap;

use crate::codec::{Attribute, Attributes};
use crate::data::Data;
use crate::netlink;
use crate::object::Comment;
use crate::object::{Chain, Element, Name, Set, Value, Verdict};
use crate::transaction::{RULE_FINGERPRINT, concatenated_type, data_type, set_flags};

/// A rule as far as it is needed to know one's own again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledRule {
    /// The kernel's number for it.
    pub handle: u64,
    /// [`crate::Rule::fingerprint`] of the rule that was loaded; `None` for a rule of another program.
    pub fingerprint: Option<u64>,
}

/// A chain with its rules in order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct InstalledChain {
    /// Hook number and priority of a base chain.
    pub base: Option<(u32, i32)>,
    /// Its rules.
    pub rules: Vec<InstalledRule>,
}

/// The declaration of a set or map, without its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstalledSet {
    /// The type of the key.
    pub key_type: u32,
    /// The type of the data; 0 for a set.
    pub data_type: u32,
    /// What kind of set it is, in the kernel's bits.
    pub flags: u32,
}

impl Set {
    /// What the kernel lists of this set once it is loaded.
    pub fn installed(&self) -> InstalledSet {
        InstalledSet {
            key_type: concatenated_type(&self.key),
            data_type: data_type(&self.kind),
            flags: set_flags(&self.kind),
        }
    }
}

impl Chain {
    /// What the kernel lists of this chain's place once it is loaded.
    pub fn installed_base(&self) -> Option<(u32, i32)> {
        self.base.map(|base| (base.hook.number(), base.priority))
    }
}

/// A table without the elements of its sets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct InstalledTable {
    /// Chains by name.
    pub chains: BTreeMap<Name, InstalledChain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<Name, InstalledSet>,
}

/// (table, chain, its base) of a `NEWCHAIN` message.
pub(crate) fn decode_chain<'a>(attributes: &Attributes<'a>) -> Option<(&'a str, Name, InstalledChain)> {
    let table = attributes.find(netlink::chain::TABLE)?.string()?;
    let name = Name::parse(attributes.find(netlink::chain::NAME)?.string()?).ok()?;
    let base = attributes.find(netlink::chain::HOOK).and_then(|hook| {
        let number = hook.nested().find(netlink::hook::NUMBER)?.u32()?;
        let priority = hook.nested().find(netlink::hook::PRIORITY)?.u32()?;
        Some((number, priority.cast_signed()))
    });
    Some((table, name, InstalledChain { base, rules: Vec::new() }))
}

/// (table, chain, rule) of a `NEWRULE` message.
pub(crate) fn decode_rule<'a>(attributes: &Attributes<'a>) -> Option<(&'a str, Name, InstalledRule)> {
    let table = attributes.find(netlink::rule::TABLE)?.string()?;
    let chain = Name::parse(attributes.find(netlink::rule::CHAIN)?.string()?).ok()?;
    let handle = attributes.find(netlink::rule::HANDLE)?.u64()?;
    let fingerprint = attributes
        .find(netlink::rule::USERDATA)
        .and_then(|userdata| find_userdata(userdata.value, RULE_FINGERPRINT))
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes);
    Some((table, chain, InstalledRule { handle, fingerprint }))
}

/// (table, name, declaration) of a `NEWSET` message.
pub(crate) fn decode_set<'a>(attributes: &Attributes<'a>) -> Option<(&'a str, Name, InstalledSet)> {
    let table = attributes.find(netlink::set::TABLE)?.string()?;
    let name = Name::parse(attributes.find(netlink::set::NAME)?.string()?).ok()?;
    let key_type = attributes.find(netlink::set::KEY_TYPE)?.u32()?;
    let data_type =
        attributes.find(netlink::set::DATA_TYPE).and_then(|attribute| attribute.u32()).unwrap_or(0);
    let flags = attributes.find(netlink::set::FLAGS).and_then(|attribute| attribute.u32()).unwrap_or(0);
    Some((table, name, InstalledSet { key_type, data_type, flags }))
}

/// The elements of a `NEWSETELEM` message.
pub(crate) fn decode_elements(attributes: &Attributes<'_>) -> Vec<Element> {
    let list = attributes.find(netlink::element_list::ELEMENTS);
    list.into_iter().flat_map(|list| list.nested()).filter_map(decode_element).collect()
}

fn decode_element(element: Attribute<'_>) -> Option<Element> {
    let attributes = element.nested();
    let key = attributes.find(netlink::element::KEY)?.nested().find(netlink::data::VALUE)?;
    let flags = attributes.find(netlink::element::FLAGS).and_then(|flags| flags.u32()).unwrap_or(0);
    let last =
        attributes.find(netlink::element::KEY_END).and_then(|end| end.nested().find(netlink::data::VALUE));
    let value = match attributes.find(netlink::element::DATA) {
        Some(data) => decode_value(&data.nested())?,
        None if let Some(last) = last => Value::Through(Data::raw(last.value)),
        None if flags & netlink::element_flag::INTERVAL_END != 0 => Value::RangeEnd,
        None => Value::None,
    };
    let comment = attributes
        .find(netlink::element::USERDATA)
        .and_then(|userdata| find_userdata(userdata.value, 0))
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .map(|text| Comment::new(text.trim_end_matches('\0')))
        .unwrap_or_default();
    Some(Element { key: Data::raw(key.value), value, comment })
}

fn decode_value(data: &Attributes<'_>) -> Option<Value> {
    if let Some(value) = data.find(netlink::data::VALUE) {
        return Some(Value::Data(Data::raw(value.value)));
    }
    let verdict = data.find(netlink::data::VERDICT)?.nested();
    let chain = || Name::parse(verdict.find(netlink::verdict::CHAIN)?.string()?).ok();
    let verdict = match verdict.find(netlink::verdict::CODE)?.u32()?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    };
    Some(Value::Verdict(verdict))
}

fn find_userdata(mut bytes: &[u8], kind: u8) -> Option<&[u8]> {
    while let [found, len, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*len))?;
        if *found == kind {
            return Some(value);
        }
        bytes = rest.get(usize::from(*len)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Messages;
    use crate::data::{DataType, Protocol};
    use crate::object::{Base, Chain, ChainKind, Family, Hook, Rule, Set, SetKind, TableId};
    use crate::statement::Statement;
    use crate::transaction::{Command, Transaction};

    /// The kernel answers a dump with the messages that create the objects, so that what is encoded must decode.
    #[test]
    fn what_is_encoded_decodes() {
        let name = Name::fixed("x");
        let key = Data::new().address([10, 0, 0, 1].into()).protocol(Protocol::Tcp).port(80);
        let elements = vec![
            Element::member(key.clone()).with_comment("ns/a:http".into()),
            Element::entry(key.clone(), Data::new().word(3)),
            Element::field_ranges(
                key.clone(),
                Data::new().address([10, 0, 0, 9].into()).protocol(Protocol::Tcp).port(90),
            ),
            Element::verdict(key, Verdict::Goto(name.clone())),
        ];
        let chain = Chain {
            name: name.clone(),
            base: Some(Base { kind: ChainKind::Nat, hook: Hook::Output, priority: -100 }),
            comment: Comment::default(),
        };
        let set = Set {
            name: name.clone(),
            key: vec![DataType::Port],
            kind: SetKind::VerdictMap,
            comment: "x".into(),
        };
        let rule = Rule::new(&name, [Statement::Counter]).with_comment("hello");
        let mut transaction = Transaction::new(TableId { family: Family::Ip, name: Name::fixed("t") });
        transaction.push(Command::AddChain(chain));
        transaction.push(Command::AddSet(set));
        transaction.push(Command::AddRule(rule.clone()));
        transaction.add_elements(&name, elements.clone());
        let batch = Transaction::encode(&[transaction]);
        let messages: Vec<_> =
            Messages::new(&batch.bytes).map(|message| message.unwrap().attributes()).collect();
        assert_eq!(
            decode_chain(&messages[1]),
            Some(("t", name.clone(), InstalledChain { base: Some((3, -100)), rules: vec![] }))
        );
        assert_eq!(
            decode_set(&messages[2]),
            Some((
                "t",
                name,
                InstalledSet { key_type: 13, data_type: 0xffff_ff00, flags: netlink::set_flag::MAP }
            ))
        );
        // Only the kernel gives a rule its handle.
        assert_eq!(decode_rule(&messages[3]), None);
        let userdata = messages[3].find(netlink::rule::USERDATA).unwrap();
        assert_eq!(
            find_userdata(userdata.value, RULE_FINGERPRINT),
            Some(rule.fingerprint().to_be_bytes().as_slice())
        );
        assert_eq!(decode_elements(&messages[4]), elements);
    }

    #[test]
    fn userdata_that_is_cut_is_no_userdata() {
        assert_eq!(find_userdata(&[0, 5, 1, 2], 0), None);
        assert_eq!(find_userdata(&[1, 0, 0, 1, 7], 0), Some([7].as_slice()));
        assert_eq!(find_userdata(&[], 0), None);
    }
}
