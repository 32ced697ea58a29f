//! The fixed part of the table `fairway`: sets, maps, base chains and their rules. Nothing here depends on a Service.
//!
//! ```text
//! prerouting ─ load balancer addresses that are limited: allowed-sources ─► drop
//!            ─ outside sources: local-services, local-node-ports (policy Local) ─┐
//! output ────────────────────────────────────────────────────────► services ─────┴─► balance-N · masquerade-N · local-N ─► dnat
//! postrouting: hairpin, marked traffic, pods to the outside ─► masquerade
//! ```
//!
//! One table per address family, because each map's keys are of one family: an `inet` table would hold everything twice and test the family
//! in every rule. One chain per endpoint *count* and kind, never per Service or endpoint: the endpoints are in one data map with
//! (address, protocol, port, slot) as key, so that an endpoint change is one element. All of it stands in NAT chains, which see only the first packet
//! of a connection: established traffic pays nothing. Rejecting there needs Linux 5.9.
//!
//! `sessionAffinity: ClientIP` has chains of its own, one per count, kind and time (`balance-3-sticky-10800`), and three maps per kind of frontend:
//!
//! ```text
//! affinity            (frontend, client) ─► id        written by the packets themselves; an entry leaves T seconds after its last use
//! affinity-slots      (frontend, slot)   ─► id
//! affinity-endpoints  (frontend, id)     ─► endpoint
//!
//! 1  the client's id, its time begun anew, the endpoint of that id     ends without effect if client or endpoint is unknown
//! 2  the entry deleted, the id of a random slot, an entry added, its endpoint
//! 3  no room for an entry: the endpoint of a random slot
//! ```
//!
//! An id is a hash of the endpoint's address ([`crate::affinity`]), so entries stay true over restarts and unrelated changes; and an endpoint that leaves
//! takes its id out of `affinity-endpoints`, which moves its clients, and only them, in the same transaction. Rule 2 deletes first, because an entry's
//! value cannot be changed. Between look-ups the id is the packet's *priority*: the masquerade mark, other programs' marks and routing by
//! mark stay untouched. Forwarding sets the priority anew; only the first packet of a connection from the node itself leaves with it.

use fairway_model::Affinity;
use fairway_netfilter::{
    Base, Chain, ChainKind, Comment, DataType, Family, Field, Hook, Name, Protocol, Relation, Rule, Set,
    SetKind, Statement, TableId, Verdict, Write,
};

use crate::ruleset::{BalanceChain, BalanceKind, Keyed};

/// The mark of packets that are masqueraded when they leave; the bit of kube-proxy (`masqueradeBit: 14`). It is cleared again there.
pub const MASQUERADE_MARK: u32 = 0x4000;
/// Slots of policy Local lists begin here, so that they share a map with the lists of policy Cluster.
pub const LOCAL_SLOT: u32 = 0x8000_0000;
/// Clients that are remembered for all frontends of a kind together; further ones are balanced without affinity. About 25 MiB of kernel memory when full.
pub const CLIENTS_MAX: u32 = 1 << 18;

macro_rules! names {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: Name = Name::fixed($name);)*
    };
}

