//! The values of `${variables}`: the scenario's own names, and fields of objects.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::cluster::Cluster;
use super::objects::ApiError;
use crate::document::step::ObjectRef;
use crate::expect::at_path;
use crate::template::Name;

/// Why a variable has no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VariableError {
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error(
        "the variable ${{{name}}} is not known: use namespace, cluster, gateway, dns, or KIND/NAME:FIELD"
    )]
    Unknown { name: Name },
    #[error("the variable ${{{name}}}: {detail}")]
    NoValue { name: Name, detail: String },
}

/// What a variable means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    Namespace,
    Cluster,
    Field { object: ObjectRef, path: String },
}

/// `gateway` and `dns` are names for fields of well-known Services; a field has short names where people use them.
fn meaning(name: &str) -> Option<Meaning> {
    let text = match name {
        "namespace" => return Some(Meaning::Namespace),
        "cluster" => return Some(Meaning::Cluster),
        "gateway" => "fairway-system/service/fairway-gateway:ip",
        "dns" => "kube-system/service/kube-dns:clusterIP",
        other => other,
    };
    let (object, field) = text.split_once(':')?;
    let object = ObjectRef::parse(object)?;
    let is = |names: &[&str]| names.contains(&object.kind.as_str());
    let path = match field {
        "clusterIP" => "spec.clusterIP",
        "nodePort" => "spec.ports.0.nodePort",
        "ip" if is(&["pod", "pods", "po"]) => "status.podIP",
        "ip" if is(&["node", "nodes", "no"]) => "status.addresses.0.address",
        "ip" => "status.loadBalancer.ingress.0.ip",
        "node" if is(&["pod", "pods", "po"]) => "spec.nodeName",
        path => path,
    };
    Some(Meaning::Field { object, path: path.to_owned() })
}

/// The values of these variables, each object asked for once a name.
pub(super) async fn values(
    cluster: &Cluster,
    names: BTreeSet<Name>,
    home: &str,
) -> Result<BTreeMap<Name, String>, VariableError> {
    let mut values = BTreeMap::new();
    for name in names {
        let value = match meaning(&name).ok_or_else(|| VariableError::Unknown { name: name.clone() })? {
            Meaning::Namespace => home.to_owned(),
            Meaning::Cluster => cluster.name.clone(),
            Meaning::Field { object, path } => {
                let failed = |detail: String| VariableError::NoValue { name: name.clone(), detail };
                let found = cluster.find(&object, home).await?;
                let found = found.ok_or_else(|| failed(format!("{object} does not exist")))?;
                match at_path(&found, &path) {
                    Some(Value::String(text)) => text.clone(),
                    Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                    Some(_) => return Err(failed(format!("{path} of {object} is not a single value"))),
                    None => return Err(failed(format!("{object} has no {path} (yet: wait for it first)"))),
                }
            }
        };
        values.insert(name, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_a_field_of_an_object() {
        let cases = [
            ("service/web:clusterIP", "service/web", "spec.clusterIP"),
            ("service/web:ip", "service/web", "status.loadBalancer.ingress.0.ip"),
            ("pod/web-0:ip", "pod/web-0", "status.podIP"),
            ("node/node-1:ip", "node/node-1", "status.addresses.0.address"),
            ("shop/service/web:spec.ports.1.nodePort", "shop/service/web", "spec.ports.1.nodePort"),
            ("gateway", "fairway-system/service/fairway-gateway", "status.loadBalancer.ingress.0.ip"),
        ];
        for (name, object, path) in cases {
            let want = Meaning::Field { object: ObjectRef::parse(object).unwrap(), path: path.into() };
            assert_eq!(meaning(name), Some(want), "{name}");
        }
        for name in ["banana", "service:ip", "service/web"] {
            assert_eq!(meaning(name), None, "{name}");
        }
    }
}
