use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::simulation::{Cluster, merge, template};
use crate::world::Objects;

fn cluster(extra: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(2);
    let mut spec = json!({
        "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
        "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
    });
    merge(&mut spec, extra);
    cluster.create::<StatefulSet>(json!({"metadata": {"name": "db"}, "spec": spec}));
    cluster
}

fn sets(world: &World) -> &Objects<StatefulSet> {
    &world.stateful_sets
}

fn set(cluster: &Cluster) -> &StatefulSet {
    &cluster.world.stateful_sets[&ObjectKey::new("ns", "db")]
}

/// `name=image`, with `!` when not ready and `-` when on its way out.
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
        format!("{}={image}{mark}", name_of(&pod.metadata))
    };
    world.pods.values().map(line).collect()
}

#[test]
fn names_numbers_and_identity() {
    for (name, want) in [
        ("db-0", Some(0)),
        ("db-12", Some(12)),
        ("db-01", None),
        ("db--1", None),
        ("db-", None),
        ("dbx-1", None),
    ] {
        assert_eq!(ordinal("db", name), want, "{name}");
    }
    let mut cluster = cluster(json!({"ordinals": {"start": 5}}));
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["db-5=v1", "db-6=v1", "db-7=v1"]);
    let pod = &cluster.world.pods[&ObjectKey::new("ns", "db-6")];
    let spec = pod.spec.clone().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-6"), Some("db")));
    assert_eq!(label(&pod.metadata, "statefulset.kubernetes.io/pod-name"), Some("db-6"));
    assert_eq!(label(&pod.metadata, "apps.kubernetes.io/pod-index"), Some("6"));
}

#[test]
fn ordered_creation_waits_for_each_and_parallel_does_not() {
    let mut ordered = cluster(json!({}));
    ordered.settle();
    assert_eq!(pods(&ordered.world), ["db-0=v1!"]);
    ordered.kubelet("db-0");
    ordered.settle();
    assert_eq!(pods(&ordered.world), ["db-0=v1", "db-1=v1!"]);
    let mut parallel = cluster(json!({"podManagementPolicy": "Parallel"}));
    parallel.settle();
    assert_eq!(pods(&parallel.world), ["db-0=v1!", "db-1=v1!", "db-2=v1!"]);
}

#[test]
fn shrinks_from_the_end_one_at_a_time() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    cluster.patch(sets, "db", json!({"spec": {"replicas": 1}}));
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1", "db-2=v1-"]);
    cluster.kubelet("db-2");
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1-"]);
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["db-0=v1"]);
}

#[test]
fn updates_from_the_end_and_reports_revisions() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    let before = set(&cluster).status.clone().unwrap();
    assert_eq!(before.current_revision, before.update_revision);
    cluster.patch(sets, "db", json!({"spec": {"template": template("v2")}}));
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1", "db-2=v1-"]);
    let during = set(&cluster).status.clone().unwrap();
    assert_eq!(during.current_revision, before.current_revision);
    assert_ne!(during.update_revision, before.update_revision);
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["db-0=v2", "db-1=v2", "db-2=v2"]);
    let after = set(&cluster).status.clone().unwrap();
    assert_eq!((&after.current_revision, after.updated_replicas), (&during.update_revision, Some(3)));
    assert_eq!(cluster.world.controller_revisions.values().map(|revision| revision.revision).max(), Some(2));
}

#[test]
fn back_to_an_earlier_template_is_a_new_number_of_the_same_revision() {
    let mut cluster = cluster(json!({}));
    for version in ["v1", "v2", "v1"] {
        cluster.patch(sets, "db", json!({"spec": {"template": template(version)}}));
        cluster.converge();
    }
    let mut numbers: Vec<_> =
        cluster.world.controller_revisions.values().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(
        (numbers, pods(&cluster.world)),
        (vec![2, 3], vec!["db-0=v1".into(), "db-1=v1".into(), "db-2=v1".into()])
    );
}

#[test]
fn below_the_partition_pods_stay_and_come_back_as_they_were() {
    let mut cluster = cluster(json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}));
    cluster.converge();
    cluster.patch(sets, "db", json!({"spec": {"template": template("v2")}}));
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1", "db-2=v2"]);
    cluster.vanish("db-0");
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1", "db-2=v2"]);
}

