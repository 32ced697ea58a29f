//! Tables, chains, sets, maps, elements and rules: what a table is made of.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use crate::data::{Data, DataType};
use crate::statement::Statement;

/// The kernel's limit for the name of an object (`NFT_NAME_MAXLEN` without the NUL).
pub const NAME_LEN_MAX: usize = 255;
/// The longest comment that `nft` prints.
pub const COMMENT_LEN_MAX: usize = 127;

/// The name of a table, chain, set or map: 1 to 255 bytes of letters, digits, `_`, `-`, `.`, `/`, beginning with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Cow<'static, str>);

/// Why a text is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} cannot name an nftables object: 1 to 255 letters, digits or one of _-./ beginning with a letter"
)]
pub struct NameError {
    /// The text as given.
    pub text: String,
}

impl Name {
    /// A name known when the program is written; in a constant a wrong one does not compile.
    pub const fn fixed(text: &'static str) -> Self {
        assert!(is_name(text.as_bytes()), "not a name for an nftables object");
        Self(Cow::Borrowed(text))
    }

    /// A name from elsewhere.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if is_name(text.as_bytes()) {
            Ok(Self(Cow::Owned(text.into())))
        } else {
            Err(NameError { text: text.into() })
        }
    }

    /// This name with `-number` behind it.
    pub fn numbered(&self, number: u32) -> Self {
        Self(Cow::Owned(format!("{}-{number}", self.0)))
    }

    /// This name, a hyphen and another.
    pub fn joined(&self, other: &Self) -> Self {
        Self(Cow::Owned(format!("{}-{}", self.0, other.0)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "iterators do not work in constants; the index is checked by the loop"
)]
const fn is_name(text: &[u8]) -> bool {
    // Room for the longest number that `numbered` appends.
    if text.is_empty() || text.len() > NAME_LEN_MAX - 11 || !text[0].is_ascii_alphabetic() {
        return false;
    }
    let mut at = 1;
    while at < text.len() {
        if !(text[at].is_ascii_alphanumeric() || matches!(text[at], b'_' | b'-' | b'.' | b'/')) {
            return false;
        }
        at += 1;
    }
    true
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text for people beside an object: printable, without quotes, cut at 127 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Comment(String);

impl Comment {
    /// What of `text` a comment can hold.
    pub fn new(text: &str) -> Self {
        let mut kept = String::with_capacity(text.len().min(COMMENT_LEN_MAX));
        for character in text.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\') {
            if kept.len() + character.len_utf8() > COMMENT_LEN_MAX {
                break;
            }
            kept.push(character);
        }
        Self(kept)
    }

    /// The text, "" for none.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Comment {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `ip`: IPv4 packets.
    Ip,
    /// `ip6`: IPv6 packets.
    Ip6,
    /// `inet`: both.
    Inet,
}

impl Family {
    /// `NFPROTO_*`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

/// Which table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// Its family.
    pub family: Family,
    /// Its name within the family.
    pub name: Name,
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// For people.
    pub comment: Comment,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// `filter`: every packet.
    Filter,
    /// `nat`: the first packet of a connection.
    Nat,
}

/// Where in the packet's way a base chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// Leaving.
    Postrouting,
}

impl Hook {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// What makes a chain a base chain: packets enter it from the kernel. The policy is always accept: a table that is not the host's firewall
/// decides only what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it stands.
    pub hook: Hook,
    /// Its order at the hook; -100 is destination NAT, 0 filtering, 100 source NAT.
    pub priority: i32,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Name,
    /// Set for a base chain.
    pub base: Option<Base>,
    /// For people.
    pub comment: Comment,
}

/// What a set maps its keys to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Nothing: membership.
    Set,
    /// Membership in ranges of a one-field key.
    Ranges,
    /// Membership in ranges of a concatenation, field by field; [`Element::field_ranges`] makes its members. The kernel copies the whole set for
    /// each transaction that writes to it: for what changes seldom.
    FieldRanges,
    /// Values of these fields. Writing one costs microseconds.
    Map(Vec<DataType>),
    /// As [`SetKind::Map`], written by packets ([`Statement::WritePriority`]); entries leave when their time is up.
    Dynamic {
        /// Fields of the values.
        data: Vec<DataType>,
        /// Entries at most: beyond, nothing can be added. The kernel lists the map with it.
        size: u32,
    },
    /// Verdicts. The kernel checks the whole table for loops at each write, which grows with the table: keep these small and their keys stable.
    VerdictMap,
}

