//! Flows that connection tracking made are listed and deleted.

use std::net::UdpSocket;
use std::time::Duration;

use fairway_netfilter::conntrack::FlowFilters;
use fairway_netfilter::{Conntrack, Family, FlowFilter, Protocol};

use crate::namespace::{in_namespace, run};

#[test]
fn a_udp_flow_stays_with_its_old_endpoint_until_it_is_deleted() {
    in_namespace(|| {
        run("ip", &["addr", "add", "10.96.0.10/32", "dev", "lo"]);
        run("nft", &["add table ip t; add chain ip t output { type nat hook output priority -100; }"]);
        run("nft", &["add rule ip t output ip daddr 10.96.0.10 udp dport 53 dnat to 127.0.0.1:5301"]);
        let (old, new) =
            (UdpSocket::bind("127.0.0.1:5301").unwrap(), UdpSocket::bind("127.0.0.1:5302").unwrap());
        let client = UdpSocket::bind("10.96.0.10:4000").unwrap();
        let arrives_at = |server: &UdpSocket| {
            client.send_to(b"x", "10.96.0.10:53").unwrap();
            server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            server.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(arrives_at(&old));
        run(
            "nft",
            &[
                "flush chain ip t output; add rule ip t output ip daddr 10.96.0.10 udp dport 53 dnat to 127.0.0.1:5302",
            ],
        );
        assert!(arrives_at(&old), "this is why flows have to be deleted");

        let mut conntrack = Conntrack::open().unwrap();
        let flows = conntrack.list(Family::Ip).unwrap();
        assert_eq!(flows.iter().filter(|flow| flow.reply.source.port() == 5301).count(), 1, "{flows:?}");
        let gone = FlowFilter {
            protocol: Protocol::Udp,
            address: Some([10, 96, 0, 10].into()),
            port: 53,
            endpoint: Some(([127, 0, 0, 1], 5301).into()),
        };
        let other = FlowFilter { port: 54, ..gone };
        let mut delete = |filter| {
            let filters = FlowFilters::from_iter([filter]);
            conntrack.delete(Family::Ip, |flow| filters.matches(flow)).unwrap()
        };
        assert_eq!((delete(other), delete(gone)), (0, 1));
        assert!(arrives_at(&new));
    });
}
