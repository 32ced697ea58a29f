//! A CustomResourceDefinition: what it leaves to the server, what is wrong with it, what resources it makes.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::columns::{Column, JsonPath};
use super::structural::{self, Node};
use super::{Custom, Scale, api_version, publish};
use crate::document::{self, Document};
use crate::field::{FieldError, Path};
use crate::registry::{self, Generation, ObjectType, Resource, Scope, Subresource, Verb};

mod status;
mod validate;

pub use status::{CLEANUP_FINALIZER, is_established, is_settled, set_terminating, settle};
pub use validate::{check, check_update};

/// The group of definitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Their plural.
pub const PLURAL: &str = "customresourcedefinitions";

/// Versions read last that are remembered, so that a definition is not compiled once to check it and once to serve it.
const RECENT_LEN_MAX: usize = 4;

/// Fills in what a definition leaves out.
pub fn complete(definition: &mut Value) {
    let kind = definition.text(&["spec", "names", "kind"]).to_owned();
    if !kind.is_empty() {
        definition.put_default(&["spec", "names", "singular"], kind.to_lowercase());
        definition.put_default(&["spec", "names", "listKind"], format!("{kind}List"));
    }
    if definition.text(&["spec", "conversion", "strategy"]).is_empty() && definition.has(&["spec"]) {
        definition.put(&["spec", "conversion", "strategy"], "None");
    }
}

/// The trees of all versions, and what is wrong with them.
#[derive(Debug)]
struct Trees {
    versions: Vec<Arc<Node>>,
    errors: Vec<FieldError>,
}

/// Reads the schemas of a definition.
fn trees(definition: &Value) -> Arc<Trees> {
    static RECENT: Mutex<VecDeque<(Value, Arc<Trees>)>> = Mutex::new(VecDeque::new());
    let versions = definition.at(&["spec", "versions"]);
    let lock = || RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = lock().iter().find(|(known, _)| known == versions) {
        return Arc::clone(known);
    }
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let path = spec.field("versions");
    let list = versions.as_array().into_iter().flatten().enumerate();
    let trees = list.map(|(index, version)| {
        let path = path.index(index);
        let (path, schema) = (path.field("schema"), version.at(&["schema", "openAPIV3Schema"]));
        let path = path.field("openAPIV3Schema");
        if schema.is_null() {
            errors.push(FieldError::required(&path, "schemas are required"));
            return Arc::new(Node::anything());
        }
        let tree = structural::parse(schema, &path, &mut errors);
        validate::defaults(&tree, &path, &mut errors);
        Arc::new(tree)
    });
    let trees = Arc::new(Trees { versions: trees.collect(), errors });
    let mut recent = lock();
    if recent.len() == RECENT_LEN_MAX {
        recent.pop_front();
    }
    recent.push_back((versions.clone(), Arc::clone(&trees)));
    trees
}

/// The resources of a definition: one a served version, in its order. Names are those that were accepted.
pub fn resources(definition: &Value) -> Vec<Resource> {
    let trees = trees(definition);
    let group = definition.text(&["spec", "group"]);
    let versions = definition.list(&["spec", "versions"]);
    let storage = versions.iter().find(|version| version.is_true(&["storage"]));
    let storage = storage.map(|version| version.text(&["name"])).unwrap_or_default();
    let served = versions.iter().zip(&trees.versions).filter(|(version, _)| version.is_true(&["served"]));
    served.map(|(version, tree)| resource(definition, group, version, tree, storage)).collect()
}

