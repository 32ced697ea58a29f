use std::sync::Arc;

use fairway_model::{
    Endpoint, NoTrace, PortEndpoint, PortNumber, Protocol, ServiceKind, ServicePort, VirtualIps,
};

use super::*;

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn endpoint(last: u8, condition: Condition, hostname: Option<&str>) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: [10, 244, 1, last].into(),
        condition,
        node: None,
        zone: None,
        hostname: hostname.map(Into::into),
        pod: None,
        hint_zones: vec![],
        hint_nodes: vec![],
    })
}

fn service(service_name: &str, kind: ServiceKind, endpoints: Vec<Arc<Endpoint>>) -> Service {
    let port = |port_name: &str, number| ServicePort {
        name: port_name.into(),
        protocol: Protocol::Tcp,
        port: PortNumber::new(number).unwrap(),
        node_port: None,
        target: "".into(),
        app_protocol: None,
        endpoints: endpoints
            .iter()
            .map(|one| PortEndpoint { endpoint: one.clone(), port: PortNumber::new(number + 8000).unwrap() })
            .collect(),
    };
    Service {
        key: ServiceKey::new("shop", service_name),
        created_s: 0,
        kind,
        ports: vec![port("http", 80), port("", 81)],
        endpoints,
    }
}

fn zone() -> Zone {
    let mut zone = Zone::new(Settings {
        origin: name("cluster.local"),
        ttl_s: 5,
        negative_ttl_s: 5,
        pods: PodRecords::Insecure,
        reverse_ranges: vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
        server: Some([10, 96, 0, 10].into()),
    });
    zone.set_namespaces(["shop", "empty"]);
    let virtual_ip = VirtualIps { cluster_ips: vec![[10, 96, 0, 20].into()], ..VirtualIps::default() };
    let ready = |last, hostname| endpoint(last, Condition::Ready, hostname);
    let db =
        vec![ready(1, Some("db-0")), ready(2, Some("db-1")), endpoint(3, Condition::NotReady, Some("db-2"))];
    for one in [
        service("web", ServiceKind::Virtual(virtual_ip), vec![]),
        service("db", ServiceKind::Headless, db),
        service("plain", ServiceKind::Headless, vec![ready(9, None)]),
        service("none", ServiceKind::Headless, vec![]),
        service("out", ServiceKind::ExternalName("api.example.com".into()), vec![]),
    ] {
        zone.insert(&one).unwrap();
    }
    zone
}

fn show(outcome: &Outcome) -> String {
    let data = |record: &Record| match &record.data {
        Data::A(address) => address.to_string(),
        Data::Aaaa(address) => address.to_string(),
        Data::Cname(name) | Data::Ptr(name) | Data::Ns(name) => name.to_string(),
        Data::Txt(text) => format!("{text:?}"),
        Data::Srv { priority, weight, port, target } => format!("{priority} {weight} {port} {target}"),
        Data::Soa { .. } => "SOA".into(),
        Data::Other { kind, .. } => format!("TYPE{kind}"),
    };
    let list = |records: &[Record]| records.iter().map(data).collect::<Vec<_>>().join(", ");
    match outcome {
        Outcome::Forward => "forward".into(),
        Outcome::Alias { answer, target } => format!("alias {} -> {target}", list(&answer.answers)),
        Outcome::Answer(answer) => {
            let mut text = format!("{} [{}]", answer.rcode.label(), list(&answer.answers));
            for (section, records) in [("authority", &answer.authority), ("additional", &answer.additional)] {
                if !records.is_empty() {
                    text += &format!(" {section} [{}]", list(records));
                }
            }
            text
        }
    }
}

const NXDOMAIN: &str = "NXDOMAIN [] authority [SOA]";
const NODATA: &str = "NOERROR [] authority [SOA]";

