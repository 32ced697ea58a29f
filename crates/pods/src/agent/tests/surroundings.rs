//! What a pod finds around it: volumes, variables, names, ports of the node, limits.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use super::world::{World, condition};
use super::{is_ready, state, toolbox, waiting_reason};
use crate::hostport;

#[tokio::test]
async fn a_pod_waits_for_its_configuration_and_goes_on_when_it_is_there() {
    let mut world = World::new().await;
    let mut variables = toolbox("echo got $A; sleep 1000");
    variables["envFrom"] = json!([{"configMapRef": {"name": "late"}}]);
    let by_variable = world.create("by-variable", json!({"containers": [variables]}));
    let mut files = toolbox("cat /conf/A; sleep 1000");
    files["volumeMounts"] = json!([{"name": "conf", "mountPath": "/conf"}]);
    let by_file = world.create(
        "by-file",
        json!({"containers": [files], "volumes": [{"name": "conf", "configMap": {"name": "late"}}]}),
    );
    let status = world
        .status(&by_variable, |status| {
            waiting_reason(status).as_deref() == Some("CreateContainerConfigError")
        })
        .await;
    assert_eq!(state(&status, 0).waiting.unwrap().message.as_deref(), Some("configmap \"late\" not found"));
    let mount = "MountVolume.SetUp failed for volume \"conf\" : configmap \"late\" not found";
    world.until(|| async { world.events(&by_file).contains(&("FailedMount", mount.to_owned())) }).await;
    assert_eq!(
        waiting_reason(&world.cluster.last_status(&by_file).unwrap()).as_deref(),
        Some("ContainerCreating")
    );
    let made = Instant::now();
    world.cluster.put_config_map("late", &[("A", "1")]);
    world.status(&by_variable, is_ready).await;
    world.status(&by_file, is_ready).await;
    assert!(made.elapsed() < Duration::from_secs(5), "not only after a back-off: {:?}", made.elapsed());
    world.close().await;
}

#[tokio::test]
async fn files_follow_their_objects_except_through_a_sub_path() {
    let mut world = World::new().await;
    world.cluster.put_config_map("conf", &[("a", "1"), ("b", "2")]);
    let mut container = toolbox("sleep 1000");
    container["volumeMounts"] = json!([
        {"name": "all", "mountPath": "/all"}, {"name": "all", "mountPath": "/one", "subPath": "conf/a"},
        {"name": "scratch", "mountPath": "/mine", "subPathExpr": "$(POD)/data"}]);
    container["env"] = json!([{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    let pod = world.create(
        "web",
        json!({"containers": [container], "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "all", "projected": {"defaultMode": 0o640, "sources": [
            {"configMap": {"name": "conf", "items": [{"key": "a", "path": "conf/a"}]}},
            {"configMap": {"name": "absent", "optional": true}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]}),
    );
    world.status(&pod, is_ready).await;
    let read = async |path: &str| world.exec(&pod, "main", &["cat", path]).await.0;
    assert_eq!(
        (read("/all/conf/a").await, read("/one").await, read("/all/labels").await),
        ("1".into(), "1".into(), String::new())
    );
    let mode = world.exec(&pod, "main", &["stat", "-L", "-c", "%a", "/all/conf/a"]).await.0;
    assert_eq!(mode, "640\n");
    world.cluster.put_config_map("conf", &[("a", "3")]);
    world.change(&pod, |object| {
        object.metadata.labels = Some([("tier".to_owned(), "front".to_owned())].into())
    });
    let changed = Instant::now();
    let read = async |path: &str| world.exec(&pod, "main", &["cat", path]).await.0;
    world
        .until(|| async { read("/all/conf/a").await == "3" && read("/all/labels").await == "tier=\"front\"" })
        .await;
    assert!(changed.elapsed() < Duration::from_secs(3), "{:?}", changed.elapsed());
    assert_eq!(read("/one").await, "1", "a sub path stays what it was");
    world.exec(&pod, "main", &["touch", "/mine/x"]).await;
    assert!(world.paths(&pod).volume("scratch").join("web/data/x").exists());
    world.close().await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let mut world = World::new().await;
    world.cluster.limit_tokens(1);
    let mut container = toolbox("sleep 1000");
    container["volumeMounts"] = json!([{"name": "token", "mountPath": "/token"}]);
    let token = json!([{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "text", "expirationSeconds": 600}}]}}]);
    let pod = world.create("web", json!({"containers": [container], "volumes": token}));
    world.status(&pod, is_ready).await;
    let first = world.exec(&pod, "main", &["cat", "/token/text"]).await.0;
    world.until(|| async { world.exec(&pod, "main", &["cat", "/token/text"]).await.0 != first }).await;
    world.restart_agent(false).await;
    let kept = world.exec(&pod, "main", &["cat", "/token/text"]).await.0;
    world.until(|| async { world.exec(&pod, "main", &["cat", "/token/text"]).await.0 != kept }).await;
    world.close().await;
}

