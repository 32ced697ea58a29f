//! The end of a namespace: its pods first, so that they can still say goodbye to what they use, then everything else, whatever kinds
//! there are; when nothing is left, the namespace itself.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use kube::Client;
use kube::api::{DeleteParams, ListParams, Preconditions, PropagationPolicy};

use crate::discovered::Resource;
use crate::metadata::{is_deleting, name_of, seconds};
use crate::plan::Write;

/// Objects counted a resource; more is only said to be so many at least.
const COUNTED_MAX: u32 = 500;
/// Requests under way at the same time.
const CONCURRENT_MAX: usize = 8;
/// The finalizer that keeps a namespace until this controller says that it is empty.
const FINALIZER: &str = "kubernetes";

/// What a namespace still holds of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    resource: Arc<str>,
    count: usize,
    /// Names of those that nobody asked to go yet, when they have to be deleted one by one or all together.
    undeleted: Vec<(String, Option<String>)>,
    /// Finalizers that are waited for, with how many objects have each.
    finalizers: Vec<(String, usize)>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// Ask these to go (may be none: then they are waited for).
    Delete(Vec<Arc<str>>),
    /// Nothing is left.
    Finalize,
}

/// Takes the next step; the writes that it asks for concern the namespace itself.
pub(crate) async fn reconcile(
    client: &Client,
    resources: &[Resource],
    namespace: &Namespace,
    now: Timestamp,
) -> kube::Result<Vec<Write>> {
    if !is_deleting(&namespace.metadata) || !has_finalizer(namespace) || resources.is_empty() {
        return Ok(Vec::new());
    }
    let name = name_of(&namespace.metadata);
    let namespaced: Vec<&Resource> = resources.iter().filter(|resource| resource.namespaced).collect();
    let requests: Vec<_> = namespaced.iter().map(|resource| contents(client, resource, name)).collect();
    let contents: Vec<Content> = stream::iter(requests)
        .buffered(CONCURRENT_MAX)
        .try_filter(|content| std::future::ready(content.count > 0))
        .try_collect()
        .await?;
    match next(&contents) {
        Next::Finalize => Ok(vec![Write::Finalize(Box::new(without_finalizer(namespace)))]),
        Next::Delete(names) => {
            for content in contents.iter().filter(|content| names.contains(&content.resource)) {
                let Some(resource) = namespaced.iter().find(|resource| resource.name == content.resource)
                else {
                    continue;
                };
                delete(client, resource, name, content).await?;
            }
            Ok(report(namespace, &contents, now).into_iter().collect())
        }
    }
}

fn has_finalizer(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
    finalizers.into_iter().any(|finalizer| finalizer == FINALIZER)
}

fn without_finalizer(namespace: &Namespace) -> Namespace {
    let mut namespace = namespace.clone();
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    namespace
}

/// Pods before all else.
fn next(contents: &[Content]) -> Next {
    if contents.is_empty() {
        return Next::Finalize;
    }
    let pods: Vec<&Content> = contents.iter().filter(|content| &*content.resource == "pods").collect();
    let turn = if pods.is_empty() { contents.iter().collect() } else { pods };
    let undeleted = turn.into_iter().filter(|content| !content.undeleted.is_empty());
    Next::Delete(undeleted.map(|content| content.resource.clone()).collect())
}

async fn contents(client: &Client, resource: &Resource, namespace: &str) -> kube::Result<Content> {
    let api = resource.api(client, namespace);
    let mut content =
        Content { resource: resource.name.clone(), count: 0, undeleted: Vec::new(), finalizers: Vec::new() };
    let list = match api.list_metadata(&ListParams::default().limit(COUNTED_MAX)).await {
        Ok(list) => list,
        // A definition that was removed since: nothing of it is left.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 405 => return Ok(content),
        Err(error) => return Err(error),
    };
    content.count = list.items.len();
    for object in list.items {
        for finalizer in object.metadata.finalizers.iter().flatten() {
            match content.finalizers.iter_mut().find(|(known, _)| known == finalizer) {
                Some((_, count)) => *count += 1,
                None => content.finalizers.push((finalizer.clone(), 1)),
            }
        }
        if !is_deleting(&object.metadata) {
            content.undeleted.push((name_of(&object.metadata).to_owned(), object.metadata.uid));
        }
    }
    Ok(content)
}

