//! `hostPort`: ports of the node that lead to ports of its pods, as a small nft table of their own.
//!
//! Who has which port is data ([`HostPorts`]); the kernel gets all of it in one transaction whenever it changes, so that what is installed
//! never depends on what was installed before. The node's own loopback addresses are left alone: 127.0.0.1 does not leave the node, and a
//! pod's answer to it could not come back.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use fairway_netfilter::{
    Base, Chain, ChainKind, Command, Comment, Conntrack, Data, DataType, Element, Family, Field, Hook, Name,
    Protocol, Relation, Rule, Set, SetKind, Socket, Statement, Table, TableId, Transaction,
};
use k8s_openapi::api::core::v1::PodSpec;
use serde::{Deserialize, Serialize};

use crate::lifecycle::init_containers;
use crate::names::uses_host_network;

const PORTS: Name = Name::fixed("ports");
const ADDRESS_PORTS: Name = Name::fixed("address-ports");
const HAIRPIN: Name = Name::fixed("hairpin");
const PREROUTING: Name = Name::fixed("prerouting");
const OUTPUT: Name = Name::fixed("output");
const POSTROUTING: Name = Name::fixed("postrouting");

/// A transport protocol, as it is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    fn number(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
            Self::Sctp => Protocol::Sctp,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// One port of the node that a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub transport: Transport,
    /// On this address of the node only.
    pub address: Option<Ipv4Addr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// The node's ports that a pod asks for; none with host network, where the container has the port itself.
pub(crate) fn claims(spec: &PodSpec) -> Vec<Claim> {
    if uses_host_network(spec) {
        return Vec::new();
    }
    let ports = spec
        .containers
        .iter()
        .chain(init_containers(spec))
        .flat_map(|container| container.ports.iter().flatten());
    let claim = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
        let transport = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            _ => return None,
        };
        let address = match port.host_ip.as_deref().unwrap_or_default() {
            "" => None,
            text => Some(text.parse().ok()?),
        };
        Some(Claim {
            transport,
            address: address.filter(|address: &Ipv4Addr| !address.is_unspecified()),
            host_port: number(port.host_port?)?,
            container_port: number(port.container_port)?,
        })
    };
    ports.filter_map(claim).collect()
}

/// A port that another pod has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host port {port}/{transport} of this node belongs to pod {owner}; the pod starts when it is free")]
pub(crate) struct Conflict {
    port: u16,
    transport: &'static str,
    owner: String,
}

/// What a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holding {
    /// Namespace and name, for messages.
    label: String,
    ip: Ipv4Addr,
    claims: Vec<Claim>,
}

/// Who has which port of the node, by the pod's UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostPorts(BTreeMap<String, Holding>);

impl HostPorts {
    /// Gives a pod its ports, all or none. Claiming again replaces what it had.
    pub(crate) fn claim(
        &mut self,
        uid: &str,
        label: &str,
        ip: Ipv4Addr,
        claims: Vec<Claim>,
    ) -> Result<(), Conflict> {
        let others = self.0.iter().filter(|(owner, _)| *owner != uid).map(|(_, holding)| holding);
        for holding in others {
            for wanted in &claims {
                let overlaps = |held: &&Claim| {
                    let same_port = (held.transport, held.host_port) == (wanted.transport, wanted.host_port);
                    same_port
                        && (held.address.is_none()
                            || wanted.address.is_none()
                            || held.address == wanted.address)
                };
                if holding.claims.iter().any(|held| overlaps(&held)) {
                    let (port, transport) = (wanted.host_port, wanted.transport.text());
                    return Err(Conflict { port, transport, owner: holding.label.clone() });
                }
            }
        }
        if claims.is_empty() {
            self.0.remove(uid);
        } else {
            self.0.insert(uid.to_owned(), Holding { label: label.to_owned(), ip, claims });
        }
        Ok(())
    }

    /// Takes a pod's ports back; false when it had none.
    pub(crate) fn release(&mut self, uid: &str) -> bool {
        self.0.remove(uid).is_some()
    }

