//! The resources a server serves and what is special about each.
//!
//! [`Registry::builtin`] is one table (`registry/builtin.rs`); custom resources are added with [`Registry::with`], which gives a
//! new registry that shares everything else. Handlers stay generic: they ask the [`Resource`].

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::custom::Custom;
use crate::schema::{Schema, Text};
use crate::status::Qualified;

mod builtin;

pub use builtin::BuiltinKind;

/// Group, version and kind of an object, and its schema.
#[derive(Debug, Clone)]
pub struct ObjectType {
    /// API group, `""` for core.
    pub group: Text,
    /// Version, `v1`.
    pub version: Text,
    /// Kind.
    pub kind: Text,
    /// Its fields.
    pub schema: Schema,
    /// What a definition says of it; built-in kinds have none.
    pub custom: Option<Arc<Custom>>,
}

impl ObjectType {
    /// `apiVersion` on the wire: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        match &*self.group {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The kind as messages name it: `Deployment.apps`.
    pub fn qualified_kind(&self) -> Qualified<'_> {
        Qualified { group: &self.group, name: &self.kind }
    }
}

/// Whether objects live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In namespaces.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// What may be done with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// POST
    Create,
    /// DELETE of one
    Delete,
    /// DELETE of a selection
    DeleteCollection,
    /// GET of one
    Get,
    /// GET of a selection
    List,
    /// PATCH
    Patch,
    /// PUT
    Update,
    /// GET of a selection and its changes
    Watch,
}

impl Verb {
    /// The name in discovery and access reviews.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// When `metadata.generation` grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The kind has none.
    None,
    /// It is 1, and grows only when the deletion begins.
    Creation,
    /// When `spec` changes.
    Spec,
    /// When anything but metadata and status changes.
    Content,
    /// When anything but metadata and status, or a label, changes.
    ContentOrLabels,
}

/// A resource below an object: `status`, `scale`, `log` …
#[derive(Debug, Clone)]
pub struct Subresource {
    /// Its name in the URL.
    pub name: Text,
    /// What is read and written there.
    pub object: ObjectType,
    /// What may be done with it.
    pub verbs: Vec<Verb>,
}

/// One resource: a plural name in a group and version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// What is stored.
    pub object: ObjectType,
    /// Kind of its lists.
    pub list_kind: Text,
    /// Name in URLs.
    pub plural: Text,
    /// Name of one, for command lines.
    pub singular: Text,
    /// Short names for command lines.
    pub short_names: Vec<Text>,
    /// Groups of resources for command lines: `all`.
    pub categories: Vec<Text>,
    /// Namespaced or not.
    pub scope: Scope,
    /// What may be done with it. A resource without [`Verb::Get`] stores nothing.
    pub verbs: Vec<Verb>,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// When the generation grows.
    pub generation: Generation,
    /// Whether an update without resource version overwrites.
    pub unconditional_update: bool,
    /// Whether an update of an absent object creates it.
    pub create_on_update: bool,
    /// Whether a delete answers with the object instead of a Status.
    pub delete_returns_object: bool,
    /// The rules of a built-in kind; custom resources have none.
    pub builtin: Option<BuiltinKind>,
}

impl Resource {
    /// API group, `""` for core.
    pub fn group(&self) -> &str {
        &self.object.group
    }

    /// API version.
    pub fn version(&self) -> &str {
        &self.object.version
    }

    /// Kind of its objects.
    pub fn kind(&self) -> &str {
        &self.object.kind
    }

    /// `apiVersion` on the wire.
    pub fn api_version(&self) -> String {
        self.object.api_version()
    }

    /// The group in whose collection the objects are: another than [`Resource::group`] for events.k8s.io, whose events are
    /// those of the core group in another shape ([`crate::convert`]).
    pub fn storage_group(&self) -> &str {
        match self.builtin {
            Some(BuiltinKind::Event) => "",
            _ => &self.object.group,
        }
    }

    /// The resource as messages name it: `deployments.apps`.
    pub fn qualified(&self) -> Qualified<'_> {
        Qualified { group: &self.object.group, name: &self.plural }
    }

    /// Whether objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether objects are stored; the others are questions that are answered at once.
    pub fn is_stored(&self) -> bool {
        self.allows(Verb::Get)
    }

    /// Whether `verb` may be used.
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// The text of a `Warning: 299` header for whoever uses a kind that is on its way out.
    pub fn deprecation(&self) -> Option<&str> {
        match self.builtin {
            None => self.custom()?.deprecation.as_deref(),
            Some(BuiltinKind::Endpoints) => {
                Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
            }
            _ => None,
        }
    }

    /// What its definition says of it, if it is a custom resource.
    pub fn custom(&self) -> Option<&Arc<Custom>> {
        self.object.custom.as_ref()
    }

    /// Whether status is written apart from the rest.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }
}

/// All resources, by name and kind, in the order of discovery.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
    by_plural: HashMap<Text, Vec<usize>>,
    by_kind: HashMap<Text, Vec<usize>>,
}