async fn delete(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    content: &Content,
) -> kube::Result<()> {
    let api = resource.api(client, namespace);
    let background =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    if resource.collectable {
        api.delete_collection(&background, &ListParams::default()).await?;
        return Ok(());
    }
    for (name, uid) in &content.undeleted {
        let preconditions = Some(Preconditions { uid: uid.clone(), resource_version: None });
        match api.delete(name, &DeleteParams { preconditions, ..background.clone() }).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says what is waited for.
fn report(namespace: &Namespace, contents: &[Content], now: Timestamp) -> Option<Write> {
    let resources: Vec<String> = contents
        .iter()
        .map(|content| format!("{} has {} resource instances", content.resource, content.count))
        .collect();
    let mut finalizers: Vec<String> = Vec::new();
    for (finalizer, count) in contents.iter().flat_map(|content| &content.finalizers) {
        finalizers.push(format!("{finalizer} in {count} resource instances"));
    }
    let content = format!("Some resources are remaining: {}", resources.join(", "));
    let waiting =
        format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", "));
    let yes_no = |yes: bool| if yes { "True" } else { "False" };
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            yes_no(!contents.is_empty()),
            if contents.is_empty() { "ContentRemoved" } else { "SomeResourcesRemain" },
            if contents.is_empty() { "All content successfully removed" } else { content.as_str() },
        ),
        (
            "NamespaceFinalizersRemaining",
            yes_no(!finalizers.is_empty()),
            if finalizers.is_empty() { "ContentHasNoFinalizers" } else { "SomeFinalizersRemain" },
            if finalizers.is_empty() {
                "All content-preserving finalizers finished"
            } else {
                waiting.as_str()
            },
        ),
    ];
    let old = namespace.status.clone().unwrap_or_default();
    let known = old.conditions.clone().unwrap_or_default();
    let conditions: Vec<NamespaceCondition> = wanted
        .into_iter()
        .map(|(type_, status, reason, message)| {
            let before =
                known.iter().find(|condition| condition.type_ == type_ && condition.status == status);
            NamespaceCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: before
                    .and_then(|before| before.last_transition_time.clone())
                    .or_else(|| Some(seconds(now))),
            }
        })
        .collect();
    if known == conditions {
        return None;
    }
    let status = NamespaceStatus { conditions: Some(conditions), ..old };
    Some(Write::ReplaceStatus(Namespace { status: Some(status), ..namespace.clone() }.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(resource: &str, undeleted: usize) -> Content {
        let undeleted = (0..undeleted).map(|at| (at.to_string(), None)).collect();
        Content { resource: resource.into(), count: 3, undeleted, finalizers: Vec::new() }
    }

    #[test]
    fn order() {
        struct Case {
            name: &'static str,
            given: Vec<Content>,
            want: Next,
        }
        let delete = |names: &[&str]| Next::Delete(names.iter().map(|name| Arc::from(*name)).collect());
        for case in [
            Case { name: "empty", given: vec![], want: Next::Finalize },
            Case {
                name: "pods first",
                given: vec![content("configmaps", 3), content("pods", 1)],
                want: delete(&["pods"]),
            },
            Case {
                name: "pods are waited for",
                given: vec![content("configmaps", 3), content("pods", 0)],
                want: delete(&[]),
            },
            Case {
                name: "then all the rest",
                given: vec![content("configmaps", 3), content("secrets", 0), content("services", 1)],
                want: delete(&["configmaps", "services"]),
            },
        ] {
            assert_eq!(next(&case.given), case.want, "{}", case.name);
        }
    }

    #[test]
    fn what_is_said_once_is_not_said_again() {
        let contents = [content("pods", 0)];
        let namespace = Namespace::default();
        let Some(Write::ReplaceStatus(crate::world::Object::Namespace(said))) =
            report(&namespace, &contents, Timestamp::UNIX_EPOCH)
        else {
            panic!("nothing is said");
        };
        assert_eq!(report(&said, &contents, Timestamp::MAX), None);
    }
}
