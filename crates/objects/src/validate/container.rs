//! Containers of pods.

use serde_json::Value;

use super::{Errors, at_least, invalid_all, one_of, port_number, port_reference, volume};
use crate::document::Document;
use crate::field::{FieldError, Path};
use crate::names;
use crate::quantity::Quantity;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

/// What containers of one pod share.
#[derive(Debug, Default)]
pub(super) struct Pod<'a> {
    /// Names of the volumes.
    pub(super) volumes: Vec<&'a str>,
    /// Names of the containers so far.
    pub(super) names: Vec<&'a str>,
    /// Host address, port and protocol in use so far.
    pub(super) host_ports: Vec<(&'a str, i64, &'a str)>,
    pub(super) host_network: bool,
}

/// One container. `init`: it runs before the others, unless it is restarted for ever.
pub(super) fn container<'a>(
    container: &'a Value,
    init: bool,
    pod: &mut Pod<'a>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    identity(container, pod, path, errors);
    ports(container, pod, path, errors);
    environment(container, path, errors);
    volume::mounts(container, &pod.volumes, path, errors);
    let sidecar = container.text(&["restartPolicy"]) == "Always";
    for (field, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        if !container.has(&[field]) {
            continue;
        }
        let path = path.field(field);
        if init && !sidecar {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&path, detail));
        } else {
            probe(container.at(&[field]), once, &path, errors);
        }
    }
    let lifecycle = path.field("lifecycle");
    for hook in ["postStart", "preStop"] {
        if container.has(&["lifecycle", hook]) {
            let path = lifecycle.field(hook);
            if init && !sidecar {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(&lifecycle, detail));
                break;
            }
            handler(
                container.at(&["lifecycle", hook]),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                &path,
                errors,
            );
        }
    }
    resources(container, path, errors);
}

/// Its name, which no other container of the pod has, and its image.
pub(super) fn identity<'a>(container: &'a Value, pod: &mut Pod<'a>, path: &Path<'_>, errors: &mut Errors) {
    let name = container.text(&["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&path.field("name"), ""));
    } else {
        invalid_all(&path.field("name"), name, names::dns_label(name), errors);
        if pod.names.contains(&name) {
            errors.push(FieldError::duplicate(&path.field("name"), name));
        }
    }
    pod.names.push(name);
    let image = container.text(&["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(&path.field("image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.field("image"), image, detail));
    }
    let policy = container.text(&["imagePullPolicy"]);
    one_of(policy, &["Always", "IfNotPresent", "Never"], &path.field("imagePullPolicy"), errors);
}

fn ports<'a>(container: &'a Value, pod: &mut Pod<'a>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.field("ports");
    let mut port_names: Vec<&str> = Vec::new();
    for (index, port) in container.list(&["ports"]).iter().enumerate() {
        let path = list.index(index);
        let name = port.text(&["name"]);
        if !name.is_empty() {
            invalid_all(&path.field("name"), name, names::port_name(name), errors);
            if port_names.contains(&name) {
                errors.push(FieldError::duplicate(&path.field("name"), name));
            }
            port_names.push(name);
        }
        match port.int(&["containerPort"]).unwrap_or(0) {
            0 => errors.push(FieldError::required(&path.field("containerPort"), "")),
            number => port_number(number, &path.field("containerPort"), errors),
        }
        let protocol = port.text(&["protocol"]);
        one_of(protocol, PROTOCOLS, &path.field("protocol"), errors);
        let host_port = port.int(&["hostPort"]).unwrap_or(0);
        if host_port == 0 {
            continue;
        }
        port_number(host_port, &path.field("hostPort"), errors);
        if pod.host_network && port.int(&["containerPort"]) != Some(host_port) {
            let detail = "must match `hostPort` when `hostNetwork` is true";
            errors.push(FieldError::invalid(
                &path.field("containerPort"),
                port.at(&["containerPort"]).clone(),
                detail,
            ));
        }
        let host_ip = match port.text(&["hostIP"]) {
            "0.0.0.0" | "::" => "",
            ip => ip,
        };
        let key = (host_ip, host_port, protocol);
        if pod.host_ports.contains(&key) {
            let shown = format!("{protocol}/{host_ip}/{host_port}");
            errors.push(FieldError::duplicate(&path.field("hostPort"), shown));
        }
        pod.host_ports.push(key);
    }
}

