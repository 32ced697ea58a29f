use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::metadata::label;
use crate::simulation::{Cluster, merge, template};
use crate::world::Objects;

fn cluster(extra: Value) -> Cluster {
    let mut cluster = Cluster::with_nodes(2);
    let mut spec = json!({
        "replicas": 4, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
        "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
    });
    merge(&mut spec, extra);
    cluster.create::<Deployment>(
        json!({"metadata": {"name": "web", "annotations": {"team": "shop"}}, "spec": spec}),
    );
    cluster
}

fn deployments(world: &World) -> &Objects<Deployment> {
    &world.deployments
}

fn deployment(cluster: &Cluster) -> &Deployment {
    &cluster.world.deployments[&ObjectKey::new("ns", "web")]
}

fn image(cluster: &mut Cluster, image: &str) {
    cluster.patch(deployments, "web", json!({"spec": {"template": template(image)}}));
}

fn condition(cluster: &Cluster, type_: &str) -> (String, String) {
    let conditions = deployment(cluster).status.clone().unwrap().conditions.unwrap();
    let found = conditions.into_iter().find(|condition| condition.type_ == type_).unwrap();
    (found.status, found.reason.unwrap())
}

fn revision_of(cluster: &Cluster) -> &str {
    annotation(&deployment(cluster).metadata, "deployment.kubernetes.io/revision").unwrap()
}

/// Running replicas by image.
fn images(world: &World) -> Vec<(String, usize)> {
    let mut images = std::collections::BTreeMap::new();
    for pod in world.pods.values() {
        *images.entry(pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).or_insert(0) += 1;
    }
    images.into_iter().collect()
}

#[test]
fn first_rollout() {
    let mut cluster = cluster(json!({}));
    cluster.settle();
    assert_eq!(condition(&cluster, "Progressing").1, "ReplicaSetUpdated");
    assert_eq!(condition(&cluster, "Available"), ("False".into(), "MinimumReplicasUnavailable".into()));
    cluster.converge();
    let status = deployment(&cluster).status.clone().unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.available_replicas),
        (Some(4), Some(4), Some(4))
    );
    assert_eq!(condition(&cluster, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    assert_eq!(condition(&cluster, "Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(revision_of(&cluster), "1");
    let set = cluster.world.replica_sets.values().next().unwrap();
    assert_eq!(annotation(&set.metadata, "team"), Some("shop"));
    let hash = label(&set.metadata, "pod-template-hash").unwrap();
    assert_eq!(name_of(&set.metadata), format!("web-{hash}"));
    assert!(cluster.world.pods.values().all(|pod| label(&pod.metadata, "pod-template-hash") == Some(hash)));
}

#[test]
fn roll_forward_and_back_numbers_the_revisions() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    image(&mut cluster, "v2");
    cluster.converge();
    assert_eq!((images(&cluster.world), revision_of(&cluster)), (vec![("v2".into(), 4)], "2"));
    image(&mut cluster, "v1");
    cluster.converge();
    assert_eq!((images(&cluster.world), revision_of(&cluster)), (vec![("v1".into(), 4)], "3"));
    assert_eq!(cluster.world.replica_sets.len(), 2);
    let history = cluster
        .world
        .replica_sets
        .values()
        .find_map(|set| annotation(&set.metadata, "deployment.kubernetes.io/revision-history"));
    assert_eq!(history, Some("1"));
}

#[test]
fn no_event_tells_of_a_replica_set_that_begins_empty() {
    let mut cluster = cluster(json!({"strategy": {"rollingUpdate": {"maxSurge": 0}}}));
    cluster.converge();
    image(&mut cluster, "v2");
    cluster.converge();
    let messages: Vec<&str> = cluster.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.contains("Scaled up")), "{messages:?}");
    assert!(!messages.iter().any(|message| message.contains("from 0 to 0")), "{messages:?}");
}

#[test]
fn history_is_pruned_to_its_limit() {
    let mut cluster = cluster(json!({"revisionHistoryLimit": 1}));
    for version in ["v1", "v2", "v3", "v4"] {
        image(&mut cluster, version);
        cluster.converge();
    }
    assert_eq!(cluster.world.replica_sets.len(), 2);
}

