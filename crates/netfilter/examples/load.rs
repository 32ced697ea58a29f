//! How long the kernel takes to load 10,000 Services of four endpoints each, and to change one endpoint or one Service then; beside `nft -f`
//! doing the same with the same table. Prints medians of five rounds, each in a network namespace of its own. Needs root and `nft`.
//!
//! ```text
//! cargo run --release -p fairway-netfilter --example load            # or: … --example load -- 44000
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run ends"
)]

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command as Process;
use std::time::{Duration, Instant};

use fairway_netfilter::{
    Base, Chain, ChainKind, Command, Data, DataType, Element, Family, Field, Hook, Name, Protocol, Rule, Set,
    SetKind, Socket, Statement, Table, TableId, Transaction, Verdict,
};
use nix::sched::{CloneFlags, unshare};

const SERVICES: Name = Name::fixed("services");
const ENDPOINTS: Name = Name::fixed("endpoints");
const OUTPUT: Name = Name::fixed("output");
const BALANCE: [Name; 2] = [Name::fixed("balance-3"), Name::fixed("balance-4")];
const ENDPOINTS_EACH: u32 = 4;
const ROUNDS: usize = 5;
const CHANGES: u32 = 200;

fn table() -> TableId {
    TableId { family: Family::Ip, name: Name::fixed("bench") }
}

fn service(number: u32) -> Data {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number);
    Data::new().address(address.into()).protocol(Protocol::Tcp).port(80)
}

fn verdict(number: u32, chain: &Name) -> Element {
    Element::verdict(service(number), Verdict::Goto(chain.clone()))
        .with_comment(format!("shop/s{number}:http").as_str().into())
}

fn endpoint_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number)
}

fn endpoint(number: u32, slot: u32, address: u32) -> Element {
    Element::entry(
        service(number).word(slot),
        Data::new().address(endpoint_address(address).into()).port(8080),
    )
}

fn load(services: u32) -> Transaction {
    use DataType::{Ipv4, Port, Word};
    let key = [Ipv4, DataType::Protocol, Port];
    let mut load = Transaction::new(table());
    load.push(Command::AddTable(Table { comment: "".into() }));
    let set = |name, key: &[DataType], kind| {
        Command::AddSet(Set { name, key: key.to_vec(), kind, comment: "".into() })
    };
    load.push(set(SERVICES, &key, SetKind::VerdictMap));
    load.push(set(ENDPOINTS, &[key.as_slice(), &[Word]].concat(), SetKind::Map(vec![Ipv4, Port])));
    for (name, modulus) in BALANCE.iter().zip([3, 4]) {
        load.push(Command::AddChain(Chain { name: name.clone(), base: None, comment: "".into() }));
        let fields = vec![
            Field::IpDestination,
            Field::L4Protocol,
            Field::DestinationPort,
            Field::Random { modulus, offset: 0 },
        ];
        let rewrite = Statement::DestinationNatFrom { family: Family::Ip, fields, map: ENDPOINTS };
        load.push(Command::AddRule(Rule::new(name, [rewrite])));
    }
    let base = Some(Base { kind: ChainKind::Nat, hook: Hook::Output, priority: -100 });
    load.push(Command::AddChain(Chain { name: OUTPUT, base, comment: "".into() }));
    let fields = vec![Field::IpDestination, Field::L4Protocol, Field::DestinationPort];
    load.push(Command::AddRule(Rule::new(&OUTPUT, [Statement::Dispatch { fields, verdicts: SERVICES }])));
    let slots =
        |number| (0..ENDPOINTS_EACH).map(move |slot| endpoint(number, slot, number * ENDPOINTS_EACH + slot));
    load.add_elements(&ENDPOINTS, (0..services).flat_map(slots).collect());
    load.add_elements(&SERVICES, (0..services).map(|number| verdict(number, &BALANCE[1])).collect());
    load
}

