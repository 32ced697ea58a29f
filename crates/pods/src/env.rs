//! A container's environment and command line: pure functions of the pod, the objects that it refers to, and the Services of its
//! namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_kit::Snapshot;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service,
};

/// Objects that pods refer to, as one consistent view.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub config_maps: Arc<Snapshot<ConfigMap>>,
    pub secrets: Arc<Snapshot<Secret>>,
    pub services: Arc<Snapshot<Service>>,
}

/// What the downward API tells beside the object itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub pod: Option<IpAddr>,
    pub host: IpAddr,
}

/// Why a container's configuration cannot be made; shown as CreateContainerConfigError until the object is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("configmap {name:?} not found")]
    ConfigMapMissing { name: String },
    #[error("secret {name:?} not found")]
    SecretMissing { name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyMissing { kind: &'static str, namespace: String, name: String, key: String },
    #[error("field {path:?} is not one that the downward API offers")]
    Field { path: String },
    #[error("resource {resource:?} of container {container:?} is not one that the downward API offers")]
    Resource { container: String, resource: String },
}

/// The variables of a container, in order of definition.
pub(crate) fn variables(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    addresses: Addresses,
) -> Result<Vec<(String, String)>, ConfigError> {
    let namespace = namespace_of(pod);
    let mut all = Variables::default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    service_variables(&sources.services, namespace, links)
        .into_iter()
        .for_each(|(name, value)| all.set(name, value));
    for source in container.env_from.as_deref().unwrap_or_default() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(wanted) = &source.config_map_ref {
            match sources.config_maps.find(namespace, &wanted.name) {
                Some(found) => {
                    for (key, value) in found.data.iter().flatten() {
                        all.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(ConfigError::ConfigMapMissing { name: wanted.name.clone() }),
            }
        }
        if let Some(wanted) = &source.secret_ref {
            match sources.secrets.find(namespace, &wanted.name) {
                Some(found) => {
                    for (key, value) in found.data.iter().flatten() {
                        all.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(ConfigError::SecretMissing { name: wanted.name.clone() }),
            }
        }
    }
    for variable in container.env.as_deref().unwrap_or_default() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) => Some(expand(text, |name| all.find(name))),
            (None, Some(source)) => from_source(source, pod, container, sources, addresses)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            all.set(variable.name.clone(), value);
        }
    }
    Ok(all.0)
}

/// Defined in order; a later definition replaces the value in place.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn from_source(
    source: &EnvVarSource,
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    addresses: Addresses,
) -> Result<Option<String>, ConfigError> {
    let namespace = namespace_of(pod);
    let key_missing = |kind, name: &str, key: &str| ConfigError::KeyMissing {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, addresses).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_value(pod, container, field).map(Some);
    }
    if let Some(wanted) = &source.config_map_key_ref {
        let optional = wanted.optional == Some(true);
        return match sources.config_maps.find(namespace, &wanted.name) {
            None if optional => Ok(None),
            None => Err(ConfigError::ConfigMapMissing { name: wanted.name.clone() }),
            Some(found) => match found.data.as_ref().and_then(|data| data.get(&wanted.key)) {
                None if optional => Ok(None),
                None => Err(key_missing("ConfigMap", &wanted.name, &wanted.key)),
                Some(value) => Ok(Some(value.clone())),
            },
        };
    }
    if let Some(wanted) = &source.secret_key_ref {
        let optional = wanted.optional == Some(true);
        return match sources.secrets.find(namespace, &wanted.name) {
            None if optional => Ok(None),
            None => Err(ConfigError::SecretMissing { name: wanted.name.clone() }),
            Some(found) => match found.data.as_ref().and_then(|data| data.get(&wanted.key)) {
                None if optional => Ok(None),
                None => Err(key_missing("Secret", &wanted.name, &wanted.key)),
                Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            },
        };
    }
    Ok(Some(String::new()))
}

/// The namespace of a pod.
pub(crate) fn namespace_of(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// A field of the downward API, for variables and files.
pub(crate) fn field_value(pod: &Pod, path: &str, addresses: Addresses) -> Result<String, ConfigError> {
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    let address = |ip: Option<IpAddr>| Ok(ip.map(|ip| ip.to_string()).unwrap_or_default());
    match path {
        "metadata.name" => text(pod.metadata.name.as_ref()),
        "metadata.namespace" => Ok(namespace_of(pod).to_owned()),
        "metadata.uid" => text(pod.metadata.uid.as_ref()),
        "metadata.labels" => Ok(map_text(pod.metadata.labels.as_ref())),
        "metadata.annotations" => Ok(map_text(pod.metadata.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => {
            Ok(spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or("default".into()))
        }
        "status.podIP" | "status.podIPs" => address(addresses.pod),
        "status.hostIP" | "status.hostIPs" => address(Some(addresses.host)),
        _ => {
            let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
            let lookup =
                |map: Option<&BTreeMap<String, String>>, key: &str| text(map.and_then(|map| map.get(key)));
            if let Some(key) = keyed("metadata.labels['") {
                lookup(pod.metadata.labels.as_ref(), key)
            } else if let Some(key) = keyed("metadata.annotations['") {
                lookup(pod.metadata.annotations.as_ref(), key)
            } else {
                Err(ConfigError::Field { path: path.to_owned() })
            }
        }
    }
}

fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// `limits.cpu` and its like. Without a limit it is what the machine has, as on a real node.
pub(crate) fn resource_value(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldSelector,
) -> Result<String, ConfigError> {
    let name = field.container_name.as_deref().unwrap_or(&container.name);
    let unknown = || ConfigError::Resource { container: name.to_owned(), resource: field.resource.clone() };
    let spec = pod.spec.as_ref();
    let mut all =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let of = all.find(|container| container.name == name).ok_or_else(unknown)?;
    let (kind, resource) = field.resource.split_once('.').ok_or_else(unknown)?;
    let resources = of.resources.as_ref();
    let table = match kind {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unknown()),
    };
    let value_milli = match (table.and_then(|table| table.get(resource)), kind, resource) {
        (Some(quantity), ..) => quantity_milli(&quantity.0).ok_or_else(unknown)?,
        (None, "limits", "cpu") => {
            std::thread::available_parallelism().map_or(1, |count| count.get() as i128) * 1000
        }
        (None, "limits", "memory") => memory_bytes() * 1000,
        (None, ..) => 0,
    };
    let divisor = field
        .divisor
        .as_ref()
        .and_then(|quantity| quantity_milli(&quantity.0))
        .filter(|value| *value > 0)
        .unwrap_or(1000);
    Ok((value_milli + divisor - 1).div_euclid(divisor).to_string())
}

/// The memory of this machine.
pub(crate) fn memory_bytes() -> i128 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<i128>().ok()
    });
    kib.unwrap_or(0) * 1024
}

