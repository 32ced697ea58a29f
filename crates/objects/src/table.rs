//! Tables for command lines: the columns of each kind and the cells of each object.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::convert;
use crate::custom::Custom;
use crate::document::{self, Document};
use crate::registry::{BuiltinKind, Resource};

mod cluster;
mod network;
mod pod;
mod workload;

/// What each row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Parses the query parameter; absent or empty is [`IncludeObject::Metadata`].
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// How to render.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The time that ages count from.
    pub now: Timestamp,
    /// What rows carry.
    pub include: IncludeObject,
    /// Whether to send the column definitions: not with later events of a watch.
    pub columns: bool,
    /// `metadata` of the table, that of the list (or `{"resourceVersion": …}`).
    pub metadata: &'a Value,
}

/// One column.
#[derive(Debug, Clone, Copy)]
struct Column {
    name: &'static str,
    /// `string` or `integer`.
    ty: &'static str,
    /// Shown only on request.
    wide: bool,
}

const fn text(name: &'static str) -> Column {
    Column { name, ty: "string", wide: false }
}

const fn number(name: &'static str) -> Column {
    Column { name, ty: "integer", wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, ty: "string", wide: true }
}

const fn wide_number(name: &'static str) -> Column {
    Column { name, ty: "integer", wide: true }
}

/// How a kind prints: columns, and as many cells from an object.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

const GENERIC: Printer = Printer {
    columns: &[text("Name"), text("Created At")],
    cells: |object, _| {
        vec![document::name(object).into(), object.text(&["metadata", "creationTimestamp"]).into()]
    },
};

fn printer(kind: Option<BuiltinKind>) -> Printer {
    match kind {
        Some(BuiltinKind::Pod) => pod::POD,
        Some(BuiltinKind::Service) => network::SERVICE,
        Some(BuiltinKind::Endpoints) => network::ENDPOINTS,
        Some(BuiltinKind::EndpointSlice) => network::ENDPOINT_SLICE,
        Some(BuiltinKind::Ingress) => network::INGRESS,
        Some(BuiltinKind::IngressClass) => network::INGRESS_CLASS,
        Some(BuiltinKind::NetworkPolicy) => network::NETWORK_POLICY,
        Some(BuiltinKind::Deployment) => workload::DEPLOYMENT,
        Some(BuiltinKind::ReplicaSet | BuiltinKind::ReplicationController) => workload::REPLICA_SET,
        Some(BuiltinKind::StatefulSet) => workload::STATEFUL_SET,
        Some(BuiltinKind::DaemonSet) => workload::DAEMON_SET,
        Some(BuiltinKind::ControllerRevision) => workload::CONTROLLER_REVISION,
        Some(BuiltinKind::Node) => cluster::NODE,
        Some(BuiltinKind::Event) => cluster::EVENT,
        Some(BuiltinKind::Namespace) => cluster::NAMESPACE,
        Some(BuiltinKind::Secret) => cluster::SECRET,
        Some(BuiltinKind::ConfigMap) => cluster::CONFIG_MAP,
        Some(BuiltinKind::ServiceAccount) => cluster::SERVICE_ACCOUNT,
        Some(BuiltinKind::Lease) => cluster::LEASE,
        Some(
            BuiltinKind::Binding
            | BuiltinKind::ClusterRole
            | BuiltinKind::ClusterRoleBinding
            | BuiltinKind::CronJob
            | BuiltinKind::CustomResourceDefinition
            | BuiltinKind::IPAddress
            | BuiltinKind::Job
            | BuiltinKind::LimitRange
            | BuiltinKind::LocalSubjectAccessReview
            | BuiltinKind::MutatingWebhookConfiguration
            | BuiltinKind::PersistentVolumeClaim
            | BuiltinKind::PodDisruptionBudget
            | BuiltinKind::PodTemplate
            | BuiltinKind::PriorityClass
            | BuiltinKind::ResourceQuota
            | BuiltinKind::Role
            | BuiltinKind::RoleBinding
            | BuiltinKind::SelfSubjectAccessReview
            | BuiltinKind::SelfSubjectReview
            | BuiltinKind::SelfSubjectRulesReview
            | BuiltinKind::ServiceCIDR
            | BuiltinKind::StorageClass
            | BuiltinKind::SubjectAccessReview
            | BuiltinKind::TokenReview
            | BuiltinKind::ValidatingAdmissionPolicy
            | BuiltinKind::ValidatingAdmissionPolicyBinding
            | BuiltinKind::ValidatingWebhookConfiguration,
        )
        | None => GENERIC,
    }
}

