//! How the kinds around workloads and the network print.

use jiff::Timestamp;
use serde_json::Value;

use super::{Printer, age, number, or_none, since, text, wide, wide_number};
use crate::document::{self, Document};

pub(super) const NODE: Printer = Printer {
    columns: &[
        text("Name"),
        text("Status"),
        text("Roles"),
        text("Age"),
        text("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |node, now| {
        let info = |field: &str| match node.text(&["status", "nodeInfo", field]) {
            "" => Value::from("<unknown>"),
            known => known.into(),
        };
        vec![
            document::name(node).into(),
            node_status(node).into(),
            or_none(&node_roles(node).join(",")),
            age(node, now),
            node.text(&["status", "nodeInfo", "kubeletVersion"]).into(),
            node_address(node, "InternalIP"),
            node_address(node, "ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let conditions = node.list(&["status", "conditions"]);
    let ready = conditions.iter().find(|condition| condition.text(&["type"]) == "Ready");
    let mut status = match ready.map(|condition| condition.text(&["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.is_true(&["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> Vec<&str> {
    let labels = node.map(&["metadata", "labels"]).into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

fn node_address(node: &Value, kind: &str) -> Value {
    let mut addresses = node.list(&["status", "addresses"]).iter();
    let address = addresses.find(|address| address.text(&["type"]) == kind);
    or_none(address.map(|address| address.text(&["address"])).unwrap_or_default())
}

pub(super) const EVENT: Printer = Printer {
    columns: &[
        text("Last Seen"),
        text("Type"),
        text("Reason"),
        text("Object"),
        wide("Subobject"),
        wide("Source"),
        text("Message"),
        wide("First Seen"),
        wide_number("Count"),
        wide("Name"),
    ],
    cells: event_cells,
};

fn event_cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let first = match event.text(&["firstTimestamp"]) {
        "" => event.text(&["eventTime"]),
        time => time,
    };
    let series = event.at(&["series"]);
    let last = match (series.text(&["lastObservedTime"]), event.text(&["lastTimestamp"])) {
        ("", "") => first,
        ("", last) => last,
        (observed, _) => observed,
    };
    let count = match (series.int(&["count"]), event.int(&["count"])) {
        (Some(count), _) => count,
        (None, count) => count.filter(|count| *count > 0).unwrap_or(1),
    };
    let kind = event.text(&["involvedObject", "kind"]).to_ascii_lowercase();
    let object = match event.text(&["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = match event.text(&["source", "component"]) {
        "" => event.text(&["reportingComponent"]),
        component => component,
    };
    let source = match event.text(&["source", "host"]) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
    vec![
        since(last, now).into(),
        event.text(&["type"]).into(),
        event.text(&["reason"]).into(),
        object.into(),
        event.text(&["involvedObject", "fieldPath"]).into(),
        source.into(),
        event.text(&["message"]).trim().into(),
        since(first, now).into(),
        count.into(),
        document::name(event).into(),
    ]
}

pub(super) const NAMESPACE: Printer = Printer {
    columns: &[text("Name"), text("Status"), text("Age")],
    cells: |object, now| {
        vec![document::name(object).into(), object.text(&["status", "phase"]).into(), age(object, now)]
    },
};

fn entries(object: &Value, field: &str) -> usize {
    object.map(&[field]).map_or(0, document::Object::len)
}

pub(super) const SECRET: Printer = Printer {
    columns: &[text("Name"), text("Type"), number("Data"), text("Age")],
    cells: |object, now| {
        let data = entries(object, "data");
        vec![document::name(object).into(), object.text(&["type"]).into(), data.into(), age(object, now)]
    },
};

pub(super) const CONFIG_MAP: Printer = Printer {
    columns: &[text("Name"), number("Data"), text("Age")],
    cells: |object, now| {
        let data = entries(object, "data") + entries(object, "binaryData");
        vec![document::name(object).into(), data.into(), age(object, now)]
    },
};

pub(super) const SERVICE_ACCOUNT: Printer = Printer {
    columns: &[text("Name"), text("Age")],
    cells: |object, now| vec![document::name(object).into(), age(object, now)],
};

pub(super) const LEASE: Printer = Printer {
    columns: &[text("Name"), text("Holder"), text("Age")],
    cells: |object, now| {
        vec![document::name(object).into(), object.text(&["spec", "holderIdentity"]).into(), age(object, now)]
    },
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_show_state_roles_and_addresses() {
        let node = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "addresses": [{"type": "InternalIP", "address": "10.200.0.2"}],
                       "nodeInfo": {"kubeletVersion": "v1.36.0"}},
        });
        assert_eq!(
            (NODE.cells)(&node, Timestamp::UNIX_EPOCH),
            [
                "n",
                "Ready,SchedulingDisabled",
                "edge,worker",
                "<unknown>",
                "v1.36.0",
                "10.200.0.2",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]
            .map(Value::from)
        );
        assert_eq!(node_status(&json!({})), "Unknown");
    }

    #[test]
    fn events_show_when_they_were_last_seen() {
        let event = json!({
            "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " hello\n",
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n"},
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:01:00Z", "count": 3,
        });
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(
            Value::Array(event_cells(&event, now)),
            json!(["40s", "Normal", "Started", "pod/p", "", "kubelet, n", "hello", "100s", 3, "e"])
        );
        let series = json!({"eventTime": "1970-01-01T00:00:10.000000Z",
            "series": {"count": 7, "lastObservedTime": "1970-01-01T00:01:30.000000Z"}});
        let cells = event_cells(&series, now);
        assert_eq!((&cells[0], &cells[7], &cells[8]), (&json!("10s"), &json!("90s"), &json!(7)));
    }
}
