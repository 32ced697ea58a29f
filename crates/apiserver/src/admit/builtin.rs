//! Built-in admission: the plugins that every server has on.

use fairway_objects::defaults;
use fairway_objects::document::{self, Document};
use fairway_objects::registry::{BuiltinKind, Resource};
use fairway_objects::status::{Qualified, Status};
use serde_json::{Value, json};

use super::{Attributes, account, limits};
use crate::server::Api;
use crate::store::{Collection, Key, State};

/// Where pods find their account.
const ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Lifetime of the token in it; the odd number marks tokens that the server mounts by itself.
const ACCOUNT_TOKEN_SECONDS: u32 = 3607;
/// How long pods stay on a node that is not ready.
const TOLERATION_SECONDS: u32 = 300;

/// Completes a new object from the state around it, or refuses it.
pub(super) fn create(api: &Api, resource: &Resource, object: &mut Value, random: u64) -> Result<(), Status> {
    let state = &*api.store.state();
    match resource.builtin {
        Some(BuiltinKind::Pod) => {
            let namespace = document::namespace(object).to_owned();
            let ranges = ranges_of(state, &namespace);
            if !ranges.is_empty() {
                limits::complete(object, &ranges);
                // A limit is a request too.
                defaults::apply(resource, object);
            }
            service_account(object, state, random)?;
            tolerations(object);
            priority(object, state)
        }
        Some(BuiltinKind::Secret) => {
            account::complete_secret(api, object, state);
            Ok(())
        }
        Some(BuiltinKind::Ingress) => {
            ingress_class(object, state);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The LimitRanges that a request for a pod or claim has to keep to.
pub(super) fn limit_ranges(state: &State, attributes: &Attributes<'_>) -> Vec<Value> {
    match attributes.resource.builtin {
        Some(BuiltinKind::Pod | BuiltinKind::PersistentVolumeClaim) => ranges_of(state, attributes.namespace),
        _ => Vec::new(),
    }
}

fn ranges_of(state: &State, namespace: &str) -> Vec<Value> {
    let ranges = state.objects(&Collection::new("", "limitranges"));
    let of = ranges.iter().filter(|(key, _)| key.namespace() == namespace);
    of.map(|(_, range)| range.value().clone()).collect()
}

/// What to tell whoever writes this kind.
pub(super) fn warnings(resource: &Resource) -> Vec<String> {
    resource.deprecation().map(str::to_owned).into_iter().collect()
}

/// NamespaceLifecycle: nothing new in a namespace that is absent or going.
pub(super) fn namespace_accepts(state: &State, resource: &Resource, key: &Key) -> Result<(), Status> {
    let namespaces = Collection::new("", "namespaces");
    let Some(namespace) = state.object(&namespaces, &Key::new("", key.namespace())) else {
        return Err(Status::not_found(Qualified { group: "", name: "namespaces" }, key.namespace()));
    };
    if document::is_terminating(namespace.value()) {
        return Err(Status::namespace_terminating(resource.qualified(), key.name(), key.namespace()));
    }
    Ok(())
}

/// ServiceAccount: every pod has one, and finds its token, its authority and its namespace in a volume.
fn service_account(pod: &mut Value, state: &State, random: u64) -> Result<(), Status> {
    let mut name = pod.text(&["spec", "serviceAccountName"]).to_owned();
    if name.is_empty() {
        name = pod.text(&["spec", "serviceAccount"]).to_owned();
    }
    if name.is_empty() {
        "default".clone_into(&mut name);
    }
    let namespace = document::namespace(pod).to_owned();
    let accounts = Collection::new("", "serviceaccounts");
    let Some(account) = state.object(&accounts, &Key::new(&namespace, &name)) else {
        let why =
            format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        return Err(Status::forbidden(Qualified { group: "", name: "pods" }, document::name(pod), &why));
    };
    pod.put(&["spec", "serviceAccountName"], name.as_str());
    pod.put(&["spec", "serviceAccount"], name.as_str());
    let pull_secrets = account.value().at(&["imagePullSecrets"]);
    if !pull_secrets.is_null() {
        pod.put_default(&["spec", "imagePullSecrets"], pull_secrets.clone());
    }
    let wanted = pod.at(&["spec", "automountServiceAccountToken"]).as_bool();
    let wanted = wanted.or_else(|| account.value().at(&["automountServiceAccountToken"]).as_bool());
    if wanted.unwrap_or(true) {
        mount_account(pod, random);
    }
    Ok(())
}

fn mount_account(pod: &mut Value, random: u64) {
    let volumes = pod.list(&["spec", "volumes"]);
    let known = volumes.iter().map(|volume| volume.text(&["name"]));
    let known = known.filter(|name| name.starts_with("kube-api-access-")).map(str::to_owned).next();
    let volume = known.clone().unwrap_or_else(|| format!("kube-api-access-{}", suffix(random)));
    let mount = json!({"name": volume, "readOnly": true, "mountPath": ACCOUNT_PATH});
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod.list_mut(&["spec", list]) {
            let mounts = container.list(&["volumeMounts"]);
            if mounts.iter().any(|mount| mount.text(&["mountPath"]).trim_end_matches('/') == ACCOUNT_PATH) {
                continue;
            }
            push(container, &["volumeMounts"], mount.clone());
            mounted = true;
        }
    }
    if mounted && known.is_none() {
        push(pod, &["spec", "volumes"], account_volume(&volume));
    }
}

fn account_volume(name: &str) -> Value {
    let namespace =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": ACCOUNT_TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}})
}

/// DefaultTolerationSeconds.
fn tolerations(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = pod.list(&["spec", "tolerations"]).iter().any(|toleration| {
            let for_key = matches!(toleration.text(&["key"]), "") || toleration.text(&["key"]) == key;
            for_key && matches!(toleration.text(&["effect"]), "" | "NoExecute")
        });
        if !tolerated {
            let toleration = json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            });
            push(pod, &["spec", "tolerations"], toleration);
        }
    }
}