names! {
    /// The table.
    TABLE = "fairway";
    /// (address, protocol, port) of every frontend to what happens to it.
    SERVICES = "services";
    /// (protocol, port) of every node port to what happens to it.
    NODE_PORTS = "node-ports";
    /// As `services`, for sources outside the cluster where the external policy is Local.
    LOCAL_SERVICES = "local-services";
    /// As `node-ports`, for sources outside the cluster where the external policy is Local.
    LOCAL_NODE_PORTS = "local-node-ports";
    /// (address, protocol, port, slot) to endpoint.
    ENDPOINTS = "endpoints";
    /// (protocol, port, slot) to endpoint.
    NODE_PORT_ENDPOINTS = "node-port-endpoints";
    /// (address, protocol, port, client) to the id of its endpoint.
    AFFINITY = "affinity";
    /// (address, protocol, port, slot) to the id of an endpoint.
    AFFINITY_SLOTS = "affinity-slots";
    /// (address, protocol, port, id) to endpoint.
    AFFINITY_ENDPOINTS = "affinity-endpoints";
    /// (protocol, port, client) to the id of its endpoint.
    NODE_PORT_AFFINITY = "node-port-affinity";
    /// (protocol, port, slot) to the id of an endpoint.
    NODE_PORT_AFFINITY_SLOTS = "node-port-affinity-slots";
    /// (protocol, port, id) to endpoint.
    NODE_PORT_AFFINITY_ENDPOINTS = "node-port-affinity-endpoints";
    /// (address, protocol, port) of load-balancer frontends that are not for everyone.
    LIMITED_SERVICES = "limited-services";
    /// (address, protocol, port, source range) of who may use those.
    ALLOWED_SOURCES = "allowed-sources";
    /// Cluster IPs in use.
    CLUSTER_IPS = "cluster-ips";
    /// Load-balancer addresses that this node answers for.
    ANNOUNCED = "announced";
    /// Endpoints of this node, each paired with itself.
    HAIRPIN = "hairpin";
    /// Ranges of pod addresses.
    POD_RANGES = "pod-ranges";
    /// Ranges of pod and node addresses: pods reach these with their own address.
    CLUSTER_RANGES = "cluster-ranges";
    /// Ranges of cluster IPs.
    SERVICE_RANGES = "service-ranges";
    /// Base chain.
    PREROUTING = "prerouting";
    /// Base chain.
    OUTPUT = "output";
    /// Base chain.
    POSTROUTING = "postrouting";
    /// What all sources share.
    DISPATCH = "dispatch";
    /// Tells the client at once.
    REJECT = "reject";
}

/// The table of a family.
pub fn table(family: Family) -> TableId {
    TableId { family, name: TABLE }
}

fn address_type(family: Family) -> DataType {
    match family {
        Family::Ip6 => DataType::Ipv6,
        Family::Ip | Family::Inet => DataType::Ipv4,
    }
}

fn source(family: Family) -> Field {
    match family {
        Family::Ip6 => Field::Ip6Source,
        Family::Ip | Family::Inet => Field::IpSource,
    }
}

fn destination(family: Family) -> Field {
    match family {
        Family::Ip6 => Field::Ip6Destination,
        Family::Ip | Family::Inet => Field::IpDestination,
    }
}

/// All sets and maps.
pub fn sets(family: Family) -> Vec<Set> {
    [balance_sets(family), affinity_sets(family), address_sets(family)].concat()
}

fn set(name: Name, key: &[DataType], kind: SetKind, comment: &str) -> Set {
    Set { name, key: key.to_vec(), kind, comment: comment.into() }
}

/// Frontends and their endpoints.
fn balance_sets(family: Family) -> Vec<Set> {
    use DataType::{Port, Protocol, Word};
    let address = address_type(family);
    let endpoint = || SetKind::Map(vec![address, Port]);
    let verdict = || SetKind::VerdictMap;
    vec![
        set(
            SERVICES,
            &[address, Protocol, Port],
            verdict(),
            "cluster IPs, load balancer addresses, external IPs",
        ),
        set(NODE_PORTS, &[Protocol, Port], verdict(), "node ports"),
        set(
            LOCAL_SERVICES,
            &[address, Protocol, Port],
            verdict(),
            "externalTrafficPolicy Local, from outside the cluster",
        ),
        set(
            LOCAL_NODE_PORTS,
            &[Protocol, Port],
            verdict(),
            "externalTrafficPolicy Local, from outside the cluster",
        ),
        set(ENDPOINTS, &[address, Protocol, Port, Word], endpoint(), "frontend and slot to endpoint"),
        set(NODE_PORT_ENDPOINTS, &[Protocol, Port, Word], endpoint(), "node port and slot to endpoint"),
    ]
}

