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

/// Nodes n1 and n2 in zone a, n3 in zone b; pods `a` on n1 and `b` on n3 with label app.
fn zones() -> Cluster {
    let mut cluster = Cluster::with_nodes(0);
    for (name, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        let labels = json!({"zone": zone, "kubernetes.io/hostname": name});
        let allocatable = json!({"cpu": "2", "memory": "1Gi", "pods": "2"});
        cluster.create::<Node>(json!({"metadata": {"name": name, "labels": labels},
            "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]}}));
    }
    for (name, node) in [("a", "n1"), ("b", "n3")] {
        cluster.create::<Pod>(json!({"metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}}));
    }
    cluster
}

fn term(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn other_pods_and_room_decide() {
    const HOST: &str = "kubernetes.io/hostname";
    struct Case {
        name: &'static str,
        pod: Value,
        want: Result<&'static str, &'static str>,
    }
    let affinity = |kind: &str, term: Value| json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    let preferred = |kind: &str, term: Value| json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}}}});
    let request = |resource: &str, amount: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {resource: amount}}}]}});
    let spread = |key: &str, skew: i32, app: &str| {
        json!({"metadata": {"labels": {"app": app}}, "spec": {"topologySpreadConstraints": [{"maxSkew": skew, "topologyKey": key,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}]}})
    };
    let first = {
        let mut pod = affinity("podAffinity", term("self", HOST));
        pod["metadata"] = json!({"labels": {"app": "self"}});
        pod
    };
    for case in [
        Case { name: "the emptiest", pod: json!({}), want: Ok("n2") },
        Case { name: "near b", pod: affinity("podAffinity", term("b", "zone")), want: Ok("n3") },
        Case {
            name: "near a, by zone: the emptiest of it",
            pod: affinity("podAffinity", term("a", "zone")),
            want: Ok("n2"),
        },
        Case { name: "near a, by host", pod: affinity("podAffinity", term("a", HOST)), want: Ok("n1") },
        Case {
            name: "near nobody",
            pod: affinity("podAffinity", term("none", HOST)),
            want: Err("0/3 nodes are available: 3 node(s) didn't match pod affinity rules."),
        },
        Case { name: "near itself: the first may be anywhere", pod: first, want: Ok("n2") },
        Case {
            name: "away from a's zone",
            pod: affinity("podAntiAffinity", term("a", "zone")),
            want: Ok("n3"),
        },
        Case { name: "rather near b", pod: preferred("podAffinity", term("b", "zone")), want: Ok("n3") },
        Case {
            name: "rather away from a's zone",
            pod: preferred("podAntiAffinity", term("a", "zone")),
            want: Ok("n3"),
        },
        Case { name: "room for half a cpu anywhere", pod: request("cpu", "500m"), want: Ok("n2") },
        Case { name: "room for one on n2 only", pod: request("cpu", "1"), want: Ok("n2") },
        Case {
            name: "too much",
            pod: request("memory", "2Gi"),
            want: Err("0/3 nodes are available: 3 Insufficient memory."),
        },
        Case {
            name: "nobody has it",
            pod: request("example.com/gpu", "1"),
            want: Err("0/3 nodes are available: 3 Insufficient example.com/gpu."),
        },
        Case { name: "spread over zones", pod: spread("zone", 1, "a"), want: Ok("n3") },
        Case {
            name: "no such label",
            pod: spread("rack", 1, "a"),
            want: Err(
                "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required label).",
            ),
        },
    ] {
        let mut cluster = zones();
        cluster.create::<Pod>(pod(case.pod));
        cluster.settle();
        let told = || {
            cluster
                .notices
                .iter()
                .find(|notice| notice.reason == "FailedScheduling")
                .map(|notice| notice.message.clone())
        };
        match case.want {
            Ok(node) => {
                assert_eq!(node_of(&cluster, "p").as_deref(), Some(node), "{}: {:?}", case.name, told())
            }
            Err(message) => assert_eq!(told().as_deref(), Some(message), "{}", case.name),
        }
    }
}

#[test]
fn who_keeps_others_away_is_respected_by_those_who_come_later_until_gone() {
    let mut cluster = zones();
    let alone = json!({"metadata": {"name": "alone", "labels": {"app": "alone"}}, "spec": {"affinity": {"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [term("p", "zone")]}}}});
    cluster.create::<Pod>(pod(alone));
    cluster.settle();
    assert_eq!(node_of(&cluster, "alone").as_deref(), Some("n2"));
    for name in ["p", "q"] {
        cluster.create::<Pod>(pod(json!({"metadata": {"name": name, "labels": {"app": "p"}}})));
    }
    cluster.settle();
    assert_eq!((node_of(&cluster, "p").as_deref(), node_of(&cluster, "q")), (Some("n3"), None));
    let told = cluster.notices.iter().find(|notice| notice.reason == "FailedScheduling").unwrap();
    assert_eq!(
        told.message,
        "0/3 nodes are available: 1 Too many pods, 2 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    let key = fairway_kit::watch::ObjectKey::new("ns", "alone");
    let deletion =
        crate::plan::Deletion { kind: crate::world::Kind::Pod, key, uid: None, grace_period_seconds: None };
    cluster.apply(Write::Delete(deletion)).unwrap();
    cluster.settle();
    assert_eq!(node_of(&cluster, "q"), None, "it still runs");
    cluster.kubelet("alone");
    cluster.settle();
    assert_eq!(node_of(&cluster, "q").as_deref(), Some("n2"));
}

#[test]
fn pods_of_one_pass_count_for_each_other() {
    let mut cluster = zones();
    for at in 0..3 {
        let mut one = pod(json!({"metadata": {"name": format!("r{at}"), "labels": {"app": "r"}}}));
        one["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("r", "kubernetes.io/hostname")]}});
        cluster.create::<Pod>(one);
    }
    cluster.settle();
    let mut nodes: Vec<_> = (0..3).filter_map(|at| node_of(&cluster, &format!("r{at}"))).collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
}
