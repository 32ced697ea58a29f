use serde_json::{Value, json};

use super::*;
use crate::simulation::{Cluster, merge};

fn pod(extra: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    merge(&mut pod, extra);
    pod
}

fn node_of(cluster: &Cluster, name: &str) -> Option<String> {
    let pod = &cluster.world.pods[&fairway_kit::watch::ObjectKey::new("ns", name)];
    pod::node_name(pod).map(str::to_owned)
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn placement() {
    struct Case {
        name: &'static str,
        nodes: [Value; 2],
        pod: Value,
        want: Result<&'static str, &'static str>,
    }
    let free = || json!({});
    let tainted =
        |effect: &str| json!({"spec": {"taints": [{"key": "dedicated", "value": "db", "effect": effect}]}});
    let affinity = |operator: &str| {
        let expression = json!({"key": "disk", "operator": operator, "values": ["ssd"]});
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}}})
    };
    let ssd = || json!({"metadata": {"labels": {"disk": "ssd"}}});
    let host_port =
        json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    for case in [
        Case { name: "any: by name", nodes: [free(), free()], pod: json!({}), want: Ok("n1") },
        Case {
            name: "cordoned",
            nodes: [json!({"spec": {"unschedulable": true}}), free()],
            pod: json!({}),
            want: Ok("n2"),
        },
        Case {
            name: "node selector",
            nodes: [free(), ssd()],
            pod: json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            want: Ok("n2"),
        },
        Case { name: "affinity In", nodes: [free(), ssd()], pod: affinity("In"), want: Ok("n2") },
        Case { name: "affinity NotIn", nodes: [ssd(), free()], pod: affinity("NotIn"), want: Ok("n2") },
        Case { name: "taint", nodes: [tainted("NoSchedule"), free()], pod: json!({}), want: Ok("n2") },
        Case {
            name: "taint avoided",
            nodes: [tainted("PreferNoSchedule"), free()],
            pod: json!({}),
            want: Ok("n2"),
        },
        Case {
            name: "taint avoided but nothing else",
            nodes: [tainted("PreferNoSchedule"), tainted("NoExecute")],
            pod: json!({}),
            want: Ok("n1"),
        },
        Case {
            name: "taint tolerated",
            nodes: [tainted("NoSchedule"), json!({"spec": {"unschedulable": true}})],
            pod: json!({"spec": {"tolerations": [{"key": "dedicated", "operator": "Exists"}]}}),
            want: Ok("n1"),
        },
        Case {
            name: "preferred affinity",
            nodes: [free(), ssd()],
            pod: json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}}),
            want: Ok("n2"),
        },
        Case { name: "host port", nodes: [free(), free()], pod: host_port, want: Ok("n2") },
        Case {
            name: "every reason is counted",
            nodes: [json!({"spec": {"unschedulable": true}}), tainted("NoSchedule")],
            pod: json!({}),
            want: Err(
                "0/2 nodes are available: 1 node(s) had untolerated taint {dedicated: db}, 1 node(s) were unschedulable.",
            ),
        },
        Case {
            name: "the same reason is added up",
            nodes: [free(), free()],
            pod: json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            want: Err("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
        },
    ] {
        let mut cluster = Cluster::with_nodes(0);
        for (at, extra) in case.nodes.into_iter().enumerate() {
            let mut node = json!({"metadata": {"name": format!("n{}", at + 1)}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            merge(&mut node, extra);
            cluster.create::<Node>(node);
        }
        if case.name == "host port" {
            let holder = json!({"metadata": {"name": "holder"}, "spec": {"nodeName": "n1", "containers":
                [{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 80, "hostIP": "127.0.0.1"}]}]}});
            cluster.create::<Pod>(holder);
        }
        cluster.create::<Pod>(pod(case.pod));
        cluster.settle();
        match case.want {
            Ok(node) => assert_eq!(node_of(&cluster, "p").as_deref(), Some(node), "{}", case.name),
            Err(message) => {
                let notice = cluster
                    .notices
                    .iter()
                    .find(|notice| notice.reason == "FailedScheduling")
                    .expect(case.name);
                assert_eq!(notice.message, message, "{}", case.name);
                let pod = &cluster.world.pods[&fairway_kit::watch::ObjectKey::new("ns", "p")];
                let condition = pod::condition(pod, "PodScheduled").expect(case.name);
                assert_eq!(
                    (condition.status.as_str(), condition.reason.as_deref()),
                    ("False", Some("Unschedulable")),
                    "{}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn not_for_us() {
    for (name, extra) in [
        ("another scheduler", json!({"spec": {"schedulerName": "other"}})),
        ("gated", json!({"spec": {"schedulingGates": [{"name": "wait"}]}})),
        ("finished", json!({"status": {"phase": "Failed"}})),
    ] {
        let mut cluster = Cluster::with_nodes(1);
        cluster.create::<Pod>(pod(extra));
        cluster.settle();
        assert_eq!((node_of(&cluster, "p"), cluster.notices.len()), (None, 0), "{name}");
    }
}

#[test]
fn one_pass_counts_what_it_decided_and_prefers_the_important() {
    let mut cluster = Cluster::with_nodes(3);
    for at in 0..9 {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "X", "name": "x", "uid": format!("owner-{}", at % 3), "controller": true}]);
        let name = format!("p{at}");
        cluster.create::<Pod>(pod(
            json!({"metadata": {"name": name, "ownerReferences": owner}, "spec": {"priority": at}}),
        ));
    }
    let plan = reconcile(&cluster.world, cluster.now);
    let Some(Write::Bind { pod: first, .. }) = plan.writes.first() else { panic!("no binding") };
    assert_eq!(name_of(&first.metadata), "p8");
    cluster.settle();
    let mut spread: BTreeMap<(String, String), usize> = BTreeMap::new();
    for pod in cluster.world.pods.values() {
        let owner = controller_of(&pod.metadata).unwrap().uid.clone();
        *spread.entry((owner, pod::node_name(pod).unwrap().to_owned())).or_default() += 1;
    }
    assert_eq!(spread.len(), 9, "each owner once on each node: {spread:?}");
}

#[test]
fn a_pod_that_waits_is_placed_when_room_appears_and_says_the_same_thing_once() {
    let mut cluster = Cluster::with_nodes(0);
    cluster.create::<Pod>(pod(json!({})));
    cluster.settle();
    assert_eq!(cluster.notices[0].message, "no nodes available to schedule pods");
    cluster.wait(60);
    cluster.settle();
    assert_eq!(cluster.notices.len(), 1);
    cluster.create::<Node>(json!({"metadata": {"name": "late"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    cluster.settle();
    assert_eq!(node_of(&cluster, "p").as_deref(), Some("late"));
}
