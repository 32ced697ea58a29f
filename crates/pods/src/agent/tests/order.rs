//! What runs when: init containers, sidecars, hooks, debug containers, and how they end.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodStatus};
use serde_json::json;

use super::world::World;
use super::{is_ready, restarts, state, toolbox, waiting_reason};

/// A container that notes what it does in a file that outlives the pod.
fn noting(name: &str, script: &str) -> serde_json::Value {
    let mut container = toolbox(script);
    container["name"] = json!(name);
    container["volumeMounts"] = json!([{"name": "notes", "mountPath": "/notes"}]);
    container
}

fn notes(world: &World) -> serde_json::Value {
    std::fs::create_dir_all(world.path("notes")).unwrap();
    json!([{"name": "notes", "hostPath": {"path": world.path("notes")}}])
}

fn noted(world: &World) -> Vec<String> {
    let text = std::fs::read_to_string(world.path("notes/log")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn first(statuses: &Option<Vec<ContainerStatus>>) -> &ContainerStatus {
    &statuses.as_ref().unwrap()[0]
}

fn first_state(statuses: &Option<Vec<ContainerStatus>>) -> ContainerState {
    first(statuses).state.clone().unwrap()
}

#[tokio::test]
async fn a_sidecar_starts_before_and_stops_after_the_others() {
    let mut world = World::new().await;
    let mut sidecar = noting(
        "side",
        "trap 'echo side-stopped >> /notes/log; exit 0' TERM; sleep 0.3; echo side-up >> /notes/log; touch /tmp/up; \
         while true; do sleep 0.05; done",
    );
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] = json!({"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1});
    let init = noting("init", "echo init >> /notes/log");
    let main = noting(
        "main",
        "trap 'sleep 0.3; echo main-stopped >> /notes/log; exit 0' TERM; echo main >> /notes/log; while true; do sleep 0.05; done",
    );
    let volumes = notes(&world);
    let pod = world
        .create("web", json!({"initContainers": [sidecar, init], "containers": [main], "volumes": volumes}));
    let status = world.status(&pod, is_ready).await;
    let side = first(&status.init_container_statuses);
    assert!(side.ready && side.started == Some(true) && side.state.as_ref().unwrap().running.is_some());
    world.until(|| async { noted(&world).len() == 3 }).await;
    world.delete(&pod, 10);
    world.until(|| async { world.cluster.is_deleted(&pod) }).await;
    assert_eq!(noted(&world), ["side-up", "init", "main", "main-stopped", "side-stopped"]);
    world.close().await;
}

#[tokio::test]
async fn a_sidecar_does_not_keep_a_finished_pod_alive() {
    let mut world = World::new().await;
    let mut sidecar = toolbox("while true; do sleep 0.05; done");
    (sidecar["name"], sidecar["restartPolicy"]) = (json!("side"), json!("Always"));
    let pod = world.create(
        "job",
        json!({"restartPolicy": "Never", "initContainers": [sidecar], "containers": [toolbox("exit 0")], "terminationGracePeriodSeconds": 1}),
    );
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Succeeded")).await;
    assert_eq!(state(&status, 0).terminated.unwrap().reason.as_deref(), Some("Completed"));
    world.until(|| async { !world.has_network(&pod) }).await;
    world.close().await;
}

#[tokio::test]
async fn an_init_container_that_fails_ends_a_pod_that_is_never_restarted() {
    let mut world = World::new().await;
    let (mut init, second) = (toolbox("echo broken; exit 4"), toolbox("exit 0"));
    (init["name"], init["terminationMessagePolicy"]) = (json!("init"), json!("FallbackToLogsOnError"));
    let pod = world
        .create("job", json!({"restartPolicy": "Never", "initContainers": [init], "containers": [second]}));
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Failed")).await;
    let ended = first_state(&status.init_container_statuses).terminated.unwrap();
    assert_eq!((ended.exit_code, ended.message.as_deref()), (4, Some("broken\n")));
    assert_eq!(waiting_reason(&status).as_deref(), Some("PodInitializing"));
    world.close().await;
}

#[tokio::test]
async fn init_containers_run_again_when_the_first_process_was_killed() {
    let mut world = World::new().await;
    let volumes = notes(&world);
    let init = noting("init", "echo init >> /notes/log");
    let main = noting("main", "echo main >> /notes/log; sleep 1000");
    let pod =
        world.create("web", json!({"initContainers": [init], "containers": [main], "volumes": volumes}));
    let before = world.status(&pod, is_ready).await;
    world.until(|| async { noted(&world).len() == 2 }).await;
    world.kill_pid_1(&pod);
    let status = world.status(&pod, |status| restarts(status) == 1 && is_ready(status)).await;
    world.until(|| async { noted(&world).len() == 4 }).await;
    assert_eq!(noted(&world), ["init", "main", "init", "main"]);
    assert_eq!((first(&status.init_container_statuses).restart_count, status.pod_ip), (1, before.pod_ip));
    assert!(
        world
            .cluster
            .phases(&pod)
            .iter()
            .skip_while(|phase| *phase != "Running")
            .all(|phase| phase == "Running")
    );
    world.close().await;
}

#[tokio::test]
async fn what_comes_after_a_post_start_hook_waits_for_it() {
    let mut world = World::new().await;
    let volumes = notes(&world);
    let mut first = noting("main", "sleep 1000");
    first["lifecycle"] =
        json!({"postStart": {"exec": {"command": ["/bin/sh", "-c", "sleep 0.5; echo hook >> /notes/log"]}}});
    let second = noting("second", "echo second >> /notes/log; sleep 1000");
    let pod = world.create("web", json!({"containers": [first, second], "volumes": volumes}));
    world.status(&pod, |status| state(status, 0).running.is_some()).await;
    assert_eq!(noted(&world)[..1], ["hook"], "it counts as running after its hook");
    world.status(&pod, is_ready).await;
    world.until(|| async { noted(&world).len() == 2 }).await;
    assert_eq!(noted(&world), ["hook", "second"]);
    world.close().await;
}

#[tokio::test]
async fn a_hook_that_ran_when_the_agent_ended_runs_again() {
    let mut world = World::new().await;
    let volumes = notes(&world);
    let mut container = noting("main", "sleep 1000");
    let hook =
        "echo begun >> /notes/log; while ! test -e /notes/go; do sleep 0.05; done; echo done >> /notes/log";
    container["lifecycle"] = json!({"postStart": {"exec": {"command": ["/bin/sh", "-c", hook]}}});
    let pod = world.create("web", json!({"containers": [container], "volumes": volumes}));
    world.until(|| async { noted(&world) == ["begun"] }).await;
    world.restart_agent(false).await;
    world.until(|| async { noted(&world) == ["begun", "begun"] }).await;
    std::fs::write(world.path("notes/go"), "").unwrap();
    let status = world.status(&pod, is_ready).await;
    assert_eq!((noted(&world).last().unwrap().as_str(), restarts(&status)), ("done", 0));
    world.close().await;
}

#[tokio::test]
async fn a_failed_post_start_hook_restarts_the_container() {
    let mut world = World::new().await;
    let mut container = toolbox("sleep 1000");
    container["lifecycle"] = json!({"postStart": {"exec": {"command": ["/bin/sh", "-c", "exit 3"]}}});
    let pod = world.create("web", json!({"terminationGracePeriodSeconds": 1, "containers": [container]}));
    let status = world.status(&pod, |status| restarts(status) == 1).await;
    assert!(!is_ready(&status));
    let events = world.events(&pod);
    let said = |reason: &str, part: &str| {
        events.iter().any(|(known, message)| *known == reason && message.contains(part))
    };
    assert!(
        said("FailedPostStartHook", "exited with code 3") && said("Killing", "FailedPostStartHook"),
        "{events:?}"
    );
    world.close().await;
}

#[tokio::test]
async fn a_pre_stop_hook_counts_against_the_grace() {
    let mut world = World::new().await;
    let mut container = toolbox("trap '' TERM; while true; do sleep 0.05; done");
    container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 60}}});
    let pod = world.create("slow", json!({"containers": [container]}));
    world.status(&pod, is_ready).await;
    let asked = Instant::now();
    world.delete(&pod, 1);
    world.until(|| async { world.cluster.is_deleted(&pod) }).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    world.close().await;
}

