//! What every namespace has: the account `default`, and the authority that pods check the API server with. Whoever deletes or
//! changes them gets them back.

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use fairway_kit::watch::ObjectKey;

use crate::metadata::is_deleting;
use crate::plan::{Plan, Write};
use crate::world::World;

/// The account that pods have when they name none.
pub(crate) const ACCOUNT: &str = "default";
/// The ConfigMap with the authority.
pub(crate) const AUTHORITY: &str = "kube-root-ca.crt";
const AUTHORITY_KEY: &str = "ca.crt";

/// Puts the account `default` back.
pub fn reconcile_account(world: &World, namespace: &str) -> Plan {
    if !is_active(world, namespace)
        || world.service_accounts.contains_key(&ObjectKey::new(namespace, ACCOUNT))
    {
        return Plan::nothing();
    }
    let account = ServiceAccount { metadata: meta(namespace, ACCOUNT), ..ServiceAccount::default() };
    Plan::writes(vec![Write::Create(account.into())])
}

/// Puts the authority (PEM) back; without knowing it, nothing.
pub fn reconcile_authority(world: &World, namespace: &str, authority: Option<&str>) -> Plan {
    let (true, Some(authority)) = (is_active(world, namespace), authority) else { return Plan::nothing() };
    let data = Some([(AUTHORITY_KEY.to_owned(), authority.to_owned())].into());
    match world.config_maps.get(&ObjectKey::new(namespace, AUTHORITY)) {
        None => {
            let mut metadata = meta(namespace, AUTHORITY);
            let why = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such \
                       as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
            let annotations = metadata.annotations.get_or_insert_default();
            annotations.insert("kubernetes.io/description".to_owned(), why.to_owned());
            Plan::writes(vec![Write::Create(ConfigMap { metadata, data, ..ConfigMap::default() }.into())])
        }
        Some(present) if present.data != data => {
            Plan::writes(vec![Write::Replace(ConfigMap { data, ..(**present).clone() }.into())])
        }
        Some(_) => Plan::nothing(),
    }
}

fn is_active(world: &World, namespace: &str) -> bool {
    let namespace = world.namespaces.get(&ObjectKey::new("", namespace));
    namespace.is_some_and(|namespace| !is_deleting(&namespace.metadata))
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::simulation::Cluster;

    #[test]
    fn what_is_deleted_or_changed_comes_back() {
        let mut cluster = Cluster::with_nodes(0);
        cluster.settings.authority = Some("PEM".to_owned());
        cluster.settle();
        let (account, authority) = (ObjectKey::new("ns", ACCOUNT), ObjectKey::new("ns", AUTHORITY));
        assert!(cluster.world.service_accounts.contains_key(&account));
        let text = |cluster: &Cluster| cluster.world.config_maps[&authority].data.clone().unwrap();
        assert_eq!(text(&cluster)[AUTHORITY_KEY], "PEM");
        cluster.patch(|world| &world.config_maps, AUTHORITY, json!({"data": {"ca.crt": "x", "other": "y"}}));
        cluster.settle();
        assert_eq!(text(&cluster), [(AUTHORITY_KEY.to_owned(), "PEM".to_owned())].into());
        for kind in [crate::world::Kind::ServiceAccount, crate::world::Kind::ConfigMap] {
            let key = if kind == crate::world::Kind::ConfigMap { authority.clone() } else { account.clone() };
            let deletion = crate::plan::Deletion { kind, key, uid: None, grace_period_seconds: None };
            cluster.apply(Write::Delete(deletion)).unwrap();
        }
        cluster.settle();
        assert!(cluster.world.service_accounts.contains_key(&account));
        assert!(cluster.world.config_maps.contains_key(&authority));
    }

    #[test]
    fn a_namespace_that_ends_gets_nothing() {
        let mut cluster = Cluster::with_nodes(0);
        cluster.settings.authority = Some("PEM".to_owned());
        cluster.create::<crate::world::Namespace>(
            json!({"metadata": {"name": "gone", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        );
        cluster.settle();
        assert_eq!(cluster.world.service_accounts.keys().filter(|key| &*key.namespace == "gone").count(), 0);
    }
}
