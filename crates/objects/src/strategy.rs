//! What the server decides about a write before it validates: which parts of the request count, generation,
//! fields that an update may leave out.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::document::{self, Document};
use crate::registry::{BuiltinKind, Generation, Resource};

mod service;

/// Characters of generated names: no vowels, no look-alikes.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Bytes of `generateName` that are kept, so that a generated name fits a DNS label.
const GENERATE_BASE_BYTES_MAX: usize = 58;
/// Characters added to `generateName`.
const GENERATED_CHARS: u32 = 5;

/// What the server sets in every new object.
#[derive(Debug, Clone)]
pub struct Creation<'a> {
    /// Namespace of the URL, `""` for objects of the cluster.
    pub namespace: &'a str,
    /// A fresh version-4 UUID.
    pub uid: &'a str,
    /// The time.
    pub now: Timestamp,
    /// Random bits for `generateName`.
    pub random: u64,
}

/// RFC 3339 to the second, as all timestamps of objects are written.
pub fn timestamp(time: Timestamp) -> String {
    let seconds = Timestamp::from_second(time.as_second()).unwrap_or(time);
    seconds.to_string()
}

/// `base` (cut when too long) and five random characters.
pub fn generate_name(base: &str, random: u64) -> String {
    let mut end = base.len().min(GENERATE_BASE_BYTES_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base.get(..end).unwrap_or_default().to_owned();
    let mut rest = random;
    for _ in 0..GENERATED_CHARS {
        let index = usize::try_from(rest % 27).unwrap_or_default();
        name.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'b')));
        rest /= 27;
    }
    name
}

/// Completes the metadata of a new object and resets what only the server writes (status, generation, deletion).
/// The name is generated when only `generateName` is given.
pub fn prepare_for_create(resource: &Resource, object: &mut Value, creation: &Creation<'_>) {
    let base = object.text(&["metadata", "generateName"]);
    if document::name(object).is_empty() && !base.is_empty() {
        let name = generate_name(base, creation.random);
        object.put(&["metadata", "name"], name);
    }
    let Some(metadata) = object.map_mut(&["metadata"]) else { return };
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "namespace",
        "resourceVersion",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), creation.uid.into());
    metadata.insert("creationTimestamp".to_owned(), timestamp(creation.now).into());
    if resource.is_namespaced() {
        metadata.insert("namespace".to_owned(), creation.namespace.into());
    }
    if resource.generation != Generation::None {
        metadata.insert("generation".to_owned(), 1.into());
    }
    if resource.has_status() {
        object.take_at(&["status"]);
    }
    match resource.builtin {
        Some(BuiltinKind::Pod) => prepare_new_pod(object),
        Some(BuiltinKind::Namespace) => prepare_new_namespace(object),
        Some(BuiltinKind::Secret) => merge_string_data(object),
        Some(BuiltinKind::Service) => object.put(&["status"], json!({"loadBalancer": {}})),
        Some(BuiltinKind::Job) => generate_selector(object),
        _ => {}
    }
}

fn prepare_new_pod(pod: &mut Value) {
    let class = qos_class(pod);
    pod.put(&["status"], json!({"phase": "Pending", "qosClass": class}));
}

/// The pods of a Job are those that carry its uid, unless the user selects them by hand.
fn generate_selector(job: &mut Value) {
    if job.is_true(&["spec", "manualSelector"]) || !job.has(&["spec"]) {
        return;
    }
    let (uid, name) = (document::uid(job).to_owned(), document::name(job).to_owned());
    let labels = ["spec", "template", "metadata", "labels"];
    for (label, value) in [
        // The names without a prefix are what clients from before Kubernetes 1.27 look for.
        ("job-name", &name),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
    ] {
        if let Some(labels) = job.map_mut(&labels) {
            labels.entry(label).or_insert_with(|| value.as_str().into());
        }
    }
    if let Some(selected) = job.map_mut(&["spec", "selector", "matchLabels"]) {
        selected.entry("batch.kubernetes.io/controller-uid").or_insert_with(|| uid.into());
    }
}

fn prepare_new_namespace(namespace: &mut Value) {
    namespace.put(&["status"], json!({"phase": "Active"}));
    namespace.put_default(&["spec"], json!({}));
    let finalizers = namespace.list(&["spec", "finalizers"]);
    if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
        let mut finalizers = finalizers.to_vec();
        finalizers.push("kubernetes".into());
        namespace.put(&["spec", "finalizers"], finalizers);
    }
    let name = document::name(namespace).to_owned();
    namespace.put(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
}