#[test]
fn on_delete_replaces_only_what_is_deleted() {
    let mut cluster = cluster(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}));
    cluster.converge();
    cluster.patch(sets, "db", json!({"spec": {"template": template("v2")}}));
    cluster.vanish("db-1");
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v2", "db-2=v1"]);
}

#[test]
fn as_many_as_may_be_missing_are_updated_together() {
    let rolling = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}, "podManagementPolicy": "Parallel"});
    let mut cluster = cluster(rolling);
    cluster.converge();
    cluster.patch(sets, "db", json!({"spec": {"template": template("v2")}}));
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1-", "db-2=v1-"]);
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["db-0=v2", "db-1=v2", "db-2=v2"]);
}

#[test]
fn a_pod_that_is_ready_for_too_short_a_time_is_waited_for() {
    let mut cluster = cluster(json!({"minReadySeconds": 10}));
    cluster.settle();
    cluster.kubelet("db-0");
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["db-0=v1"]);
    cluster.wait(10);
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1!"]);
}

#[test]
fn a_version_that_never_works_can_be_taken_back() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    cluster.patch(sets, "db", json!({"spec": {"template": template("broken")}}));
    cluster.settle();
    cluster.kubelet("db-2");
    cluster.settle();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1", "db-2=broken!"]);
    cluster.patch(sets, "db", json!({"spec": {"template": template("v1")}}));
    cluster.converge();
    assert_eq!(pods(&cluster.world), ["db-0=v1", "db-1=v1", "db-2=v1"]);
}

#[test]
fn history_is_pruned_to_its_limit() {
    let mut cluster = cluster(json!({"revisionHistoryLimit": 1}));
    for version in ["v1", "v2", "v3", "v4"] {
        cluster.patch(sets, "db", json!({"spec": {"template": template(version)}}));
        cluster.converge();
    }
    assert_eq!(cluster.world.controller_revisions.len(), 2);
}

#[test]
fn volume_claims_are_refused_once_and_clearly() {
    let mut cluster = cluster(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}));
    cluster.converge();
    assert_eq!(cluster.world.pods.len(), 0);
    assert_eq!(cluster.notices.iter().filter(|notice| notice.reason == "FailedCreate").count(), 1);
    let conditions = set(&cluster).status.clone().unwrap().conditions.unwrap();
    assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("Supported", "False"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ordered_sets_never_run_ahead(steps in prop::collection::vec((0..6usize, 0..12u8), 0..60)) {
        let mut cluster = cluster(json!({}));
        for (at, what) in steps {
            // A pod may appear only when every lower number is available.
            let mut known: Vec<String> = cluster.world.pods.keys().map(|key| key.name.to_string()).collect();
            cluster.settle_with(|world| {
                for (key, _) in world.pods.iter().filter(|(key, _)| !known.contains(&key.name.to_string())) {
                    let number = ordinal("db", &key.name).unwrap();
                    let ready = |lower: i32| world.pods.get(&ObjectKey::new("ns", &format!("db-{lower}"))).is_some_and(|pod| pod::is_ready(pod));
                    assert!((0..number).all(ready), "db-{number} before a lower one is ready");
                }
                known = world.pods.keys().map(|key| key.name.to_string()).collect();
            });
            let name = format!("db-{at}");
            match what {
                0 => cluster.patch(sets, "db", json!({"spec": {"replicas": at}})),
                1 => cluster.patch(sets, "db", json!({"spec": {"template": template(&format!("v{at}"))}})),
                2 => cluster.vanish(&name),
                _ => cluster.kubelet(&name),
            }
        }
        cluster.converge();
        let spec = set(&cluster).spec.clone().unwrap();
        let image = spec.template.spec.unwrap().containers[0].image.clone().unwrap();
        let want: Vec<_> = (0..spec.replicas.unwrap()).map(|number| format!("db-{number}={image}")).collect();
        prop_assert_eq!(pods(&cluster.world), want);
    }
}