/// Priority: the number and the preemption of the class that the pod names, or of the one that is the default for all.
fn priority(pod: &mut Value, state: &State) -> Result<(), Status> {
    let classes = Collection::new("scheduling.k8s.io", "priorityclasses");
    let name = pod.text(&["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        // Of several defaults the lowest counts, so that a new one raises nobody.
        let classes = state.objects(&classes);
        let defaults = classes.values().filter(|class| class.value().is_true(&["globalDefault"]));
        defaults.min_by_key(|class| class.value().int(&["value"])).cloned()
    } else {
        let Some(class) = state.object(&classes, &Key::new("", &name)) else {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(Status::forbidden(Qualified { group: "", name: "pods" }, document::name(pod), &why));
        };
        Some(class.clone())
    };
    let priority = class.as_ref().and_then(|class| class.value().int(&["value"])).unwrap_or(0);
    if pod.int(&["spec", "priority"]).is_some_and(|given| given != priority) {
        let why = "the integer value of priority must not be provided in pod spec; priority admission controller \
                   computed the value from the given PriorityClass name";
        return Err(Status::forbidden(Qualified { group: "", name: "pods" }, document::name(pod), why));
    }
    if let Some(class) = &class {
        pod.put(&["spec", "priorityClassName"], document::name(class.value()));
    }
    pod.put(&["spec", "priority"], priority);
    let preemption = class.as_ref().map_or("", |class| class.value().text(&["preemptionPolicy"]));
    let preemption = if preemption.is_empty() { "PreemptLowerPriority" } else { preemption };
    let given = pod.text(&["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != preemption {
        let why = "the string value of PreemptionPolicy must not be provided in pod spec; priority admission controller \
                   computed the value from the given PriorityClass name";
        return Err(Status::forbidden(Qualified { group: "", name: "pods" }, document::name(pod), why));
    }
    pod.put(&["spec", "preemptionPolicy"], preemption);
    Ok(())
}

/// DefaultIngressClass: of several defaults the newest, then the first by name.
fn ingress_class(ingress: &mut Value, state: &State) {
    let named = ingress.has(&["spec", "ingressClassName"])
        || document::annotation(ingress, "kubernetes.io/ingress.class").is_some();
    if named {
        return;
    }
    let classes = state.objects(&Collection::new("networking.k8s.io", "ingressclasses"));
    let defaults = classes.values().map(|class| class.value()).filter(|class| {
        document::annotation(class, "ingressclass.kubernetes.io/is-default-class") == Some("true")
    });
    let created = |class: &Value| class.text(&["metadata", "creationTimestamp"]).to_owned();
    let newest =
        defaults.min_by_key(|class| (std::cmp::Reverse(created(class)), document::name(class).to_owned()));
    if let Some(class) = newest {
        ingress.put(&["spec", "ingressClassName"], document::name(class));
    }
}

/// Appends to a list, making it when absent.
fn push(object: &mut Value, path: &[&str], item: Value) {
    match object.at_mut(path).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => object.put(path, json!([item])),
    }
}

/// Five characters of the alphabet of generated names.
fn suffix(mut random: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = String::with_capacity(5);
    for _ in 0..5 {
        let index = usize::try_from(random % ALPHABET.len() as u64).unwrap_or(0);
        text.push(ALPHABET.get(index).copied().map_or('b', char::from));
        random /= ALPHABET.len() as u64;
    }
    text
}
