//! The custom resource definitions of the Gateway API v1.6.1, as tables of our own: a cluster has these kinds from its first moment, and
//! applying the upstream files over them changes nothing but descriptions.
//!
//! One table a kind and one for what several share, in `gateway_api/types`. The first column says which channel a line is for: `-` standard, `+`
//! experimental, blank both. The rest of a table, by indentation:
//!
//! ```text
//! kind GatewayClass <group> <plural> <scope> <short name>…     version v1 [served] [storage] [status]
//! type Name [atomic] [1..4]        an object; the range counts its properties
//!   # text                         description of the field below it; in a kind, of the kind
//!   rule "CEL"                     and `says "message"` below it
//!   field! <type> = <default>      `!`: required; rules of the value below it
//! type Name = <type>               a name for any other type
//!
//! <type>:  string 1..63 ~"pattern" %format    (One|Two)    int32 1..65535    bool    Name
//!          [<type>] 1..16 atomic|set|map(key,…)            {<type>} ..8      object
//! ```
//!
//! Facts of the protocol (names, limits, patterns, rules and their messages) are checked against the upstream files by a test; descriptions are our
//! own.

mod parse;

use std::fmt;

use serde_json::Value;

pub use parse::{Table, TableError};

/// The release that the tables describe.
pub const BUNDLE_VERSION: &str = "v1.6.1";

/// Which set of kinds and fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// What is stable.
    Standard,
    /// That, and what may still change.
    Experimental,
}

impl fmt::Display for Channel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Standard => "standard",
            Self::Experimental => "experimental",
        })
    }
}

macro_rules! tables {
    ($($name:literal)*) => {
        &[$(Table { name: $name, text: include_str!(concat!("gateway_api/types/", $name, ".txt")) },)*]
    };
}

const TABLES: &[Table] = tables! {
    "common" "gatewayclass" "gateway" "listenerset" "httproute" "grpcroute" "tlsroute" "tcproute" "udproute" "referencegrant"
    "backendtlspolicy" "xbackendtrafficpolicy" "xbackend" "xmesh"
};

/// The definitions of a channel: `CustomResourceDefinition` objects as a client would apply them.
pub fn definitions(channel: Channel) -> Vec<Value> {
    #[expect(clippy::expect_used, reason = "the embedded tables are parsed in tests")]
    parse::definitions(TABLES, channel).expect("the embedded tables of the Gateway API are well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_channels_define_their_kinds() {
        let kinds = |channel| {
            let definitions = definitions(channel);
            let names = definitions.iter().map(|definition| definition["spec"]["names"]["kind"].to_string());
            names.map(|name| name.trim_matches('"').to_owned()).collect::<Vec<_>>()
        };
        let standard = kinds(Channel::Standard);
        assert_eq!(standard.first().map(String::as_str), Some("GatewayClass"));
        assert_eq!(standard.len(), 10);
        let experimental = kinds(Channel::Experimental);
        assert!(standard.iter().all(|kind| experimental.contains(kind)));
        assert!(experimental.contains(&"XBackendTrafficPolicy".to_owned()));
        assert_eq!(experimental.len(), 13);
    }
}
