use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::*;
use crate::simulation::{Cluster, template};

/// A Deployment of four ready pods, and a budget.
fn cluster(spec: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(2);
    cluster.create::<Deployment>(json!({"metadata": {"name": "web"}, "spec":
        {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template("v1")}}));
    let mut budget = json!({"selector": {"matchLabels": {"app": "web"}}});
    crate::simulation::merge(&mut budget, spec);
    cluster.create::<PodDisruptionBudget>(json!({"metadata": {"name": "b"}, "spec": budget}));
    cluster.converge();
    cluster
}

/// expected, desired, healthy, allowed
fn status(cluster: &Cluster) -> [i32; 4] {
    let status = cluster.world.disruption_budgets[&ObjectKey::new("ns", "b")].status.clone().unwrap();
    [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed]
        .map(Option::unwrap)
}

#[test]
fn budgets() {
    for (spec, want) in [
        (json!({"minAvailable": 3}), [4, 3, 4, 1]),
        (json!({"minAvailable": 5}), [4, 5, 4, 0]),
        (json!({"minAvailable": "60%"}), [4, 3, 4, 1]),
        (json!({"maxUnavailable": 1}), [4, 3, 4, 1]),
        (json!({"maxUnavailable": "30%"}), [4, 2, 4, 2]),
        (json!({"maxUnavailable": 0}), [4, 4, 4, 0]),
        (json!({"selector": {"matchLabels": {"app": "none"}}, "minAvailable": 0}), [0, 0, 0, 0]),
    ] {
        assert_eq!(status(&cluster(spec.clone())), want, "{spec}");
    }
}

#[test]
fn follows_pods_and_says_since_when() {
    let mut cluster = cluster(json!({"minAvailable": 4}));
    let condition = |cluster: &Cluster| {
        let status = cluster.world.disruption_budgets[&ObjectKey::new("ns", "b")].status.clone().unwrap();
        let condition = status.conditions.unwrap()[0].clone();
        (condition.status, condition.reason)
    };
    assert_eq!(condition(&cluster), ("False".into(), "InsufficientPods".into()));
    cluster.patch(|world| &world.disruption_budgets, "b", json!({"spec": {"minAvailable": 2}}));
    cluster.settle();
    assert_eq!(
        (status(&cluster), condition(&cluster)),
        ([4, 2, 4, 2], ("True".into(), "SufficientPods".into()))
    );
    let name = cluster.world.pods.keys().next().unwrap().name.to_string();
    cluster.ready(&name, false);
    cluster.settle();
    assert_eq!(status(&cluster), [4, 2, 3, 1]);
    cluster.patch(|world| &world.deployments, "web", json!({"spec": {"replicas": 2}}));
    cluster.converge();
    assert_eq!(status(&cluster), [2, 2, 2, 0]);
}

#[test]
fn an_allowed_eviction_counts_until_it_happened_or_was_forgotten() {
    let mut cluster = cluster(json!({"minAvailable": 2}));
    let name = cluster.world.pods.keys().next().unwrap().name.to_string();
    let mut evicted = serde_json::Map::new();
    evicted.insert(name, json!(Time(cluster.now)));
    cluster.patch(|world| &world.disruption_budgets, "b", json!({"status": {"disruptedPods": evicted}}));
    cluster.settle();
    assert_eq!(status(&cluster), [4, 2, 3, 1]);
    cluster.wait(DISRUPTED_SECONDS);
    cluster.settle();
    assert_eq!(status(&cluster), [4, 2, 4, 2]);
}

#[test]
fn pods_without_a_controller_are_told_of() {
    let mut world = World::default();
    let pod = json!({"metadata": {"namespace": "ns", "name": "p", "labels": {"app": "web"}}});
    world.set::<Pod>(ObjectKey::new("ns", "p"), Some(Arc::new(serde_json::from_value(pod).unwrap())));
    let budget =
        json!({"metadata": {"namespace": "ns", "name": "b"}, "spec": {"maxUnavailable": 1, "selector": {}}});
    let key = ObjectKey::new("ns", "b");
    world.disruption_budgets.insert(key.clone(), Arc::new(serde_json::from_value(budget).unwrap()));
    let plan = reconcile(&world, &key, Timestamp::UNIX_EPOCH);
    assert_eq!(plan.notices[0].reason, "UnmanagedPods");
}
