//! Proxy subresources: what is decided before anybody is asked, and nodes by their agent's socket. Pods and Services are asked for real in
//! `scenarios/kubectl`, where they have addresses.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::Running;
use crate::streams::{agent, running_pod};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let server = Running::start().await;
    running_pod(&server).await;
    let mut client = server.client().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}});
    assert_eq!(client.post(SERVICES, &service).await.code, 201);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": false}}], "ports": [{"name": "http", "port": 80}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    assert_eq!(client.post(slices, &slice).await.code, 201);
    struct Case {
        path: String,
        want: (u16, &'static str),
    }
    let cases = [
        Case {
            path: format!("{SERVICES}/web:http/proxy/"),
            want: (503, r#"no endpoints available for service "web""#),
        },
        Case {
            path: format!("{SERVICES}/web:80/proxy/"),
            want: (503, r#"no endpoints available for service "web""#),
        },
        Case {
            path: format!("{SERVICES}/web:81/proxy/"),
            want: (503, r#"no service port 81 found for service "web""#),
        },
        Case { path: format!("{SERVICES}/none/proxy/"), want: (404, r#"services "none" not found"#) },
        Case {
            path: format!("{SERVICES}/ftp:web:80/proxy/"),
            want: (400, r#"invalid service request "ftp:web:80""#),
        },
        Case { path: format!("{PODS}/p/proxy/"), want: (400, "address not allowed") },
        Case { path: format!("{PODS}/none:80/proxy/x"), want: (404, r#"pods "none" not found"#) },
        Case {
            path: "/api/v1/nodes/none/proxy/healthz".to_owned(),
            want: (404, r#"nodes "none" not found"#),
        },
    ];
    for case in cases {
        let answer = client.get(&case.path).await;
        assert_eq!((answer.code, answer.message().as_str()), case.want, "{}", case.path);
    }
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    assert_eq!(client.post("/api/v1/nodes", &node).await.code, 201);
    let short = client.get("/api/v1/nodes/n1/proxy?a=b").await;
    assert_eq!(short.code, 301);
    assert_eq!(short.headers["location"], "/api/v1/nodes/n1/proxy/?a=b");
    let posted = client.post("/api/v1/nodes/n1/proxy", &json!({})).await;
    assert_eq!(posted.code, 500, "only reading is sent elsewhere: this one finds no agent");
}

#[tokio::test]
async fn a_node_is_asked_at_its_agent() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    assert_eq!(client.post("/api/v1/nodes", &node).await.code, 201);
    let healthz = agent(&server, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    client.headers = vec![("authorization", "Basic eA==".to_owned()), ("x-own", "kept".to_owned())];
    let answer = client.ask("PUT", "/api/v1/nodes/n1/proxy/some//path%2F?q=1", "text/plain", "body").await;
    assert_eq!((answer.code, answer.text.as_str()), (200, "ok"));
    let (head, mut stream) = healthz.await.unwrap();
    let head = head.to_lowercase();
    assert!(head.starts_with("put /some//path%2f?q=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("x-own: kept\r\n") && !head.contains("authorization"), "{head}");
    assert!(head.contains("x-forwarded-uri: /api/v1/nodes/n1/proxy/some//path%2f\r\n"), "{head}");
    let mut body = [0; 4];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"body");
}

#[tokio::test]
async fn an_upgrade_goes_through() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    assert_eq!(client.post("/api/v1/nodes", &node).await.code, 201);
    let echo =
        agent(&server, "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: own\r\n\r\n");
    client.headers = vec![("connection", "Upgrade".to_owned()), ("upgrade", "own".to_owned())];
    let response = client.send("GET", "/api/v1/nodes/n1:10250/proxy", "", "").await;
    assert_eq!((response.status().as_u16(), &response.headers()["upgrade"]), (101, &"own".parse().unwrap()));
    let (head, mut far) = echo.await.unwrap();
    assert!(head.to_lowercase().contains("upgrade: own\r\n"), "{head}");
    let mut near = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    near.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    far.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
}
