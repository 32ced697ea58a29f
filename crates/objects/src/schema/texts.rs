//! Short descriptions of kinds and fields, for `kubectl explain`.

use std::collections::HashMap;
use std::sync::LazyLock;

/// By `Type`, `Type.field` and `*.field`.
fn texts() -> &'static HashMap<&'static str, &'static str> {
    static TEXTS: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
        let lines = include_str!("texts.txt").lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once(' ')).collect()
    });
    &TEXTS
}

/// What a type is for, by its short name: `ServicePort`.
pub fn of_type(name: &str) -> Option<&'static str> {
    texts().get(name).copied()
}

/// What a field of a type is for.
pub fn of_field(type_name: &str, field: &str) -> Option<&'static str> {
    let own = texts().get(format!("{type_name}.{field}").as_str());
    own.or_else(|| texts().get(format!("*.{field}").as_str())).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::schema::Types;

    #[test]
    fn every_text_is_about_something() {
        let known = |key: &str| {
            let (name, field) = key.split_once('.').unwrap_or((key, ""));
            Types::builtin().iter().any(|(_, structure)| {
                (name == "*" || structure.short_name() == name)
                    && (field.is_empty() || structure.field(field).is_some())
            })
        };
        let unknown: Vec<_> = texts().keys().filter(|key| !known(key)).collect();
        assert_eq!(unknown, Vec::<&&str>::new());
    }

    #[test]
    fn kinds_and_the_fields_of_the_network_have_texts() {
        for resource in Registry::builtin().resources() {
            assert!(of_type(resource.kind()).is_some(), "{}", resource.kind());
        }
        for (_, structure) in Types::builtin().iter() {
            let name = structure.short_name();
            let networking = structure.name.starts_with("io.k8s.api.networking.")
                || structure.name.starts_with("io.k8s.api.discovery.v1.Endpoint")
                || matches!(name, "ObjectMeta" | "ServiceSpec" | "ServicePort" | "DeploymentSpec");
            for field in structure.fields().iter().filter(|_| networking) {
                assert!(of_field(name, &field.name).is_some(), "{name}.{}", field.name);
            }
        }
    }
}
