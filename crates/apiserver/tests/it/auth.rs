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
    assert_eq!(client.get("/apis").await.code, 200, "everybody with a name may discover");
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": text}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let known = admin.post(reviews, &review).await.json();
    assert_eq!(known["status"]["user"]["username"], "system:serviceaccount:kube-system:default");
    assert_eq!(known["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    admin.delete("/api/v1/namespaces/kube-system/pods/p?gracePeriodSeconds=0").await;
    assert_eq!(client.get("/apis").await.code, 401);
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
    let jane = server.pki.identity("jane", &[]);
    let mut jane = server.client_as(Some(&jane)).await;
    jane.headers.push(("impersonate-user", "bob".to_owned()));
    let want = r#"users "bob" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#;
    let refused = jane.get("/api/v1/pods").await;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
}

/// A role or binding.
fn access(kind: &str, name: &str, fields: Value) -> Value {
    let mut object =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
    for (field, value) in fields.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A binding of a role to a user.
fn bind(kind: &str, name: &str, role: (&str, &str), user: &str) -> Value {
    let group = "rbac.authorization.k8s.io";
    access(
        kind,
        name,
        json!({
            "roleRef": {"apiGroup": group, "kind": role.0, "name": role.1},
            "subjects": [{"kind": "User", "name": user, "apiGroup": group}],
        }),
    )
}

#[tokio::test]
async fn a_binding_counts_from_the_next_request_on() {
    let server = Running::start().await;
    let mut admin = server.client().await;
    let jane = server.pki.identity("jane", &["dev"]);
    let mut jane = server.client_as(Some(&jane)).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let want = r#"secrets is forbidden: User "jane" cannot list resource "secrets" in API group "" in the namespace "default""#;
    let refused = jane.get(secrets).await;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let made = admin.post(&bindings, &bind("RoleBinding", "jane", ("ClusterRole", "edit"), "jane")).await;
    assert_eq!(made.code, 201, "{made:?}");
    assert_eq!(jane.get(secrets).await.code, 200);
    assert_eq!(jane.get("/api/v1/namespaces/kube-system/secrets").await.code, 403);
    assert_eq!(jane.get("/api/v1/namespaces/default").await.code, 200, "a namespace is in itself");
    let nodes = jane.get("/api/v1/nodes/n").await.message();
    assert_eq!(
        nodes,
        r#"nodes "n" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#
    );
    assert_eq!(
        jane.post("/api/v1/namespaces/default/configmaps", &crate::server::config_map("a", "1")).await.code,
        201
    );
    assert_eq!(admin.delete(&format!("{bindings}/jane")).await.code, 200);
    assert_eq!(jane.get(secrets).await.code, 403);
    let lost = bind("ClusterRoleBinding", "lost", ("ClusterRole", "absent"), "jane");
    assert_eq!(admin.post(&format!("{RBAC}/clusterrolebindings"), &lost).await.code, 201);
    let want = format!(r#"{want}: RBAC: clusterrole.rbac.authorization.k8s.io "absent" not found"#);
    assert_eq!(jane.get(secrets).await.message(), want);
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let server = Running::start().await;
    let mut admin = server.client().await;
    let owner = server.pki.identity("owner", &[]);
    let mut owner = server.client_as(Some(&owner)).await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    admin.post(&bindings, &bind("RoleBinding", "owner", ("ClusterRole", "admin"), "owner")).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |name: &str, resource: &str| {
        access(
            "Role",
            name,
            json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": [resource]}]}),
        )
    };
    assert_eq!(owner.post(&roles, &role("pods", "pods")).await.code, 201);
    let refused = owner.post(&roles, &role("nodes", "nodes")).await;
    let want = "roles.rbac.authorization.k8s.io \"nodes\" is forbidden: user \"owner\" (groups=[\"system:authenticated\"]) is attempting to \
                grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}";
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
    let refused =
        owner.post(&bindings, &bind("RoleBinding", "more", ("ClusterRole", "cluster-admin"), "owner")).await;
    assert_eq!(refused.code, 403, "{refused:?}");
    assert!(refused.message().ends_with("{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"), "{}", refused.message());
    let mine = owner.post(&bindings, &bind("RoleBinding", "friend", ("Role", "pods"), "friend")).await;
    assert_eq!(mine.code, 201, "{mine:?}");
}

#[tokio::test]
async fn aggregated_roles_follow_their_parts() {
    let server = Running::start().await;
    let mut admin = server.client().await;
    let part = access(
        "ClusterRole",
        "widgets-view",
        json!({
            "metadata": {"name": "widgets-view", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
            "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["widgets"]}],
        }),
    );
    let roles = format!("{RBAC}/clusterroles");
    let knows = |role: &Value| {
        role["rules"].as_array().unwrap().iter().any(|rule| rule["resources"] == json!(["widgets"]))
    };
    assert_eq!(admin.post(&roles, &part).await.code, 201);
    for whole in ["view", "edit", "admin"] {
        assert!(knows(&admin.get(&format!("{roles}/{whole}")).await.json()), "{whole}");
    }
    admin.delete(&format!("{roles}/widgets-view")).await;
    assert!(!knows(&admin.get(&format!("{roles}/admin")).await.json()));
}

#[tokio::test]
async fn roles_are_completed_at_every_start_unless_their_owner_says_no() {
    let mut server = Running::start().await;
    let mut admin = server.client().await;
    let roles = format!("{RBAC}/clusterroles");
    let none = json!({"rules": []});
    let kept = json!({"rules": [], "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
    assert_eq!(admin.merge(&format!("{roles}/system:basic-user"), &none).await.code, 200);
    assert_eq!(admin.merge(&format!("{roles}/system:discovery"), &kept).await.code, 200);
    server.restart().await;
    let mut admin = server.client().await;
    let rules = async |admin: &mut crate::server::Client, name: &str| {
        admin.get(&format!("{roles}/{name}")).await.json()["rules"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(rules(&mut admin, "system:basic-user").await, 3);
    assert_eq!(rules(&mut admin, "system:discovery").await, 0);
}
