//! Against the real kernel: namespaces named after this process, removed also when a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use fairway_netns::{Error, Links, Mac, Netns, Route, RouteKind, Veth, read_sysctl, write_sysctl};
use ipnet::IpNet;

/// A namespace that goes with the test.
struct Scratch(String, Netns);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("fwt{}-{name}", std::process::id());
        let netns = Netns::create(&name).unwrap();
        Self(name, netns)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Netns::remove(&self.0);
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_name_is_made_found_listed_and_removed() {
    let scratch = Scratch::new("life");
    let name = &scratch.0;
    assert_eq!(Netns::open(name).unwrap(), scratch.1);
    assert_ne!(Netns::host().unwrap(), scratch.1);
    assert_eq!(Netns::list(name).unwrap(), std::slice::from_ref(name));
    let shown = Command::new("ip").args(["netns", "list"]).output().expect("needs the program ip (iproute2)");
    assert!(String::from_utf8_lossy(&shown.stdout).contains(name.as_str()), "ip netns does not show {name}");
    let again = Netns::create(name).unwrap_err();
    assert_eq!(again.kind(), Some(std::io::ErrorKind::AlreadyExists));
    assert_eq!(Netns::open(name).unwrap(), scratch.1, "the failed create must not remove it");
    assert!(Netns::remove(name).unwrap());
    assert!(!Netns::remove(name).unwrap());
    assert!(matches!(Netns::open(name), Err(Error::NamespaceMissing { .. })));
}

#[test]
fn a_name_without_a_namespace_is_missing_and_can_be_removed_or_taken_over() {
    let name = format!("fwt{}-half", std::process::id());
    let _directory = Scratch::new("half-directory");
    std::fs::write(Netns::path(&name), "").unwrap();
    assert!(matches!(Netns::open(&name), Err(Error::NamespaceMissing { .. })));
    assert!(Netns::remove(&name).unwrap());
    std::fs::write(Netns::path(&name), "").unwrap();
    let taken_over = Netns::create(&name);
    assert!(Netns::remove(&name).unwrap());
    assert_ne!(taken_over.unwrap(), Netns::host().unwrap());
}

#[test]
fn work_and_children_run_inside_and_the_caller_stays_outside() {
    let scratch = Scratch::new("run");
    let links = scratch.1.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    assert_eq!(links.lines().count(), 3, "two heads and lo: {links}");
    assert_eq!(Netns::host().unwrap(), Netns::of_pid(std::process::id()).unwrap());
    let mut command = Command::new("readlink");
    command.arg("/proc/self/ns/net");
    scratch.1.enter_on_spawn(&mut command);
    let child = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let inside = scratch.1.run(|| std::fs::read_link("/proc/thread-self/ns/net")).unwrap();
    assert_eq!(child.trim(), inside.to_str().unwrap());
}

#[test]
fn a_namespace_without_a_name_is_empty_and_of_its_own() {
    let (one, two) = (Netns::anonymous().unwrap(), Netns::anonymous().unwrap());
    assert_ne!(one, two);
    assert_ne!(one, Netns::host().unwrap());
    let names: Vec<String> =
        Links::open(&one).unwrap().list().unwrap().into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["lo"]);
}

#[test]
fn async_callers_may_use_links_and_spawn_into_a_namespace() {
    let scratch = Scratch::new("async");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut links = Links::open(&scratch.1).unwrap();
        assert!(links.find("lo").unwrap().unwrap().up);
        let mut command = tokio::process::Command::new("readlink");
        command.arg("/proc/self/ns/net");
        scratch.1.enter_on_spawn(command.as_std_mut());
        let output = command.output().await.unwrap();
        let inside = scratch.1.run(|| std::fs::read_link("/proc/thread-self/ns/net")).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), inside.to_str().unwrap());
    });
}

#[test]
fn two_namespaces_talk_through_a_bridge_in_a_third() {
    let (hub, left, right) = (Scratch::new("hub"), Scratch::new("left"), Scratch::new("right"));
    let mut hub_links = Links::open(&hub.1).unwrap();
    assert!(hub_links.create_bridge("br0").unwrap());
    assert!(!hub_links.create_bridge("br0").unwrap());
    hub_links.set_up("br0").unwrap();
    for (port, end, address) in [("p-left", &left, "10.231.0.1/24"), ("p-right", &right, "10.231.0.2/24")] {
        hub_links
            .create_veth(&Veth { name: port, peer: "eth0", peer_netns: &end.1, mtu: Some(1400) })
            .unwrap();
        hub_links.set_master(port, "br0").unwrap();
        hub_links.set_up(port).unwrap();
        let mut links = Links::open(&end.1).unwrap();
        assert!(links.add_address("eth0", net(address)).unwrap());
        assert!(!links.add_address("eth0", net(address)).unwrap());
        links.set_up("eth0").unwrap();
        assert_eq!(links.find("eth0").unwrap().unwrap().mtu, 1400);
    }
    let bridge = hub_links.find("br0").unwrap().unwrap();
    let port = hub_links.list().unwrap().into_iter().find(|link| link.name == "p-left").unwrap();
    assert_eq!(port.master, Some(bridge.index));

    let listener = right.1.run(|| TcpListener::bind("10.231.0.2:7000")).unwrap();
    let target = "10.231.0.2:7000".parse().unwrap();
    let mut client = left.1.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");

    assert!(hub_links.delete("p-left").unwrap());
    assert!(!hub_links.delete("p-left").unwrap());
    assert!(Links::open(&left.1).unwrap().find("eth0").unwrap().is_none(), "both ends go at once");
}