impl Registry {
    /// The kinds of Kubernetes that are served.
    pub fn builtin() -> &'static Arc<Registry> {
        static BUILTIN: LazyLock<Arc<Registry>> =
            LazyLock::new(|| Arc::new(Registry::default().with(builtin::resources())));
        &BUILTIN
    }

    /// This registry and more resources. A resource that is already there (same group, version and plural) is
    /// replaced.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = Resource>) -> Registry {
        self.with_shared(more.into_iter().map(Arc::new))
    }

    /// The same, for resources that other registries have too.
    #[must_use]
    pub fn with_shared(&self, more: impl IntoIterator<Item = Arc<Resource>>) -> Registry {
        let mut resources = self.resources.clone();
        for new in more {
            resources.retain(|old| {
                (old.group(), old.version(), &old.plural) != (new.group(), new.version(), &new.plural)
            });
            resources.push(new);
        }
        resources.sort_by(|a, b| discovery_order(a).cmp(&discovery_order(b)));
        let (mut by_plural, mut by_kind) = (HashMap::new(), HashMap::new());
        for (index, resource) in resources.iter().enumerate() {
            by_plural.entry(resource.plural.clone()).or_insert_with(Vec::new).push(index);
            by_kind.entry(resource.object.kind.clone()).or_insert_with(Vec::new).push(index);
        }
        Registry { resources, by_plural, by_kind }
    }

    /// All resources: groups by priority, versions newest first, then by name.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// The resource at `/apis/<group>/<version>/<plural>`.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.find(self.by_plural.get(plural)?, group, version)
    }

    /// The resource in whose form the objects of this one are stored: itself, but for events.k8s.io.
    pub fn storage(&self, resource: &Arc<Resource>) -> Arc<Resource> {
        let other = match resource.storage_group() {
            group if group == resource.group() => None,
            group => self.resource(group, resource.version(), &resource.plural),
        };
        Arc::clone(other.unwrap_or(resource))
    }

    /// The resource of a kind.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.find(self.by_kind.get(kind)?, group, version)
    }

    fn find(&self, indexes: &[usize], group: &str, version: &str) -> Option<&Arc<Resource>> {
        let mut found = indexes.iter().filter_map(|index| self.resources.get(*index));
        found.find(|resource| resource.group() == group && resource.version() == version)
    }

    /// Group and version of all resources, in the order of discovery, each once.
    pub fn group_versions(&self) -> Vec<(&str, &str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for resource in &self.resources {
            let pair = (resource.group(), resource.version());
            if found.last() != Some(&pair) {
                found.push(pair);
            }
        }
        found
    }

    /// The resources of one group and version, by name.
    pub fn of_version(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter().filter(move |other| other.group() == group && other.version() == version)
    }
}

/// What is read and written at `scale`.
pub(crate) fn scale() -> Option<&'static ObjectType> {
    Some(&Registry::builtin().kind("apps", "v1", "Deployment")?.subresource("scale")?.object)
}

/// Kinds that are no resource but travel as objects.
pub fn delete_options() -> &'static ObjectType {
    builtin::delete_options()
}

/// Groups in this order come first, the others after them by name.
const GROUPS: &[&str] = &[
    "",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
];

/// The sort key of discovery: group priority and name, version priority, plural.
fn discovery_order(resource: &Resource) -> (usize, &str, VersionOrder<'_>, &str) {
    let group = resource.group();
    let priority = GROUPS.iter().position(|name| *name == group).unwrap_or(GROUPS.len());
    (priority, group, VersionOrder::of(resource.version()), &resource.plural)
}

/// Version priority: stable before beta before alpha, higher numbers first, anything else last by name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum VersionOrder<'a> {
    Stable(std::cmp::Reverse<u32>),
    Beta(std::cmp::Reverse<(u32, u32)>),
    Alpha(std::cmp::Reverse<(u32, u32)>),
    Other(&'a str),
}

impl<'a> VersionOrder<'a> {
    fn of(version: &'a str) -> Self {
        Self::parse(version).unwrap_or(Self::Other(version))
    }

    fn parse(version: &str) -> Option<Self> {
        let rest = version.strip_prefix('v')?;
        let numbers =
            |major: &str, minor: &str| Some(std::cmp::Reverse((major.parse().ok()?, minor.parse().ok()?)));
        if let Some((major, minor)) = rest.split_once("beta") {
            return Some(Self::Beta(numbers(major, minor)?));
        }
        if let Some((major, minor)) = rest.split_once("alpha") {
            return Some(Self::Alpha(numbers(major, minor)?));
        }
        Some(Self::Stable(std::cmp::Reverse(rest.parse().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_stable_first_and_new_first() {
        let mut versions = ["v1alpha1", "foo", "v1beta2", "v2", "v1", "v1beta10", "v10", "v11alpha2"];
        versions.sort_by(|a, b| VersionOrder::of(a).cmp(&VersionOrder::of(b)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v11alpha2", "v1alpha1", "foo"]);
    }

    #[test]
    fn every_builtin_resource_is_found_by_name_and_kind() {
        let registry = Registry::builtin();
        assert!(registry.resources().count() > 20);
        for resource in registry.resources() {
            let (group, version) = (resource.group(), resource.version());
            assert!(Arc::ptr_eq(registry.resource(group, version, &resource.plural).unwrap(), resource));
            assert!(Arc::ptr_eq(registry.kind(group, version, resource.kind()).unwrap(), resource));
            assert!(
                !resource.object.schema.structure().fields().is_empty(),
                "{} has a schema",
                resource.kind()
            );
        }
    }

    #[test]
    fn a_custom_resource_joins_and_replaces_itself() {
        let mut custom = Resource::clone(Registry::builtin().resource("", "v1", "configmaps").unwrap());
        custom.object.group = "example.com".into();
        custom.builtin = None;
        let registry = Registry::builtin().with([custom.clone()]).with([custom]);
        assert_eq!(registry.resources().count(), Registry::builtin().resources().count() + 1);
        assert!(registry.resource("example.com", "v1", "configmaps").is_some());
        assert_eq!(registry.group_versions().last(), Some(&("example.com", "v1")));
    }
}