#[tokio::test]
async fn a_pod_that_fills_its_volume_is_evicted() {
    let mut world = World::new().await;
    let mut container = toolbox("head -c 3000000 /dev/zero > /data/x; sleep 1000");
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let pod = world.create(
        "full",
        json!({"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}]}),
    );
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(
        (status.reason.as_deref(), status.message.as_deref()),
        (Some("Evicted"), Some("Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". "))
    );
    world.close().await;
}

#[tokio::test]
async fn a_path_of_the_machine_must_be_what_was_asked_for() {
    let mut world = World::new().await;
    let mut container = toolbox("sleep 1000");
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    std::fs::write(world.path("file"), "").unwrap();
    let volume = json!([{"name": "data", "hostPath": {"path": world.path("file"), "type": "Directory"}}]);
    let pod = world.create("web", json!({"containers": [container], "volumes": volume}));
    let failed = |(reason, message): &(&str, String)| {
        *reason == "FailedMount"
            && message.contains("hostPath type check failed")
            && message.ends_with("/file is not a directory")
    };
    world.until(|| async { world.events(&pod).iter().any(failed) }).await;
    // It heals by itself.
    std::fs::remove_file(world.path("file")).unwrap();
    std::fs::create_dir(world.path("file")).unwrap();
    world.status(&pod, is_ready).await;
    world.close().await;
}

#[tokio::test]
async fn a_port_of_the_node_leads_to_one_pod() {
    let mut world = World::new().await;
    let address = world.add_node_address();
    let serving = |port: u16| {
        json!({"containers": [{"name": "main", "image": "fairway.dev/fairway", "args": ["serve", "8080"],
            "ports": [{"containerPort": 8080, "hostPort": port}], "readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}]})
    };
    let port = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let first = world.create("first", serving(port));
    world.status(&first, is_ready).await;
    connects(address, port).unwrap();
    let second = world.create("second", serving(port));
    let told =
        format!("host port {port}/TCP of this node belongs to pod ns/first; the pod starts when it is free");
    world.until(|| async { world.events(&second).contains(&("HostPortConflict", told.clone())) }).await;
    // The rules stay when the agent goes, and the next one knows whose the port is.
    world.restart_agent(false).await;
    connects(address, port).unwrap();
    world.delete(&first, 1);
    world.status(&second, is_ready).await;
    connects(address, port).unwrap();
    world.delete(&second, 1);
    world.until(|| async { world.cluster.is_deleted(&second) }).await;
    let table = hostport::table(&world.cluster_name());
    assert!(
        fairway_netfilter::Socket::open().unwrap().read_table(&table).unwrap().is_none(),
        "nothing is left"
    );
    world.close().await;
}

fn connects(address: Ipv4Addr, port: u16) -> std::io::Result<()> {
    use std::io::Write;
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(5))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_pod_with_the_node_s_network_has_its_address_and_name() {
    let mut world = World::new().await;
    let pod = world.create(
        "host",
        json!({"hostNetwork": true, "containers": [toolbox("hostname; cat /etc/hosts; sleep 1000")]}),
    );
    let status = world.status(&pod, is_ready).await;
    assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("127.0.0.1"), Some("127.0.0.1")));
    let log = world.log_until(&pod, "main", "managed").await;
    assert!(log.starts_with("node-1\n# Kubernetes-managed hosts file (host network).\n"), "{log}");
    assert!(!world.has_network(&pod));
    world.close().await;
}

#[tokio::test]
async fn names_and_sysctls_of_a_pod() {
    let mut world = World::new().await;
    let script = "hostname; cat /etc/hostname; cat /proc/sys/net/ipv4/ip_local_port_range; sleep 1000";
    let pod = world.create(
        "web",
        json!({"hostname": "db-0", "subdomain": "db", "setHostnameAsFQDN": true, "containers": [toolbox(script)],
            "securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "40000 50000"}]}}),
    );
    let log = world.log_until(&pod, "main", "50000").await;
    assert_eq!(log, "db-0.db.ns.svc.cluster.local\ndb-0.db.ns.svc.cluster.local\n40000\t50000\n");
    let refused = world.create(
        "refused",
        json!({"containers": [toolbox("sleep 1000")], "securityContext": {"sysctls": [{"name": "kernel.panic", "value": "1"}]}}),
    );
    let status = world.status(&refused, |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(
        (status.reason.as_deref(), status.message.as_deref()),
        (Some("SysctlForbidden"), Some("forbidden sysctl: \"kernel.panic\" not allowlisted"))
    );
    assert!(
        world.events(&refused).iter().all(|(reason, _)| *reason == "SysctlForbidden"),
        "nothing of it was started"
    );
    world.close().await;
}

#[tokio::test]
async fn a_container_that_takes_too_much_memory_is_killed_and_says_so() {
    let mut world = World::new().await;
    let mut container = toolbox("x=0123456789; while true; do x=$x$x; done");
    container["resources"] =
        json!({"limits": {"memory": "24Mi", "cpu": "1"}, "requests": {"memory": "24Mi", "cpu": "1"}});
    let pod = world.create("greedy", json!({"restartPolicy": "Never", "containers": [container]}));
    let status = world.status(&pod, |status| status.phase.as_deref() == Some("Failed")).await;
    let ended = state(&status, 0).terminated.unwrap();
    assert_eq!((ended.reason.as_deref(), ended.exit_code, ended.signal), (Some("OOMKilled"), 137, Some(9)));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.allocated_resources.as_ref().unwrap()["memory"].0, "24Mi");
    world.close().await;
}

#[tokio::test]
async fn a_limit_is_changed_in_place() {
    let mut world = World::new().await;
    let mut container = toolbox(
        "while ! test -e /tmp/go; do sleep 0.05; done; head -c 60000000 /dev/zero | tail -c 50000000 > /dev/null && echo fits; sleep 1000",
    );
    container["resources"] = json!({"limits": {"memory": "16Mi"}});
    let pod = world.create("grown", json!({"containers": [container]}));
    world.status(&pod, is_ready).await;
    world.change(&pod, |object| {
        let resources = json!({"limits": {"memory": "128Mi"}});
        object.spec.as_mut().unwrap().containers[0].resources = serde_json::from_value(resources).unwrap();
    });
    world.until(|| async { world.events(&pod).iter().any(|(reason, _)| *reason == "ResizeCompleted") }).await;
    world.exec(&pod, "main", &["touch", "/tmp/go"]).await;
    world.log_until(&pod, "main", "fits").await;
    world.close().await;
}

#[tokio::test]
async fn a_readiness_gate_holds_a_pod_back() {
    let mut world = World::new().await;
    let pod = world.create("gated", json!({"containers": [toolbox("sleep 1000")], "readinessGates": [{"conditionType": "example.com/gate"}]}));
    let status = world.status(&pod, |status| condition(status, "ContainersReady") == Some(true)).await;
    let ready = status.conditions.unwrap().into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(
        (ready.reason.as_deref(), ready.message.as_deref()),
        (
            Some("ReadinessGatesNotReady"),
            Some("corresponding condition of pod readiness gate \"example.com/gate\" does not exist.")
        )
    );
    world.change(&pod, |object| {
        object.status =
            serde_json::from_value(json!({"conditions": [{"type": "example.com/gate", "status": "True"}]}))
                .unwrap();
    });
    world.status(&pod, is_ready).await;
    world.close().await;
}
