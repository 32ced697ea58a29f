use std::path::Path;

use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn resolve(flags: &Flags, saved: Option<&Settings>) -> Result<Settings, SettingsError> {
    Settings::resolve(&ClusterName::parse("dev").unwrap(), &Roots::default(), flags, saved)
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let settings = resolve(&Flags::default(), None).unwrap();
    assert_eq!(settings.api_address().to_string(), "10.200.0.1:6443");
    assert_eq!(settings.dns_address().to_string(), "10.96.0.10");
    assert_eq!(settings.kubernetes_address().to_string(), "10.96.0.1");
    assert_eq!(settings.networks.load_balancers(), net("10.200.0.128/25"));
    let nodes = settings.nodes();
    assert_eq!(nodes.len(), 2);
    let want = Node {
        name: "node-2".into(),
        address: "10.200.0.3".parse().unwrap(),
        pods: net("10.244.2.0/24"),
        netns: "fw-dev-node-2".into(),
        host_link: "fw-dev-node-2".into(),
    };
    assert_eq!(nodes[1], want);
    assert_eq!(settings.find_node("node-2"), Some(want));
    assert_eq!(settings.directories.kubeconfig(), Path::new("/var/lib/fairway/dev/kubeconfig"));
}

#[test]
fn flags_that_cannot_work_are_refused_with_the_rule() {
    struct Case {
        name: &'static str,
        given: Flags,
        want: &'static str,
    }
    let flags = Flags::default;
    let cases = [
        Case { name: "no node", given: Flags { nodes: Some(0), ..flags() }, want: "give --nodes 1 to 64" },
        Case { name: "too many nodes", given: Flags { nodes: Some(65), ..flags() }, want: "65 nodes" },
        Case { name: "port 0", given: Flags { api_port: Some(0), ..flags() }, want: "--api-port" },
        Case {
            name: "tiny underlay",
            given: Flags { underlay: Some(net("10.9.0.0/30")), ..flags() },
            want: "16 to 28",
        },
        Case {
            name: "underlay too small for the nodes",
            given: Flags { underlay: Some(net("10.9.0.0/28")), nodes: Some(7), ..flags() },
            want: "too few addresses",
        },
        Case {
            name: "pool outside",
            given: Flags { load_balancers: Some(net("10.201.0.0/25")), ..flags() },
            want: "inside the underlay",
        },
        Case {
            name: "pool on the host's address",
            given: Flags { load_balancers: Some(net("10.200.0.0/25")), ..flags() },
            want: "above its first addresses",
        },
        Case {
            name: "pods too few",
            given: Flags { pods: Some(net("10.9.0.0/22")), nodes: Some(4), ..flags() },
            want: "no /24 for every node",
        },
        Case {
            name: "overlap",
            given: Flags { services: Some(net("10.244.8.0/24")), ..flags() },
            want: "pod range 10.244.0.0/16 and the service range 10.244.8.0/24 overlap",
        },
        Case {
            name: "domain",
            given: Flags { domain: Some("a..b".into()), ..flags() },
            want: "not a DNS name",
        },
    ];
    for case in cases {
        let error = resolve(&case.given, None).unwrap_err().to_string();
        assert!(error.contains(case.want), "{}: {error}", case.name);
    }
}

#[test]
fn saved_settings_go_on_and_contradicting_flags_are_refused() {
    let first = Flags { underlay: Some(net("10.201.0.0/24")), nodes: Some(3), ..Flags::default() };
    let saved = resolve(&first, None).unwrap();
    assert_eq!(saved.networks.load_balancers(), net("10.201.0.128/25"), "follows the underlay");
    assert_eq!(resolve(&Flags::default(), Some(&saved)).unwrap(), saved);
    assert_eq!(resolve(&first, Some(&saved)).unwrap(), saved);

    let grown = Flags { nodes: Some(5), api_port: Some(7443), ..Flags::default() };
    let grown = resolve(&grown, Some(&saved)).unwrap();
    assert_eq!((grown.nodes().len(), grown.api_port.get()), (5, 7443));

    let shrunk = resolve(&Flags { nodes: Some(1), ..Flags::default() }, Some(&saved)).unwrap_err();
    assert!(shrunk.to_string().contains("number of nodes 3, not fewer (1)"), "{shrunk}");
    let moved = resolve(&Flags { underlay: Some(net("10.202.0.0/24")), ..Flags::default() }, Some(&saved))
        .unwrap_err();
    assert!(moved.to_string().contains("fairway down --name dev --purge"), "{moved}");
}

#[test]
fn what_is_saved_is_read_back_and_checked_like_flags() {
    let directory = tempfile::tempdir().unwrap();
    let roots = Roots { state: directory.path().join("state"), run: directory.path().join("run") };
    let name = ClusterName::parse("dev").unwrap();
    let settings = Settings::resolve(&name, &roots, &Flags::default(), None).unwrap();
    let path = settings.directories.settings_file();
    assert_eq!(Settings::load_if_any(&path).unwrap(), None);
    settings.save().unwrap();
    assert_eq!(Settings::load(&path).unwrap(), settings);
    let text = std::fs::read_to_string(&path).unwrap();
    for (what, broken) in [
        ("not JSON", "{".to_owned()),
        ("unknown field", text.replace("\"api_port\"", "\"apiport\"")),
        ("overlap", text.replace("10.96.0.0/16", "10.244.0.0/16")),
        ("no nodes", text.replace("\"nodes\": 2", "\"nodes\": 0")),
        ("bad name", text.replace("\"dev\"", "\"../dev\"")),
    ] {
        std::fs::write(&path, broken).unwrap();
        let error = Settings::load(&path).unwrap_err();
        assert!(matches!(error, FileError::Broken { .. }), "{what}: {error}");
        assert!(error.to_string().contains("cluster.json"), "{what}: {error}");
    }
}

#[test]
fn names_are_checked() {
    for name in ["", "-a", "a-", "A", "a_b", "a/b", "a.b", &"a".repeat(41)] {
        assert!(ClusterName::parse(name).is_err(), "{name:?}");
    }
    assert_eq!(ClusterName::parse("dev-2").unwrap().bridge(), "fw-dev-2");
}

#[test]
fn a_cluster_owns_its_namespaces_and_no_others() {
    struct Case {
        cluster: &'static str,
        namespace: &'static str,
        want: bool,
    }
    let cases = [
        Case { cluster: "a", namespace: "fw-a-node-1", want: true },
        Case { cluster: "a", namespace: "fw-a-p-0123abcd", want: true },
        Case { cluster: "a", namespace: "fw-a-b-node-1", want: false },
        Case { cluster: "a-b", namespace: "fw-a-b-node-1", want: true },
        Case { cluster: "a", namespace: "fw-a-node-node-1", want: false },
        Case { cluster: "a", namespace: "fw-a-p-p-0123abcd", want: false },
        Case { cluster: "a", namespace: "fw-ab-node-1", want: false },
        Case { cluster: "a", namespace: "fw-a-node-", want: false },
        Case { cluster: "a", namespace: "fw-a-p-0123", want: false },
        Case { cluster: "a", namespace: "a-node-1", want: false },
    ];
    for case in cases {
        let cluster = ClusterName::parse(case.cluster).unwrap();
        assert_eq!(cluster.owns_namespace(case.namespace), case.want, "{} {}", case.cluster, case.namespace);
    }
}