pub(super) fn environment(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let list = path.field("env");
    for (index, variable) in container.list(&["env"]).iter().enumerate() {
        let path = list.index(index);
        let name = variable.text(&["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&path.field("name"), ""));
        } else {
            invalid_all(&path.field("name"), name, names::env_name(name), errors);
        }
        if let Some(sources) = variable.map(&["valueFrom"]) {
            let path = path.field("valueFrom");
            match sources.len() {
                0 => {
                    let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                                  `secretKeyRef`";
                    errors.push(FieldError::invalid(&path, "", detail));
                }
                1 if !variable.text(&["value"]).is_empty() => {
                    let detail = "may not be specified when `value` is not empty";
                    errors.push(FieldError::invalid(&path, "", detail));
                }
                1 => reference(variable.at(&["valueFrom"]), &path, errors),
                _ => {
                    let detail = "may not have more than one field specified at a time";
                    errors.push(FieldError::invalid(&path, "", detail));
                }
            }
        }
    }
    let list = path.field("envFrom");
    for (index, source) in container.list(&["envFrom"]).iter().enumerate() {
        let path = list.index(index);
        let given = ["configMapRef", "secretRef"].into_iter().filter(|field| source.has(&[field]));
        match given.collect::<Vec<_>>().as_slice() {
            [] => errors.push(FieldError::invalid(
                &path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            [field] => {
                if source.text(&[field, "name"]).is_empty() {
                    errors.push(FieldError::required(&path.field(field).field("name"), ""));
                }
            }
            _ => {
                let detail = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(&path, "", detail));
            }
        }
    }
}

fn reference(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if !source.has(&[field]) {
            continue;
        }
        let path = path.field(field);
        for part in ["name", "key"] {
            if source.text(&[field, part]).is_empty() {
                errors.push(FieldError::required(&path.field(part), ""));
            }
        }
    }
    if source.has(&["fieldRef"]) {
        let field_path = source.text(&["fieldRef", "fieldPath"]);
        let path = path.field("fieldRef");
        let path = path.field("fieldPath");
        let subscripted =
            ["metadata.labels['", "metadata.annotations['"].iter().any(|p| field_path.starts_with(p));
        if field_path.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !FIELD_PATHS.contains(&field_path) && !subscripted {
            errors.push(FieldError::not_supported(&path, field_path, FIELD_PATHS));
        }
    }
}

const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// `once`: one success is enough, by definition.
fn probe(probe: &Value, once: bool, path: &Path<'_>, errors: &mut Errors) {
    handler(probe, &HANDLERS, path, errors);
    for (field, least) in [
        ("initialDelaySeconds", 0),
        ("timeoutSeconds", 0),
        ("periodSeconds", 0),
        ("successThreshold", 0),
        ("failureThreshold", 0),
    ] {
        at_least(probe, &[field], &path.field(field), least, errors);
    }
    if let Some(grace) = probe.int(&["terminationGracePeriodSeconds"]).filter(|grace| *grace <= 0) {
        errors.push(FieldError::invalid(
            &path.field("terminationGracePeriodSeconds"),
            grace,
            "must be greater than 0",
        ));
    }
    if let Some(threshold) = probe.int(&["successThreshold"]).filter(|threshold| once && *threshold != 1) {
        errors.push(FieldError::invalid(&path.field("successThreshold"), threshold, "must be 1"));
    }
}

/// Exactly one of the ways to probe or to be told.
fn handler(handler: &Value, ways: &[&'static str], path: &Path<'_>, errors: &mut Errors) {
    let mut given = ways.iter().copied().filter(|way| handler.has(&[way]));
    let Some(way) = given.next() else {
        errors.push(FieldError::required(path, "must specify a handler type"));
        return;
    };
    for other in given {
        errors.push(FieldError::forbidden(&path.field(other), "may not specify more than 1 handler type"));
    }
    let action = path.field(way);
    match way {
        "exec" if handler.list(&["exec", "command"]).is_empty() => {
            errors.push(FieldError::required(&action.field("command"), ""));
        }
        "httpGet" | "tcpSocket" => {
            port_reference(handler.at(&[way, "port"]), &action.field("port"), errors);
            if way == "httpGet" {
                one_of(handler.text(&[way, "scheme"]), &["HTTP", "HTTPS"], &action.field("scheme"), errors);
            }
        }
        "grpc" => port_number(handler.int(&["grpc", "port"]).unwrap_or(0), &action.field("port"), errors),
        _ => {}
    }
}

pub(super) fn resources(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.field("resources");
    let parse = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    for field in ["limits", "requests"] {
        let path = path.field(field);
        for (name, value) in container.map(&["resources", field]).into_iter().flatten() {
            if parse(value).is_some_and(|quantity| quantity.is_negative()) {
                let detail = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(&path.key(name), value.clone(), detail));
            }
        }
    }
    for (name, request) in container.map(&["resources", "requests"]).into_iter().flatten() {
        let limit = container.at(&["resources", "limits", name]);
        if let (Some(asked), Some(most)) = (parse(request), parse(limit))
            && asked > most
        {
            let path = path.field("requests");
            let detail = format!(
                "must be less than or equal to {name} limit of {}",
                limit.as_str().unwrap_or_default()
            );
            errors.push(FieldError::invalid(&path, request.clone(), &detail));
        }
    }
}
