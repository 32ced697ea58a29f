//! kubectl, unmodified.

use std::process::{Output, Stdio};

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::server::{PATIENCE, Running};
use crate::streams::running_pod;

/// kubectl with a cold cache.
fn command(server: &Running, arguments: &str) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(server.kubeconfig()).arg("--cache-dir").arg(server.pki.path("cache"));
    command.args(arguments.split_whitespace());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs kubectl; its output when it succeeds, its errors when it does not.
pub(crate) async fn kubectl(server: &Running, arguments: &str, input: &str) -> Result<String, String> {
    let mut child = command(server, arguments).spawn().expect("kubectl is installed");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output =
        tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("kubectl ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{out}{err}")) }
}

async fn output(child: Child) -> Output {
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("kubectl ends").unwrap()
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("kubectl prints").unwrap().unwrap()
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

#[tokio::test]
async fn waiting_and_watching_follow_what_happens() {
    let server = Running::start().await;
    kubectl(&server, "create configmap w --from-literal=a=1", "").await.unwrap();
    let mut watch = command(&server, "get configmap w -w -o name").spawn().expect("kubectl is installed");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(line(&mut lines).await, "configmap/w");
    let wait = command(&server, "wait --for=jsonpath={.data.a}=2 configmap/w --timeout=15s").spawn().unwrap();
    let gone = command(&server, "wait --for=delete configmap/w --timeout=15s").spawn().unwrap();
    kubectl(&server, "patch configmap w -p {\"data\":{\"a\":\"2\"}}", "").await.unwrap();
    assert_eq!(line(&mut lines).await, "configmap/w");
    let waited = output(wait).await;
    assert!(waited.status.success(), "{}", String::from_utf8_lossy(&waited.stderr));
    kubectl(&server, "delete configmap w", "").await.unwrap();
    let gone = output(gone).await;
    assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    watch.kill().await.unwrap();
}

/// An agent that answers logs with text, and exec with what it was asked to run.
async fn agent(listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = [0; 16];
            // Looks without taking: the WebSocket handshake reads the head again.
            while peek(&stream, &mut head) < head.len() {
                stream.readable().await.unwrap();
            }
            if head.starts_with(b"GET /exec") { exec(stream).await } else { logs(stream).await }
        });
    }
}

fn peek(stream: &UnixStream, into: &mut [u8]) -> usize {
    use std::os::fd::AsRawFd;
    let flags = nix::sys::socket::MsgFlags::MSG_PEEK;
    let look = || Ok(nix::sys::socket::recv(stream.as_raw_fd(), into, flags)?);
    stream.try_io(tokio::io::Interest::READABLE, look).unwrap_or(0)
}

async fn logs(mut stream: UnixStream) {
    let mut head = vec![0; 4096];
    let _ = stream.read(&mut head).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst\nlast").await.unwrap();
}

async fn exec(stream: UnixStream) {
    let mut asked = String::new();
    #[expect(clippy::result_large_err, reason = "the type is the library's")]
    let callback = |request: &Request, mut response: Response| {
        asked = request.uri().to_string();
        response.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, callback).await.unwrap();
    let mut line = vec![1];
    line.extend_from_slice(format!("{asked}\n").as_bytes());
    socket.send(Message::binary(line)).await.unwrap();
    // What comes on standard input goes to standard output, until its end.
    while let Some(Ok(message)) = socket.next().await {
        let mut data = message.into_data().to_vec();
        match data.first() {
            Some(0) => {
                data[0] = 1;
                socket.send(Message::binary(data)).await.unwrap();
            }
            Some(255) => break,
            _ => {}
        }
    }
    let mut status = vec![3];
    status.extend_from_slice(br#"{"metadata":{},"status":"Success"}"#);
    socket.send(Message::binary(status)).await.unwrap();
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = socket.close(Some(normal)).await;
}

#[tokio::test]
async fn logs_and_exec_reach_the_pod() {
    let server = Running::start().await;
    running_pod(&server).await;
    let directory = server.run_dir.join("nodes/n1");
    std::fs::create_dir_all(&directory).unwrap();
    let agent = tokio::spawn(agent(UnixListener::bind(directory.join("kubelet.sock")).unwrap()));
    assert_eq!(kubectl(&server, "logs p -c a", "").await.unwrap(), "first\nlast");
    let out = kubectl(&server, "exec -i p -c a -- cat file", "through the pod").await.unwrap();
    assert_eq!(out, "/exec/default/p/a?command=cat&command=file&input=1&output=1&error=1\nthrough the pod");
    agent.abort();
}
