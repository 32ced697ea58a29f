//! How workloads print.

use serde_json::Value;

use super::{Printer, age, int, labels, number, or_none, selector, text, wide};
use crate::document::{self, Document};

/// Names and images of the containers of a template.
pub(super) fn containers(template: &Value) -> [Value; 2] {
    let list = |field: &str| {
        let containers = template.list(&["spec", "containers"]).iter();
        containers.map(|container| container.text(&[field])).collect::<Vec<_>>().join(",").into()
    };
    [list("name"), list("image")]
}

fn ready(object: &Value) -> Value {
    let count = |path: &[&str]| object.int(path).unwrap_or(0);
    format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"])).into()
}

pub(super) const DEPLOYMENT: Printer = Printer {
    columns: &[
        text("Name"),
        text("Ready"),
        number("Up-to-date"),
        number("Available"),
        text("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let [names, images] = containers(object.at(&["spec", "template"]));
        vec![
            document::name(object).into(),
            ready(object),
            int(object, &["status", "updatedReplicas"]),
            int(object, &["status", "availableReplicas"]),
            age(object, now),
            names,
            images,
            selector(object.at(&["spec", "selector"])),
        ]
    },
};

/// The `scale` subresource of anything.
pub(super) const SCALE: Printer = Printer {
    columns: &[text("Name"), number("Desired"), number("Available"), text("Age")],
    cells: |object, now| {
        vec![
            document::name(object).into(),
            int(object, &["spec", "replicas"]),
            int(object, &["status", "replicas"]),
            age(object, now),
        ]
    },
};

pub(super) const REPLICA_SET: Printer = Printer {
    columns: &[
        text("Name"),
        number("Desired"),
        number("Current"),
        number("Ready"),
        text("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let [names, images] = containers(object.at(&["spec", "template"]));
        let of_labels = object.has(&["spec", "selector", "matchLabels"])
            || object.has(&["spec", "selector", "matchExpressions"]);
        let select = if of_labels { selector } else { labels };
        vec![
            document::name(object).into(),
            int(object, &["spec", "replicas"]),
            int(object, &["status", "replicas"]),
            int(object, &["status", "readyReplicas"]),
            age(object, now),
            names,
            images,
            select(object.at(&["spec", "selector"])),
        ]
    },
};

pub(super) const STATEFUL_SET: Printer = Printer {
    columns: &[text("Name"), text("Ready"), text("Age"), wide("Containers"), wide("Images")],
    cells: |object, now| {
        let [names, images] = containers(object.at(&["spec", "template"]));
        vec![document::name(object).into(), ready(object), age(object, now), names, images]
    },
};

pub(super) const DAEMON_SET: Printer = Printer {
    columns: &[
        text("Name"),
        number("Desired"),
        number("Current"),
        number("Ready"),
        number("Up-to-date"),
        number("Available"),
        text("Node Selector"),
        text("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let [names, images] = containers(object.at(&["spec", "template"]));
        vec![
            document::name(object).into(),
            int(object, &["status", "desiredNumberScheduled"]),
            int(object, &["status", "currentNumberScheduled"]),
            int(object, &["status", "numberReady"]),
            int(object, &["status", "updatedNumberScheduled"]),
            int(object, &["status", "numberAvailable"]),
            labels(object.at(&["spec", "template", "spec", "nodeSelector"])),
            age(object, now),
            names,
            images,
            selector(object.at(&["spec", "selector"])),
        ]
    },
};

pub(super) const CONTROLLER_REVISION: Printer = Printer {
    columns: &[text("Name"), text("Controller"), number("Revision"), text("Age")],
    cells: |object, now| {
        let owners = object.list(&["metadata", "ownerReferences"]);
        let controller = owners.iter().find(|owner| owner.is_true(&["controller"]));
        let controller = controller.map(|owner| {
            let (kind, api_version) =
                (owner.text(&["kind"]).to_ascii_lowercase(), owner.text(&["apiVersion"]));
            match api_version.split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.text(&["name"])),
                None => format!("{kind}/{}", owner.text(&["name"])),
            }
        });
        vec![
            document::name(object).into(),
            or_none(&controller.unwrap_or_default()),
            int(object, &["revision"]),
            age(object, now),
        ]
    },
};

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn workloads_show_counts_and_templates() {
        let object = json!({
            "metadata": {"name": "w"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
                     "template": {"spec": {"containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "j"}]}}},
            "status": {"replicas": 3, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2},
        });
        let row = |printer: &Printer| Value::Array((printer.cells)(&object, Timestamp::UNIX_EPOCH));
        assert_eq!(row(&DEPLOYMENT), json!(["w", "2/3", 1, 2, "<unknown>", "x,y", "i:1,j", "a=b"]));
        assert_eq!(row(&REPLICA_SET), json!(["w", 3, 3, 2, "<unknown>", "x,y", "i:1,j", "a=b"]));
        assert_eq!(row(&STATEFUL_SET), json!(["w", "2/3", "<unknown>", "x,y", "i:1,j"]));
    }
}
