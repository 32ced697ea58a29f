use serde_json::{Value, json};

use super::*;
use crate::simulation::{Cluster, merge, template};
use crate::world::{Node, Objects};

fn cluster(extra: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(3);
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
    });
    merge(&mut spec, extra);
    cluster.create::<DaemonSet>(json!({"metadata": {"name": "agent"}, "spec": spec}));
    cluster
}

fn sets(world: &World) -> &Objects<DaemonSet> {
    &world.daemon_sets
}

/// `node=image`, with `!` when not ready and `-` when on its way out, sorted.
fn pods(world: &World) -> Vec<String> {
    let line = |pod: &Arc<Pod>| {
        let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        let mark = if is_deleting(&pod.metadata) {
            "-"
        } else if pod::is_ready(pod) {
            ""
        } else {
            "!"
        };
        format!("{}={image}{mark}", pod::node_name(pod).unwrap_or("?"))
    };
    let mut lines: Vec<_> = world.pods.values().map(line).collect();
    lines.sort();
    lines
}

/// desired, current, ready, available, updated, misscheduled
fn counts(cluster: &Cluster) -> [i32; 6] {
    let status = cluster.world.daemon_sets[&ObjectKey::new("ns", "agent")].status.clone().unwrap();
    [
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        status.number_available.unwrap_or(0),
        status.updated_number_scheduled.unwrap_or(0),
        status.number_misscheduled,
    ]
}

fn node(name: &str, spec: Value, labels: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).unwrap()
}

#[test]
fn which_nodes() {
    struct Case {
        name: &'static str,
        template: Value,
        node: Node,
        want: (bool, bool),
    }
    let taint = |key: &str, effect: &str| json!({"taints": [{"key": key, "effect": effect}]});
    let plain = || node("n1", json!({}), json!({}));
    for case in [
        Case { name: "any", template: json!({}), node: plain(), want: (true, true) },
        Case {
            name: "another node selector",
            template: json!({"nodeSelector": {"disk": "ssd"}}),
            node: plain(),
            want: (false, false),
        },
        Case {
            name: "another name",
            template: json!({"nodeName": "n2"}),
            node: plain(),
            want: (false, false),
        },
        Case {
            name: "tainted later: stays, but is not made",
            template: json!({}),
            node: node("n1", taint("x", "NoSchedule"), json!({})),
            want: (false, true),
        },
        Case {
            name: "expelled",
            template: json!({}),
            node: node("n1", taint("x", "NoExecute"), json!({})),
            want: (false, false),
        },
        Case {
            name: "avoided only",
            template: json!({}),
            node: node("n1", taint("x", "PreferNoSchedule"), json!({})),
            want: (true, true),
        },
        Case {
            name: "not ready",
            template: json!({}),
            node: node("n1", taint("node.kubernetes.io/not-ready", "NoExecute"), json!({})),
            want: (true, true),
        },
        Case {
            name: "cordoned",
            template: json!({}),
            node: node("n1", taint("node.kubernetes.io/unschedulable", "NoSchedule"), json!({})),
            want: (true, true),
        },
        Case {
            name: "no network",
            template: json!({}),
            node: node("n1", taint("node.kubernetes.io/network-unavailable", "NoSchedule"), json!({})),
            want: (false, true),
        },
        Case {
            name: "no network, but the node's own",
            template: json!({"hostNetwork": true}),
            node: node("n1", taint("node.kubernetes.io/network-unavailable", "NoSchedule"), json!({})),
            want: (true, true),
        },
    ] {
        let mut spec = json!({"containers": []});
        merge(&mut spec, case.template);
        let template = serde_json::from_value(json!({"spec": spec})).unwrap();
        let fit = placement::fit(&placement::model(&template), &case.node);
        assert_eq!((fit.wanted, fit.tolerated), case.want, "{}", case.name);
    }
}

#[test]
fn one_a_node_wherever_nodes_come_and_go() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["n1=v1", "n2=v1", "n3=v1"]);
    assert_eq!(counts(&cluster), [3, 3, 3, 3, 3, 0]);
    cluster.create::<Node>(
        json!({"metadata": {"name": "n4"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    cluster.converge();
    assert_eq!(pods(&cluster.world).len(), 4);
    let lost = cluster.world.pods.keys().next().unwrap().name.to_string();
    cluster.vanish(&lost);
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["n1=v1", "n2=v1", "n3=v1", "n4=v1"]);
    cluster.patch(
        sets,
        "agent",
        json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "n2"}}}}}),
    );
    cluster.converge();
    assert_eq!((pods(&cluster.world), counts(&cluster)[0]), (vec!["n2=v1".to_owned()], 1));
}