    /// The whole table. It is made anew: the first commands remove what an earlier run left.
    fn transaction(&self, table: TableId) -> Transaction {
        let mut all = Transaction::new(table);
        let empty = || Table { comment: Comment::new("hostPort of pods; made by fairway") };
        all.push(Command::AddTable(empty()));
        all.push(Command::DeleteTable);
        if self.0.is_empty() {
            return all;
        }
        all.push(Command::AddTable(empty()));
        sets().into_iter().for_each(|set| all.push(Command::AddSet(set)));
        chains().into_iter().for_each(|chain| all.push(Command::AddChain(chain)));
        rules().into_iter().for_each(|rule| all.push(Command::AddRule(rule)));
        let (mut ports, mut address_ports, mut hairpin) = (Vec::new(), Vec::new(), Vec::new());
        for holding in self.0.values() {
            let ip = IpAddr::V4(holding.ip);
            hairpin.push(Element::member(Data::new().address(ip).address(ip)));
            for claim in &holding.claims {
                let key = claim.address.map_or_else(Data::new, |address| Data::new().address(address.into()));
                let key = key.protocol(claim.transport.number()).port(claim.host_port);
                let to = Data::new().address(ip).port(claim.container_port);
                let comment = Comment::new(&holding.label);
                let element = Element::entry(key, to).with_comment(comment);
                if claim.address.is_some() { address_ports.push(element) } else { ports.push(element) }
            }
        }
        for (name, elements) in [(PORTS, ports), (ADDRESS_PORTS, address_ports), (HAIRPIN, hairpin)] {
            all.add_elements(&name, elements);
        }
        all
    }

    /// Makes the kernel hold exactly these. Flows to pods that have a port no more are cut: a UDP client would go on sending to an address
    /// that nobody has. Blocking; in the node's network namespace.
    pub(crate) fn install(&self, table: TableId) -> Result<(), fairway_netfilter::Error> {
        Socket::open()?.commit(&[self.transaction(table)])?;
        let stale = |flow: &fairway_netfilter::Flow| self.is_stale(flow);
        Conntrack::open()?.delete(Family::Ip, stale).map(|_| ())
    }

    /// A UDP flow to one of the ports that does not lead to the pod that has it now.
    fn is_stale(&self, flow: &fairway_netfilter::Flow) -> bool {
        let SocketAddr::V4(sent_to) = flow.original.destination else { return false };
        let led_to = |claim: &Claim, ip: Ipv4Addr| {
            SocketAddr::V4(SocketAddrV4::new(ip, claim.container_port)) == flow.reply.source
        };
        flow.protocol == Protocol::Udp
            && self.0.values().any(|holding| {
                let mut own = holding.claims.iter().filter(|claim| {
                    claim.transport == Transport::Udp
                        && claim.host_port == sent_to.port()
                        && claim.address.is_none_or(|address| address == *sent_to.ip())
                });
                // Flows from pods and to other machines' ports of that number were never rewritten here; they have no new source either.
                own.any(|claim| {
                    !led_to(claim, holding.ip) && flow.reply.source.ip() != IpAddr::V4(*sent_to.ip())
                })
            })
    }
}

/// The table of a cluster's node.
pub(crate) fn table(cluster: &str) -> TableId {
    let fixed = Name::fixed("fairway-hostport");
    TableId { family: Family::Ip, name: Name::parse(&format!("{fixed}-{cluster}")).unwrap_or(fixed) }
}

fn sets() -> Vec<Set> {
    use DataType::{Ipv4, Port, Protocol};
    let set = |name, key: &[DataType], kind, comment: &str| Set {
        name,
        key: key.to_vec(),
        kind,
        comment: comment.into(),
    };
    let endpoint = || SetKind::Map(vec![Ipv4, Port]);
    vec![
        set(PORTS, &[Protocol, Port], endpoint(), "ports of every address of this node"),
        set(ADDRESS_PORTS, &[Ipv4, Protocol, Port], endpoint(), "ports of one address of this node (hostIP)"),
        set(HAIRPIN, &[Ipv4, Ipv4], SetKind::Set, "each pod paired with itself"),
    ]
}

