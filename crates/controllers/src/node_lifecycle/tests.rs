use serde_json::{Value, json};

use super::*;
use crate::simulation::Cluster;

fn taints(cluster: &Cluster) -> Vec<String> {
    let node = &cluster.world.nodes[&ObjectKey::new("", "n1")];
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    taints
        .iter()
        .map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect))
        .collect()
}

fn with_pod(tolerations: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(1);
    cluster.create::<Pod>(json!({
        "metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [], "tolerations": tolerations},
    }));
    cluster.ready("p", true);
    cluster.wait(1);
    cluster.settle();
    cluster
}

fn tolerate(seconds: Value) -> Value {
    json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}])
}

#[test]
fn a_silent_node_is_tainted_its_pods_unready_and_it_recovers() {
    let mut cluster = with_pod(tolerate(json!(300)));
    cluster.silent.insert("n1".into());
    cluster.wait(39);
    cluster.settle();
    assert_eq!(taints(&cluster), [""; 0]);
    cluster.wait(2);
    cluster.settle();
    assert_eq!(taints(&cluster), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
    let pod = |cluster: &Cluster| cluster.world.pods.get(&ObjectKey::new("ns", "p")).cloned();
    assert!(!pod::is_ready(&pod(&cluster).unwrap()));
    assert_eq!(cluster.notices.iter().filter(|notice| notice.reason == "NodeNotReady").count(), 1);
    cluster.silent.clear();
    cluster.wait(1);
    cluster.settle();
    assert_eq!(taints(&cluster), [""; 0]);
    assert!(pod(&cluster).is_some());
}

#[test]
fn eviction() {
    struct Case {
        name: &'static str,
        tolerations: Value,
        /// Seconds after the taint at which the pod is still there, and at which it is not.
        stays_goes: (i64, Option<i64>),
    }
    for case in [
        Case { name: "limited", tolerations: tolerate(json!(300)), stays_goes: (299, Some(2)) },
        Case { name: "for ever", tolerations: tolerate(json!(null)), stays_goes: (100_000, None) },
        Case {
            name: "shortest counts",
            tolerations: {
                let mut both = tolerate(json!(300)).as_array().unwrap().clone();
                both.extend(tolerate(json!(10)).as_array().unwrap().clone());
                json!(both)
            },
            stays_goes: (9, Some(2)),
        },
    ] {
        let mut cluster = with_pod(case.tolerations);
        let leaving =
            |cluster: &Cluster| is_deleting(&cluster.world.pods[&ObjectKey::new("ns", "p")].metadata);
        cluster.silent.insert("n1".into());
        cluster.wait(40);
        cluster.settle();
        cluster.wait(case.stays_goes.0);
        cluster.settle();
        assert!(!leaving(&cluster), "{}", case.name);
        if let Some(seconds) = case.stays_goes.1 {
            cluster.wait(seconds);
            cluster.settle();
            assert!(leaving(&cluster), "{}", case.name);
        }
    }
    let mut cluster = with_pod(json!([]));
    cluster.silent.insert("n1".into());
    cluster.wait(40);
    cluster.settle();
    assert!(
        is_deleting(&cluster.world.pods[&ObjectKey::new("ns", "p")].metadata),
        "what tolerates nothing goes at once"
    );
}

#[test]
fn a_node_that_says_it_is_not_ready_is_tainted_and_foreign_taints_stay() {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "False"}]},
    }))
    .unwrap();
    let mut cluster = Cluster::with_nodes(0);
    cluster.create::<Node>(serde_json::to_value(node).unwrap());
    cluster.settle();
    assert_eq!(taints(&cluster), ["dedicated:NoSchedule", "not-ready:NoSchedule", "not-ready:NoExecute"]);
}

#[test]
fn the_next_look_is_when_the_lease_runs_out() {
    let mut cluster = Cluster::with_nodes(1);
    cluster.wait(0);
    cluster.settle();
    let plan = reconcile(&cluster.world, "n1", cluster.now);
    assert_eq!(plan, Plan { look_again_after: Some(std::time::Duration::from_secs(40)), ..Plan::default() });
}

#[test]
fn pods_of_a_removed_node_are_removed() {
    let mut cluster = with_pod(json!([]));
    cluster.remove_node("n1");
    cluster.wait(60);
    cluster.settle();
    assert_eq!(cluster.world.pods.len(), 0);
}

#[test]
fn a_node_under_pressure_or_cordoned_is_tainted_and_clean_again() {
    let mut cluster = Cluster::with_nodes(1);
    cluster.settle();
    let conditions = |pressure: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": pressure}]}});
    let change = |cluster: &mut Cluster, change: Value| {
        let mut node = serde_json::to_value(&*cluster.world.nodes[&ObjectKey::new("", "n1")]).unwrap();
        let status = change.get("status").is_some();
        crate::simulation::merge(&mut node, change);
        let node: Node = serde_json::from_value(node).unwrap();
        let write = if status { Write::ReplaceStatus(node.into()) } else { Write::Replace(node.into()) };
        cluster.apply(write).unwrap();
        cluster.settle();
    };
    change(&mut cluster, conditions("True"));
    assert_eq!(taints(&cluster), ["disk-pressure:NoSchedule"]);
    change(&mut cluster, conditions("False"));
    assert_eq!(taints(&cluster), [""; 0]);
    change(&mut cluster, json!({"spec": {"unschedulable": true}}));
    assert_eq!(taints(&cluster), ["unschedulable:NoSchedule"]);
    change(&mut cluster, json!({"spec": {"unschedulable": null}}));
    assert_eq!(taints(&cluster), [""; 0]);
}
