//! The objects that a local cluster begins with: DNS and gateway as ordinary Deployments behind ordinary Services.
//!
//! They are YAML files, so that they can be read like the manifests of any cluster; what depends on the settings is set in the parsed
//! objects, never in the text.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::error::Error;
use crate::settings::Settings;

const FILES: [(&str, &str); 2] = [
    ("dns.yaml", include_str!("manifests/dns.yaml")),
    ("gateway.yaml", include_str!("manifests/gateway.yaml")),
];

/// A request that did not get through is sent again this often, this long apart.
const ATTEMPTS_MAX: u32 = 50;
const RETRY: Duration = Duration::from_millis(100);

/// The label of all system pods.
pub(crate) const SYSTEM_SELECTOR: &str = "app.kubernetes.io/part-of=fairway";
/// The label that says which Deployment a system pod is of.
pub(crate) const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Namespace and name of the gateway's Service.
pub(crate) const GATEWAY_SERVICE: (&str, &str) = ("fairway-system", "fairway-gateway");

/// The objects for these settings; what others refer to comes first.
pub(crate) fn system_objects(settings: &Settings) -> Result<Vec<DynamicObject>, Error> {
    let mut objects = Vec::new();
    for (manifest, text) in FILES {
        let failed = |reason: String| Error::Manifest { manifest, reason };
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| failed(error.to_string()))?;
        for mut value in documents {
            adapt(&mut value, settings);
            objects.push(serde_json::from_value(value).map_err(|error| failed(error.to_string()))?);
        }
    }
    objects.sort_by_key(|object: &DynamicObject| {
        object.types.as_ref().is_none_or(|types| types.kind != "ServiceAccount")
    });
    Ok(objects)
}

/// Sets what depends on the cluster.
fn adapt(object: &mut Value, settings: &Settings) {
    let is = |kind: &str, name: &str| {
        object.pointer("/kind").is_some_and(|found| found == kind)
            && object.pointer("/metadata/name").is_some_and(|found| found == name)
    };
    if is("Service", "kube-dns") {
        set(object, "/spec", "clusterIP", json!(settings.dns_address().to_string()));
    } else if is("Deployment", "fairway-dns") {
        let (server, networks) = (settings.dns_address().to_string(), &settings.networks);
        let ranges = [networks.services().to_string(), networks.pods().to_string()];
        let [services, pods] = &ranges;
        let arguments = [
            "--cluster-domain",
            &settings.domain,
            "--service-address",
            &server,
            "--reverse",
            services,
            "--reverse",
            pods,
        ];
        set(object, "/spec/template/spec/containers/0", "args", json!(arguments));
    }
}

fn set(object: &mut Value, parent: &str, key: &str, value: Value) {
    if let Some(Value::Object(fields)) = object.pointer_mut(parent) {
        fields.insert(key.to_owned(), value);
    }
}

/// Creates the objects, or brings those of an earlier run up to date; replica counts that a user changed stay. Returns them as the
/// server has them.
pub(crate) async fn apply(client: &Client, objects: Vec<DynamicObject>) -> Result<Vec<DynamicObject>, Error> {
    let is_account = |object: &DynamicObject| resource_of(object).kind == "ServiceAccount";
    // Pods are admitted only once their account is there: the accounts go ahead, the rest goes at once.
    let (accounts, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(is_account);
    let mut applied =
        futures::future::try_join_all(accounts.into_iter().map(|object| apply_one(client, object))).await?;
    applied.extend(
        futures::future::try_join_all(rest.into_iter().map(|object| apply_one(client, object))).await?,
    );
    Ok(applied)
}

/// A server that is being restarted is tried again; what it refuses is refused.
async fn apply_one(client: &Client, object: DynamicObject) -> Result<DynamicObject, Error> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match try_apply(client, object.clone()).await {
            Err(Error::Object { source, .. }) if attempt < ATTEMPTS_MAX && is_passing(&source) => {
                tokio::time::sleep(RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether the same request may succeed a moment later.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 409 || status.code == 429 || status.code >= 500,
        _ => true,
    }
}

async fn try_apply(client: &Client, object: DynamicObject) -> Result<DynamicObject, Error> {
    let resource = resource_of(&object);
    let name = object.metadata.name.clone().unwrap_or_default();
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let outcome = match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            // Lists are replaced whole: the merge key of Service ports is the number alone, and DNS has 53 twice.
            let patch = Patch::Merge(without_replicas(object));
            api.patch(&name, &PatchParams::default(), &patch).await
        }
        other => other,
    };
    outcome.map_err(|source| Error::Object {
        object: format!("{} {name}", resource.kind),
        source: Box::new(source),
    })
}