/// A quantity in thousandths, rounded up: `1.5`, `250m`, `64Mi`, `2e3`.
pub(crate) fn quantity_milli(text: &str) -> Option<i128> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(split)?;
    if let Some(exponent) =
        suffix.strip_prefix(['e', 'E']).filter(|exponent| !exponent.is_empty() && *exponent != "i")
    {
        let exponent: u32 = exponent.parse().ok().filter(|exponent| *exponent <= 18)?;
        return quantity_milli(number)?.checked_mul(10_i128.pow(exponent));
    }
    let factor_milli: i128 = match suffix {
        // Less than a thousandth counts as one.
        "n" | "u" | "m" => 1,
        "" => 1000,
        "k" => 1000 * 1000,
        "M" => 1000 * 1_000_000,
        "G" => 1000 * 1_000_000_000,
        "T" => 1000 * 1_000_000_000_000,
        "P" => 1000 * 1_000_000_000_000_000,
        "E" => 1000 * 1_000_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        "Ei" => 1000 << 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    let scale = 10_i128.pow(digits);
    let value: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some((value.checked_mul(factor_milli)? + scale - 1).div_euclid(scale))
}

/// Variables for the Services of a namespace that have an address, and for the API server in any case.
fn service_variables(services: &Snapshot<Service>, namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut all = Vec::new();
    if let Some(service) = services.find("default", "kubernetes") {
        push_service(service, &mut all);
    }
    if links {
        for (key, service) in &services.objects {
            let is_api = &*key.namespace == "default" && &*key.name == "kubernetes";
            if &*key.namespace == namespace && !is_api {
                push_service(service, &mut all);
            }
        }
    }
    all
}

fn push_service(service: &Service, all: &mut Vec<(String, String)>) {
    let (Some(name), Some(spec)) = (&service.metadata.name, &service.spec) else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let base = variable_name(name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let protocol = |port: &k8s_openapi::api::core::v1::ServicePort| {
        port.protocol.as_deref().unwrap_or("TCP").to_lowercase()
    };
    all.push((format!("{base}_SERVICE_HOST"), ip.to_owned()));
    all.push((format!("{base}_SERVICE_PORT"), first.port.to_string()));
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            all.push((format!("{base}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string()));
        }
    }
    all.push((format!("{base}_PORT"), format!("{}://{host}:{}", protocol(first), first.port)));
    for port in ports {
        let protocol = protocol(port);
        let stem = format!("{base}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.push((stem.clone(), format!("{protocol}://{host}:{}", port.port)));
        all.push((format!("{stem}_PROTO"), protocol));
        all.push((format!("{stem}_PORT"), port.port.to_string()));
        all.push((format!("{stem}_ADDR"), ip.to_owned()));
    }
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace(['-', '.'], "_")
}

/// Replaces `$(NAME)` where the name is known; `$$` is a dollar sign; everything else stays as it is.
pub(crate) fn expand<'a>(text: &str, find: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = from.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            match find(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    out + rest
}

/// The command line: `command` replaces the image's entrypoint and its default arguments, `args` replaces the arguments.
pub(crate) fn command_line(
    container: &Container,
    entrypoint: &[String],
    cmd: &[String],
    env: &[(String, String)],
) -> Vec<String> {
    let find = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let expanded = |list: &[String]| list.iter().map(|text| expand(text, find)).collect::<Vec<_>>();
    let given = |list: &Option<Vec<String>>| list.as_deref().filter(|list| !list.is_empty()).map(expanded);
    let (mut line, arguments) = match (given(&container.command), given(&container.args)) {
        (Some(command), args) => (command, args.unwrap_or_default()),
        (None, Some(args)) => (entrypoint.to_vec(), args),
        (None, None) => (entrypoint.to_vec(), cmd.to_vec()),
    };
    line.extend(arguments);
    line
}

#[cfg(test)]
pub(crate) mod tests;
