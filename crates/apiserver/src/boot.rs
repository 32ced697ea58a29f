//! The objects that a cluster begins with.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_objects::document::{self, Document};
use fairway_objects::registry::Registry;
use fairway_objects::status::Status;
use fairway_objects::strategy::{self, Creation};
use fairway_objects::{allocate, defaults};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::admit;
use crate::auth::bootstrap;
use crate::server::Api;
use crate::store::{Collection, CommitError, Keep, Key, Txn};

/// Namespaces that are always there.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease", "fairway-system"];

/// Classes of pods that come before all others: name, priority, what it is for.
const PRIORITY_CLASSES: &[(&str, i64, &str)] = &[
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// The account that pods have when they name none.
pub(crate) fn default_account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
}

/// The authority that signs this server's certificate, for pods to check it.
pub(crate) fn root_authority(pem: &str) -> Value {
    let why = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
               the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-root-ca.crt", "annotations": {"kubernetes.io/description": why}},
        "data": {"ca.crt": pem},
    })
}

impl Api {
    /// Makes what is missing, and sets straight what depends on the configuration. Writes nothing when all is well.
    pub(crate) async fn boot(self: &Arc<Self>) -> Result<(), CommitError<Status>> {
        let api = Arc::clone(self);
        let boot = move |txn: &mut Txn| {
            for name in NAMESPACES {
                let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                api.ensure(txn, "", "namespaces", "", namespace, &[])?;
            }
            for (name, value, description) in PRIORITY_CLASSES {
                let class = json!({
                    "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                    "value": value, "description": description,
                });
                api.ensure(txn, "scheduling.k8s.io", "priorityclasses", "", class, &[])?;
            }
            let range = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
                "spec": {"cidrs": api.ranges.iter().map(|range| range.to_string()).collect::<Vec<_>>()},
            });
            api.ensure(txn, "networking.k8s.io", "servicecidrs", "", range, &["spec"])?;
            api.ensure_roles(txn)?;
            for (key, service) in &txn.state().objects(&Collection::new("", "services")) {
                crate::allocations::follow(txn, key, None, Some(service.value()));
            }
            let namespaces = txn.state().objects(&Collection::new("", "namespaces"));
            for (key, namespace) in &namespaces {
                if !document::is_terminating(namespace.value()) {
                    api.furnish_namespace(txn, key.name());
                }
            }
            api.ensure(txn, "", "services", "default", api.own_service(), &["spec"])?;
            api.ensure(txn, "", "endpoints", "default", own_endpoints(api.advertise), &["subsets"])?;
            let slice = own_slice(api.advertise);
            api.ensure(txn, "discovery.k8s.io", "endpointslices", "default", slice, &["endpoints", "ports"])
        };
        self.store.commit(Keep::Yes, boot).await
    }

    /// Makes or completes the roles and bindings of every cluster. A binding to another role is made anew: it cannot be changed.
    fn ensure_roles(&self, txn: &mut Txn) -> Result<(), Status> {
        const GROUP: &str = "rbac.authorization.k8s.io";
        let roles = bootstrap::cluster_roles().map(|role| ("clusterroles", role));
        let bindings = bootstrap::cluster_role_bindings().map(|binding| ("clusterrolebindings", binding));
        for (plural, wanted) in roles.chain(bindings) {
            let (collection, key) = (Collection::new(GROUP, plural), Key::new("", document::name(&wanted)));
            let stored = txn.state().object(&collection, &key).cloned();
            let Some(stored) = stored else {
                self.ensure(txn, GROUP, plural, "", wanted, &[])?;
                continue;
            };
            let stored = stored.value();
            if let Some(completed) = bootstrap::completed(stored, &wanted) {
                if completed.at(&["roleRef"]) == wanted.at(&["roleRef"]) {
                    txn.put(&collection, &key, completed);
                } else {
                    txn.remove(&collection, &key);
                    self.ensure(txn, GROUP, plural, "", wanted, &[])?;
                }
            }
        }
        admit::aggregate_roles(txn);
        Ok(())
    }

    /// Creates an object, or sets `fields` of the one that is there when they differ.
    fn ensure(
        &self,
        txn: &mut Txn,
        group: &str,
        plural: &str,
        namespace: &str,
        mut object: Value,
        fields: &[&str],
    ) -> Result<(), Status> {
        let Some(resource) = Registry::builtin().resource(group, "v1", plural) else { return Ok(()) };
        let (collection, key) =
            (Collection::new(group, plural), Key::new(namespace, document::name(&object)));
        let now = Timestamp::from_millisecond(i64::try_from(txn.now_ms()).unwrap_or(0)).unwrap_or_default();
        let uid = crate::random_uid().to_string();
        let creation = Creation { namespace, uid: &uid, now, random: 0 };
        let current = txn.state().object(&collection, &key).cloned();
        strategy::prepare_for_create(resource, &mut object, &creation);
        defaults::apply(resource, &mut object);
        if plural == "services" {
            let old = current.as_ref().map(|current| current.value());
            allocate::service(&mut object, old, &self.ranges, txn.state().allocations().used(), 0)?;
        }
        match current {
            None => drop(txn.put(&collection, &key, object)),
            Some(current)
                if fields.iter().any(|field| current.value().at(&[field]) != object.at(&[field])) =>
            {
                let mut changed = current.value().clone();
                for field in fields {
                    changed.put(&[field], object.at(&[field]).clone());
                }
                txn.put(&collection, &key, changed);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Service `default/kubernetes` at the first address of the range.
    fn own_service(&self) -> Value {
        let first = self.ranges.first();
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP", "clusterIP": first.to_string(), "clusterIPs": [first.to_string()],
                "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": self.advertise.port()}],
            },
        })
    }
}

fn own_endpoints(advertise: SocketAddr) -> Value {
    let mirrored = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "labels": mirrored},
        "subsets": [{
            "addresses": [{"ip": advertise.ip().to_string()}],
            "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
        }],
    })
}

fn own_slice(advertise: SocketAddr) -> Value {
    let family = match advertise.ip() {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": [{"addresses": [advertise.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
    })
}