#[tokio::test]
async fn a_container_is_stopped_with_the_signal_that_it_asks_for() {
    let mut world = World::new().await;
    let mut container =
        toolbox("trap 'exit 0' TERM; trap 'exit 7' USR1; echo up; while true; do sleep 0.05; done");
    container["lifecycle"] = json!({"stopSignal": "SIGUSR1"});
    let pod = world.create("web", json!({"containers": [container]}));
    world.log_until(&pod, "main", "up").await;
    world.delete(&pod, 20);
    world.until(|| async { world.cluster.is_deleted(&pod) }).await;
    let status = world.cluster.last_status(&pod).unwrap();
    assert_eq!(state(&status, 0).terminated.unwrap().exit_code, 7);
    assert_eq!(first(&status.container_statuses).stop_signal.as_deref(), Some("SIGUSR1"));
    world.close().await;
}

#[tokio::test]
async fn a_debug_container_sees_the_processes_of_its_target() {
    let mut world = World::new().await;
    let pod = world.create("web", json!({"containers": [toolbox("exec sleep 98765")]}));
    world.status(&pod, is_ready).await;
    let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; done; exit 5";
    world.change(&pod, |object| {
        let debug = json!([{"name": "debug", "image": "fairway.dev/toolbox", "command": ["/bin/sh", "-c", script], "targetContainerName": "main"}]);
        object.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(debug).unwrap();
    });
    let over = |status: &PodStatus| {
        status.ephemeral_container_statuses.is_some()
            && first_state(&status.ephemeral_container_statuses).terminated.is_some()
    };
    let status = world.status(&pod, over).await;
    let debug = first(&status.ephemeral_container_statuses);
    let exit_code = debug.state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code;
    assert_eq!((exit_code, debug.ready, debug.restart_count), (5, false, 0));
    assert!(is_ready(&status) && status.phase.as_deref() == Some("Running"), "it counts for nothing");
    assert!(world.log_until(&pod, "debug", "sleep 98765").await.contains("sleep 98765"));
    assert_eq!(world.http_get("/containerLogs/ns/web/debug").await.0, 200);
    world.close().await;
}

