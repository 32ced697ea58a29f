//! What we write is what other programs read: the messages as another project took them from Kubernetes.
//!
//! A random document goes through our encoder, through their message and back, and through our decoder. A wrong number
//! or wire type anywhere loses a field on the way.

use std::cell::RefCell;
use std::collections::BTreeSet;

use fairway_objects::Registry;
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::encode::protobuf;
use k8s_pb::api::{
    admissionregistration, apps, authentication, authorization, batch, coordination, core, discovery, events,
    networking, policy, rbac, scheduling, storage,
};
use k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_pb::apimachinery::pkg::apis::meta;
use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message;
use serde_json::{Value, json};

use crate::laws::each_document;

/// Reads the message as theirs and writes it again.
fn through<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).unwrap().encode_to_vec()
}

macro_rules! through_theirs {
    ($kind:expr, $bytes:expr; $($group:literal $package:ident { $($name:ident)* })*) => {
        match $kind {
            $($(($group, stringify!($name)) => through::<$package::v1::$name>($bytes),)*)*
            other => panic!("{other:?} has no message here"),
        }
    };
}

fn through_their_message(group: &str, kind: &str, bytes: &[u8]) -> Vec<u8> {
    through_theirs! { (group, kind), bytes;
        "" core { Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolumeClaim Pod PodTemplate
                  ReplicationController ResourceQuota Secret Service ServiceAccount }
        "admissionregistration.k8s.io" admissionregistration { MutatingWebhookConfiguration ValidatingAdmissionPolicy
                  ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration }
        "apiextensions.k8s.io" apiextensions { CustomResourceDefinition }
        "apps" apps { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        "authentication.k8s.io" authentication { SelfSubjectReview TokenReview }
        "authorization.k8s.io" authorization { LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
                  SubjectAccessReview }
        "batch" batch { CronJob Job }
        "coordination.k8s.io" coordination { Lease }
        "discovery.k8s.io" discovery { EndpointSlice }
        "events.k8s.io" events { Event }
        "networking.k8s.io" networking { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        "policy" policy { PodDisruptionBudget }
        "rbac.authorization.k8s.io" rbac { ClusterRole ClusterRoleBinding Role RoleBinding }
        "scheduling.k8s.io" scheduling { PriorityClass }
        "storage.k8s.io" storage { StorageClass }
    }
}

/// Fields of Kubernetes 1.36 that their messages, of an older version, do not have: the field they are in, and they.
const NEWER: &[(&str, &str)] = &[
    ("spec", "schedulingGroup"),
    ("status", "nodeAllocatableResourceClaimStatuses"),
    ("resources", "message"),
    ("volumeMounts", "volumeStatus"),
];

/// The document without the newer fields.
fn without_newer(value: &mut Value, parent: &str) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !NEWER.contains(&(parent, name)));
            fields.iter_mut().for_each(|(name, field)| without_newer(field, name));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without_newer(item, parent)),
        _ => {}
    }
}

/// Fields that `had` has and `has` lacks.
fn lost<'a>(had: &'a Value, has: &Value, parent: &'a str, fields: &mut BTreeSet<(&'a str, &'a str)>) {
    match (had, has) {
        (Value::Object(had), Value::Object(has)) => {
            for (name, value) in had {
                match has.get(name) {
                    Some(other) => lost(value, other, name, fields),
                    None => drop(fields.insert((parent, name))),
                }
            }
        }
        (Value::Array(had), Value::Array(has)) => {
            had.iter().zip(has).for_each(|(had, has)| lost(had, has, parent, fields));
        }
        _ => {}
    }
}

#[test]
fn their_messages_keep_every_field() {
    let all_lost = RefCell::new(BTreeSet::new());
    each_document(|resource, mut object, _| {
        without_newer(&mut object, "");
        let bytes = protobuf::document(resource, &object).unwrap();
        let mut envelope = Unknown::decode(&bytes[4..]).unwrap();
        let raw = envelope.raw.take().unwrap();
        envelope.raw = Some(through_their_message(resource.group(), resource.kind(), &raw));
        let bytes = [b"k8s\0".as_slice(), &envelope.encode_to_vec()].concat();
        let decoded =
            decode::decode(&resource.object, protobuf::MEDIA_TYPE, &bytes, FieldValidation::Strict).unwrap();
        let mut fields = BTreeSet::new();
        lost(&object, &decoded.object, "", &mut fields);
        let owned = fields.iter().map(|(parent, name)| ((*parent).to_owned(), (*name).to_owned()));
        all_lost.borrow_mut().extend(owned);
        if !fields.is_empty() {
            return;
        }
        assert_eq!(decoded.object, object, "{}", resource.kind());
    });
    assert_eq!(all_lost.into_inner(), BTreeSet::new(), "their messages do not have these");
}

#[test]
fn lists_events_and_metadata_are_their_messages_too() {
    let services = Registry::builtin().resource("", "v1", "services").unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "ClusterIP"}});
    let open = |bytes: &[u8]| Unknown::decode(bytes.strip_prefix(b"k8s\0").unwrap()).unwrap();
    let metadata = json!({"resourceVersion": "7", "continue": "c", "remainingItemCount": 3});
    let list = open(&protobuf::list(services, [&service], &metadata).unwrap());
    assert_eq!(list.type_meta.unwrap().kind.unwrap(), "ServiceList");
    let list = core::v1::ServiceList::decode(list.raw.unwrap().as_slice()).unwrap();
    assert_eq!(list.items[0].spec.as_ref().unwrap().r#type.as_deref(), Some("ClusterIP"));
    assert_eq!(list.metadata.unwrap().remaining_item_count, Some(3));

    let frame = protobuf::watch_frame("ADDED", &protobuf::document(services, &service).unwrap());
    let (length, event) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    let event = meta::v1::WatchEvent::decode(event).unwrap();
    assert_eq!(event.r#type.as_deref(), Some("ADDED"));
    let inner = open(&event.object.unwrap().raw.unwrap());
    let inner = core::v1::Service::decode(inner.raw.unwrap().as_slice()).unwrap();
    assert_eq!(inner.metadata.unwrap().name.as_deref(), Some("s"));

    let partial = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "s"}}]});
    let partial = open(&protobuf::document(services, &partial).unwrap());
    let partial = meta::v1::PartialObjectMetadataList::decode(partial.raw.unwrap().as_slice()).unwrap();
    assert_eq!(partial.items[0].metadata.as_ref().unwrap().name.as_deref(), Some("s"));
}
