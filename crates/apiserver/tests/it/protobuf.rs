//! A client that speaks nothing but protobuf to a running server, over every kind that is stored.

use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::encode::protobuf::{self, MEDIA_TYPE, STREAM_MEDIA_TYPE};
use fairway_objects::registry::{ObjectType, Verb};
use fairway_objects::{Document as _, Registry, Resource};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::server::{Client, PATIENCE, Running};

/// What a new object of each kind has besides its name.
fn example(resource: &Resource) -> Value {
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
    let workload = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let job = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    let rule =
        json!({"operations": ["*"], "apiGroups": ["none.example"], "apiVersions": ["*"], "resources": ["*"]});
    let webhook = json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/x"}, "rules": [rule]}]});
    match resource.kind() {
        "CustomResourceDefinition" => json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "additionalProperties": {"type": "string"}}}}}}]}}),
        "ClusterRoleBinding" | "RoleBinding" => json!({"roleRef": {"kind": "ClusterRole", "name": "view",
            "apiGroup": "rbac.authorization.k8s.io"}}),
        "CronJob" => json!({"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}}),
        "DaemonSet" | "Deployment" | "ReplicaSet" => workload,
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}]}),
        "Event" if resource.group().is_empty() => {
            json!({"involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "message": "m"})
        }
        "Event" => json!({"regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "note": "m",
            "eventTime": "2024-01-02T03:04:05.000006Z", "reportingController": "c.example/x", "reportingInstance": "i",
            "action": "A", "reason": "R", "type": "Normal"}),
        "IPAddress" => {
            json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "s"}}})
        }
        "Ingress" => json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        "IngressClass" => json!({"spec": {"controller": "example.com/c"}}),
        "Job" => json!({"spec": job}),
        "LimitRange" => json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}}),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => webhook,
        "PersistentVolumeClaim" => json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}),
        "Pod" => json!({"spec": pod}),
        "PodDisruptionBudget" => {
            json!({"spec": {"maxUnavailable": "30%", "selector": {"matchLabels": {"x": "y"}}}})
        }
        "PodTemplate" => json!({"template": template}),
        "PriorityClass" => json!({"value": 7}),
        "ReplicationController" => json!({"spec": {"selector": {"a": "b"}, "template": template}}),
        "ResourceQuota" => json!({"spec": {"hard": {"count/things.example.com": "7"}}}),
        "Role" | "ClusterRole" => {
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})
        }
        "Service" => json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}]}}),
        "ServiceCIDR" => json!({"spec": {"cidrs": ["10.200.0.0/24"]}}),
        "StatefulSet" => {
            let mut set = workload;
            set["spec"]["serviceName"] = json!("s");
            set
        }
        "StorageClass" => json!({"provisioner": "example.com/p"}),
        "ValidatingAdmissionPolicy" => json!({"spec": {"matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "true"}]}}),
        "ValidatingAdmissionPolicyBinding" => {
            json!({"spec": {"policyName": "p", "validationActions": ["Audit"]}})
        }
        _ => json!({}),
    }
}

fn name_of(resource: &Resource) -> &'static str {
    match resource.kind() {
        "IPAddress" => "10.96.200.200",
        "CustomResourceDefinition" => "things.example.com",
        _ => "by-protobuf",
    }
}

/// A connection on which both sides speak protobuf only.
struct Speaker(Client);

struct Spoken {
    code: u16,
    content_type: String,
    bytes: Vec<u8>,
}

impl Spoken {
    fn object(&self, object_type: &ObjectType) -> Value {
        assert_eq!(self.content_type, MEDIA_TYPE, "{}", String::from_utf8_lossy(&self.bytes));
        decode::decode(object_type, MEDIA_TYPE, &self.bytes, FieldValidation::Strict).unwrap().object
    }
}

impl Speaker {
    async fn say(&mut self, method: &str, path: &str, body: Vec<u8>) -> Spoken {
        let response = self.0.send_bytes(method, path, MEDIA_TYPE, body).await;
        let code = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap();
        Spoken { code, content_type, bytes: body.to_bytes().to_vec() }
    }
}

/// The frames of a watch.
struct Frames {
    body: Incoming,
    buffered: Vec<u8>,
    _client: Client,
}

