//! Certificates, tokens, nobody: who is who and may what.

use serde_json::{Value, json};

use crate::server::Running;

#[tokio::test]
async fn nobody_may_read_versions_and_health_only() {
    let server = Running::start().await;
    let mut client = server.client_as(None).await;
    let version = client.get("/version").await.json();
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36.0+fairway"), "{version}");
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(client.get(path).await.text, "ok", "{path}");
    }
    let refused = client.get("/api/v1/pods").await;
    assert_eq!(refused.code, 403);
    let want = r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope"#;
    assert_eq!(refused.message(), want);
    let path = client.get("/apis").await;
    assert_eq!(path.message(), r#"forbidden: User "system:anonymous" cannot get path "/apis""#);
    client.headers.push(("authorization", "Bearer nonsense".to_owned()));
    let bad = client.get("/version").await;
    assert_eq!((bad.code, bad.message().as_str()), (401, "Unauthorized"));
}

#[tokio::test]
async fn a_certificate_names_its_user() {
    let server = Running::start().await;
    let node = server.pki.identity("system:node:n1", &["system:nodes"]);
    let mut client = server.client_as(Some(&node)).await;
    assert_eq!(client.get("/api/v1/pods").await.code, 200);
    let refused = client.delete("/api/v1/namespaces/default/services/kubernetes").await;
    let want = r#"services "kubernetes" is forbidden: User "system:node:n1" cannot delete resource "services" in API group "" in the namespace "default""#;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let me = client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.json();
    assert_eq!(me["status"]["userInfo"]["groups"], json!(["system:nodes", "system:authenticated"]));
    let may = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "delete", "resource": "services", "namespace": "default"}}});
    let may = client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &may).await.json();
    assert_eq!(may["status"]["allowed"], false);
}

async fn token(server: &Running, namespace: &str, account: &str, spec: Value) -> Value {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let answer = server.client().await.post(&path, &request).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn a_token_is_its_account_until_what_it_is_bound_to_is_gone() {
    let server = Running::start().await;
    let mut admin = server.client().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                     "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let uid = admin.post("/api/v1/namespaces/kube-system/pods", &pod).await.json()["metadata"]["uid"].clone();
    let bound = json!({"expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}});
    let granted = token(&server, "kube-system", "default", bound).await;
    assert_eq!(granted["spec"]["expirationSeconds"], 3607);
    assert!(granted["status"]["expirationTimestamp"].is_string());
    let text = granted["status"]["token"].as_str().unwrap().to_owned();
    let mut client = server.client_as(None).await;
    client.headers.push(("authorization", format!("Bearer {text}")));
    assert_eq!(client.get("/api/v1/services").await.code, 200, "an account of the system's namespaces");
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": text}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let known = admin.post(reviews, &review).await.json();
    assert_eq!(known["status"]["user"]["username"], "system:serviceaccount:kube-system:default");
    assert_eq!(known["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    admin.delete("/api/v1/namespaces/kube-system/pods/p?gracePeriodSeconds=0").await;
    assert_eq!(client.get("/api/v1/services").await.code, 401);
    let gone = admin.post(reviews, &review).await.json();
    assert_eq!(gone["status"]["authenticated"], false);

    let other = token(&server, "default", "default", json!({})).await;
    let mut client = server.client_as(None).await;
    client.headers.push(("authorization", format!("Bearer {}", other["status"]["token"].as_str().unwrap())));
    assert_eq!(client.get("/api/v1/services").await.code, 403, "any other account");
    assert_eq!(client.get("/apis").await.code, 200);
    let keys = client.get("/openid/v1/jwks").await.json();
    assert_eq!(keys["keys"][0]["alg"], "ES256");
}

#[tokio::test]
async fn an_administrator_may_act_as_another() {
    let server = Running::start().await;
    let mut client = server.client().await;
    client.headers.push(("impersonate-user", "system:serviceaccount:shop:default".to_owned()));
    assert_eq!(client.get("/api/v1/pods").await.code, 403);
}