#[test]
fn routes_addresses_and_neighbours_are_set_replaced_listed_and_removed() {
    let scratch = Scratch::new("routes");
    let mut links = Links::open(&scratch.1).unwrap();
    assert!(links.create_bridge("d0").unwrap());
    links.set_up("d0").unwrap();
    links.add_address("d0", net("10.232.0.1/24")).unwrap();
    links.add_address("lo", net("10.232.9.9/32")).unwrap();
    let index = links.index("d0").unwrap();
    assert!(
        links
            .addresses()
            .unwrap()
            .iter()
            .any(|found| found.link == index && found.address == net("10.232.0.1/24"))
    );

    let routes = [
        Route::new(net("10.240.0.0/16"), RouteKind::Gateway(ip("10.232.0.7"))),
        Route::new(net("10.241.0.0/16"), RouteKind::Link("d0".into())),
        Route::new(net("10.242.0.0/16"), RouteKind::Blackhole),
        Route::new(net("10.243.0.0/16"), RouteKind::Unreachable),
        Route {
            source: Some(ip("10.232.0.1")),
            metric: Some(50),
            ..Route::new(
                net("0.0.0.0/0"),
                RouteKind::GatewayOnLink { gateway: ip("169.254.1.1"), link: "d0".into() },
            )
        },
    ];
    for route in &routes {
        links.replace_route(route).unwrap();
        links.replace_route(route).unwrap();
        assert!(!links.add_route(route).unwrap());
        let listed = links.routes().unwrap();
        assert!(listed.contains(route), "{route:?} is not in {listed:?}");
    }
    let moved = Route::new(net("10.240.0.0/16"), RouteKind::Gateway(ip("10.232.0.8")));
    links.replace_route(&moved).unwrap();
    assert_eq!(
        links.routes().unwrap().iter().filter(|route| route.destination == moved.destination).count(),
        1
    );
    for route in &routes {
        assert!(links.remove_route(route.destination).unwrap(), "{route:?}");
        assert!(!links.remove_route(route.destination).unwrap(), "{route:?}");
    }

    links.set_mac("d0", Mac([2, 0, 0, 0, 0, 9])).unwrap();
    assert_eq!(links.find("d0").unwrap().unwrap().mac.unwrap().to_string(), "02:00:00:00:00:09");
    links.replace_neighbour("d0", ip("10.232.0.7"), Mac([2, 0, 0, 0, 0, 7])).unwrap();
    links.replace_neighbour("d0", ip("10.232.0.7"), Mac([2, 0, 0, 0, 0, 8])).unwrap();
    assert!(links.remove_neighbour("d0", ip("10.232.0.7")).unwrap());
    assert!(!links.remove_neighbour("d0", ip("10.232.0.7")).unwrap());
    assert!(links.remove_address("lo", net("10.232.9.9/32")).unwrap());
    assert!(!links.remove_address("lo", net("10.232.9.9/32")).unwrap());
    links.set_down("d0").unwrap();
    assert!(!links.find("d0").unwrap().unwrap().up);
}

#[test]
fn a_missing_link_is_named_with_its_namespace() {
    let scratch = Scratch::new("missing");
    let mut links = Links::open(&scratch.1).unwrap();
    let error = links.add_address("nope", net("10.232.0.1/24")).unwrap_err();
    assert!(matches!(&error, Error::LinkMissing { link, .. } if link == "nope"), "{error}");
    assert!(error.to_string().contains(&scratch.0), "{error}");
    assert!(links.set_up("nope").unwrap_err().to_string().contains("link nope"));
}

#[test]
fn sysctls_belong_to_the_namespace() {
    let (one, two) = (Scratch::new("sysctl1"), Scratch::new("sysctl2"));
    let key = "net/ipv4/ip_forward";
    write_sysctl(&one.1, key, "1").unwrap();
    write_sysctl(&two.1, key, "0").unwrap();
    assert_eq!(read_sysctl(&one.1, key).unwrap(), "1");
    assert_eq!(read_sysctl(&two.1, key).unwrap(), "0");
    let error = read_sysctl(&one.1, "net/ipv4/no_such_thing").unwrap_err();
    assert!(error.to_string().contains("net/ipv4/no_such_thing"), "{error}");
}

#[test]
fn ipv6_addresses_and_routes_work_too() {
    let scratch = Scratch::new("v6");
    let mut links = Links::open(&scratch.1).unwrap();
    links.create_bridge("d0").unwrap();
    links.set_up("d0").unwrap();
    assert!(links.add_address("d0", net("fd00:1::1/64")).unwrap());
    let route = Route::new(net("fd00:2::/64"), RouteKind::Gateway(ip("fd00:1::2")));
    links.replace_route(&route).unwrap();
    assert!(links.routes().unwrap().iter().any(|found| found.destination == route.destination));
    assert!(links.remove_route(route.destination).unwrap());
    assert_eq!(Route::default_via(Ipv4Addr::LOCALHOST.into()).destination, net("0.0.0.0/0"));
}
