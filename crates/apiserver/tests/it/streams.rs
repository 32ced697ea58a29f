//! Logs and exec: carried to the agent's socket and back.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::server::Running;

const PODS: &str = "/api/v1/namespaces/default/pods";

pub(crate) async fn running_pod(server: &Running) {
    let mut client = server.client().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}});
    let created = client.post(PODS, &pod).await;
    assert_eq!(created.code, 201, "{created:?}");
    let running = json!({"status": {"phase": "Running", "containerStatuses": [
        {"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
        {"name": "b", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}},
    ]}});
    let status = client.merge(&format!("{PODS}/p/status"), &running).await;
    assert_eq!(status.code, 200, "{status:?}");
}

/// An agent that reads one request head and answers with `answer`; then it echoes.
pub(crate) fn agent(server: &Running, answer: &'static str) -> tokio::task::JoinHandle<(String, UnixStream)> {
    let path = server.run_dir.join("nodes/n1");
    std::fs::create_dir_all(&path).unwrap();
    let _ = std::fs::remove_file(path.join("kubelet.sock"));
    let listener = UnixListener::bind(path.join("kubelet.sock")).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        (String::from_utf8(head).unwrap(), stream)
    })
}

#[tokio::test]
async fn logs_come_from_the_agent() {
    let server = Running::start().await;
    running_pod(&server).await;
    let mut client = server.client().await;
    let agent = agent(&server, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n");
    let log = client.get(&format!("{PODS}/p/log?container=a&tailLines=5&follow=true")).await;
    assert_eq!((log.code, log.text.as_str()), (200, "hello\n"));
    let (head, _) = agent.await.unwrap();
    assert!(
        head.starts_with("GET /containerLogs/default/p/a?follow=true&tailLines=5 HTTP/1.1\r\n"),
        "{head}"
    );

    let none = client.get(&format!("{PODS}/p/log")).await;
    let want = "a container name must be specified for pod p, choose one of: [a b]";
    assert_eq!((none.code, none.message().as_str()), (400, want));
    let waiting = client.get(&format!("{PODS}/p/log?container=b")).await;
    let want = r#"container "b" in pod "p" is waiting to start: ContainerCreating"#;
    assert_eq!((waiting.code, waiting.message().as_str()), (400, want));
    let parameters = [
        ("tailLines=-1", "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ("limitBytes=0", "limitBytes: Invalid value: 0: must be greater than 0"),
        ("stream=Both", r#"stream: Unsupported value: "Both": supported values: "All", "Stderr", "Stdout""#),
        (
            "sinceSeconds=1&sinceTime=2026-01-01T00%3A00%3A00Z",
            "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        ),
        (
            "tailLines=1&stream=Stdout",
            "Forbidden: `tailLines` and specific `stream` are mutually exclusive for now",
        ),
    ];
    for (parameters, want) in parameters {
        let refused = client.get(&format!("{PODS}/p/log?container=a&{parameters}")).await;
        let message = refused.message();
        assert_eq!(refused.code, 422, "{message}");
        assert!(
            message.starts_with(r#"PodLogOptions "p" is invalid: "#) && message.ends_with(want),
            "{message}"
        );
    }
    let malformed = client.get(&format!("{PODS}/p/log?container=a&tailLines=x")).await;
    let want = r#"strconv.ParseInt: parsing "x": invalid syntax"#;
    assert_eq!((malformed.code, malformed.message().as_str()), (400, want));
    std::fs::remove_file(server.run_dir.join("nodes/n1/kubelet.sock")).unwrap();
    let away = client.get(&format!("{PODS}/p/log?container=a")).await;
    assert_eq!(away.code, 500);
    assert!(away.message().contains(r#"the agent of node "n1" does not answer"#), "{away:?}");
}

#[tokio::test]
async fn exec_is_carried_both_ways() {
    let server = Running::start().await;
    running_pod(&server).await;
    let mut client = server.client().await;
    let agent = agent(
        &server,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: v5.channel.k8s.io\r\nsec-websocket-accept: x\r\n\r\n",
    );
    client.headers = vec![
        ("connection", "upgrade".to_owned()),
        ("upgrade", "websocket".to_owned()),
        ("sec-websocket-key", "x".to_owned()),
        ("sec-websocket-version", "13".to_owned()),
        ("sec-websocket-protocol", "v5.channel.k8s.io".to_owned()),
    ];
    let path = format!("{PODS}/p/exec?container=a&command=echo&command=a%20b&stdout=true&stderr=true");
    let response = client.send("GET", &path, "", "").await;
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let (head, mut far) = agent.await.unwrap();
    assert!(
        head.starts_with("GET /exec/default/p/a?command=echo&command=a%20b&output=1&error=1 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.to_lowercase().contains("sec-websocket-key: x\r\n"), "{head}");
    let mut near = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    near.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    far.read_exact(&mut bytes).await.unwrap();
    far.write_all(b"pong").await.unwrap();
    near.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"pong");
    drop(far);
    assert_eq!(near.read(&mut bytes).await.unwrap(), 0, "the end is carried too");
}

#[tokio::test]
async fn a_refusal_of_the_agent_is_the_answer() {
    let server = Running::start().await;
    running_pod(&server).await;
    let mut client = server.client().await;
    // Without an upgrade, as the second try of kubectl is: what is wrong with the request comes first.
    let wrong = client.get(&format!("{PODS}/p/exec?container=nobody&command=ls")).await;
    assert_eq!((wrong.code, wrong.message().as_str()), (400, "container nobody is not valid for pod p"));
    let _agent = agent(&server, "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nno such c");
    let refused = client.get(&format!("{PODS}/p/log?container=a")).await;
    assert_eq!((refused.code, refused.message().as_str()), (400, "no such c"));
}