/// `stringData` is for writing only: it overrides `data`.
fn merge_string_data(secret: &mut Value) {
    use base64::Engine as _;
    if let Some(Value::Object(entries)) = secret.take_at(&["stringData"]) {
        for (key, value) in entries {
            let text = value.as_str().unwrap_or_default();
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            secret.put(&["data", &key], encoded);
        }
    }
}

/// Guaranteed: every container limits CPU and memory and requests as much; BestEffort: none says anything.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let (mut any, mut all_guaranteed) = (false, true);
    let lists = ["containers", "initContainers"];
    for container in lists.iter().flat_map(|list| pod.list(&["spec", list])) {
        for name in ["cpu", "memory"] {
            let limit = container.at(&["resources", "limits", name]);
            let request = container.at(&["resources", "requests", name]);
            any |= !limit.is_null() || !request.is_null();
            all_guaranteed &= !limit.is_null() && (request.is_null() || request == limit);
        }
    }
    match (any, all_guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Takes from `old` what an update of `subresource` (`""`: the object) may not change, and what it left out but still
/// needs; then sets the generation.
pub fn prepare_for_update(resource: &Resource, subresource: &str, new: &mut Value, old: &Value) {
    keep_metadata(new, old);
    match (subresource, resource.builtin) {
        ("", builtin) => {
            if resource.has_status() {
                copy(new, old, &["status"]);
            }
            match builtin {
                Some(BuiltinKind::Service) => service::prepare_for_update(new, old),
                Some(BuiltinKind::Secret) => prepare_secret(new, old),
                Some(BuiltinKind::Namespace) => copy(new, old, &["spec"]),
                Some(BuiltinKind::Pod) => copy(new, old, &["metadata", "ownerReferences"]),
                _ => {}
            }
        }
        ("status", Some(BuiltinKind::Node)) => copy(new, old, &["spec"]),
        ("status", Some(BuiltinKind::Pod)) => {
            copy(new, old, &["spec"]);
            copy(new, old, &["metadata", "ownerReferences"]);
            copy(new, old, &["status", "qosClass"]);
        }
        ("status", Some(_)) => keep_all_but(new, old, &["metadata", "status"]),
        ("status", None) => {
            keep_all_but(new, old, &["status"]);
            let fields = new.at(&["metadata", "managedFields"]).clone();
            copy(new, old, &["metadata"]);
            if !fields.is_null() {
                new.put(&["metadata", "managedFields"], fields);
            }
        }
        ("finalize", _) => copy(new, old, &["status"]),
        ("ephemeralcontainers", _) => {
            keep_all_but_spec(new, old, |new, spec| {
                let containers = new.at(&["spec", "ephemeralContainers"]);
                spec.take_at(&["ephemeralContainers"]);
                if !containers.is_null() {
                    spec.put(&["ephemeralContainers"], containers.clone());
                }
            });
        }
        ("resize", _) => keep_all_but_spec(new, old, take_resources),
        _ => {}
    }
    set_generation(resource, new, old);
}

/// Metadata that no update changes. What an update gives wrongly validation refuses; what it leaves out is kept.
fn keep_metadata(new: &mut Value, old: &Value) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if new.text(&["metadata", field]).is_empty() {
            copy(new, old, &["metadata", field]);
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generateName", "generation"] {
        copy(new, old, &["metadata", field]);
    }
    new.take_at(&["metadata", "selfLink"]);
}

fn copy(new: &mut Value, old: &Value, path: &[&str]) {
    match old.at(path) {
        Value::Null => {
            new.take_at(path);
        }
        value => new.put(path, value.clone()),
    }
}

/// Takes everything from `old` except these fields, `apiVersion` and `kind`.
fn keep_all_but(new: &mut Value, old: &Value, fields: &[&str]) {
    let (Some(new), Some(old)) = (new.as_object_mut(), old.as_object()) else { return };
    let kept = |name: &str| fields.contains(&name) || name == "apiVersion" || name == "kind";
    new.retain(|name, _| kept(name));
    for (name, value) in old {
        if !kept(name) {
            new.insert(name.clone(), value.clone());
        }
    }
}

