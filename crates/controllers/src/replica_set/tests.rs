use serde_json::{Value, json};

use super::*;
use crate::metadata::controller_of;
use crate::simulation::{Cluster, template};
use crate::world::Objects;

fn cluster(replicas: i32, extra: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(2);
    let mut spec =
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("a")});
    crate::simulation::merge(&mut spec, extra);
    cluster.create::<ReplicaSet>(json!({"metadata": {"name": "web"}, "spec": spec}));
    cluster
}

fn sets(world: &World) -> &Objects<ReplicaSet> {
    &world.replica_sets
}

fn status_of(cluster: &Cluster) -> (i32, i32, i32) {
    let status = cluster.world.replica_sets[&ObjectKey::new("ns", "web")].status.clone().unwrap();
    (status.replicas, status.ready_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0))
}

#[test]
fn scales_up_and_down_and_says_so() {
    let mut cluster = cluster(3, json!({}));
    cluster.settle();
    assert_eq!(status_of(&cluster), (3, 0, 0));
    cluster.converge();
    assert_eq!(status_of(&cluster), (3, 3, 3));
    cluster.patch(sets, "web", json!({"spec": {"replicas": 0}}));
    cluster.converge();
    assert_eq!((cluster.world.pods.len(), status_of(&cluster)), (0, (0, 0, 0)));
}

#[test]
fn a_pod_that_is_lost_is_replaced_and_an_unready_one_goes_first() {
    let mut cluster = cluster(3, json!({}));
    cluster.converge();
    let names: Vec<_> = cluster.world.pods.keys().map(|key| key.name.to_string()).collect();
    cluster.vanish(&names[0]);
    cluster.converge();
    assert_eq!(cluster.world.pods.len(), 3);
    cluster.ready(&names[1], false);
    cluster.patch(sets, "web", json!({"spec": {"replicas": 2}}));
    cluster.settle();
    assert!(is_deleting(&cluster.world.pods[&ObjectKey::new("ns", &names[1])].metadata));
}

#[test]
fn ready_pods_become_available_with_time() {
    let mut cluster = cluster(1, json!({"minReadySeconds": 10}));
    cluster.converge();
    assert_eq!(status_of(&cluster), (1, 1, 0));
    let plan = reconcile(&cluster.world, &ObjectKey::new("ns", "web"), cluster.now);
    assert_eq!(plan.look_again_after, Some(std::time::Duration::from_secs(10)));
    cluster.wait(10);
    cluster.settle();
    assert_eq!(status_of(&cluster), (1, 1, 1));
}

#[test]
fn orphans_are_adopted_and_relabelled_pods_released() {
    let mut cluster = cluster(0, json!({}));
    cluster.settle();
    cluster.patch(sets, "web", json!({"spec": {"replicas": 1}}));
    cluster.create::<Pod>(
        json!({"metadata": {"name": "stray", "labels": {"app": "web"}}, "spec": {"containers": []}}),
    );
    cluster.converge();
    assert_eq!(cluster.world.pods.keys().map(|key| &*key.name).collect::<Vec<_>>(), ["stray"]);
    cluster.patch(|world| &world.pods, "stray", json!({"metadata": {"labels": {"app": "debug"}}}));
    cluster.converge();
    let stray = &cluster.world.pods[&ObjectKey::new("ns", "stray")];
    assert_eq!((cluster.world.pods.len(), controller_of(&stray.metadata)), (2, None));
}

#[test]
fn a_set_that_is_being_deleted_makes_nothing() {
    let mut cluster = cluster(3, json!({}));
    cluster.patch(sets, "web", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    cluster.settle();
    assert_eq!(cluster.world.pods.len(), 0);
}
