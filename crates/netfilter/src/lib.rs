//! Typed nftables objects, transactions and conntrack clean-up, spoken to the kernel in netlink.
//!
//! What it is: the words of `nft` as Rust types ([`Table`], [`Chain`], [`Set`], [`Element`], [`Rule`] made of [`Statement`]s), a
//! [`Transaction`] of them that the kernel takes whole or not at all, and the way back (what is installed, decoded into the same types).
//! What it is not: it knows no Service and no policy; it neither runs `nft` nor parses its language, and it has no opinion on foreign tables.
//!
//! Why this shape: everything up to the bytes is pure ([`Transaction::encode`] and the decoders take and give data), so golden tests need no
//! kernel; [`Socket`] and [`Conntrack`] only move bytes. Statements are kept on the level of the `nft` language, because that is what people
//! read in `nft list ruleset`, and are lowered to register code ([`expression`]) in one place, where register numbers cannot be got wrong twice.
//!
//! - [`data`]: keys and values of sets and maps
//! - [`object`]: tables, chains, sets, maps, elements, rules, names and comments
//! - [`statement`]: matches, map look-ups, NAT, verdicts; their lowering
//! - [`expression`]: the kernel's register code
//! - [`transaction`]: commands, one atomic batch, refusals mapped back to the object
//! - [`readback`]: dumps decoded
//! - [`socket`]: the netlink socket for tables
//! - [`conntrack`]: flows listed and deleted by filter
//! - [`codec`]: netlink messages and attributes

pub mod codec;
pub mod conntrack;
pub mod data;
pub mod error;
pub mod expression;
mod netlink;
pub mod object;
pub mod readback;
pub mod socket;
pub mod statement;
pub mod transaction;

pub use conntrack::{Conntrack, Flow, FlowFilter};
pub use data::{Data, DataType, Protocol};
pub use error::Error;
pub use object::{
    Base, Chain, ChainKind, Comment, Element, Family, Hook, Name, Rule, Set, SetKind, Table, TableId, Value,
    Verdict,
};
pub use readback::{InstalledChain, InstalledRule, InstalledSet, InstalledTable};
pub use socket::Socket;
pub use statement::{Field, Relation, Statement, Write};
pub use transaction::{Command, Object, Transaction};
