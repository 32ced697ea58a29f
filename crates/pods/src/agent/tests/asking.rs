//! Probes over every protocol, figures, and logs, over the kubelet socket where there is one.

use std::time::Duration;

use serde_json::json;

use super::world::World;
use super::{is_ready, restarts, toolbox};
use crate::init::log::rotated;

fn serving(arguments: &[&str], probe: &serde_json::Value) -> serde_json::Value {
    json!({"containers": [{"name": "main", "image": "fairway.dev/fairway", "args": arguments, "readinessProbe": probe}]})
}

#[tokio::test]
async fn a_server_of_grpc_is_asked_for_its_health() {
    let mut world = World::new().await;
    let probe = json!({"grpc": {"port": 8080, "service": "shop"}, "periodSeconds": 1});
    let pod = world.create("grpc", serving(&["grpc", "8080"], &probe));
    world.status(&pod, is_ready).await;
    world.exec(&pod, "main", &["touch", "/tmp/sick"]).await;
    world.status(&pod, |status| !is_ready(status)).await;
    let told = (
        "Unhealthy",
        "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")".to_owned(),
    );
    assert!(world.events(&pod).contains(&told), "{:?}", world.events(&pod));
    world.close().await;
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_host_only() {
    let mut world = World::new().await;
    let get = |path: &str| json!({"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    let here = world.create("here", serving(&["serve", "8080"], &get("/to/")));
    let away = world.create("away", serving(&["serve", "8080"], &get("/to/http://example.invalid/")));
    let lost = world.create("lost", serving(&["serve", "8080"], &get("/to/missing")));
    world.status(&here, is_ready).await;
    world.status(&away, is_ready).await;
    let told = "Readiness probe failed: HTTP probe failed with statuscode: 404";
    world.until(|| async { world.events(&lost).iter().any(|(_, message)| message == told) }).await;
    world.close().await;
}

#[tokio::test]
async fn a_command_that_takes_too_long_has_failed_and_is_ended() {
    let mut world = World::new().await;
    let mut container = toolbox("sleep 1000");
    container["livenessProbe"] = json!({"exec": {"command": ["/bin/sh", "-c", "exec sleep 54321"]}, "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 1});
    let pod = world.create("slow", json!({"terminationGracePeriodSeconds": 1, "containers": [container]}));
    world.status(&pod, |status| restarts(status) >= 1).await;
    let told = ("Unhealthy", "Liveness probe failed: no answer within 1 s".to_owned());
    assert!(world.events(&pod).contains(&told), "{:?}", world.events(&pod));
    world.close().await;
}

#[tokio::test]
async fn nothing_is_asked_before_the_start_up_probe_passed() {
    let mut world = World::new().await;
    let mut container = toolbox("sleep 1000");
    container["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 60});
    container["livenessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 1});
    let pod = world.create("slow", json!({"containers": [container]}));
    let status = world.status(&pod, |status| super::state(status, 0).running.is_some()).await;
    assert_eq!(status.container_statuses.unwrap()[0].started, Some(false));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    world.exec(&pod, "main", &["touch", "/tmp/up"]).await;
    let status = world.status(&pod, is_ready).await;
    assert_eq!((restarts(&status), status.container_statuses.unwrap()[0].started), (0, Some(true)));
    world.close().await;
}

#[tokio::test]
async fn figures_of_the_node_and_its_pods() {
    let mut world = World::new().await;
    let pod = world.create(
        "busy",
        json!({"containers": [toolbox("i=0; while test $i -lt 100000; do i=$((i+1)); done; sleep 1000")]}),
    );
    world.status(&pod, is_ready).await;
    let get = async |path: &str| {
        let (status, text) = world.http_get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        text
    };
    let pods: serde_json::Value = serde_json::from_str(&get("/pods").await).unwrap();
    assert_eq!((&pods["kind"], &pods["items"][0]["status"]["phase"]), (&json!("PodList"), &json!("Running")));
    let memory = |summary: &serde_json::Value| {
        summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"].as_u64()
    };
    world
        .until(|| async {
            let summary: serde_json::Value = serde_json::from_str(&get("/stats/summary").await).unwrap();
            assert_eq!(summary["node"]["nodeName"], "node-1");
            let cpu = summary["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64();
            memory(&summary).is_some_and(|bytes| bytes > 0) && cpu.is_some_and(|nanos| nanos > 0)
        })
        .await;
    let metrics = get("/metrics/resource").await;
    assert!(
        metrics.contains(
            "container_memory_working_set_bytes{container=\"main\",namespace=\"ns\",pod=\"busy\"} "
        ),
        "{metrics}"
    );
    world.close().await;
}

#[tokio::test]
async fn a_long_log_is_kept_in_pieces_and_read_as_one() {
    let mut world = World::new().await;
    // 300,000 lines of about a hundred bytes with their heads: three files.
    let script = "seq -f '%060.0f' 1 300000; echo last; sleep 1000";
    let pod = world.create("chatty", json!({"containers": [toolbox(script)]}));
    world.log_until(&pod, "main", "last").await;
    let path = world.paths(&pod).log("main", 0);
    assert!(rotated(&path, 1).exists() && rotated(&path, 2).exists());
    let (_, whole) = world.http_get("/containerLogs/ns/chatty/main").await;
    assert_eq!(whole.lines().count(), 300_001);
    let (_, tail) = world.http_get("/containerLogs/ns/chatty/main?tailLines=250001").await;
    assert_eq!(tail.lines().next().unwrap().trim_start_matches('0'), "50001");
    world.close().await;
}

#[tokio::test]
async fn the_log_of_a_container_that_ended_at_once_is_whole() {
    let mut world = World::new().await;
    let pod = world.create("brief", json!({"restartPolicy": "Never", "containers": [toolbox("printf 'no end of line'; echo oops >&2; exit 1")]}));
    world.status(&pod, |status| status.phase.as_deref() == Some("Failed")).await;
    let (_, both) = world.http_get("/containerLogs/ns/brief/main").await;
    assert!(both.contains("no end of line") && both.contains("oops\n"), "{both:?}");
    assert_eq!(world.http_get("/containerLogs/ns/brief/main?stream=Stderr").await.1, "oops\n");
    assert_eq!(world.http_get("/containerLogs/ns/brief/main?previous=true").await.0, 400);
    world.close().await;
}