#[test]
fn every_row_of_the_specification() {
    use number::{A, AAAA, NS, PTR, SOA, SRV, TXT};
    let cases = [
        ("dns-version.cluster.local", TXT, "NOERROR [\"1.1.0\"]"),
        ("cluster.local", SOA, "NOERROR [SOA]"),
        ("cluster.local", NS, "NOERROR [ns.dns.cluster.local.]"),
        ("ns.dns.cluster.local", A, "NOERROR [10.96.0.10]"),
        ("web.shop.svc.cluster.local", A, "NOERROR [10.96.0.20]"),
        ("web.shop.svc.cluster.local", AAAA, NODATA),
        ("db.shop.svc.cluster.local", A, "NOERROR [10.244.1.1, 10.244.1.2]"),
        ("none.shop.svc.cluster.local", A, NODATA),
        ("db-0.db.shop.svc.cluster.local", A, "NOERROR [10.244.1.1]"),
        ("db-2.db.shop.svc.cluster.local", A, NXDOMAIN),
        ("db-0.web.shop.svc.cluster.local", A, NXDOMAIN),
        ("10-244-1-9.plain.shop.svc.cluster.local", A, "NOERROR [10.244.1.9]"),
        ("out.shop.svc.cluster.local", A, "alias api.example.com. -> api.example.com."),
        (
            "_http._tcp.web.shop.svc.cluster.local",
            SRV,
            "NOERROR [0 100 80 web.shop.svc.cluster.local.] additional [10.96.0.20]",
        ),
        (
            "_http._tcp.db.shop.svc.cluster.local",
            SRV,
            "NOERROR [0 50 8080 db-0.db.shop.svc.cluster.local., 0 50 8080 db-1.db.shop.svc.cluster.local.] additional [10.244.1.1, 10.244.1.2]",
        ),
        ("_http._tcp.web.shop.svc.cluster.local", A, NODATA),
        ("_http._udp.web.shop.svc.cluster.local", SRV, NXDOMAIN),
        ("_other._tcp.web.shop.svc.cluster.local", SRV, NXDOMAIN),
        ("_tcp.web.shop.svc.cluster.local", SRV, NODATA),
        ("_*._tcp.web.shop.svc.cluster.local", SRV, NXDOMAIN),
        ("20.0.96.10.in-addr.arpa", PTR, "NOERROR [web.shop.svc.cluster.local.]"),
        ("1.1.244.10.in-addr.arpa", PTR, "NOERROR [db-0.db.shop.svc.cluster.local.]"),
        ("99.0.96.10.in-addr.arpa", PTR, NXDOMAIN),
        ("1.2.0.192.in-addr.arpa", PTR, "forward"),
        ("10-244-1-77.shop.pod.cluster.local", A, "NOERROR [10.244.1.77]"),
        ("10-244-1-77.nowhere.pod.cluster.local", A, NXDOMAIN),
        ("banana.shop.pod.cluster.local", A, NXDOMAIN),
        ("svc.cluster.local", A, NODATA),
        ("shop.svc.cluster.local", A, NODATA),
        ("empty.svc.cluster.local", A, NODATA),
        ("nowhere.svc.cluster.local", A, NXDOMAIN),
        ("missing.shop.svc.cluster.local", A, NXDOMAIN),
        ("web.nowhere.svc.cluster.local", A, NXDOMAIN),
        ("a.b.web.shop.svc.cluster.local", A, NXDOMAIN),
        ("else.cluster.local", A, NXDOMAIN),
        ("example.com", A, "forward"),
        ("local", A, "forward"),
    ];
    let zone = zone();
    for (question, kind, want) in cases {
        assert_eq!(show(&zone.answer(&name(question), kind, &mut NoTrace)), want, "{question} {kind}");
        let mut steps = Vec::new();
        assert_eq!(show(&zone.answer(&name(question), kind, &mut steps)), want, "traced: {question}");
    }
}

#[test]
fn a_change_replaces_every_name_of_the_service_and_nothing_else() {
    let mut changed = zone();
    changed
        .insert(&service("db", ServiceKind::Headless, vec![endpoint(7, Condition::Ready, Some("db-7"))]))
        .unwrap();
    let ask = |zone: &Zone, question: &str, kind| show(&zone.answer(&name(question), kind, &mut NoTrace));
    assert_eq!(ask(&changed, "db.shop.svc.cluster.local", number::A), "NOERROR [10.244.1.7]");
    assert_eq!(ask(&changed, "db-0.db.shop.svc.cluster.local", number::A), NXDOMAIN);
    assert_eq!(ask(&changed, "1.1.244.10.in-addr.arpa", number::PTR), NXDOMAIN);
    assert_eq!(ask(&zone(), "db.shop.svc.cluster.local", number::A), "NOERROR [10.244.1.1, 10.244.1.2]");
    changed.remove(&ServiceKey::new("shop", "db"));
    assert_eq!(ask(&changed, "db.shop.svc.cluster.local", number::A), NXDOMAIN);
    assert_eq!(ask(&changed, "web.shop.svc.cluster.local", number::A), "NOERROR [10.96.0.20]");
}

#[test]
fn the_trace_says_which_endpoints_were_left_out() {
    let mut steps = Vec::new();
    zone().answer(&name("db.shop.svc.cluster.local"), number::A, &mut steps);
    assert_eq!(
        steps,
        [
            Step::Service(ServiceKey::new("shop", "db")),
            Step::Published([10, 244, 1, 1].into()),
            Step::Published([10, 244, 1, 2].into()),
            Step::LeftOut([10, 244, 1, 3].into(), Condition::NotReady),
        ]
    );
}
