//! Operations: what may be done at which path.

use serde_json::{Value, json};

use super::schemas::{PATCH, component, group_version_kind, list_component, reference};
use crate::document::Object;
use crate::patch::PatchType;
use crate::registry::{ObjectType, Resource, Subresource, Verb, delete_options};

/// Adds the paths of a resource and its subresources.
pub(super) fn resource(resource: &Resource, paths: &mut Object) {
    let root = match resource.group() {
        "" => format!("/api/{}", resource.version()),
        group => format!("/apis/{group}/{}", resource.version()),
    };
    let plural = &resource.plural;
    let collection = match resource.is_namespaced() {
        true => format!("{root}/namespaces/{{namespace}}/{plural}"),
        false => format!("{root}/{plural}"),
    };
    if resource.is_namespaced() && resource.allows(Verb::List) {
        paths.insert(format!("{root}/{plural}"), json!({"get": operation(resource, None, Verb::List)}));
    }
    insert(paths, resource, collection.clone(), None, &[Verb::List, Verb::Create, Verb::DeleteCollection]);
    let item = format!("{collection}/{{name}}");
    insert(paths, resource, item.clone(), None, &[Verb::Get, Verb::Update, Verb::Patch, Verb::Delete]);
    for subresource in &resource.subresources {
        let path = format!("{item}/{}", subresource.name);
        let verbs = [Verb::Get, Verb::Create, Verb::Update, Verb::Patch];
        insert(paths, resource, path, Some(subresource), &verbs);
    }
}

/// Adds a path with those of `verbs` that are allowed.
fn insert(
    paths: &mut Object,
    resource: &Resource,
    path: String,
    subresource: Option<&Subresource>,
    verbs: &[Verb],
) {
    let allowed = |verb: &Verb| match subresource {
        Some(subresource) => subresource.verbs.contains(verb),
        None => resource.allows(*verb),
    };
    let mut item = Object::new();
    for verb in verbs.iter().filter(|verb| allowed(verb)) {
        item.insert(method(*verb).to_owned(), operation(resource, subresource, *verb));
    }
    if !item.is_empty() {
        let names = path_parameters(&path);
        item.insert("parameters".to_owned(), names);
        paths.insert(path, Value::Object(item));
    }
}

fn method(verb: Verb) -> &'static str {
    match verb {
        Verb::Get | Verb::List | Verb::Watch => "get",
        Verb::Create => "post",
        Verb::Update => "put",
        Verb::Patch => "patch",
        Verb::Delete | Verb::DeleteCollection => "delete",
    }
}

fn path_parameters(path: &str) -> Value {
    let names = ["namespace", "name"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
    names
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect()
}

fn operation(resource: &Resource, subresource: Option<&Subresource>, verb: Verb) -> Value {
    let object = subresource.map_or(&resource.object, |subresource| &subresource.object);
    let answer = match verb {
        Verb::List => list_component(resource).map(|name| reference(&name)),
        _ => component(object).map(reference),
    };
    let content = match answer {
        Some(schema) => json!({"application/json": {"schema": schema}}),
        None => json!({"*/*": {"schema": {"type": "string"}}}),
    };
    let mut operation = json!({
        "tags": [tag(resource)],
        "operationId": operation_id(resource, subresource, verb),
        "parameters": parameters(verb),
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action(subresource, verb),
        "x-kubernetes-group-version-kind": group_version_kind(object, &object.kind),
    });
    if let (Some(body), Some(operation)) = (body(resource, object, verb), operation.as_object_mut()) {
        operation.insert("requestBody".to_owned(), body);
    }
    operation
}

fn tag(resource: &Resource) -> String {
    let group = match resource.group() {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    format!("{group}_{}", resource.version())
}

fn operation_id(resource: &Resource, subresource: Option<&Subresource>, verb: Verb) -> String {
    let (plural, part) =
        (&resource.plural, subresource.map(|subresource| &*subresource.name).unwrap_or_default());
    format!("{}.{}.{plural}.{part}", verb.as_str(), tag(resource)).trim_end_matches('.').to_owned()
}

fn action(subresource: Option<&Subresource>, verb: Verb) -> &'static str {
    match verb {
        Verb::Create if subresource.is_some_and(|subresource| subresource.verbs.contains(&Verb::Get)) => {
            "connect"
        }
        Verb::Create => "post",
        Verb::Update => "put",
        other => other.as_str(),
    }
}

fn parameters(verb: Verb) -> Value {
    let texts: &[&str] = match verb {
        Verb::Get => &["pretty", "resourceVersion"],
        Verb::List | Verb::Watch => &[
            "continue",
            "fieldSelector",
            "labelSelector",
            "pretty",
            "resourceVersion",
            "resourceVersionMatch",
        ],
        Verb::Create | Verb::Update => &["dryRun", "fieldManager", "fieldValidation", "pretty"],
        Verb::Patch => &["dryRun", "fieldManager", "fieldValidation", "pretty"],
        Verb::Delete => &["dryRun", "pretty", "propagationPolicy"],
        Verb::DeleteCollection => {
            &["continue", "dryRun", "fieldSelector", "labelSelector", "pretty", "propagationPolicy"]
        }
    };
    let booleans: &[&str] = match verb {
        Verb::List | Verb::Watch => &["allowWatchBookmarks", "sendInitialEvents", "watch"],
        Verb::Patch => &["force"],
        Verb::Delete | Verb::DeleteCollection => &["orphanDependents"],
        Verb::Get | Verb::Create | Verb::Update => &[],
    };
    let integers: &[&str] = match verb {
        Verb::List | Verb::Watch => &["limit", "timeoutSeconds"],
        Verb::Delete => &["gracePeriodSeconds"],
        Verb::DeleteCollection => &["gracePeriodSeconds", "limit", "timeoutSeconds"],
        Verb::Get | Verb::Create | Verb::Update | Verb::Patch => &[],
    };
    let of =
        |ty: &'static str| move |name: &&str| json!({"name": name, "in": "query", "schema": {"type": ty}});
    let texts = texts.iter().map(of("string"));
    texts.chain(booleans.iter().map(of("boolean"))).chain(integers.iter().map(of("integer"))).collect()
}

fn body(resource: &Resource, object: &ObjectType, verb: Verb) -> Option<Value> {
    match verb {
        Verb::Create | Verb::Update => {
            let schema = reference(component(object)?);
            Some(json!({"required": true, "content": {"*/*": {"schema": schema}}}))
        }
        Verb::Patch => {
            let content: Object = PatchType::accepted(resource)
                .iter()
                .map(|media_type| ((*media_type).to_owned(), json!({"schema": reference(PATCH)})))
                .collect();
            Some(json!({"required": true, "content": content}))
        }
        Verb::Delete | Verb::DeleteCollection => {
            let schema = reference(component(delete_options())?);
            Some(json!({"content": {"*/*": {"schema": schema}}}))
        }
        Verb::Get | Verb::List | Verb::Watch => None,
    }
}