/// Clients that stay with their endpoint.
fn affinity_sets(family: Family) -> Vec<Set> {
    use DataType::{Port, Priority, Protocol, Word};
    let address = address_type(family);
    let endpoint = || SetKind::Map(vec![address, Port]);
    let id = || SetKind::Map(vec![Priority]);
    let clients = || SetKind::Dynamic { data: vec![Priority], size: CLIENTS_MAX };
    vec![
        set(AFFINITY, &[address, Protocol, Port, address], clients(), "frontend and client to endpoint id"),
        set(AFFINITY_SLOTS, &[address, Protocol, Port, Word], id(), "frontend and slot to endpoint id"),
        set(
            AFFINITY_ENDPOINTS,
            &[address, Protocol, Port, Priority],
            endpoint(),
            "frontend and endpoint id to endpoint",
        ),
        set(NODE_PORT_AFFINITY, &[Protocol, Port, address], clients(), "node port and client to endpoint id"),
        set(NODE_PORT_AFFINITY_SLOTS, &[Protocol, Port, Word], id(), "node port and slot to endpoint id"),
        set(
            NODE_PORT_AFFINITY_ENDPOINTS,
            &[Protocol, Port, Priority],
            endpoint(),
            "node port and endpoint id to endpoint",
        ),
    ]
}

/// Who may, and what is whose.
fn address_sets(family: Family) -> Vec<Set> {
    use DataType::{Port, Protocol};
    let address = address_type(family);
    vec![
        set(
            LIMITED_SERVICES,
            &[address, Protocol, Port],
            SetKind::Set,
            "load balancer addresses with source ranges",
        ),
        set(
            ALLOWED_SOURCES,
            &[address, Protocol, Port, address],
            SetKind::FieldRanges,
            "frontend and who may use it",
        ),
        set(CLUSTER_IPS, &[address], SetKind::Set, "cluster IPs in use"),
        set(ANNOUNCED, &[address], SetKind::Set, "load balancer addresses that this node answers for"),
        set(HAIRPIN, &[address, address], SetKind::Set, "endpoints on this node"),
        set(POD_RANGES, &[address], SetKind::Ranges, "pods"),
        set(CLUSTER_RANGES, &[address], SetKind::Ranges, "pods and nodes"),
        set(SERVICE_RANGES, &[address], SetKind::Ranges, "cluster IPs, in use or not"),
    ]
}

/// The chains that are always there, callees first.
pub fn chains() -> Vec<Chain> {
    let chain = |name, base: Option<(Hook, i32)>| Chain {
        name,
        base: base.map(|(hook, priority)| Base { kind: ChainKind::Nat, hook, priority }),
        comment: Comment::default(),
    };
    const DESTINATION_NAT: i32 = -100;
    const SOURCE_NAT: i32 = 100;
    vec![
        chain(REJECT, None),
        chain(DISPATCH, None),
        chain(PREROUTING, Some((Hook::Prerouting, DESTINATION_NAT))),
        chain(OUTPUT, Some((Hook::Output, DESTINATION_NAT))),
        chain(POSTROUTING, Some((Hook::Postrouting, SOURCE_NAT))),
    ]
}

/// The rules of [`chains`].
pub fn rules(family: Family) -> Vec<Rule> {
    let mut rules = reject_rules(family);
    rules.extend(dispatch_rules(family));
    rules.extend(prerouting_rules(family));
    rules.push(Rule::new(&OUTPUT, [jump(DISPATCH)]));
    rules.extend(postrouting_rules(family));
    rules
}

fn reject_rules(family: Family) -> Vec<Rule> {
    vec![
        Rule::new(&REJECT, [Statement::Protocol(Protocol::Tcp), Statement::RejectTcpReset]),
        Rule::new(&REJECT, [Statement::RejectPortUnreachable(family)]),
    ]
}

