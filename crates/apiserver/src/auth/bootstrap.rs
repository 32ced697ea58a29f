//! The roles and bindings that every cluster has: those of Kubernetes for people and tools, and for each built-in component exactly what
//! it does. They are completed at every start, unless one says `rbac.authorization.kubernetes.io/autoupdate: "false"`.

use fairway_objects::document::Document;
use serde_json::{Map, Value, json};

use super::rbac::{self, Rule};

/// A rule of the table.
enum Allow {
    /// Verbs, API groups, resources.
    Objects(&'static [&'static str], &'static [&'static str], &'static [&'static str]),
    /// Verbs, paths.
    Paths(&'static [&'static str], &'static [&'static str]),
}

use Allow::{Objects, Paths};

/// A ClusterRole of the table.
struct Role {
    name: &'static str,
    /// The role that this one is a part of: `view`, `edit`, `admin`.
    part_of: Option<&'static str>,
    /// Whether its rules are those of its parts.
    aggregated: bool,
    rules: &'static [Allow],
}

/// A ClusterRoleBinding of the table, with the name of its role.
struct Binding {
    role: &'static str,
    subjects: &'static [Subject],
}

enum Subject {
    Group(&'static str),
    User(&'static str),
    Account { namespace: &'static str, name: &'static str },
}

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const BOTH: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const EVENTS: Allow = Objects(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]);

const PLAIN: Role = Role { name: "", part_of: None, aggregated: false, rules: &[] };

#[rustfmt::skip]
const ROLES: &[Role] = &[
    Role { name: "cluster-admin", rules: &[Objects(&["*"], &["*"], &["*"]), Paths(&["*"], &["*"])], ..PLAIN },
    Role { name: "admin", aggregated: true, ..PLAIN },
    Role { name: "edit", part_of: Some("admin"), aggregated: true, ..PLAIN },
    Role { name: "view", part_of: Some("edit"), aggregated: true, ..PLAIN },
    Role { name: "system:aggregate-to-admin", part_of: Some("admin"), rules: &[
        Objects(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews"]),
        Objects(BOTH, &["rbac.authorization.k8s.io"], &["roles", "rolebindings"]),
    ], ..PLAIN },
    Role { name: "system:aggregate-to-edit", part_of: Some("edit"), rules: &[
        Objects(READ, &[""], &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"]),
        Objects(&["impersonate"], &[""], &["serviceaccounts"]),
        Objects(WRITE, &[""], &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"]),
        Objects(&["create"], &[""], &["pods/eviction"]),
        Objects(WRITE, &[""], &["configmaps", "events", "persistentvolumeclaims", "replicationcontrollers",
                                "replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy"]),
        Objects(&["create"], &[""], &["serviceaccounts/token"]),
        Objects(WRITE, &["apps"], &["daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
                                    "replicasets/scale", "statefulsets", "statefulsets/scale"]),
        Objects(WRITE, &["autoscaling"], &["horizontalpodautoscalers"]),
        Objects(WRITE, &["batch"], &["cronjobs", "jobs"]),
        Objects(WRITE, &["policy"], &["poddisruptionbudgets"]),
        Objects(WRITE, &["networking.k8s.io"], &["ingresses", "networkpolicies"]),
        Objects(BOTH, &["coordination.k8s.io"], &["leases"]),
        Objects(WRITE, &["gateway.networking.k8s.io"], &["*"]),
    ], ..PLAIN },
    Role { name: "system:aggregate-to-view", part_of: Some("view"), rules: &[
        Objects(READ, &[""], &["configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods",
                               "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services",
                               "services/status"]),
        Objects(READ, &[""], &["bindings", "events", "limitranges", "namespaces/status", "pods/log", "pods/status",
                               "replicationcontrollers/status", "resourcequotas", "resourcequotas/status"]),
        Objects(READ, &[""], &["namespaces"]),
        Objects(READ, &["discovery.k8s.io"], &["endpointslices"]),
        Objects(READ, &["apps"], &["controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
                                   "deployments/status", "replicasets", "replicasets/scale", "replicasets/status",
                                   "statefulsets", "statefulsets/scale", "statefulsets/status"]),
        Objects(READ, &["autoscaling"], &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
        Objects(READ, &["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
        Objects(READ, &["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
        Objects(READ, &["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"]),
        Objects(READ, &["gateway.networking.k8s.io"], &["*"]),
    ], ..PLAIN },
    Role { name: "system:discovery", rules: &[Paths(&["get"], &[
        "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/",
    ])], ..PLAIN },
    Role { name: "system:public-info-viewer",
           rules: &[Paths(&["get"], &["/healthz", "/livez", "/readyz", "/version", "/version/"])], ..PLAIN },
    Role { name: "system:basic-user", rules: &[
        Objects(&["create"], &["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
        Objects(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
    ], ..PLAIN },
    Role { name: "system:auth-delegator", rules: &[
        Objects(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        Objects(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
    ], ..PLAIN },
    Role { name: "system:monitoring", rules: &[Paths(&["get"], &[
        "/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*",
    ])], ..PLAIN },
    Role { name: "system:service-account-issuer-discovery", rules: &[Paths(&["get"], &[
        "/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/",
    ])], ..PLAIN },
    Role { name: "system:node-proxier", rules: &[
        Objects(&["list", "watch"], &[""], &["endpoints", "nodes", "services"]),
        Objects(&["list", "watch"], &["discovery.k8s.io"], &["endpointslices"]),
        EVENTS,
    ], ..PLAIN },
    // A node agent: registers and renews its node, runs its pods, programs Services, hands pods their tokens, asks who may read logs.
    Role { name: "system:node", rules: &[
        Objects(READ, &[""], &["configmaps", "endpoints", "namespaces", "nodes", "pods", "secrets", "serviceaccounts", "services"]),
        Objects(READ, &["discovery.k8s.io"], &["endpointslices"]),
        Objects(READ, &["networking.k8s.io"], &["networkpolicies"]),
        Objects(&["create", "patch", "update"], &[""], &["nodes"]),
        Objects(&["patch", "update"], &[""], &["nodes/status", "pods/status", "services/status"]),
        Objects(&["create", "delete"], &[""], &["pods"]),
        Objects(&["create"], &[""], &["pods/eviction", "serviceaccounts/token"]),
        Objects(&["create", "delete", "get", "patch", "update"], &["coordination.k8s.io"], &["leases"]),
        Objects(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        Objects(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews", "subjectaccessreviews"]),
        EVENTS,
    ], ..PLAIN },
    // All controllers in one process. The garbage collector and the end of a namespace concern every kind there is or will be.
    Role { name: "system:kube-controller-manager", rules: &[
        Objects(&["delete", "deletecollection", "get", "list", "patch", "update", "watch"], &["*"], &["*"]),
        Objects(&["update"], &[""], &["namespaces/finalize"]),
        Objects(&["create"], &[""], &["configmaps", "endpoints", "pods", "pods/binding", "pods/eviction", "secrets",
                                      "serviceaccounts", "serviceaccounts/token"]),
        Objects(&["create"], &["apps"], &["controllerrevisions", "replicasets"]),
        Objects(&["create"], &["batch"], &["jobs"]),
        Objects(&["create"], &["discovery.k8s.io"], &["endpointslices"]),
        Objects(&["create"], &["coordination.k8s.io"], &["leases"]),
        Objects(&["create"], &["networking.k8s.io"], &["ipaddresses"]),
        Objects(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        Objects(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
        EVENTS,
    ], ..PLAIN },
    Role { name: "system:fairway:dns", rules: &[
        Objects(READ, &[""], &["endpoints", "namespaces", "nodes", "pods", "services"]),
        Objects(READ, &["discovery.k8s.io"], &["endpointslices"]),
        EVENTS,
    ], ..PLAIN },
    Role { name: "system:fairway:gateway", rules: &[
        Objects(READ, &[""], &["configmaps", "endpoints", "namespaces", "nodes", "pods", "secrets", "services"]),
        Objects(READ, &["discovery.k8s.io"], &["endpointslices"]),
        Objects(READ, &["networking.k8s.io"], &["ingressclasses", "ingresses"]),
        Objects(&["patch", "update"], &["networking.k8s.io"], &["ingresses/status"]),
        Objects(READ, &["gateway.networking.k8s.io"], &["*"]),
        Objects(&["patch", "update"], &["gateway.networking.k8s.io"], &["*/status"]),
        EVENTS,
    ], ..PLAIN },
];

use Subject::{Account, Group, User};

#[rustfmt::skip]
const BINDINGS: &[Binding] = &[
    Binding { role: "cluster-admin", subjects: &[Group("system:masters")] },
    Binding { role: "system:discovery", subjects: &[Group("system:authenticated")] },
    Binding { role: "system:basic-user", subjects: &[Group("system:authenticated")] },
    Binding { role: "system:public-info-viewer", subjects: &[Group("system:authenticated"), Group("system:unauthenticated")] },
    Binding { role: "system:monitoring", subjects: &[Group("system:monitoring")] },
    Binding { role: "system:service-account-issuer-discovery", subjects: &[Group("system:serviceaccounts")] },
    Binding { role: "system:node-proxier", subjects: &[User("system:kube-proxy")] },
    Binding { role: "system:node", subjects: &[Group("system:nodes")] },
    Binding { role: "system:kube-controller-manager", subjects: &[User("system:kube-controller-manager")] },
    Binding { role: "system:fairway:dns", subjects: &[Account { namespace: "kube-system", name: "fairway-dns" }] },
    Binding { role: "system:fairway:gateway", subjects: &[Account { namespace: "fairway-system", name: "fairway-gateway" }] },
];

impl Allow {
    fn rule(&self) -> Rule {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        match self {
            Objects(verbs, groups, resources) => Rule {
                verbs: owned(verbs),
                groups: owned(groups),
                resources: owned(resources),
                ..Rule::default()
            },
            Paths(verbs, paths) => Rule { verbs: owned(verbs), paths: owned(paths), ..Rule::default() },
        }
    }
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}, "annotations": {AUTOUPDATE: "true"},
    })
}

fn part_label(role: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{role}")
}

/// The ClusterRoles. Those with an `aggregationRule` have no rules yet.
pub fn cluster_roles() -> impl Iterator<Item = Value> {
    ROLES.iter().map(|role| {
        let mut object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(role.name),
            "rules": role.rules.iter().map(|allow| allow.rule().to_value()).collect::<Vec<_>>(),
        });
        if let Some(whole) = role.part_of {
            object.put(&["metadata", "labels", &part_label(whole)], "true");
        }
        if role.aggregated {
            let mut labels = Map::new();
            labels.insert(part_label(role.name), "true".into());
            object.put(&["aggregationRule"], json!({"clusterRoleSelectors": [{"matchLabels": labels}]}));
        }
        object
    })
}

/// The ClusterRoleBindings, each with the name of its role.
pub fn cluster_role_bindings() -> impl Iterator<Item = Value> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    BINDINGS.iter().map(|binding| {
        let subject = |subject: &Subject| match subject {
            Group(name) => json!({"kind": "Group", "name": name, "apiGroup": GROUP}),
            User(name) => json!({"kind": "User", "name": name, "apiGroup": GROUP}),
            Account { namespace, name } => json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}),
        };
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(binding.role),
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": binding.role},
            "subjects": binding.subjects.iter().map(subject).collect::<Vec<_>>(),
        })
    })
}

/// A stored role or binding with what it lacks of the one of the table; none when nothing is missing or its owner keeps it as it is.
pub fn completed(stored: &Value, wanted: &Value) -> Option<Value> {
    if stored.text(&["metadata", "annotations", AUTOUPDATE]) == "false" {
        return None;
    }
    let mut new = stored.clone();
    for place in ["labels", "annotations"] {
        for (key, value) in wanted.map(&["metadata", place]).into_iter().flatten() {
            new.put(&["metadata", place, key], value.clone());
        }
    }
    if wanted.has(&["aggregationRule"]) {
        add_missing(&mut new, &["aggregationRule", "clusterRoleSelectors"], wanted);
    } else if wanted.has(&["rules"]) {
        let missing = rbac::uncovered(&rbac::rules_of(stored), &rbac::rules_of(wanted));
        let mut rules = stored.list(&["rules"]).to_vec();
        rules.extend(missing.iter().map(Rule::to_value));
        new.put(&["rules"], rules);
    }
    if wanted.has(&["subjects"]) {
        add_missing(&mut new, &["subjects"], wanted);
    }
    (new != *stored).then_some(new)
}

fn add_missing(object: &mut Value, path: &[&str], wanted: &Value) {
    let mut list = object.list(path).to_vec();
    for item in wanted.list(path) {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    object.put(path, list);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_has_its_role_and_every_part_its_whole() {
        let names: Vec<&str> = ROLES.iter().map(|role| role.name).collect();
        for binding in BINDINGS {
            assert!(names.contains(&binding.role), "{}", binding.role);
        }
        for role in ROLES {
            assert!(role.part_of.is_none_or(|whole| names.contains(&whole)), "{}", role.name);
        }
    }

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        struct Case {
            name: &'static str,
            change: fn(&mut Value),
            want: fn(&Value) -> bool,
        }
        let wanted = cluster_roles().find(|role| role["metadata"]["name"] == "system:basic-user").unwrap();
        let cases = [
            Case { name: "nothing is missing", change: |_| {}, want: Value::is_null },
            Case {
                name: "a rule",
                change: |role| role.put(&["rules"], json!([])),
                want: |role| role["rules"].as_array().is_some_and(|rules| rules.len() == 3),
            },
            Case {
                name: "a label",
                change: |role| role.put(&["metadata", "labels"], json!({"own": "1"})),
                want: |role| role["metadata"]["labels"].as_object().is_some_and(|labels| labels.len() == 2),
            },
            Case {
                name: "its owner keeps it",
                change: |role| {
                    role.put(&["rules"], json!([]));
                    role.put(&["metadata", "annotations", AUTOUPDATE], "false");
                },
                want: Value::is_null,
            },
            Case {
                name: "more rules are fine",
                change: |role| {
                    let mut rules = role["rules"].as_array().unwrap().clone();
                    rules.push(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
                    role.put(&["rules"], rules);
                },
                want: Value::is_null,
            },
        ];
        for case in cases {
            let mut stored = wanted.clone();
            (case.change)(&mut stored);
            let got = completed(&stored, &wanted).unwrap_or_default();
            assert!((case.want)(&got), "{}: {got}", case.name);
        }
    }
}