#[tokio::test]
async fn containers_that_end_at_once_do_not_take_others_with_them() {
    let mut world = World::new().await;
    let names: Vec<String> = (0..8).map(|number| format!("c{number}")).collect();
    let brief = |name: &String| {
        let mut container = toolbox("exit 4");
        container["name"] = json!(name);
        container
    };
    let containers: Vec<_> = names.iter().map(brief).collect();
    let pod = world.create("brief", json!({"restartPolicy": "Never", "containers": containers}));
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Failed")).await;
    let codes: Vec<i32> =
        (0..names.len()).map(|index| state(&status, index).terminated.unwrap().exit_code).collect();
    assert_eq!(codes, vec![4; names.len()]);
    world.close().await;
}

#[tokio::test]
async fn a_pod_ends_at_its_deadline() {
    let mut world = World::new().await;
    let pod = world.create(
        "late",
        json!({"activeDeadlineSeconds": 2, "terminationGracePeriodSeconds": 1, "containers": [toolbox("sleep 1000")]}),
    );
    world.status(&pod, is_ready).await;
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    world.until(|| async { !world.has_network(&pod) }).await;
    world.close().await;
}

#[tokio::test]
async fn an_exit_code_of_the_rules_starts_a_container_again() {
    let mut world = World::new().await;
    let mut container = toolbox("test -e /notes/again && exit 0; touch /notes/again; exit 42");
    container["volumeMounts"] = json!([{"name": "notes", "mountPath": "/notes"}]);
    container["restartPolicy"] = json!("Never");
    container["restartPolicyRules"] =
        json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let pod = world.create(
        "ruled",
        json!({"restartPolicy": "Never", "containers": [container], "volumes": [{"name": "notes", "emptyDir": {}}]}),
    );
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Succeeded")).await;
    assert_eq!(restarts(&status), 1);
    world.close().await;
}