fn prerouting_rules(family: Family) -> Vec<Rule> {
    let outside = || within(source(family), Relation::IsNot, POD_RANGES);
    let mut who = frontend_key(family);
    who.push(source(family));
    vec![
        // Not in the output chain: the node itself always may. Cheap for everybody else: one look into a hash table.
        Rule::new(
            &PREROUTING,
            [
                Statement::InSet {
                    fields: frontend_key(family),
                    relation: Relation::Is,
                    set: LIMITED_SERVICES,
                },
                Statement::InSet { fields: who, relation: Relation::IsNot, set: ALLOWED_SOURCES },
                Statement::Verdict(Verdict::Drop),
            ],
        )
        .with_comment("loadBalancerSourceRanges"),
        Rule::new(&PREROUTING, [outside(), dispatch(frontend_key(family), LOCAL_SERVICES)]),
        Rule::new(
            &PREROUTING,
            [outside(), Statement::DestinationIsLocal, dispatch(node_port_key(), LOCAL_NODE_PORTS)],
        ),
        Rule::new(
            &PREROUTING,
            [
                outside(),
                within(destination(family), Relation::Is, CLUSTER_IPS),
                Statement::SetMark { bit: MASQUERADE_MARK },
            ],
        )
        .with_comment("off-cluster sources to cluster IPs: replies come back through this node"),
        Rule::new(&PREROUTING, [jump(DISPATCH)]),
    ]
}

fn dispatch_rules(family: Family) -> Vec<Rule> {
    let to = |set| within(destination(family), Relation::Is, set);
    let reject = || Statement::Verdict(Verdict::Goto(REJECT));
    vec![
        Rule::new(&DISPATCH, [dispatch(frontend_key(family), SERVICES)]),
        Rule::new(
            &DISPATCH,
            [not_loopback(family), Statement::DestinationIsLocal, dispatch(node_port_key(), NODE_PORTS)],
        ),
        Rule::new(&DISPATCH, [to(CLUSTER_IPS), reject()]).with_comment("unused ports of cluster IPs"),
        Rule::new(&DISPATCH, [to(SERVICE_RANGES), reject()]).with_comment("addresses that no Service has"),
        Rule::new(&DISPATCH, [Statement::Protocol(Protocol::Tcp), to(ANNOUNCED), reject()])
            .with_comment("unused ports of load balancer addresses"),
        Rule::new(&DISPATCH, [Statement::Protocol(Protocol::Udp), to(ANNOUNCED), reject()])
            .with_comment("unused ports of load balancer addresses"),
    ]
}

fn postrouting_rules(family: Family) -> Vec<Rule> {
    let hairpin = Statement::InSet {
        fields: vec![source(family), destination(family)],
        relation: Relation::Is,
        set: HAIRPIN,
    };
    vec![
        Rule::new(&POSTROUTING, [Statement::DestinationWasRewritten, hairpin, Statement::Masquerade])
            .with_comment("a pod that reaches itself through a Service"),
        Rule::new(
            &POSTROUTING,
            [
                Statement::MarkHas { bit: MASQUERADE_MARK },
                Statement::ClearMark { bit: MASQUERADE_MARK },
                Statement::Masquerade,
            ],
        ),
        Rule::new(
            &POSTROUTING,
            [
                within(source(family), Relation::Is, POD_RANGES),
                within(destination(family), Relation::IsNot, CLUSTER_RANGES),
                Statement::Masquerade,
            ],
        )
        .with_comment("pods reach the outside with the node's address"),
    ]
}

/// The maps of the chains for one kind of frontend.
struct Maps {
    endpoints: Name,
    clients: Name,
    slots: Name,
    sticky_endpoints: Name,
}