#[test]
fn the_pod_is_bound_by_its_affinity_whatever_the_template_asks() {
    let template: k8s_openapi::api::core::v1::PodTemplateSpec = serde_json::from_value(json!({"spec": {"containers": [],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"matchExpressions": [{"key": "b", "operator": "Exists"}]}]}}}}}))
    .unwrap();
    let pod = placement::new_pod(&DaemonSet::default(), &template, "n7", "h");
    assert_eq!(placement::node_of(&pod), Some("n7"));
    let affinity = serde_json::to_value(pod.spec.unwrap().affinity.unwrap()).unwrap();
    let fields = json!([{"key": "metadata.name", "operator": "In", "values": ["n7"]}]);
    let terms = affinity
        .pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")
        .unwrap();
    assert_eq!(
        *terms,
        json!([
            {"matchExpressions": [{"key": "a", "operator": "Exists"}], "matchFields": fields},
            {"matchExpressions": [{"key": "b", "operator": "Exists"}], "matchFields": fields},
        ])
    );
}

#[test]
fn rolls_out_one_by_one_and_stops_at_a_broken_one() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    cluster.patch(sets, "agent", json!({"spec": {"template": template("v2")}}));
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["n1=v1-", "n2=v1", "n3=v1"]);
    cluster.converge_with(|world| {
        let available = world.pods.values().filter(|pod| pod::is_ready(pod) && !is_deleting(&pod.metadata));
        assert!(available.count() >= 2, "{:?}", pods(world));
    });
    assert_eq!(pods(&cluster.world), ["n1=v2", "n2=v2", "n3=v2"]);
    assert_eq!(counts(&cluster), [3, 3, 3, 3, 3, 0]);
    assert_eq!(cluster.world.controller_revisions.len(), 2);
    // The first pod of the next version never gets ready: nothing else is touched.
    cluster.patch(sets, "agent", json!({"spec": {"template": template("v3")}}));
    cluster.settle();
    cluster.kubelets();
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["n1=v3!", "n2=v2", "n3=v2"]);
    cluster.patch(sets, "agent", json!({"spec": {"template": template("v2")}}));
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["n1=v2", "n2=v2", "n3=v2"]);
}

#[test]
fn with_surge_the_new_pod_comes_first() {
    let mut cluster =
        cluster(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}));
    cluster.converge();
    cluster.patch(sets, "agent", json!({"spec": {"template": template("v2")}}));
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["n1=v1", "n1=v2!", "n2=v1", "n3=v1"]);
    cluster.converge_with(|world| {
        let available = world.pods.values().filter(|pod| pod::is_ready(pod) && !is_deleting(&pod.metadata));
        assert!(available.count() >= 3, "{:?}", pods(world));
    });
    assert_eq!(pods(&cluster.world), ["n1=v2", "n2=v2", "n3=v2"]);
}

#[test]
fn on_delete_waits_for_the_user() {
    let mut cluster = cluster(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}));
    cluster.converge();
    cluster.patch(sets, "agent", json!({"spec": {"template": template("v2")}}));
    cluster.converge();
    assert_eq!(
        (pods(&cluster.world), counts(&cluster)[4]),
        (vec!["n1=v1".into(), "n2=v1".into(), "n3=v1".into()], 0)
    );
    let name = cluster.world.pods.keys().next().unwrap().name.to_string();
    cluster.vanish(&name);
    cluster.converge();
    assert_eq!(pods(&cluster.world).iter().filter(|pod| pod.ends_with("v2")).count(), 1);
}

#[test]
fn a_failed_daemon_is_replaced_but_not_in_a_hot_loop() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    let name = cluster.world.pods.keys().next().unwrap().name.to_string();
    cluster.end(&name, 1);
    cluster.settle();
    assert!(cluster.world.pods.contains_key(&ObjectKey::new("ns", &name)));
    cluster.wait(SHORT_LIFE_SECONDS);
    cluster.converge();
    assert!(!cluster.world.pods.contains_key(&ObjectKey::new("ns", &name)));
    assert_eq!(pods(&cluster.world), ["n1=v1", "n2=v1", "n3=v1"]);
    assert_eq!(cluster.notices.iter().filter(|notice| notice.reason == "FailedDaemonPod").count(), 1);
}

#[test]
fn a_report_of_life_is_no_reason_to_look() {
    let old = node("n1", json!({}), json!({"a": "b"}));
    let mut new = old.clone();
    new.metadata.resource_version = Some("2".into());
    let delta =
        |new: Node| crate::world::Delta { old: Some(Arc::new(old.clone())), new: Some(Arc::new(new)) };
    assert!(!wants_look(&delta(new.clone())));
    new.metadata.labels = None;
    assert!(wants_look(&delta(new)));
}