fn resource(definition: &Value, group: &str, version: &Value, tree: &Arc<Node>, storage: &str) -> Resource {
    let names = definition.at(&["status", "acceptedNames"]);
    let kind = names.text(&["kind"]).to_owned();
    let name = version.text(&["name"]);
    let custom = Arc::new(custom(definition, version, tree, storage));
    let object = ObjectType {
        group: group.to_owned().into(),
        version: name.to_owned().into(),
        kind: kind.clone().into(),
        schema: publish::schema(tree, &publish::component(group, name, &kind)),
        custom: Some(custom),
    };
    let changed = vec![Verb::Get, Verb::Patch, Verb::Update];
    let mut subresources = Vec::new();
    if version.has(&["subresources", "scale"])
        && let Some(object) = registry::scale()
    {
        subresources.push(Subresource {
            name: "scale".into(),
            object: object.clone(),
            verbs: changed.clone(),
        });
    }
    if version.has(&["subresources", "status"]) {
        subresources.push(Subresource { name: "status".into(), object: object.clone(), verbs: changed });
    }
    let texts = |field: &str| -> Vec<Cow<'static, str>> {
        let texts = names.list(&[field]).iter().filter_map(Value::as_str);
        texts.map(|text| Cow::Owned(text.to_owned())).collect()
    };
    let namespaced = definition.text(&["spec", "scope"]) == "Namespaced";
    Resource {
        object,
        list_kind: names.text(&["listKind"]).to_owned().into(),
        plural: names.text(&["plural"]).to_owned().into(),
        singular: names.text(&["singular"]).to_owned().into(),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        scope: if namespaced { Scope::Namespaced } else { Scope::Cluster },
        verbs: vec![
            Verb::Delete,
            Verb::DeleteCollection,
            Verb::Get,
            Verb::List,
            Verb::Patch,
            Verb::Create,
            Verb::Update,
            Verb::Watch,
        ],
        subresources,
        generation: Generation::Content,
        unconditional_update: false,
        create_on_update: false,
        delete_returns_object: false,
        builtin: None,
    }
}

fn custom(definition: &Value, version: &Value, tree: &Arc<Node>, storage: &str) -> Custom {
    let group = definition.text(&["spec", "group"]);
    let name = version.text(&["name"]);
    let column = |column: &Value| {
        Some(Column {
            name: column.text(&["name"]).to_owned(),
            ty: column.text(&["type"]).to_owned(),
            format: column.text(&["format"]).to_owned(),
            description: match column.text(&["description"]) {
                "" => format!(
                    "Custom resource definition column (in JSONPath format): {}",
                    column.text(&["jsonPath"])
                ),
                text => text.to_owned(),
            },
            priority: column.int(&["priority"]).unwrap_or(0),
            path: JsonPath::parse(column.text(&["jsonPath"])).ok()?,
        })
    };
    let mut columns: Vec<Column> =
        version.list(&["additionalPrinterColumns"]).iter().filter_map(column).collect();
    if version.list(&["additionalPrinterColumns"]).is_empty() {
        let age = json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "CreationTimestamp is a timestamp representing the server time when this object was created.",
        });
        columns.extend(column(&age));
    }
    let selectable = version.list(&["selectableFields"]).iter().filter_map(|field| {
        let path = field.text(&["jsonPath"]);
        Some((path.trim_start_matches('.').to_owned(), JsonPath::parse(path).ok()?))
    });
    let deprecation = version.is_true(&["deprecated"]).then(|| match version.text(&["deprecationWarning"]) {
        "" => format!("{group}/{name} {} is deprecated", definition.text(&["spec", "names", "kind"])),
        text => text.to_owned(),
    });
    Custom {
        columns,
        scale: scale(version.at(&["subresources", "scale"])),
        selectable: selectable.collect(),
        storage_api_version: api_version(group, storage),
        api_version: api_version(group, name),
        deprecation,
        definition: (
            document::uid(definition).to_owned(),
            definition.int(&["metadata", "generation"]).unwrap_or(0),
        ),
        since: document::resource_version(definition).unwrap_or(u64::MAX),
        has_rules: tree.has_rules,
        tree: Arc::clone(tree),
    }
}

fn scale(scale: &Value) -> Option<Scale> {
    let path = |field: &str| {
        let path = JsonPath::parse(scale.text(&[field])).ok()?;
        Some(path.fields()?.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    Some(Scale {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        label_selector: path("labelSelectorPath").filter(|path| !path.is_empty()),
    })
}