fn without_replicas(mut object: DynamicObject) -> DynamicObject {
    if let Some(Value::Object(spec)) = object.data.get_mut("spec") {
        spec.remove("replicas");
    }
    object
}

fn resource_of(object: &DynamicObject) -> ApiResource {
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Service;

    use super::*;
    use crate::settings::{ClusterName, Flags, Roots};

    fn objects() -> Vec<DynamicObject> {
        let flags = Flags {
            services: Some("10.97.0.0/16".parse().unwrap()),
            domain: Some("cluster.test".into()),
            ..Flags::default()
        };
        let name = ClusterName::parse("dev").unwrap();
        system_objects(&Settings::resolve(&name, &Roots::default(), &flags, None).unwrap()).unwrap()
    }

    fn find(name: &str, kind: &str) -> Value {
        let is = |object: &&DynamicObject| {
            object.metadata.name.as_deref() == Some(name) && resource_of(object).kind == kind
        };
        serde_json::to_value(objects().iter().find(is).unwrap()).unwrap()
    }

    #[test]
    fn accounts_come_first_and_every_kind_has_its_plural() {
        let shown: Vec<String> = objects()
            .iter()
            .map(|object| {
                let resource = resource_of(object);
                format!("{}/{}", resource.plural, object.metadata.name.clone().unwrap())
            })
            .collect();
        let want = [
            "serviceaccounts/fairway-dns",
            "serviceaccounts/fairway-gateway",
            "services/kube-dns",
            "deployments/fairway-dns",
            "ingressclasses/fairway",
            "services/fairway-gateway",
            "deployments/fairway-gateway",
        ];
        assert_eq!(shown, want);
    }

    #[test]
    fn what_depends_on_the_cluster_is_set_and_the_objects_are_what_they_claim_to_be() {
        let dns: Service = serde_json::from_value(find("kube-dns", "Service")).unwrap();
        assert_eq!(dns.spec.unwrap().cluster_ip.unwrap(), "10.97.0.10");
        let dns: Deployment = serde_json::from_value(find("fairway-dns", "Deployment")).unwrap();
        let container = &dns.spec.unwrap().template.spec.unwrap().containers[0];
        let arguments = container.args.as_deref().unwrap();
        assert_eq!(arguments[..4], ["--cluster-domain", "cluster.test", "--service-address", "10.97.0.10"]);
        assert_eq!(container.image.as_deref(), Some("fairway.dev/fairway"));
    }

    #[test]
    fn every_deployment_selects_its_own_pods_and_its_service_finds_them() {
        for (name, service) in [("fairway-dns", "kube-dns"), ("fairway-gateway", "fairway-gateway")] {
            let deployment: Deployment = serde_json::from_value(find(name, "Deployment")).unwrap();
            let spec = deployment.spec.unwrap();
            let labels = spec.template.metadata.unwrap().labels.unwrap();
            assert_eq!(labels[NAME_LABEL], name);
            let service: Service = serde_json::from_value(find(service, "Service")).unwrap();
            let service = service.spec.unwrap();
            for (key, value) in service.selector.unwrap() {
                assert_eq!(labels.get(&key), Some(&value), "{name} {key}");
            }
            let ports = spec.template.spec.unwrap().containers.remove(0).ports.unwrap();
            for port in service.ports.unwrap() {
                let target = serde_json::to_value(port.target_port.unwrap()).unwrap();
                assert!(ports.iter().any(|port| json!(port.name) == target), "{name} has no port {target}");
            }
        }
    }

    #[test]
    fn an_update_leaves_the_replicas_to_the_user() {
        let object = objects().into_iter().find(|object| resource_of(object).kind == "Deployment").unwrap();
        assert!(object.data.pointer("/spec/replicas").is_some());
        let updated = without_replicas(object);
        assert!(updated.data.pointer("/spec/replicas").is_none());
        assert!(updated.data.pointer("/spec/template").is_some());
    }
}
