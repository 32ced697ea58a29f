//! The server on real sockets, asked by `dig`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a failed step is a failed test"
)]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fairway_dns::forward::Forwarder;
use fairway_dns::name::Name;
use fairway_dns::server::{Serving, Sockets};
use fairway_dns::zone::{PodRecords, Settings, Zone};
use fairway_kit::shutdown::{Trigger, channel};
use fairway_model::{Condition, Endpoint, Service, ServiceKey, ServiceKind};
use prometheus_client::registry::Registry;

/// A running server; stopped when dropped.
struct Server {
    address: SocketAddr,
    serving: Arc<Serving>,
    trigger: Option<Trigger>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(zone: Zone, upstreams: Vec<SocketAddr>) -> Self {
        let serving =
            Arc::new(Serving::new(zone, Forwarder::on_any_address(upstreams), &mut Registry::default()));
        // The port that UDP gets may be another test's TCP port.
        let bind = |_| Sockets::bind(([127, 0, 0, 1], 0).into()).ok();
        let sockets = (0..50).find_map(bind).expect("a port that is free for UDP and TCP");
        let address = sockets.local_address().unwrap();
        let (trigger, shutdown) = channel();
        let for_thread = serving.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(sockets.serve(for_thread, shutdown)).unwrap();
        });
        Self { address, serving, trigger: Some(trigger), thread: Some(thread) }
    }

    fn dig(&self, arguments: &[&str]) -> String {
        let run = Command::new("dig")
            .args(["@127.0.0.1", "-p", &self.address.port().to_string(), "+time=3", "+tries=1"])
            .args(arguments)
            .output();
        let run = run.expect("dig is needed (Debian package bind9-dnsutils)");
        String::from_utf8_lossy(&run.stdout).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Some(trigger) = self.trigger.take() {
            runtime.block_on(trigger.stop(Duration::from_secs(1)));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn zone(origin: &str, endpoints: u8, alias: &str) -> Zone {
    let mut zone = Zone::new(Settings {
        origin: Name::from_text(origin).unwrap(),
        ttl_s: 5,
        negative_ttl_s: 5,
        pods: PodRecords::Insecure,
        reverse_ranges: vec![],
        server: None,
    });
    zone.set_namespaces(["shop"]);
    let endpoint = |last| {
        Arc::new(Endpoint {
            address: [10, 244, 1, last].into(),
            condition: Condition::Ready,
            node: None,
            zone: None,
            hostname: None,
            pod: None,
            hint_zones: vec![],
            hint_nodes: vec![],
        })
    };
    let service = |name, kind, endpoints| Service {
        key: ServiceKey::new("shop", name),
        created_s: 0,
        kind,
        ports: vec![],
        endpoints,
    };
    zone.insert(&service("db", ServiceKind::Headless, (1..=endpoints).map(endpoint).collect())).unwrap();
    zone.insert(&service("out", ServiceKind::ExternalName(alias.into()), vec![])).unwrap();
    zone
}

#[test]
fn dig_gets_what_the_zone_says_over_udp_and_tcp() {
    let server = Server::start(zone("cluster.local", 2, "nowhere"), vec![]);
    for transport in ["+notcp", "+tcp"] {
        let mut addresses: Vec<String> = server
            .dig(&[transport, "+short", "db.shop.svc.cluster.local"])
            .lines()
            .map(str::to_owned)
            .collect();
        addresses.sort();
        assert_eq!(addresses, ["10.244.1.1", "10.244.1.2"], "{transport}");
        let missing = server.dig(&[transport, "no.shop.svc.cluster.local"]);
        assert!(missing.contains("status: NXDOMAIN") && missing.contains("SOA"), "{missing}");
    }
    assert!(
        server.dig(&["+short", "DB.Shop.svc.Cluster.LOCAL"]).contains("10.244.1.1"),
        "names have no case"
    );
    assert!(server.dig(&["example.com"]).contains("status: SERVFAIL"), "nobody to forward to");
    assert!(server.dig(&["-c", "CH", "version.bind", "TXT"]).contains("status: REFUSED"));
    assert!(server.dig(&["+opcode=NOTIFY", "cluster.local"]).contains("status: NOTIMP"));
    assert!(server.dig(&["+edns=1", "+noednsneg", "cluster.local"]).contains("status: BADVERS"));
}

#[test]
fn an_answer_that_does_not_fit_is_asked_for_again_over_tcp() {
    let server = Server::start(zone("cluster.local", 200, "nowhere"), vec![]);
    let cut = server.dig(&["+ignore", "db.shop.svc.cluster.local"]);
    assert!(cut.contains(" tc"), "{cut}");
    let whole = server.dig(&["+short", "db.shop.svc.cluster.local"]);
    assert_eq!(whole.lines().count(), 200);
}

#[test]
fn other_names_are_forwarded_and_aliases_followed_there() {
    let upstream = Server::start(zone("upstream.example", 100, "x"), vec![]);
    let dead: SocketAddr = ([127, 0, 0, 1], 1).into();
    let server =
        Server::start(zone("cluster.local", 1, "db.shop.svc.upstream.example"), vec![dead, upstream.address]);
    // 100 addresses do not fit into a datagram: UDP first, then TCP, upstream and here.
    assert_eq!(server.dig(&["+short", "db.shop.svc.upstream.example"]).lines().count(), 100);
    let followed = server.dig(&["+short", "out.shop.svc.cluster.local"]);
    assert_eq!(followed.lines().count(), 101, "the alias and its addresses: {followed}");
    assert!(followed.starts_with("db.shop.svc.upstream.example."), "{followed}");
    assert!(
        server.dig(&["no.shop.svc.upstream.example"]).contains("status: NXDOMAIN"),
        "negative answers pass too"
    );
}

#[test]
fn a_new_zone_is_served_at_once() {
    let server = Server::start(zone("cluster.local", 1, "nowhere"), vec![]);
    server.serving.zone.store(Arc::new(zone("cluster.local", 3, "nowhere")));
    assert_eq!(server.dig(&["+short", "db.shop.svc.cluster.local"]).lines().count(), 3);
}

#[test]
fn garbage_gets_no_crash_and_the_next_query_an_answer() {
    let server = Server::start(zone("cluster.local", 1, "nowhere"), vec![]);
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let mut seed = 7u32;
    for length in 0..600usize {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        socket.send_to(&bytes, server.address).unwrap();
    }
    assert_eq!(server.dig(&["+short", "db.shop.svc.cluster.local"]), "10.244.1.1");
}
