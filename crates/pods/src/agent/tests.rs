//! Pods as data, driven through the whole runtime: real namespaces, real processes, no API server.

mod asking;
mod forward;
mod old_kubectl;
mod order;
mod surroundings;
mod world;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ContainerState, PodStatus};
use serde_json::json;

use world::{World, condition};

fn state(status: &PodStatus, index: usize) -> ContainerState {
    status.container_statuses.as_ref().unwrap()[index].state.clone().unwrap()
}

fn waiting_reason(status: &PodStatus) -> Option<String> {
    status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn restarts(status: &PodStatus) -> i32 {
    status.container_statuses.as_ref().unwrap()[0].restart_count
}

fn is_ready(status: &PodStatus) -> bool {
    condition(status, "Ready") == Some(true)
}

fn toolbox(script: &str) -> serde_json::Value {
    json!({"name": "main", "image": "fairway.dev/toolbox", "command": ["/bin/sh", "-c", script]})
}

#[tokio::test]
async fn a_pod_runs_and_says_so() {
    let mut world = World::new().await;
    let started = Instant::now();
    let pod = world.create(
        "web",
        json!({"containers": [
        {"name": "main", "image": "fairway.dev/fairway", "args": ["serve", "8080"],
         "readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}]}),
    );
    let status = world.status(&pod, is_ready).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(3), "took {took:?}");
    eprintln!("from object to Ready: {took:?}");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(state(&status, 0).running.is_some());
    let ip: std::net::IpAddr = status.pod_ip.unwrap().parse().unwrap();
    std::net::TcpStream::connect((ip, 8080)).unwrap();
    let reasons = world.events(&pod);
    assert_eq!(
        reasons.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(),
        ["Pulled", "Created", "Started"]
    );
    let facts: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.paths(&pod).facts).unwrap()).unwrap();
    assert_eq!(facts["ip"], ip.to_string());
    world.close().await;
}

#[tokio::test]
async fn a_container_sees_its_own_world() {
    let mut world = World::new().await;
    world.cluster.put_config_map("conf", &[("greeting", "hello")]);
    let script = "echo host=$(hostname) greeting=$GREETING file=$(cat /conf/greeting) user=$(id -u):$(id -g); cat /etc/resolv.conf; \
                  grep -c web /etc/hosts; touch /usr/x 2>/dev/null || echo read-only; echo oops >&2; sleep 1000";
    let mut container = toolbox(script);
    container["env"] =
        json!([{"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "greeting"}}}]);
    container["volumeMounts"] = json!([{"name": "conf", "mountPath": "/conf"}]);
    container["securityContext"] = json!({"runAsUser": 1234, "runAsGroup": 99});
    let pod = world.create(
        "web",
        json!({"containers": [container], "volumes": [{"name": "conf", "configMap": {"name": "conf"}}]}),
    );
    world.status(&pod, is_ready).await;
    let log = world.log_until(&pod, "main", "oops").await;
    assert!(log.contains("host=web greeting=hello file=hello user=1234:99\n"), "{log}");
    assert!(log.contains("search ns.svc.cluster.local svc.cluster.local cluster.local"), "{log}");
    assert!(
        log.contains("nameserver 10.96.0.10\n") && log.contains("options ndots:5\n1\nread-only\n"),
        "{log}"
    );
    // The volume follows its object.
    world.cluster.put_config_map("conf", &[("greeting", "bye")]);
    world.until(|| async { world.exec(&pod, "main", &["cat", "/conf/greeting"]).await.0 == "bye" }).await;
    world.close().await;
}

#[tokio::test]
async fn a_container_that_fails_is_restarted_with_back_off() {
    let mut world = World::new().await;
    let pod = world.create(
        "crash",
        json!({"containers": [toolbox("echo attempt; echo why > /dev/termination-log; exit 3")]}),
    );
    let status =
        world.status(&pod, |status| waiting_reason(status).as_deref() == Some("CrashLoopBackOff")).await;
    assert_eq!(restarts(&status), 1, "the first restart is at once, the second waits 10 s");
    let last = status.container_statuses.as_ref().unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(
        (last.exit_code, last.reason.as_deref(), last.message.as_deref()),
        (3, Some("Error"), Some("why\n"))
    );
    assert_eq!((status.phase.as_deref(), is_ready(&status)), (Some("Running"), false));
    assert!(world.events(&pod).iter().any(|(reason, message)| *reason == "BackOff"
        && message.starts_with("back-off 10s restarting failed container=main")));
    world.close().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut world = World::new().await;
    let container = json!({"name": "main", "image": "fairway.dev/toolbox", "command": ["no-such-program"]});
    let pod = world.create("absent", json!({"restartPolicy": "Never", "containers": [container]}));
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Failed")).await;
    let ended = state(&status, 0).terminated.unwrap();
    assert_eq!((ended.reason.as_deref(), ended.exit_code), (Some("StartError"), 128));
    assert_eq!(
        ended.message.as_deref(),
        Some("exec: \"no-such-program\": executable file not found in $PATH")
    );
    world.close().await;
}

#[tokio::test]
async fn a_job_s_pod_succeeds_after_its_init_containers_and_gives_its_network_back() {
    let mut world = World::new().await;
    let share = json!([{"name": "share", "mountPath": "/share"}]);
    let (mut init, mut main) = (toolbox("echo from-init > /share/x"), toolbox("cat /share/x; exit 0"));
    init["name"] = json!("init");
    init["volumeMounts"] = share.clone();
    main["volumeMounts"] = share;
    let pod = world.create(
        "job",
        json!({"restartPolicy": "OnFailure", "initContainers": [init], "containers": [main],
        "volumes": [{"name": "share", "emptyDir": {"medium": "Memory"}}]}),
    );
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Succeeded")).await;
    assert_eq!(state(&status, 0).terminated.unwrap().reason.as_deref(), Some("Completed"));
    assert_eq!(world.log_until(&pod, "main", "from-init").await, "from-init\n");
    world.until(|| async { !world.has_network(&pod) }).await;
    world.close().await;
}

#[tokio::test]
async fn an_unknown_image_is_said_and_tried_again_when_it_is_there() {
    let mut world = World::new().await;
    let pod = world.create(
        "img",
        json!({"containers": [{"name": "main", "image": "example.com/app:1", "args": ["1000"]}]}),
    );
    let status = world.status(&pod, |status| waiting_reason(status).as_deref() == Some("ErrImagePull")).await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert!(
        world
            .events(&pod)
            .iter()
            .any(|(reason, message)| *reason == "Failed" && message.contains("fairway image load"))
    );
    world.status(&pod, |status| waiting_reason(status).as_deref() == Some("ImagePullBackOff")).await;
    world.write_state("images/commands.yaml", "example.com/app:1: [/usr/bin/sleep]\n");
    let loaded = Instant::now();
    world.status(&pod, is_ready).await;
    assert!(loaded.elapsed() < Duration::from_secs(5), "not only after the back-off");
    world.close().await;
}

#[tokio::test]
async fn probes_decide_on_readiness_and_restarts() {
    let mut world = World::new().await;
    let pod = world.create("probed", json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "main", "image": "fairway.dev/fairway", "args": ["serve", "8080", "gated"],
         "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
         "livenessProbe": {"exec": {"command": ["/bin/sh", "-c", "! test -e /tmp/sick"]}, "periodSeconds": 1, "failureThreshold": 1}}]}));
    let status = world.status(&pod, |status| state(status, 0).running.is_some()).await;
    assert!(!is_ready(&status));
    world.exec(&pod, "main", &["touch", "/tmp/ready"]).await;
    world.status(&pod, is_ready).await;
    world.exec(&pod, "main", &["touch", "/tmp/sick"]).await;
    let status =
        world.status(&pod, |status| restarts(status) == 1 && state(status, 0).running.is_some()).await;
    assert!(!is_ready(&status), "a new container has a new /tmp");
    let killing = world.events(&pod).into_iter().find(|(reason, _)| *reason == "Killing").unwrap();
    assert_eq!(killing.1, "Container main failed liveness probe, will be restarted");
    world.close().await;
}

#[tokio::test]
async fn a_pod_is_deleted_gracefully_and_leaves_nothing() {
    let mut world = World::new().await;
    let mut container = toolbox(
        "trap 'echo bye; sleep 0.3; echo done; exit 0' TERM; echo up; while true; do sleep 0.05; done",
    );
    container["lifecycle"] = json!({"preStop": {"exec": {"command": ["/bin/sh", "-c", "echo hook > /proc/1/root/dev/null; touch /tmp/hooked"]}}});
    let pod = world.create("gone", json!({"containers": [container]}));
    world.status(&pod, is_ready).await;
    world.log_until(&pod, "main", "up").await;
    let paths = world.paths(&pod);
    world.delete(&pod, 30);
    world.status(&pod, |status| !is_ready(status)).await;
    world.until(|| async { world.cluster.is_deleted(&pod) }).await;
    let status = world.cluster.last_status(&pod).unwrap();
    assert_eq!(
        (status.phase.as_deref(), state(&status, 0).terminated.unwrap().exit_code),
        (Some("Succeeded"), 0)
    );
    world.until(|| async { !paths.directory.exists() }).await;
    assert!(!world.has_network(&pod) && !paths.socket.exists() && !paths.facts.exists());
    world.close().await;
}

#[tokio::test]
async fn a_process_that_does_not_listen_is_killed_after_its_grace() {
    let mut world = World::new().await;
    let pod = world.create(
        "deaf",
        json!({"containers": [toolbox("trap '' TERM; echo up; while true; do sleep 0.05; done")]}),
    );
    world.log_until(&pod, "main", "up").await;
    let asked = Instant::now();
    world.delete(&pod, 1);
    world.until(|| async { world.cluster.is_deleted(&pod) }).await;
    let took = asked.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    let ended = state(&world.cluster.last_status(&pod).unwrap(), 0).terminated.unwrap();
    assert_eq!((ended.exit_code, ended.signal), (137, Some(9)));
    world.close().await;
}

#[tokio::test]
async fn an_agent_that_comes_back_takes_its_pods_over() {
    let mut world = World::new().await;
    let pod = world.create("kept", json!({"containers": [toolbox("echo $$; sleep 1000")]}));
    let before = world.status(&pod, is_ready).await;
    let writes = world.cluster.writes(&pod);
    world.restart_agent(false).await;
    // It is known again, and nothing about it is new.
    world.until(|| async { world.exec(&pod, "main", &["echo", "x"]).await.0 == "x\n" }).await;
    assert_eq!(world.cluster.last_status(&pod).unwrap(), before);
    assert_eq!(world.cluster.writes(&pod), writes, "nothing to write");
    world.kill_pid_1(&pod);
    let status = world.status(&pod, |status| restarts(status) == 1 && is_ready(status)).await;
    assert_eq!(status.pod_ip, before.pod_ip);
    world.close().await;
}

#[tokio::test]
async fn pods_deleted_while_the_agent_was_away_are_removed() {
    let mut world = World::new().await;
    let pod = world.create("orphan", json!({"containers": [toolbox("sleep 1000")]}));
    world.status(&pod, is_ready).await;
    let paths = world.paths(&pod);
    world.forget(&pod);
    world.restart_agent(false).await;
    assert!(!paths.directory.exists() && !world.has_network(&pod) && !paths.socket.exists());
    world.close().await;
}

#[tokio::test]
async fn a_node_that_was_shut_down_starts_its_pods_again() {
    let mut world = World::new().await;
    let pod = world.create("again", json!({"containers": [toolbox("sleep 1000")]}));
    world.status(&pod, is_ready).await;
    world.restart_agent(true).await;
    let status = world.status(&pod, |status| restarts(status) == 1 && is_ready(status)).await;
    let last = status.container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(last.reason.as_deref(), Some("ContainerStatusUnknown"));
    world.close().await;
}

#[tokio::test]
async fn an_image_of_files_runs_with_its_own_defaults() {
    let mut world = World::new().await;
    let name = world.load_shell_image();
    let mut container = json!({"name": "main", "image": name, "args": ["-c", "echo $FROM_IMAGE $(pwd) $(/bin/whoami-number); echo x > /scratch; ls /; sleep 1000"]});
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/var/run/data"}]);
    let pod = world
        .create("image", json!({"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]}));
    world.status(&pod, is_ready).await;
    let log = world.log_until(&pod, "main", "var").await;
    assert!(log.starts_with("yes /work 0\n"), "{log}");
    assert!(log.contains("scratch\n") && !log.contains("fairway"), "a root of its own: {log}");
    world.close().await;
}

#[tokio::test]
async fn exec_and_logs_over_the_kubelet_socket() {
    let mut world = World::new().await;
    let pod = world.create("talk", json!({"containers": [toolbox("echo hello; sleep 1000")]}));
    world.status(&pod, is_ready).await;
    world.log_until(&pod, "main", "hello").await;
    assert_eq!(
        world.http_get("/containerLogs/ns/talk/main?timestamps=false").await,
        (200, "hello\n".to_owned())
    );
    assert_eq!(world.http_get("/containerLogs/ns/talk/none").await.0, 400);
    assert_eq!(world.http_get("/containerLogs/ns/none/main").await.0, 404);
    let out = world
        .exec_channels("/exec/ns/talk/main?command=cat&input=1&output=1&error=1", b"typed\n", true)
        .await;
    assert_eq!((out.stdout.as_str(), out.status["status"].as_str()), ("typed\n", Some("Success")));
    let out = world
        .exec_channels(
            "/exec/ns/talk/main?command=sh&command=-c&command=echo+e%3E%262%3Bexit+7&output=1&error=1",
            b"",
            false,
        )
        .await;
    assert_eq!(
        (out.stderr.as_str(), out.status["details"]["causes"][0]["message"].as_str()),
        ("e\n", Some("7"))
    );
    let out = world.exec_channels("/exec/ns/talk/main?command=tty&input=1&output=1&tty=1", b"", false).await;
    assert!(out.stdout.starts_with("/dev/pts/"), "{}", out.stdout);
    let out = world.exec_channels("/exec/ns/talk/main?command=nothing-there&output=1", b"", false).await;
    assert!(out.status["message"].as_str().unwrap().contains("executable file not found"), "{}", out.status);
    world.close().await;
}
