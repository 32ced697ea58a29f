//! Discovery documents from the registry.

use serde_json::{Value, json};

use crate::registry::{Registry, Resource, Scope};

/// The two versions of aggregated discovery; only the name differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
}

impl Aggregated {
    /// The version's name.
    pub fn version(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }

    /// The media type of the answer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }
}

/// Aggregated discovery at `/api` (`core`) or `/apis` (the rest).
pub fn aggregated(registry: &Registry, core: bool, version: Aggregated) -> Value {
    let mut groups: Vec<(&str, Vec<Value>)> = Vec::new();
    for (group, group_version) in registry.group_versions() {
        if group.is_empty() != core {
            continue;
        }
        let resources: Vec<Value> =
            registry.of_version(group, group_version).map(|resource| aggregated_resource(resource)).collect();
        let document = json!({"version": group_version, "resources": resources, "freshness": "Current"});
        match groups.last_mut() {
            Some((name, versions)) if *name == group => versions.push(document),
            _ => groups.push((group, vec![document])),
        }
    }
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(group, versions)| match group {
            "" => json!({"metadata": {"creationTimestamp": null}, "versions": versions}),
            group => json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions}),
        })
        .collect();
    let api_version = format!("apidiscovery.k8s.io/{}", version.version());
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|subresource| {
            json!({
                "subresource": subresource.name,
                "responseKind": response_kind(&subresource.object),
                "verbs": verbs(&subresource.verbs),
            })
        })
        .collect();
    let mut document = json!({
        "resource": resource.plural,
        "responseKind": response_kind(&resource.object),
        "scope": match resource.scope {
            Scope::Namespaced => "Namespaced",
            Scope::Cluster => "Cluster",
        },
        "singularResource": resource.singular,
        "verbs": verbs(&resource.verbs),
    });
    if let Some(object) = document.as_object_mut() {
        if !resource.short_names.is_empty() {
            object.insert("shortNames".to_owned(), json!(resource.short_names));
        }
        if !resource.categories.is_empty() {
            object.insert("categories".to_owned(), json!(resource.categories));
        }
        if !subresources.is_empty() {
            object.insert("subresources".to_owned(), Value::Array(subresources));
        }
    }
    document
}

fn response_kind(object: &crate::registry::ObjectType) -> Value {
    json!({"group": object.group, "version": object.version, "kind": object.kind})
}

fn verbs(verbs: &[crate::registry::Verb]) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

/// `APIVersions` at `/api`. `address` is how clients reach the server, `host:port`.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `APIGroupList` at `/apis`.
pub fn group_list(registry: &Registry) -> Value {
    let mut names: Vec<&str> = registry.group_versions().into_iter().map(|(group, _)| group).collect();
    names.dedup();
    let groups: Vec<Value> = names.into_iter().filter_map(|name| group_item(registry, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIGroup` at `/apis/<group>`.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    let mut document = group_item(registry, name)?;
    if let Some(object) = document.as_object_mut() {
        object.insert("kind".to_owned(), "APIGroup".into());
        object.insert("apiVersion".to_owned(), "v1".into());
    }
    Some(document)
}

fn group_item(registry: &Registry, name: &str) -> Option<Value> {
    let versions: Vec<Value> = registry
        .group_versions()
        .into_iter()
        .filter(|(group, _)| *group == name && !name.is_empty())
        .map(|(group, version)| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

/// `APIResourceList` at `/api/v1` or `/apis/<group>/<version>`.
pub fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for resource in registry.of_version(group, version) {
        let mut document = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.is_namespaced(),
            "kind": resource.kind(),
            "verbs": verbs(&resource.verbs),
        });
        if let Some(object) = document.as_object_mut() {
            if !resource.short_names.is_empty() {
                object.insert("shortNames".to_owned(), json!(resource.short_names));
            }
            if !resource.categories.is_empty() {
                object.insert("categories".to_owned(), json!(resource.categories));
            }
        }
        resources.push(document);
        for subresource in &resource.subresources {
            let mut document = json!({
                "name": format!("{}/{}", resource.plural, subresource.name),
                "singularName": "",
                "namespaced": resource.is_namespaced(),
                "kind": subresource.object.kind,
                "verbs": verbs(&subresource.verbs),
            });
            let object = &subresource.object;
            if (&*object.group, &*object.version) != (group, version)
                && let Some(document) = document.as_object_mut()
            {
                document.insert("group".to_owned(), json!(object.group));
                document.insert("version".to_owned(), json!(object.version));
            }
            resources.push(document);
        }
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}