/// Takes everything from `old`, its spec changed by `change`, which reads the document that was sent.
fn keep_all_but_spec(new: &mut Value, old: &Value, change: fn(&Value, &mut Value)) {
    let mut spec = old.at(&["spec"]).clone();
    change(new, &mut spec);
    let fields = new.at(&["metadata", "managedFields"]).clone();
    keep_all_but(new, old, &[]);
    if !fields.is_null() {
        new.put(&["metadata", "managedFields"], fields);
    }
    new.put(&["spec"], spec);
}

/// Resources of containers of the same name.
fn take_resources(new: &Value, spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in spec.list_mut(&[list]) {
            let name = container.text(&["name"]).to_owned();
            let mut resized = new.list(&["spec", list]).iter();
            let Some(resized) = resized.find(|other| other.text(&["name"]) == name) else { continue };
            for field in ["resources", "resizePolicy"] {
                if resized.has(&[field]) {
                    container.put(&[field], resized.at(&[field]).clone());
                }
            }
        }
    }
}

/// An update that names no type keeps the one there is: without this the default would change an immutable field.
fn prepare_secret(new: &mut Value, old: &Value) {
    merge_string_data(new);
    if new.text(&["type"]).is_empty() {
        copy(new, old, &["type"]);
    }
}

fn set_generation(resource: &Resource, new: &mut Value, old: &Value) {
    let grows = match resource.generation {
        Generation::None | Generation::Creation => return,
        Generation::Spec if resource.builtin.is_some() => new.at(&["spec"]) != old.at(&["spec"]),
        Generation::Content if resource.custom().is_some() && !resource.has_status() => {
            content_changed(new, old) || new.at(&["status"]) != old.at(&["status"])
        }
        Generation::Spec | Generation::Content => content_changed(new, old),
        Generation::ContentOrLabels => {
            content_changed(new, old) || new.at(&["metadata", "labels"]) != old.at(&["metadata", "labels"])
        }
    };
    if grows {
        grow_generation(new);
    }
}

/// Adds one to the generation, as a change of the spec and the start of a deletion do.
pub fn grow_generation(object: &mut Value) {
    let generation = object.int(&["metadata", "generation"]).unwrap_or(0);
    object.put(&["metadata", "generation"], generation.saturating_add(1));
}

fn content_changed(new: &Value, old: &Value) -> bool {
    let other = |name: &str| !matches!(name, "metadata" | "status" | "apiVersion" | "kind");
    let names = |object: &Value| -> Vec<String> {
        object
            .as_object()
            .into_iter()
            .flat_map(|object| object.keys())
            .filter(|name| other(name))
            .cloned()
            .collect()
    };
    names(new) != names(old) || names(new).iter().any(|name| new.at(&[name]) != old.at(&[name]))
}

/// Whether writing `new` over `old` would change nothing but the resource version and times of managed fields.
pub fn is_no_op(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    new.len() == old.len()
        && new.iter().all(|(name, value)| match old.get(name) {
            Some(other) if name == "metadata" => is_same_metadata(value, other),
            Some(other) => value == other,
            None => false,
        })
}

fn is_same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    let count = |object: &document::Object| object.keys().filter(|name| *name != "resourceVersion").count();
    count(new) == count(old)
        && new.iter().filter(|(name, _)| *name != "resourceVersion").all(|(name, value)| {
            match old.get(name) {
                Some(other) if name == "managedFields" => is_same_but_for_times(value, other),
                Some(other) => value == other,
                None => false,
            }
        })
}

