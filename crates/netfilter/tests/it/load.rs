//! Tables loaded, listed by `nft`, read back, changed and refused.

use std::net::IpAddr;

use fairway_netfilter::{
    Base, Chain, ChainKind, Command, Data, DataType, Element, Error, Family, Field, Hook, Name, Protocol,
    Relation, Rule, Set, SetKind, Socket, Statement, Table, TableId, Transaction, Value, Verdict,
};

use crate::namespace::{in_namespace, run};

const SERVICES: Name = Name::fixed("services");
const SIZES: Name = Name::fixed("sizes");
const ENDPOINTS: Name = Name::fixed("endpoints");
const RANGES: Name = Name::fixed("ranges");
const PORTS: Name = Name::fixed("ports");
const SERVICE_2: Name = Name::fixed("service-2");
const PREROUTING: Name = Name::fixed("prerouting");
const POSTROUTING: Name = Name::fixed("postrouting");
const FORWARD: Name = Name::fixed("forward");

fn table() -> TableId {
    TableId { family: Family::Ip, name: Name::fixed("example") }
}

fn frontend() -> Vec<Field> {
    vec![Field::IpDestination, Field::L4Protocol, Field::DestinationPort]
}

fn key(last: u8) -> Data {
    Data::new().address(IpAddr::from([10, 96, 0, last])).protocol(Protocol::Tcp).port(80)
}

fn endpoint(slot: u32, last: u8) -> Element {
    let address = Data::new().address(IpAddr::from([10, 244, 0, last])).port(8080);
    Element::entry(key(1).word(slot), address)
}

fn set(name: Name, key: &[DataType], kind: SetKind) -> Command {
    Command::AddSet(Set { name, key: key.to_vec(), kind, comment: "for the test".into() })
}

fn chain(name: Name, base: Option<(ChainKind, Hook, i32)>) -> Command {
    let base = base.map(|(kind, hook, priority)| Base { kind, hook, priority });
    Command::AddChain(Chain { name, base, comment: "".into() })
}

/// One of everything.
fn example() -> Transaction {
    use DataType::{Ipv4, Port, Word};
    let mut load = Transaction::new(table());
    load.push(Command::AddTable(Table { comment: "an example".into() }));
    load.push(set(SERVICES, &[Ipv4, DataType::Protocol, Port], SetKind::VerdictMap));
    load.push(set(SIZES, &[Word], SetKind::Map(vec![Word])));
    load.push(set(ENDPOINTS, &[Ipv4, DataType::Protocol, Port, Word], SetKind::Map(vec![Ipv4, Port])));
    load.push(set(RANGES, &[Ipv4], SetKind::Ranges));
    load.push(set(PORTS, &[DataType::Protocol, Port], SetKind::Set));
    load.push(chain(PREROUTING, Some((ChainKind::Nat, Hook::Prerouting, -100))));
    load.push(chain(POSTROUTING, Some((ChainKind::Nat, Hook::Postrouting, 100))));
    load.push(chain(FORWARD, Some((ChainKind::Filter, Hook::Forward, 0))));
    load.push(chain(SERVICE_2, None));
    rules().into_iter().for_each(|rule| load.push(Command::AddRule(rule)));
    load.add_elements(&SIZES, vec![Element::entry(Data::new().word(2), Data::new().word(0x4000))]);
    load.add_elements(
        &SERVICES,
        vec![Element::verdict(key(1), Verdict::Goto(SERVICE_2)).with_comment("shop/cart:http".into())],
    );
    load.add_elements(&ENDPOINTS, vec![endpoint(0, 1), endpoint(1, 2)]);
    load.add_elements(&RANGES, Element::address_range([10, 244, 0, 0].into(), [10, 244, 255, 255].into()));
    load
}

fn rules() -> Vec<Rule> {
    let balanced = [frontend(), vec![Field::Random { modulus: 2, offset: 0 }]].concat();
    let local_port = vec![Field::L4Protocol, Field::DestinationPort];
    let is = Relation::Is;
    let loopback = Statement::Prefix {
        field: Field::IpDestination,
        relation: Relation::IsNot,
        address: [127, 0, 0, 0].into(),
        prefix_len: 8,
    };
    vec![
        Rule::new(
            &SERVICE_2,
            [Statement::DestinationNatFrom { family: Family::Ip, fields: balanced, map: ENDPOINTS }],
        ),
        Rule::new(&PREROUTING, [Statement::Dispatch { fields: frontend(), verdicts: SERVICES }]),
        Rule::new(
            &PREROUTING,
            [
                loopback,
                Statement::DestinationIsLocal,
                Statement::InSet { fields: local_port.clone(), relation: is, set: PORTS },
                Statement::Verdict(Verdict::Accept),
            ],
        ),
        Rule::new(
            &POSTROUTING,
            [
                Statement::DestinationWasRewritten,
                Statement::InSet { fields: vec![Field::IpSource], relation: Relation::IsNot, set: RANGES },
                Statement::MarkHas { bit: 0x4000 },
                Statement::ClearMark { bit: 0x4000 },
                Statement::Masquerade,
            ],
        )
        .with_comment("replies come back this way"),
        Rule::new(
            &FORWARD,
            [Statement::StateIsInvalid, Statement::Counter, Statement::Verdict(Verdict::Drop)],
        ),
        Rule::new(&FORWARD, [Statement::SetMark { bit: 0x4000 }]),
        Rule::new(&FORWARD, [Statement::Protocol(Protocol::Tcp), Statement::RejectTcpReset]),
        Rule::new(&FORWARD, [Statement::RejectPortUnreachable(Family::Ip)]),
    ]
}