#[test]
fn a_broken_version_stops_at_its_bounds_and_misses_its_deadline() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    image(&mut cluster, "broken");
    // No node ever gets these ready.
    cluster.settle();
    let old = cluster.world.pods.values().filter(|pod| pod::is_active(pod) && pod::is_ready(pod)).count();
    assert_eq!(old, 3, "maxUnavailable 1 of 4");
    cluster.wait(599);
    cluster.settle();
    assert_eq!(condition(&cluster, "Progressing").0, "True");
    cluster.wait(2);
    cluster.settle();
    assert_eq!(condition(&cluster, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    image(&mut cluster, "v1");
    cluster.converge();
    assert_eq!(condition(&cluster, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn paused_scales_but_does_not_roll() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    cluster.patch(
        deployments,
        "web",
        json!({"spec": {"paused": true, "replicas": 6, "template": template("v2")}}),
    );
    cluster.converge();
    assert_eq!(images(&cluster.world), [("v1".into(), 6)]);
    assert_eq!(condition(&cluster, "Progressing"), ("Unknown".into(), "DeploymentPaused".into()));
    cluster.patch(deployments, "web", json!({"spec": {"paused": false}}));
    cluster.converge();
    assert_eq!(images(&cluster.world), [("v2".into(), 6)]);
    assert_eq!(condition(&cluster, "Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn recreate_never_runs_two_versions() {
    let mut cluster = cluster(json!({"strategy": {"type": "Recreate", "rollingUpdate": null}}));
    cluster.converge();
    image(&mut cluster, "v2");
    cluster.converge_with(|world| assert!(images(world).len() <= 1, "{:?}", images(world)));
    assert_eq!(images(&cluster.world), [("v2".into(), 4)]);
}

#[test]
fn a_name_that_is_taken_is_avoided() {
    let mut given = cluster(json!({}));
    given.settle();
    let name = given.world.replica_sets.keys().next().unwrap().name.to_string();
    let mut cluster = Cluster::with_nodes(1);
    cluster.create::<ReplicaSet>(json!({
        "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": {"metadata": {"labels": {"app": "other"}}}},
    }));
    let spec = serde_json::to_value(deployment(&given).spec.clone()).unwrap();
    cluster.create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": spec}));
    cluster.converge();
    assert_eq!(deployment(&cluster).status.as_ref().unwrap().collision_count, Some(1));
    assert_eq!((cluster.world.replica_sets.len(), images(&cluster.world)), (2, vec![("v1".into(), 4)]));
}

#[test]
fn a_settled_deployment_writes_nothing() {
    let mut cluster = cluster(json!({}));
    cluster.converge();
    cluster.wait(5);
    let before = cluster.log.len();
    cluster.settle();
    assert_eq!(cluster.log[before..], [""; 0]);
}

/// What happens to a Deployment, from outside.
#[derive(Clone, Debug)]
enum Event {
    Scale(i32),
    Image(u8),
    Controllers,
    /// The node of the n-th pod does its next step.
    Node(usize),
    PodLost(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0..8i32).prop_map(Event::Scale),
        1 => (0..4u8).prop_map(Event::Image),
        4 => Just(Event::Controllers),
        8 => (0..16usize).prop_map(Event::Node),
        1 => (0..16usize).prop_map(Event::PodLost),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_it_converges_to_what_is_asked_for(events in prop::collection::vec(event(), 0..60)) {
        let mut cluster = cluster(json!({}));
        for event in events {
            let pod = |cluster: &Cluster, at: usize| cluster.world.pods.keys().nth(at).map(|key| key.name.to_string());
            match event {
                Event::Scale(replicas) => cluster.patch(deployments, "web", json!({"spec": {"replicas": replicas}})),
                Event::Image(version) => image(&mut cluster, &format!("v{version}")),
                Event::Controllers => cluster.settle(),
                Event::Node(at) => if let Some(name) = pod(&cluster, at) { cluster.kubelet(&name) },
                Event::PodLost(at) => if let Some(name) = pod(&cluster, at) { cluster.vanish(&name) },
            }
        }
        cluster.converge();
        let wanted = deployment(&cluster).spec.clone().unwrap();
        let image = wanted.template.spec.unwrap().containers[0].image.clone().unwrap();
        let replicas = usize::try_from(wanted.replicas.unwrap()).unwrap();
        let want: Vec<_> = [(image, replicas)].into_iter().filter(|(_, replicas)| *replicas > 0).collect();
        prop_assert_eq!(images(&cluster.world), want);
        prop_assert_eq!(condition(&cluster, "Progressing").1, "NewReplicaSetAvailable");
    }

    #[test]
    fn a_rollout_stays_within_surge_and_availability(
        replicas in 1..8i32, surge in 0..4i32, unavailable in 0..4i32, steps in prop::collection::vec(0..12usize, 0..80),
    ) {
        let bounds = json!({"replicas": replicas, "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}});
        let mut cluster = cluster(bounds);
        cluster.converge();
        image(&mut cluster, "v2");
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        let (most, least) = (replicas + surge, (replicas - unavailable).max(0));
        let check = |world: &World| {
            let active = world.pods.values().filter(|pod| pod::is_active(pod));
            let (total, ready) = active.fold((0, 0), |(total, ready), pod| (total + 1, ready + i32::from(pod::is_ready(pod))));
            assert!(total <= most, "{total} pods of at most {most}");
            assert!(ready >= least, "{ready} ready pods of at least {least}");
        };
        for step in steps {
            cluster.settle_with(check);
            let name = cluster.world.pods.keys().nth(step).map(|key| key.name.to_string());
            if let Some(name) = name {
                cluster.kubelet(&name);
            }
        }
        cluster.converge_with(check);
        prop_assert_eq!(images(&cluster.world), vec![("v2".to_owned(), usize::try_from(replicas).unwrap())]);
    }
}
