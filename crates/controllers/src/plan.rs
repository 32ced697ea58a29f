//! What a reconcile function wants: writes in order, events, and when to look again.

use std::time::Duration;

use fairway_kit::watch::ObjectKey;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use crate::metadata::object_reference;
use crate::world::{Kind, Object};

/// One request to the API server. Every one is safe against a stale view: it creates, or carries the resourceVersion or uid
/// of what was seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Create; "already exists" is a conflict.
    Create(Object),
    /// Replace all but the status; a newer object is a conflict.
    Replace(Object),
    /// Replace the status; a newer object is a conflict.
    ReplaceStatus(Object),
    /// Replace an object by one that has this owner, if the owner is still there and not being deleted: an owner that was told to
    /// leave its dependents behind must not take them back.
    Adopt {
        /// The object with the reference.
        object: Object,
        /// The owner, in the namespace of the object.
        owner: OwnerReference,
    },
    /// Delete that very object; one that is gone is no error.
    Delete(Deletion),
    /// Create a pod and tell its owner's readers.
    CreatePod {
        /// The pod.
        pod: Box<Pod>,
        /// Who gets SuccessfulCreate or FailedCreate.
        owner: ObjectReference,
    },
    /// Delete a pod and tell its owner's readers.
    DeletePod {
        /// The pod.
        pod: Deletion,
        /// Who gets SuccessfulDelete or FailedDelete.
        owner: ObjectReference,
    },
    /// Give a pod its node.
    Bind {
        /// The pod.
        pod: Box<Pod>,
        /// The node's name.
        node: String,
    },
    /// Replace `spec.finalizers` of a namespace; without any it disappears.
    Finalize(Box<Namespace>),
}

/// Which object is deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Deletion {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub key: ObjectKey,
    /// Precondition: an object of the same name made since then is left alone.
    pub uid: Option<String>,
    /// `Some(0)` removes a pod without asking its node.
    pub grace_period_seconds: Option<u32>,
}

impl Deletion {
    /// Deletes what was seen.
    pub fn of<K: Resource>(kind: Kind, object: &K) -> Self {
        let key = fairway_kit::watch::key_of(object);
        Self { kind, key, uid: object.meta().uid.clone(), grace_period_seconds: None }
    }
}

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something happened as it should.
    Normal,
    /// Someone has to do something.
    Warning,
}

impl Severity {
    /// As in `Event.type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing to tell about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The object.
    pub regarding: ObjectReference,
    /// Normal or Warning.
    pub severity: Severity,
    /// One word for programs.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
}

impl Notice {
    /// About `object`.
    pub fn new<K: Resource<DynamicType = ()>>(
        object: &K,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) -> Self {
        Self { regarding: object_reference(object), severity, reason, message }
    }
}

/// The outcome of a reconcile function. The default is "all is as it should be".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order; the first failure ends the plan and the object is looked at again.
    pub writes: Vec<Write>,
    /// Sent whether or not the writes succeed.
    pub notices: Vec<Notice>,
    /// Look again then, even when nothing changes: something becomes due.
    pub look_again_after: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Just these writes.
    pub fn writes(writes: Vec<Write>) -> Self {
        Self { writes, ..Self::default() }
    }

    /// Looks again at the earliest of all moments asked for.
    pub fn look_again(&mut self, after: Option<Duration>) {
        self.look_again_after = match (self.look_again_after, after) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (left, right) => left.or(right),
        };
    }
}
