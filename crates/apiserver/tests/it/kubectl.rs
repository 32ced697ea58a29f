//! kubectl, unmodified.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::server::{PATIENCE, Running};

/// Runs kubectl with a cold cache; its output when it succeeds, its errors when it does not.
async fn kubectl(server: &Running, arguments: &str, input: &str) -> Result<String, String> {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(server.kubeconfig()).arg("--cache-dir").arg(server.pki.path("cache"));
    command.args(arguments.split_whitespace());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("kubectl is installed");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output =
        tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("kubectl ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{out}{err}")) }
}

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: fairway.dev/toolbox}]}
";

#[tokio::test]
async fn the_commands_of_every_day_work() {
    let server = Running::start().await;
    let run = async |arguments: &str, input: &str| {
        kubectl(&server, arguments, input)
            .await
            .unwrap_or_else(|error| panic!("kubectl {arguments}: {error}"))
    };
    assert!(run("version", "").await.contains("Server Version: v1.36.0+fairway"));
    assert!(run("get namespaces", "").await.contains("fairway-system"));
    assert!(run("api-resources", "").await.contains("deployments"));
    let applied = run("apply -f -", MANIFESTS).await;
    assert_eq!(applied, "service/web created\ndeployment.apps/web created\n");
    let again = run("apply -f -", MANIFESTS).await;
    assert_eq!(again, "service/web unchanged\ndeployment.apps/web unchanged\n");
    let changed = run("apply -f -", &MANIFESTS.replace("port: 80,", "port: 81,")).await;
    assert_eq!(changed, "service/web configured\ndeployment.apps/web unchanged\n");
    let table = run("get service web -o wide", "").await;
    let mut lines = table.lines();
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]);
    let cells: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        (cells[0], cells[1], cells[3], cells[4], cells[6]),
        ("web", "ClusterIP", "<none>", "81/TCP", "app=web")
    );
    assert!(run("scale deployment web --replicas=5", "").await.contains("scaled"));
    assert_eq!(run("get deployment web -o jsonpath={.spec.replicas}", "").await, "5");
    assert!(run("label service web tier=front", "").await.contains("labeled"));
    assert!(run("get services -l tier=front -o name", "").await.contains("service/web"));
    assert!(run("create configmap c --from-literal=a=b", "").await.contains("created"));
    assert!(run("create namespace other", "").await.contains("created"));
    assert!(run("describe service web", "").await.contains("TargetPort:"));
    assert!(run("explain service.spec.ports", "").await.contains("targetPort"));
    assert!(run("auth whoami", "").await.contains("admin"));
    assert!(run("auth can-i delete pods", "").await.contains("yes"));
    assert!(run("create token default", "").await.starts_with("ey"));
    assert!(run("rollout restart deployment web", "").await.contains("restarted"));
    assert!(run("delete service web", "").await.contains("deleted"));
    assert!(run("get all", "").await.contains("deployment.apps/web"));
}

#[tokio::test]
async fn mistakes_are_told_by_kubectl() {
    let server = Running::start().await;
    let unknown = MANIFESTS.replace("selector: {app: web}, ports", "selectr: {app: web}, ports");
    let error = kubectl(&server, "apply -f -", &unknown).await.unwrap_err();
    assert!(error.contains(r#"unknown field "spec.selectr""#), "{error}");
    let error = kubectl(&server, "get service none", "").await.unwrap_err();
    assert_eq!(error, "Error from server (NotFound): services \"none\" not found\n");
    let error = kubectl(&server, "get nonsense", "").await.unwrap_err();
    assert!(error.contains("the server doesn't have a resource type \"nonsense\""), "{error}");
}