/// The same for `nft -f`; the balancing expression is one that its parser takes.
fn script(services: u32) -> String {
    let address = |number| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number);
    let mut text = String::from(
        "table ip bench {\n map endpoints { typeof ip daddr . meta l4proto . th dport . numgen random mod 4 : ip daddr . tcp dport; elements = {\n",
    );
    for number in 0..services {
        for slot in 0..ENDPOINTS_EACH {
            let to = endpoint_address(number * ENDPOINTS_EACH + slot);
            writeln!(text, "{} . tcp . 80 . {slot} : {to} . 8080,", address(number)).unwrap();
        }
    }
    text.push_str("}\n }\n chain balance-4 { dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 4 map @endpoints; }\n");
    text.push_str(" map services { type ipv4_addr . inet_proto . inet_service : verdict; elements = {\n");
    for number in 0..services {
        writeln!(text, "{} . tcp . 80 comment \"shop/s{number}:http\" : goto balance-4,", address(number))
            .unwrap();
    }
    text.push_str("}\n }\n chain output { type nat hook output priority -100; ip daddr . meta l4proto . th dport vmap @services; }\n}\n");
    text
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// Alternates between two states of one endpoint, then of one Service; the median of each.
fn changes(socket: &mut Socket, services: u32) -> (Duration, Duration) {
    let mut of_endpoint = Vec::new();
    let mut of_service = Vec::new();
    for round in 0..CHANGES {
        let number = round * 37 % services;
        let old = number * ENDPOINTS_EACH;
        let mut change = Transaction::new(table());
        change.delete_elements(&ENDPOINTS, vec![endpoint(number, 0, old)]);
        change.add_elements(&ENDPOINTS, vec![endpoint(number, 0, 1_000_000 + round)]);
        of_endpoint.push(timed(|| socket.commit(std::slice::from_ref(&change)).unwrap()));
        let mut back = Transaction::new(table());
        back.delete_elements(&ENDPOINTS, vec![endpoint(number, 0, 1_000_000 + round)]);
        back.add_elements(&ENDPOINTS, vec![endpoint(number, 0, old)]);
        socket.commit(&[back]).unwrap();
        let mut change = Transaction::new(table());
        change.delete_elements(&SERVICES, vec![verdict(number, &BALANCE[1])]);
        change.add_elements(&SERVICES, vec![verdict(number, &BALANCE[0])]);
        of_service.push(timed(|| socket.commit(std::slice::from_ref(&change)).unwrap()));
        let mut back = Transaction::new(table());
        back.delete_elements(&SERVICES, vec![verdict(number, &BALANCE[0])]);
        back.add_elements(&SERVICES, vec![verdict(number, &BALANCE[1])]);
        socket.commit(&[back]).unwrap();
    }
    (median(of_endpoint), median(of_service))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn nft(arguments: &[&str]) {
    assert!(
        Process::new("nft").args(arguments).status().expect("nft (package nftables) is needed").success()
    );
}

/// (encode, load, endpoint change, Service change) by netlink.
fn by_netlink(services: u32) -> [Duration; 4] {
    unshare(CloneFlags::CLONE_NEWNET).expect("root is needed");
    let mut socket = Socket::open().unwrap();
    let transaction = load(services);
    let encode = timed(|| drop(Transaction::encode(std::slice::from_ref(&transaction))));
    let whole = timed(|| socket.commit(std::slice::from_ref(&transaction)).unwrap());
    let (endpoint, service) = changes(&mut socket, services);
    [encode, whole, endpoint, service]
}

/// (load, endpoint change) by nft.
fn by_nft(file: &str) -> [Duration; 2] {
    unshare(CloneFlags::CLONE_NEWNET).expect("root is needed");
    let whole = timed(|| nft(&["-f", file]));
    let element = "delete element ip bench endpoints { 10.96.0.1 . tcp . 80 . 0 }; \
        add element ip bench endpoints { 10.96.0.1 . tcp . 80 . 0 : 10.9.9.9 . 8080 }";
    let one = timed(|| nft(&[element]));
    [whole, one]
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn main() {
    let services: u32 =
        std::env::args().nth(1).map_or(10_000, |text| text.parse().expect("a number of Services"));
    let file = std::env::temp_dir().join(format!("fairway-load-{}.nft", std::process::id()));
    std::fs::write(&file, script(services)).unwrap();
    let path = file.to_str().unwrap();
    // Interleaved, so that a slow moment of the machine touches both.
    let rounds: Vec<_> =
        (0..ROUNDS).map(|_| (in_thread(|| by_netlink(services)), in_thread(|| by_nft(path)))).collect();
    std::fs::remove_file(&file).unwrap();
    type Round = ([Duration; 4], [Duration; 2]);
    let of = |pick: &dyn Fn(&Round) -> Duration| median(rounds.iter().map(pick).collect());
    println!("{services} Services x {ENDPOINTS_EACH} endpoints, medians of {ROUNDS}");
    println!("{:<42}{:>12}{:>12}", "", "netlink", "nft");
    println!("{:<42}{:>12.1?}", "encode", of(&|round| round.0[0]));
    println!("{:<42}{:>12.1?}{:>12.1?}", "load", of(&|round| round.0[1]), of(&|round| round.1[0]));
    println!(
        "{:<42}{:>12.1?}{:>12.1?}",
        "one endpoint (data map)",
        of(&|round| round.0[2]),
        of(&|round| round.1[1])
    );
    println!("{:<42}{:>12.1?}", "one endpoint count (verdict map)", of(&|round| round.0[3]));
}