fn is_same_but_for_times(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_array(), old.as_array()) else { return new == old };
    let is_same = |new: &Value, old: &Value| {
        let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
        let rest = |entry: &document::Object| entry.len() - usize::from(entry.contains_key("time"));
        let mut others = new.iter().filter(|(name, _)| *name != "time");
        rest(new) == rest(old) && others.all(|(name, value)| old.get(name) == Some(value))
    };
    new.len() == old.len() && new.iter().zip(old).all(|(new, old)| is_same(new, old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn resource(group: &str, plural: &str) -> &'static Resource {
        Registry::builtin().resource(group, "v1", plural).unwrap()
    }

    fn creation() -> Creation<'static> {
        let now = "2024-05-06T07:08:09.5Z".parse().unwrap();
        Creation { namespace: "shop", uid: "u", now, random: 123_456_789 }
    }

    #[test]
    fn a_new_object_gets_its_identity_and_loses_what_is_not_its_to_say() {
        let mut pod = json!({
            "metadata": {"generateName": "web-", "namespace": "", "generation": 9, "deletionTimestamp": "x"},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]},
            "status": {"phase": "Running"},
        });
        prepare_for_create(resource("", "pods"), &mut pod, &creation());
        assert_eq!(
            pod["metadata"],
            json!({
                "generateName": "web-", "name": generate_name("web-", 123_456_789), "namespace": "shop", "uid": "u",
                "creationTimestamp": "2024-05-06T07:08:09Z", "generation": 1,
            })
        );
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
    }

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name(&"x".repeat(100), u64::MAX);
        assert_eq!(name.len(), 63);
        assert!(crate::names::dns_label(&name).is_empty());
    }

    #[test]
    fn a_new_namespace_is_active_labelled_and_held() {
        let mut namespace = json!({"metadata": {"name": "shop"}});
        let creation = Creation { namespace: "", ..creation() };
        prepare_for_create(resource("", "namespaces"), &mut namespace, &creation);
        assert_eq!(namespace["spec"], json!({"finalizers": ["kubernetes"]}));
        assert_eq!(namespace["status"], json!({"phase": "Active"}));
        assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "shop"}));
        assert!(namespace["metadata"].get("namespace").is_none());
    }

    #[test]
    fn generation_grows_with_the_spec_and_nothing_else() {
        struct Case {
            name: &'static str,
            resource: &'static Resource,
            subresource: &'static str,
            new: Value,
            generation: i64,
            replicas: i64,
        }
        let old = json!({"metadata": {"name": "a", "generation": 4, "uid": "u"}, "spec": {"replicas": 1},
                         "status": {"replicas": 1}});
        let deployments = resource("apps", "deployments");
        let cases = [
            Case {
                name: "spec",
                resource: deployments,
                subresource: "",
                new: json!({"metadata": {"generation": 77}, "spec": {"replicas": 2}, "status": {"replicas": 9}}),
                generation: 5,
                replicas: 1,
            },
            Case {
                name: "labels",
                resource: deployments,
                subresource: "",
                new: json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}}),
                generation: 4,
                replicas: 1,
            },
            Case {
                name: "status",
                resource: deployments,
                subresource: "status",
                new: json!({"metadata": {}, "spec": {"replicas": 8}, "status": {"replicas": 3}}),
                generation: 4,
                replicas: 3,
            },
        ];
        for mut case in cases {
            prepare_for_update(case.resource, case.subresource, &mut case.new, &old);
            assert_eq!(case.new.int(&["metadata", "generation"]), Some(case.generation), "{}", case.name);
            assert_eq!(case.new.int(&["status", "replicas"]), Some(case.replicas), "{}", case.name);
            assert_eq!(document::uid(&case.new), "u", "{}", case.name);
        }
    }

    #[test]
    fn slices_count_labels_too() {
        let old = json!({"metadata": {"generation": 1}, "endpoints": [], "addressType": "IPv4"});
        let mut new = json!({"metadata": {"labels": {"a": "b"}}, "endpoints": [], "addressType": "IPv4"});
        prepare_for_update(resource("discovery.k8s.io", "endpointslices"), "", &mut new, &old);
        assert_eq!(new.int(&["metadata", "generation"]), Some(2));
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret =
            json!({"metadata": {"name": "s"}, "data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        prepare_for_create(resource("", "secrets"), &mut secret, &creation());
        assert_eq!(secret["data"], json!({"a": "eQ==", "b": "eg=="}));
        assert!(secret.get("stringData").is_none());
    }

    #[test]
    fn a_write_that_changes_nothing_is_seen() {
        let old =
            json!({"metadata": {"resourceVersion": "5", "managedFields": [{"time": "a"}]}, "spec": {"x": 1}});
        let same = json!({"metadata": {"managedFields": [{"time": "b"}]}, "spec": {"x": 1}});
        let other = json!({"metadata": {"labels": {}, "managedFields": [{"time": "b"}]}, "spec": {"x": 1}});
        assert!(is_no_op(&same, &old));
        assert!(!is_no_op(&other, &old));
        assert!(!is_no_op(&json!({"metadata": {}}), &old));
    }
}
