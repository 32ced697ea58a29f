//! Tables of cases.

use super::*;

#[test]
fn expansion() {
    struct Case {
        given: &'static str,
        want: &'static str,
    }
    let cases = [
        Case { given: "a$(X)b", want: "a1b" },
        Case { given: "$$(X)", want: "$(X)" },
        Case { given: "$(Y)", want: "$(Y)" },
        Case { given: "$X $", want: "$X $" },
        Case { given: "$(X", want: "$(X" },
        Case { given: "$$$(X)", want: "$1" },
    ];
    for case in cases {
        assert_eq!(expand(case.given, |name| (name == "X").then_some("1")), case.want, "{}", case.given);
    }
}

#[test]
fn command_and_args_replace_entrypoint_and_cmd() {
    struct Case {
        command: &'static [&'static str],
        args: &'static [&'static str],
        want: &'static [&'static str],
    }
    let cases = [
        Case { command: &[], args: &[], want: &["entry", "cmd"] },
        Case { command: &["c"], args: &[], want: &["c"] },
        Case { command: &[], args: &["$(X)"], want: &["entry", "1"] },
        Case { command: &["c"], args: &["a"], want: &["c", "a"] },
    ];
    let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    for case in cases {
        let container = Container {
            command: Some(own(case.command)),
            args: Some(own(case.args)),
            ..Container::default()
        };
        let env = [("X".to_owned(), "1".to_owned())];
        assert_eq!(command_line(&container, &own(&["entry"]), &own(&["cmd"]), &env), own(case.want));
    }
}

#[test]
fn quantities() {
    let cases =
        [("1", 1000), ("250m", 250), ("1.5", 1500), ("64Mi", 64 * 1024 * 1024 * 1000), ("1k", 1_000_000)];
    for (given, want) in cases {
        assert_eq!(quantity_milli(given), Some(want), "{given}");
    }
    assert_eq!(quantity_milli("1X"), None);
    assert_eq!(quantity_milli(""), None);
}

fn service(namespace: &str, name: &str, ip: &str) -> Service {
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"clusterIP": ip, "ports": [{"name": "web-ui", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}
    }))
    .unwrap()
}

/// Sources with these objects.
pub(crate) fn sources_of(config_maps: Vec<ConfigMap>, services: Vec<Service>) -> Sources {
    Sources {
        config_maps: snapshot(config_maps),
        secrets: snapshot(Vec::new()),
        services: snapshot(services),
    }
}

fn snapshot<K: kube::Resource>(objects: Vec<K>) -> Arc<Snapshot<K>> {
    let objects =
        objects.into_iter().map(|object| (fairway_kit::watch::key_of(&object), Arc::new(object))).collect();
    Arc::new(Snapshot { objects, synced: true, revision: 0 })
}

fn sources(services: Vec<Service>) -> Sources {
    let config: ConfigMap = serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "shop", "name": "conf"}, "data": {"A": "1", "B": "2"}
    }))
    .unwrap();
    sources_of(vec![config], services)
}

fn pod() -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "shop", "name": "p", "labels": {"app": "x"}}, "spec": {"containers": []}
    }))
    .unwrap()
}

#[test]
fn service_links_are_those_of_the_namespace_and_the_api_server() {
    let services = vec![
        service("shop", "db-main", "10.96.0.7"),
        service("other", "x", "10.96.0.8"),
        service("shop", "head", "None"),
        service("default", "kubernetes", "10.96.0.1"),
    ];
    let addresses = Addresses { pod: None, host: [10, 0, 0, 1].into() };
    let env = variables(&pod(), &Container::default(), &sources(services), addresses).unwrap();
    let find = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(find("DB_MAIN_SERVICE_HOST"), Some("10.96.0.7"));
    assert_eq!(find("DB_MAIN_SERVICE_PORT_WEB_UI"), Some("80"));
    assert_eq!(find("DB_MAIN_PORT"), Some("tcp://10.96.0.7:80"));
    assert_eq!(find("DB_MAIN_PORT_53_UDP"), Some("udp://10.96.0.7:53"));
    assert_eq!(find("KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
    assert_eq!((find("X_SERVICE_HOST"), find("HEAD_SERVICE_HOST")), (None, None));
}

#[test]
fn later_definitions_win_and_may_use_earlier_ones() {
    let container: Container = serde_json::from_value(serde_json::json!({
        "name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "conf"}}, {"secretRef": {"name": "absent", "optional": true}}],
        "env": [
            {"name": "P_A", "value": "x$(P_B)"},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        ]
    }))
    .unwrap();
    let addresses = Addresses { pod: Some([10, 244, 0, 9].into()), host: [10, 0, 0, 1].into() };
    let env = variables(&pod(), &container, &sources(vec![]), addresses).unwrap();
    let want = [("P_A", "x2"), ("P_B", "2"), ("LABEL", "x"), ("IP", "10.244.0.9")];
    assert_eq!(env, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn a_missing_reference_is_named() {
    let container: Container = serde_json::from_value(serde_json::json!({
        "name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "Z"}}}]
    }))
    .unwrap();
    let addresses = Addresses { pod: None, host: [10, 0, 0, 1].into() };
    let error = variables(&pod(), &container, &sources(vec![]), addresses).unwrap_err();
    assert_eq!(error.to_string(), "couldn't find key Z in ConfigMap shop/conf");
}