#[test]
fn nft_lists_what_was_loaded_as_a_person_would_have_written_it() {
    in_namespace(|| {
        Socket::open().unwrap().commit(&[example()]).unwrap();
        let listed = run("nft", &["list", "table", "ip", "example"]);
        assert_eq!(listed, include_str!("example.nft"));
    });
}

#[test]
fn what_is_installed_reads_back() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        assert_eq!(socket.read_table(&table()).unwrap(), None);
        socket.commit(&[example()]).unwrap();
        let generation = socket.generation().unwrap();
        assert_eq!(socket.generation().unwrap(), generation);
        run("nft", &["add", "table", "ip", "foreign"]);
        assert_ne!(socket.generation().unwrap(), generation);
        run("nft", &["add", "chain", "ip", "foreign", "other"]);
        run("nft", &["add", "rule", "ip", "example", "forward", "accept"]);
        let installed = socket.read_table(&table()).unwrap().unwrap();
        assert_eq!(
            installed.chains.keys().map(Name::as_str).collect::<Vec<_>>(),
            ["forward", "postrouting", "prerouting", "service-2"]
        );
        assert_eq!(installed.chains[&PREROUTING].base, Some((0, -100)));
        let found: Vec<_> = installed.chains[&FORWARD].rules.iter().map(|rule| rule.fingerprint).collect();
        let mut want: Vec<_> = rules()
            .iter()
            .filter(|rule| rule.chain == FORWARD)
            .map(|rule| Some(rule.fingerprint()))
            .collect();
        want.push(None);
        assert_eq!(found, want, "the rule of nft is not ours");
        let mut elements = socket.read_elements(&table(), &ENDPOINTS).unwrap();
        elements.sort();
        assert_eq!(elements, [endpoint(0, 1), endpoint(1, 2)]);
        let services = socket.read_elements(&table(), &SERVICES).unwrap();
        assert_eq!(services[0].value, Value::Verdict(Verdict::Goto(SERVICE_2)));
        assert_eq!(services[0].comment.as_str(), "shop/cart:http");
    });
}

#[test]
fn an_element_is_replaced_in_one_transaction_and_sets_of_many_thousands_load() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        socket.commit(&[example()]).unwrap();
        let mut change = Transaction::new(table());
        change.delete_elements(&ENDPOINTS, vec![endpoint(1, 2)]);
        change.add_elements(&ENDPOINTS, vec![endpoint(1, 9)]);
        socket.commit(&[change]).unwrap();
        let elements = socket.read_elements(&table(), &ENDPOINTS).unwrap();
        assert!(elements.contains(&endpoint(1, 9)) && elements.len() == 2, "{elements:?}");
        let mut many = Transaction::new(table());
        many.add_elements(&ENDPOINTS, (2..50_000).map(|slot| endpoint(slot, 3)).collect());
        socket.commit(&[many]).unwrap();
        assert_eq!(socket.read_elements(&table(), &ENDPOINTS).unwrap().len(), 50_000);
        let mut flush = Transaction::new(table());
        flush.push(Command::FlushSet(ENDPOINTS));
        flush.push(Command::FlushChain(FORWARD));
        socket.commit(&[flush]).unwrap();
        assert_eq!(socket.read_elements(&table(), &ENDPOINTS).unwrap(), []);
        assert_eq!(socket.read_table(&table()).unwrap().unwrap().chains[&FORWARD].rules, []);
    });
}

/// The object that the kernel refused, as the error says it.
fn refused(socket: &mut Socket, commands: Vec<Command>) -> String {
    let mut transaction = Transaction::new(table());
    transaction.commands = commands;
    match socket.commit(&[transaction]) {
        Err(Error::Refused { object, .. }) => object.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_refusal_names_the_object_and_changes_nothing() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        socket.commit(&[example()]).unwrap();
        let before = run("nft", &["list", "ruleset"]);
        let good = || Command::AddElements {
            set: PORTS,
            elements: vec![Element::member(Data::new().protocol(Protocol::Udp).port(53))],
        };
        let missing =
            Command::DeleteElements { set: ENDPOINTS, elements: vec![endpoint(0, 1), endpoint(7, 7)] };
        assert_eq!(
            refused(&mut socket, vec![good(), missing]),
            "element 0x0a600001060000000050000007000000 of set ip example endpoints"
        );
        let nowhere = Rule::new(&Name::fixed("nowhere"), [Statement::Counter]).with_comment("lost");
        assert_eq!(
            refused(&mut socket, vec![good(), Command::AddRule(nowhere)]),
            "the rule \"lost\" of chain ip example nowhere"
        );
        assert_eq!(
            refused(&mut socket, vec![good(), Command::DeleteChain(SERVICE_2)]),
            "chain ip example service-2"
        );
        assert_eq!(
            refused(&mut socket, vec![good(), Command::DeleteSet(SERVICES)]),
            "set ip example services"
        );
        assert_eq!(run("nft", &["list", "ruleset"]), before);
    });
}

#[test]
fn deleting_the_table_leaves_foreign_ones_alone() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        run("nft", &["add", "table", "ip", "foreign"]);
        socket.commit(&[example()]).unwrap();
        let mut delete = Transaction::new(table());
        delete.push(Command::AddTable(Table { comment: "".into() }));
        delete.push(Command::DeleteTable);
        // Deleting is repeatable, because the table is created first.
        socket.commit(&[delete.clone()]).unwrap();
        socket.commit(&[delete]).unwrap();
        assert_eq!(run("nft", &["list", "ruleset"]).trim(), "table ip foreign {\n}");
    });
}