fn chains() -> Vec<Chain> {
    // Behind the Services of the node agent (-100): a port that both want is the Service's, as with kube-proxy.
    let base = |hook, priority| Some(Base { kind: ChainKind::Nat, hook, priority });
    let chain = |name, base| Chain { name, base, comment: Comment::default() };
    vec![
        chain(PREROUTING, base(Hook::Prerouting, -90)),
        chain(OUTPUT, base(Hook::Output, -90)),
        chain(POSTROUTING, base(Hook::Postrouting, 90)),
    ]
}

fn rules() -> Vec<Rule> {
    let mut all = Vec::new();
    for chain in [PREROUTING, OUTPUT] {
        let to = |map, fields: &[Field]| Statement::DestinationNatFrom {
            family: Family::Ip,
            fields: fields.to_vec(),
            map,
        };
        let not_loopback = || Statement::Prefix {
            field: Field::IpDestination,
            relation: Relation::IsNot,
            address: Ipv4Addr::LOCALHOST.into(),
            prefix_len: 8,
        };
        let ours = || [not_loopback(), Statement::DestinationIsLocal];
        let addressed = [Field::IpDestination, Field::L4Protocol, Field::DestinationPort];
        all.push(Rule::new(&chain, ours().into_iter().chain([to(ADDRESS_PORTS, &addressed)])));
        let any = [Field::L4Protocol, Field::DestinationPort];
        all.push(Rule::new(&chain, ours().into_iter().chain([to(PORTS, &any)])));
    }
    let itself = Statement::InSet {
        fields: vec![Field::IpSource, Field::IpDestination],
        relation: Relation::Is,
        set: HAIRPIN,
    };
    let hairpin =
        Rule::new(&POSTROUTING, [Statement::DestinationWasRewritten, itself, Statement::Masquerade]);
    all.push(hairpin.with_comment("a pod that reaches itself through its host port"));
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(ports: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": [{"name": "c", "ports": ports}]})).unwrap()
    }

    #[test]
    fn ports_that_pods_ask_for() {
        let asked = claims(&spec(json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"},
            {"containerPort": 1, "hostPort": 1, "hostIP": "0.0.0.0"}])));
        let claim = |transport, address, host_port, container_port| Claim {
            transport,
            address,
            host_port,
            container_port,
        };
        assert_eq!(
            asked,
            [
                claim(Transport::Tcp, None, 8080, 80),
                claim(Transport::Udp, Some([10, 0, 0, 1].into()), 53, 53),
                claim(Transport::Tcp, None, 1, 1)
            ]
        );
        let mut host = spec(json!([{"containerPort": 80, "hostPort": 80}]));
        host.host_network = Some(true);
        assert_eq!(claims(&host), []);
    }

    #[test]
    fn a_port_has_one_owner() {
        struct Case {
            name: &'static str,
            given: serde_json::Value,
            free: bool,
        }
        let cases = [
            Case { name: "the same", given: json!([{"containerPort": 1, "hostPort": 80}]), free: false },
            Case {
                name: "on one address",
                given: json!([{"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}]),
                free: false,
            },
            Case {
                name: "another protocol",
                given: json!([{"containerPort": 1, "hostPort": 80, "protocol": "UDP"}]),
                free: true,
            },
            Case {
                name: "another address",
                given: json!([{"containerPort": 1, "hostPort": 90, "hostIP": "10.0.0.2"}]),
                free: true,
            },
        ];
        let mut ports = HostPorts::default();
        let first = json!([{"containerPort": 80, "hostPort": 80}, {"containerPort": 9, "hostPort": 90, "hostIP": "10.0.0.1"}]);
        ports.claim("a", "ns/a", [10, 1, 0, 1].into(), claims(&spec(first.clone()))).unwrap();
        ports.claim("a", "ns/a", [10, 1, 0, 1].into(), claims(&spec(first))).unwrap();
        for case in cases {
            let got = ports.clone().claim("b", "ns/b", [10, 1, 0, 2].into(), claims(&spec(case.given)));
            assert_eq!(got.is_ok(), case.free, "{}: {got:?}", case.name);
        }
        assert!(ports.release("a") && !ports.release("a"));
        assert_eq!(ports.transaction(table("x")).commands.len(), 2, "nothing is left of the table");
    }
}