/// The rules of a chain that balances over `chain.size` slots.
pub fn balance_rules(family: Family, chain: BalanceChain) -> Vec<Rule> {
    let name = chain.name();
    let (key, maps) = match chain.keyed {
        Keyed::ByAddress => (
            frontend_key(family),
            Maps {
                endpoints: ENDPOINTS,
                clients: AFFINITY,
                slots: AFFINITY_SLOTS,
                sticky_endpoints: AFFINITY_ENDPOINTS,
            },
        ),
        Keyed::ByNodePort => (
            node_port_key(),
            Maps {
                endpoints: NODE_PORT_ENDPOINTS,
                clients: NODE_PORT_AFFINITY,
                slots: NODE_PORT_AFFINITY_SLOTS,
                sticky_endpoints: NODE_PORT_AFFINITY_ENDPOINTS,
            },
        ),
    };
    let offset = if chain.kind == BalanceKind::Local { LOCAL_SLOT } else { 0 };
    let slot = Field::Random { modulus: chain.size, offset };
    let mark = (chain.kind == BalanceKind::Masquerade).then_some(Statement::SetMark { bit: MASQUERADE_MARK });
    match chain.affinity {
        Affinity::None => {
            let rewrite =
                Statement::DestinationNatFrom { family, fields: with(&key, slot), map: maps.endpoints };
            vec![Rule::new(&name, mark.into_iter().chain([rewrite]))]
        }
        Affinity::ClientIp { timeout_s } => {
            let mut rules: Vec<Rule> = mark.into_iter().map(|mark| Rule::new(&name, [mark])).collect();
            rules.extend(sticky_rules(family, &name, &key, slot, maps, timeout_s));
            rules
        }
    }
}

fn sticky_rules(
    family: Family,
    name: &Name,
    key: &[Field],
    slot: Field,
    maps: Maps,
    timeout_s: u32,
) -> [Rule; 3] {
    let client = || with(key, source(family));
    let write = |write| Statement::WritePriority { write, fields: client(), map: maps.clients.clone() };
    let known = Statement::SetPriorityFrom { fields: client(), map: maps.clients.clone() };
    let choose = Statement::SetPriorityFrom { fields: with(key, slot), map: maps.slots };
    let rewrite = Statement::DestinationNatFrom {
        family,
        fields: with(key, Field::Priority),
        map: maps.sticky_endpoints,
    };
    [
        Rule::new(name, [known, write(Write::Update { timeout_s }), rewrite.clone()])
            .with_comment("a client stays with its endpoint"),
        Rule::new(
            name,
            [write(Write::Delete), choose.clone(), write(Write::Add { timeout_s }), rewrite.clone()],
        )
        .with_comment("a new client, or one whose endpoint is gone"),
        Rule::new(name, [choose, rewrite]).with_comment("no room to remember the client"),
    ]
}

fn with(key: &[Field], field: Field) -> Vec<Field> {
    [key, &[field]].concat()
}

fn frontend_key(family: Family) -> Vec<Field> {
    vec![destination(family), Field::L4Protocol, Field::DestinationPort]
}

fn node_port_key() -> Vec<Field> {
    vec![Field::L4Protocol, Field::DestinationPort]
}

fn dispatch(fields: Vec<Field>, verdicts: Name) -> Statement {
    Statement::Dispatch { fields, verdicts }
}

fn within(field: Field, relation: Relation, set: Name) -> Statement {
    Statement::InSet { fields: vec![field], relation, set }
}

fn jump(chain: Name) -> Statement {
    Statement::Verdict(Verdict::Jump(chain))
}

/// Node ports do not answer on loopback: packets from there cannot leave the node, and kube-proxy's nftables mode does not serve them either.
fn not_loopback(family: Family) -> Statement {
    let (address, prefix_len) = match family {
        Family::Ip6 => (std::net::Ipv6Addr::LOCALHOST.into(), 128),
        Family::Ip | Family::Inet => (std::net::Ipv4Addr::LOCALHOST.into(), 8),
    };
    Statement::Prefix { field: destination(family), relation: Relation::IsNot, address, prefix_len }
}
