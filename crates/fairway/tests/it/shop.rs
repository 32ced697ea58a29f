//! What the clusters of these tests serve: one echo server behind every kind of door.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Api;
use crate::cluster::eventually;

/// The host of the Ingress.
pub(crate) const HOST: &str = "echo.test";
pub(crate) const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/echo";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const CREATE_LIMIT: Duration = Duration::from_secs(20);

/// Creates a Deployment `echo` with two pods, a Service of type NodePort, one of type LoadBalancer, and an Ingress.
pub(crate) fn create(api: &Api) {
    let labels = json!({"app": "echo"});
    let probe = json!({"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1});
    let container = json!({
        "name": "echo", "image": "fairway.dev/toolbox", "args": ["serve", "--http", "8080"],
        "ports": [{"containerPort": 8080}], "readinessProbe": probe,
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "echo"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    });
    let backend = json!({"service": {"name": "echo", "port": {"number": 80}}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "echo"},
        "spec": {"rules": [{"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]},
    });
    create_once(api, "/apis/apps/v1/namespaces/default/deployments", &deployment);
    create_once(api, SERVICES, &service("echo", "NodePort"));
    create_once(api, SERVICES, &service("echo-direct", "LoadBalancer"));
    create_once(api, "/apis/networking.k8s.io/v1/namespaces/default/ingresses", &ingress);
}

fn service(name: &str, kind: &str) -> Value {
    let spec =
        json!({"type": kind, "selector": {"app": "echo"}, "ports": [{"port": 80, "targetPort": 8080}]});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn create_once(api: &Api, path: &str, object: &Value) {
    eventually(path, CREATE_LIMIT, || api.create(path, object).map(drop).map_err(|error| error.to_string()));
}

/// What must not change while the objects live: ClusterIPs, NodePort, load-balancer address.
pub(crate) fn addresses(api: &Api) -> Value {
    eventually("addresses of the Services", CREATE_LIMIT, || {
        let service = |name: &str| api.get(&format!("{SERVICES}/{name}")).map_err(|error| error.to_string());
        let (echo, direct) = (service("echo")?, service("echo-direct")?);
        let address = &direct["status"]["loadBalancer"]["ingress"][0]["ip"];
        let found = json!({
            "cluster IPs": [echo["spec"]["clusterIP"], direct["spec"]["clusterIP"]],
            "node ports": [echo["spec"]["ports"][0]["nodePort"], direct["spec"]["ports"][0]["nodePort"]],
            "load-balancer address": address,
        });
        if address.is_string() { Ok(found) } else { Err(format!("no load-balancer address: {direct}")) }
    })
}