impl Frames {
    /// The type of the next event and the envelope in it.
    async fn next(&mut self) -> (String, Vec<u8>) {
        loop {
            if let Some((length, rest)) = self.buffered.split_first_chunk::<4>()
                && let Some(event) = rest.get(..u32::from_be_bytes(*length) as usize)
            {
                let found = split_event(event);
                let taken = event.len() + 4;
                self.buffered.drain(..taken);
                return found;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time");
            self.buffered.extend_from_slice(&frame.expect("no end").unwrap().into_data().unwrap());
        }
    }
}

/// A `WatchEvent`: the type in field 1, in field 2 a message with the object in field 1.
fn split_event(event: &[u8]) -> (String, Vec<u8>) {
    fn field(bytes: &[u8], number: u8) -> (&[u8], &[u8]) {
        assert_eq!(bytes[0], number << 3 | 2);
        let (mut length, mut at) = (0_usize, 1);
        for shift in (0..).step_by(7) {
            length |= usize::from(bytes[at] & 0x7f) << shift;
            at += 1;
            if bytes[at - 1] & 0x80 == 0 {
                break;
            }
        }
        bytes[at..].split_at(length)
    }
    let (kind, rest) = field(event, 1);
    let (object, _) = field(rest, 2);
    (String::from_utf8(kind.to_vec()).unwrap(), field(object, 1).0.to_vec())
}

async fn life(server: &Running, resource: &Resource) {
    let kind = format!("{}/{}", resource.group(), resource.kind());
    let mut speaker = Speaker(server.client().await);
    speaker.0.headers.push(("accept", MEDIA_TYPE.to_owned()));
    let root = match resource.group() {
        "" => "/api/v1".to_owned(),
        group => format!("/apis/{group}/v1"),
    };
    let namespace = if resource.is_namespaced() { "/namespaces/default" } else { "" };
    let all = format!("{root}{namespace}/{}", resource.plural);
    let one = format!("{all}/{}", name_of(resource));

    let mut object = example(resource);
    object.put(&["apiVersion"], resource.api_version());
    object.put(&["kind"], resource.kind());
    object.put(&["metadata", "name"], name_of(resource));
    let body = protobuf::document(resource, &object).unwrap();
    let created = speaker.say("POST", &all, body).await;
    assert_eq!(created.code, 201, "{kind}: {}", String::from_utf8_lossy(&created.bytes));
    let created = created.object(&resource.object);
    let read = speaker.say("GET", &one, Vec::new()).await.object(&resource.object);
    assert_eq!(read.at(&["metadata", "uid"]), created.at(&["metadata", "uid"]), "{kind}");

    let version = read.text(&["metadata", "resourceVersion"]).to_owned();
    let mut watcher = server.client().await;
    watcher.headers.push(("accept", MEDIA_TYPE.to_owned()));
    let path = format!(
        "{all}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3D{}",
        name_of(resource)
    );
    let response = watcher.send_bytes("GET", &path, "", Vec::new()).await;
    assert_eq!(response.headers()["content-type"], STREAM_MEDIA_TYPE);
    let mut frames = Frames { body: response.into_body(), buffered: Vec::new(), _client: watcher };

    let mut changed = read;
    changed.put(&["metadata", "labels", "changed"], "yes");
    let body = protobuf::document(resource, &changed).unwrap();
    let updated = speaker.say("PUT", &one, body).await;
    assert_eq!(updated.code, 200, "{kind}: {}", String::from_utf8_lossy(&updated.bytes));
    let (event, seen) = frames.next().await;
    let seen = decode::decode(&resource.object, MEDIA_TYPE, &seen, FieldValidation::Strict).unwrap().object;
    assert_eq!(
        (event.as_str(), seen.text(&["metadata", "labels", "changed"])),
        ("MODIFIED", "yes"),
        "{kind}"
    );

    let list = speaker.say("GET", &all, Vec::new()).await;
    let as_json = {
        let mut client = server.client().await;
        client.get(&one).await.json()
    };
    let part = protobuf::document(resource, &as_json).unwrap();
    assert!(list.code == 200 && list.bytes.len() > part.len() / 2, "{kind}");

    let deleted = speaker.say("DELETE", &format!("{one}?gracePeriodSeconds=0"), Vec::new()).await;
    assert!(matches!(deleted.code, 200 | 202), "{kind}: {}", String::from_utf8_lossy(&deleted.bytes));
    assert_eq!(deleted.content_type, MEDIA_TYPE, "{kind}");
    let (event, _) = frames.next().await;
    assert!(matches!(event.as_str(), "DELETED" | "MODIFIED"), "{kind}: {event}");
}

#[tokio::test]
async fn every_kind_lives_by_protobuf_alone() {
    let server = Running::start().await;
    for resource in Registry::builtin().resources().filter(|resource| resource.allows(Verb::Watch)) {
        life(&server, resource).await;
    }
}

#[tokio::test]
async fn refusals_and_metadata_come_as_protobuf() {
    let server = Running::start().await;
    let mut speaker = Speaker(server.client().await);
    speaker.0.headers.push(("accept", MEDIA_TYPE.to_owned()));
    let absent = speaker.say("GET", "/api/v1/namespaces/default/configmaps/absent", Vec::new()).await;
    assert_eq!((absent.code, absent.content_type.as_str()), (404, MEDIA_TYPE));
    let text = String::from_utf8_lossy(&absent.bytes);
    assert!(text.contains("configmaps \"absent\" not found") && text.contains("NotFound"), "{text}");
    let metadata = format!("{MEDIA_TYPE};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    speaker.0.headers = vec![("accept", metadata)];
    let list = speaker.say("GET", "/api/v1/namespaces/default/configmaps", Vec::new()).await;
    let text = String::from_utf8_lossy(&list.bytes);
    assert!(text.contains("PartialObjectMetadataList") && text.contains("kube-root-ca.crt"), "{text}");
    assert!(!text.contains("BEGIN CERTIFICATE"), "{text}");
}

#[tokio::test]
async fn an_event_is_one_object_under_two_names() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let (core, other) =
        ("/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events");
    let mut watch = server.client().await.watch(&format!("{other}?watch=1&resourceVersion=0")).await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "message": "hello", "reason": "Said"});
    assert_eq!(client.post(core, &event).await.code, 201);
    let read = client.get(&format!("{other}/e")).await.json();
    assert_eq!((&read["note"], &read["regarding"]["name"]), (&json!("hello"), &json!("p")));
    assert_eq!((&read["apiVersion"], read.get("message")), (&json!("events.k8s.io/v1"), None));
    let seen = watch.next().await.unwrap();
    assert_eq!((&seen["type"], &seen["object"]), (&json!("ADDED"), &read));
    let patched = client.merge(&format!("{other}/e"), &json!({"note": "goodbye"})).await;
    assert_eq!(patched.json()["note"], "goodbye");
    assert_eq!(client.get(&format!("{core}/e")).await.json()["message"], "goodbye");
    let selected = client.get(&format!("{other}?fieldSelector=regarding.name%3Dp")).await.json();
    assert_eq!(selected["items"][0]["note"], "goodbye");
    assert_eq!(client.delete(&format!("{other}/e")).await.code, 200);
    assert_eq!(client.get(&format!("{core}/e")).await.code, 404);
}
