//! Quotas, limit ranges and disruption budgets.

use serde_json::{Value, json};

use crate::server::{Client, Running, config_map};

const NS: &str = "/api/v1/namespaces/default";

async fn make(admin: &mut Client, plural: &str, kind: &str, name: &str, spec: Value) -> Value {
    let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let answer = admin.post(&format!("{NS}/{plural}"), &object).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    answer.json()
}

fn pod(name: &str, resources: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
           "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

async fn used(admin: &mut Client, quota: &str) -> Value {
    admin.get(&format!("{NS}/resourcequotas/{quota}")).await.json()["status"]["used"].clone()
}

#[tokio::test]
async fn a_quota_is_full_at_its_limit_and_free_again_after_a_delete() {
    let server = Running::start().await;
    let mut admin = server.client().await;
    let (pods, maps) = (format!("{NS}/pods"), format!("{NS}/configmaps"));
    admin.post(&maps, &config_map("before", "1")).await;
    make(
        &mut admin,
        "resourcequotas",
        "ResourceQuota",
        "q",
        json!({"hard": {"pods": "2", "configmaps": "3"}}),
    )
    .await;
    // The authority of the cluster is in every namespace.
    assert_eq!(used(&mut admin, "q").await, json!({"pods": "0", "configmaps": "2"}));
    for name in ["a", "b"] {
        assert_eq!(admin.post(&pods, &pod(name, &json!({}))).await.code, 201, "{name}");
    }
    let refused = admin.post(&pods, &pod("c", &json!({}))).await;
    let want =
        r#"pods "c" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"#;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
    assert_eq!(admin.post(&format!("{pods}?dryRun=All"), &pod("c", &json!({}))).await.code, 403);
    admin.delete(&format!("{pods}/a")).await;
    assert_eq!(used(&mut admin, "q").await["pods"], "1");
    assert_eq!(admin.post(&pods, &pod("c", &json!({}))).await.code, 201);
    let ended = json!({"status": {"phase": "Succeeded"}});
    assert_eq!(admin.merge(&format!("{pods}/c/status"), &ended).await.code, 200);
    assert_eq!(used(&mut admin, "q").await["pods"], "1", "what has ended needs no room");
}

#[tokio::test]
async fn resources_are_defaulted_bounded_and_counted() {
    let server = Running::start().await;
    let mut admin = server.client().await;
    let pods = format!("{NS}/pods");
    make(
        &mut admin,
        "resourcequotas",
        "ResourceQuota",
        "q",
        json!({"hard": {"requests.cpu": "1", "limits.memory": "1Gi"}}),
    )
    .await;
    let refused = admin.post(&pods, &pod("a", &json!({"requests": {"cpu": "1"}}))).await;
    let want = r#"pods "a" is forbidden: failed quota: q: must specify limits.memory for: c"#;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
    let limits = json!({"limits": [{
        "type": "Container", "default": {"memory": "256Mi"}, "defaultRequest": {"cpu": "300m"}, "max": {"memory": "512Mi"},
    }]});
    make(&mut admin, "limitranges", "LimitRange", "l", limits).await;
    let made = admin.post(&pods, &pod("a", &json!({}))).await.json();
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(
        (&resources["limits"]["memory"], &resources["requests"]["cpu"]),
        (&json!("256Mi"), &json!("300m"))
    );
    assert_eq!(used(&mut admin, "q").await, json!({"requests.cpu": "300m", "limits.memory": "256Mi"}));
    let refused = admin.post(&pods, &pod("b", &json!({"limits": {"memory": "1Gi"}}))).await;
    let want = r#"pods "b" is forbidden: maximum memory usage per Container is 512Mi, but limit is 1Gi"#;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
    let refused = admin.post(&pods, &pod("b", &json!({"requests": {"cpu": "800m"}}))).await;
    let want = r#"pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=800m, used: requests.cpu=300m, limited: requests.cpu=1"#;
    assert_eq!((refused.code, refused.message().as_str()), (403, want));
}

#[tokio::test]
async fn an_eviction_takes_from_the_budget_and_waits_when_it_is_empty() {
    let server = Running::start().await;
    let mut admin = server.client().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
                        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    assert_eq!(admin.post(budgets, &budget).await.code, 201);
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    for name in ["a", "b"] {
        admin.post(&format!("{NS}/pods"), &pod(name, &json!({}))).await;
        assert_eq!(admin.merge(&format!("{NS}/pods/{name}/status"), &ready).await.code, 200);
    }
    let eviction =
        |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let early = admin.post(&format!("{NS}/pods/a/eviction"), &eviction("a")).await;
    assert_eq!((early.code, early.headers["retry-after"].to_str().unwrap()), (429, "10"));
    // What the controller would write.
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    assert_eq!(admin.merge(&format!("{budgets}/web/status"), &status).await.code, 200);
    let dry = admin.post(&format!("{NS}/pods/a/eviction?dryRun=All"), &eviction("a")).await;
    assert_eq!(dry.code, 201, "{dry:?}");
    let evicted = admin.post(&format!("{NS}/pods/a/eviction"), &eviction("a")).await;
    assert_eq!((evicted.code, evicted.json()["status"].as_str().unwrap()), (201, "Success"));
    let after = admin.get(&format!("{budgets}/web")).await.json()["status"].clone();
    assert_eq!(after["disruptionsAllowed"], 0);
    assert!(after["disruptedPods"]["a"].is_string(), "{after}");
    let refused = admin.post(&format!("{NS}/pods/b/eviction"), &eviction("b")).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (429, "Cannot evict pod as it would violate the pod's disruption budget.")
    );
    let cause = &refused.json()["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(cause["message"], "The disruption budget web needs 1 healthy pods and has 2 currently");
}
