//! The resources that the API server has, whatever they are: garbage collection and the end of a namespace concern all of them.

use std::sync::Arc;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::discovery::{ApiCapabilities, Discovery, Scope};

/// One resource whose objects can be deleted.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    /// Plural and group, for example `deployments.apps`: its name wherever one is needed.
    pub(crate) name: Arc<str>,
    pub(crate) api: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) watchable: bool,
    pub(crate) collectable: bool,
}

impl Resource {
    fn of(api: ApiResource, capabilities: &ApiCapabilities) -> Option<Self> {
        let can = |verb: &str| capabilities.supports_operation(verb);
        let is_event = api.plural == "events" && (api.group.is_empty() || api.group == "events.k8s.io");
        // Events have no owners and end by themselves, and there are many.
        if !can("delete") || !can("list") {
            return None;
        }
        Some(Self {
            name: name(&api.group, &api.plural),
            namespaced: capabilities.scope == Scope::Namespaced,
            watchable: can("watch") && !is_event,
            collectable: can("deletecollection"),
            api,
        })
    }

    /// Access to the objects of one namespace ("" for cluster-wide objects).
    pub(crate) fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.api)
        } else {
            Api::all_with(client.clone(), &self.api)
        }
    }
}

/// `deployments.apps`, `pods`.
pub(crate) fn name(group: &str, plural: &str) -> Arc<str> {
    if group.is_empty() { plural.into() } else { format!("{plural}.{group}").into() }
}

/// Everything that can be listed and deleted, each kind once, sorted by name.
pub(crate) async fn discover(client: &Client) -> kube::Result<Arc<[Resource]>> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // Older servers have only the document a group.
        Err(_) => Discovery::new(client.clone()).run().await?,
    };
    let mut resources: Vec<Resource> = discovery
        .groups()
        .flat_map(|group| group.resources_by_stability())
        .filter_map(|(api, capabilities)| Resource::of(api, &capabilities))
        .collect();
    resources.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(resources.into())
}