/// Renders objects as a `Table` of meta.k8s.io/v1.
pub fn render<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    options: &Options<'_>,
) -> Value {
    let mut objects = objects.into_iter().peekable();
    // The one part of an object that is of another kind than the object.
    let is_scale = objects.peek().is_some_and(|object| object.text(&["kind"]) == "Scale");
    let printer = if is_scale { workload::SCALE } else { printer(resource.builtin) };
    let custom = resource.custom().filter(|_| !is_scale);
    let rows: Vec<Value> = objects
        .map(|object| {
            let cells = match custom {
                Some(custom) => custom_cells(custom, object, options.now),
                None => (printer.cells)(object, options.now),
            };
            match options.include {
                IncludeObject::None => json!({"cells": cells}),
                IncludeObject::Metadata => {
                    json!({"cells": cells, "object": convert::partial_metadata(object)})
                }
                IncludeObject::Object => json!({"cells": cells, "object": object}),
            }
        })
        .collect();
    let columns: Vec<Value> = match custom {
        _ if !options.columns => vec![],
        Some(custom) => custom_columns(custom),
        None => printer.columns.iter().map(definition).collect(),
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": options.metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// The name, then what the definition says.
fn custom_columns(custom: &Custom) -> Vec<Value> {
    let columns = custom.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.ty,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    });
    std::iter::once(definition(&text("Name"))).chain(columns).collect()
}

fn custom_cells(custom: &Custom, object: &Value, now: Timestamp) -> Vec<Value> {
    let cells = custom.columns.iter().map(|column| column.cell(object, now));
    std::iter::once(document::name(object).into()).chain(cells).collect()
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.ty,
        "format": if column.name == "Name" && !column.wide { "name" } else { "" },
        "description": "",
        "priority": i32::from(column.wide),
    })
}

/// The age of an object.
fn age(object: &Value, now: Timestamp) -> Value {
    since(object.text(&["metadata", "creationTimestamp"]), now).into()
}

/// How long ago a time is, `<unknown>` for none.
pub(crate) fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => duration(now.as_second() - time.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A duration in the two units that matter, shorter the longer it is: `5s`, `3m20s`, `4h`, `2d`.
fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Text, or `<none>` for none.
fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Integer at a path, 0 when absent.
fn int(object: &Value, path: &[&str]) -> Value {
    object.int(path).unwrap_or(0).into()
}

/// The first three of a list and how many more there are.
fn first_three(items: &[String]) -> String {
    let shown = items.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(",");
    match items.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

/// `a=b,c=d` of a map of labels.
fn labels(map: &Value) -> Value {
    or_none(&crate::selector::LabelSelector::from_map(map).to_string())
}

/// A `LabelSelector` object as text.
fn selector(object: &Value) -> Value {
    match crate::selector::LabelSelector::from_object(object) {
        Ok(selector) => or_none(&selector.to_string()),
        Err(_) => "<error>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn ages_shorten_as_they_grow() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_460, "3h11m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, want) in cases {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for resource in Registry::builtin().resources() {
            let printer = printer(resource.builtin);
            let empty = (printer.cells)(&json!({}), Timestamp::UNIX_EPOCH);
            assert_eq!(empty.len(), printer.columns.len(), "{}", resource.kind());
            assert_eq!(printer.columns.iter().filter(|column| column.name == "Name").count(), 1);
        }
    }

    #[test]
    fn a_scale_prints_as_itself_and_not_as_an_empty_deployment() {
        let resource = Registry::builtin().resource("apps", "v1", "deployments").unwrap();
        let deployment = json!({
            "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"replicas": 3}, "status": {"replicas": 2},
        });
        let now = "1970-01-01T00:00:05Z".parse().unwrap();
        let options = Options { now, include: IncludeObject::None, columns: true, metadata: &json!({}) };
        let table = render(resource, [&crate::scale::read(resource, &deployment)], &options);
        let names: Vec<_> =
            table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
        assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
        assert_eq!(table["rows"][0]["cells"], json!(["a", 3, 2, "5s"]));
    }

    #[test]
    fn rows_carry_what_was_asked_for() {
        let resource = Registry::builtin().resource("", "v1", "configmaps").unwrap();
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"}, "data": {"k": "v"}});
        let now = "1970-01-01T00:00:05Z".parse().unwrap();
        let metadata = json!({"resourceVersion": "7"});
        let row = |include| {
            let options = Options { now, include, columns: true, metadata: &metadata };
            render(resource, [&object], &options)["rows"][0].clone()
        };
        assert_eq!(row(IncludeObject::None), json!({"cells": ["a", 1, "5s"]}));
        assert_eq!(row(IncludeObject::Metadata)["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row(IncludeObject::Object)["object"], object);
    }
}