/// A set or map. Its keys are concatenations of at most five fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: Name,
    /// The fields of its key.
    pub key: Vec<DataType>,
    /// What keys map to.
    pub kind: SetKind,
    /// For people.
    pub comment: Comment,
}

impl Set {
    /// Whether packets write it: its members are nobody's to restore.
    pub const fn is_dynamic(&self) -> bool {
        matches!(self.kind, SetKind::Dynamic { .. })
    }
}

/// What ends a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The packet goes on to the next base chain.
    Accept,
    /// The packet is gone.
    Drop,
    /// Back to the calling chain.
    Return,
    /// To a chain and back.
    Jump(Name),
    /// To a chain, not back.
    Goto(Name),
}

/// What a key is mapped to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing: the key is a member.
    None,
    /// In a [`SetKind::Ranges`]: the first key behind a range.
    RangeEnd,
    /// In a [`SetKind::FieldRanges`]: the last value of each field.
    Through(Data),
    /// Data.
    Data(Data),
    /// A verdict.
    Verdict(Verdict),
}

/// A member of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Its key.
    pub key: Data,
    /// What it is mapped to.
    pub value: Value,
    /// For people; "" costs no memory.
    pub comment: Comment,
}

impl Element {
    /// A member of a set.
    pub fn member(key: Data) -> Self {
        Self { key, value: Value::None, comment: Comment::default() }
    }

    /// A member of a [`SetKind::FieldRanges`]: every key whose fields are between those of `first` and `last`, both included.
    pub fn field_ranges(first: Data, last: Data) -> Self {
        Self { key: first, value: Value::Through(last), comment: Comment::default() }
    }

    /// An entry of a map.
    pub fn entry(key: Data, value: Data) -> Self {
        Self { key, value: Value::Data(value), comment: Comment::default() }
    }

    /// An entry of a verdict map.
    pub fn verdict(key: Data, verdict: Verdict) -> Self {
        Self { key, value: Value::Verdict(verdict), comment: Comment::default() }
    }

    /// With a comment.
    #[must_use]
    pub fn with_comment(mut self, comment: Comment) -> Self {
        self.comment = comment;
        self
    }

    /// The members that make a range of addresses, both ends included. Two: the range's first address and the first one behind it, which an
    /// address at the end of the address space does not have.
    pub fn address_range(first: IpAddr, last: IpAddr) -> Vec<Self> {
        let start = Self::member(Data::new().address(first));
        let behind = match last {
            IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
            IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(next.into())),
        };
        let end = behind.map(|address| Self {
            key: Data::new().address(address),
            value: Value::RangeEnd,
            comment: Comment::default(),
        });
        std::iter::once(start).chain(end).collect()
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain at whose end it stands.
    pub chain: Name,
    /// What it does, left to right.
    pub statements: Vec<Statement>,
    /// For people.
    pub comment: Comment,
}

impl Rule {
    /// A rule without a comment.
    pub fn new(chain: &Name, statements: impl IntoIterator<Item = Statement>) -> Self {
        Self {
            chain: chain.clone(),
            statements: statements.into_iter().collect(),
            comment: Comment::default(),
        }
    }

    /// With a comment.
    #[must_use]
    pub fn with_comment(mut self, comment: &str) -> Self {
        self.comment = Comment::new(comment);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        const FIXED: Name = Name::fixed("service-2");
        assert_eq!(FIXED.as_str(), "service-2");
        assert_eq!(FIXED.numbered(7).as_str(), "service-2-7");
        assert_eq!(FIXED.joined(&FIXED).as_str(), "service-2-service-2");
        for wrong in ["", "1a", "a b", "a;drop", "ä", &"a".repeat(250)] {
            assert!(Name::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn comments_hold_only_what_prints() {
        assert_eq!(Comment::new("a\"b\n\\c").as_str(), "abc");
        assert_eq!(Comment::new(&"ä".repeat(100)).as_str().len(), 126);
    }

    #[test]
    fn a_range_that_reaches_the_end_has_no_end_element() {
        assert_eq!(Element::address_range([10, 0, 0, 0].into(), [10, 0, 0, 255].into()).len(), 2);
        assert_eq!(Element::address_range([240, 0, 0, 0].into(), [255, 255, 255, 255].into()).len(), 1);
    }
}
