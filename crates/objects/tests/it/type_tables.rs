//! The embedded type tables are generated from the field facts of Kubernetes 1.36 and three facts those lack:
//! which optional scalars distinguish zero from absence, and how protobuf nests what JSON flattens.
//!
//! `BLESS=1 cargo nextest run -p fairway-objects type_tables` rewrites the tables. The facts are not part of the
//! repository; without them the tables are only read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const FACTS: &str = "shared/data/kubernetes-1.36-fields.tsv";

/// Short package names and the prefixes of their types.
const PACKAGES: &[(&str, &str)] = &[
    ("meta", "io.k8s.apimachinery.pkg.apis.meta.v1."),
    ("resource", "io.k8s.apimachinery.pkg.api.resource."),
    ("runtime", "io.k8s.apimachinery.pkg.runtime."),
    ("intstr", "io.k8s.apimachinery.pkg.util.intstr."),
    ("core", "io.k8s.api.core.v1."),
    ("apps", "io.k8s.api.apps.v1."),
    ("batch", "io.k8s.api.batch.v1."),
    ("autoscaling", "io.k8s.api.autoscaling.v1."),
    ("discovery", "io.k8s.api.discovery.v1."),
    ("networking", "io.k8s.api.networking.v1."),
    ("coordination", "io.k8s.api.coordination.v1."),
    ("events", "io.k8s.api.events.v1."),
    ("policy", "io.k8s.api.policy.v1."),
    ("authentication", "io.k8s.api.authentication.v1."),
    ("authorization", "io.k8s.api.authorization.v1."),
    ("rbac", "io.k8s.api.rbac.v1."),
    ("scheduling", "io.k8s.api.scheduling.v1."),
    ("storage", "io.k8s.api.storage.v1."),
    ("admissionregistration", "io.k8s.api.admissionregistration.v1."),
    ("apiextensions", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."),
];

/// Optional integers, booleans and int-or-strings that are plain values on the wire: zero means absent.
/// `*.x` holds for every structure.
const ZERO_IS_ABSENT: &[&str] = &[
    "*.minReadySeconds",
    "*.observedGeneration",
    "*.partition",
    "*.stdin",
    "*.stdinOnce",
    "*.tty",
    "AWSElasticBlockStoreVolumeSource.readOnly",
    "AzureFileVolumeSource.readOnly",
    "CephFSVolumeSource.readOnly",
    "CinderVolumeSource.readOnly",
    "ContainerImage.sizeBytes",
    "ContainerPort.hostPort",
    "ContainerStateTerminated.signal",
    "CustomResourceColumnDefinition.priority",
    "CustomResourceDefinitionSpec.preserveUnknownFields",
    "CustomResourceDefinitionVersion.deprecated",
    "DaemonSetStatus.numberAvailable",
    "DaemonSetStatus.numberUnavailable",
    "DaemonSetStatus.updatedNumberScheduled",
    "DeploymentSpec.paused",
    "DeploymentStatus.availableReplicas",
    "DeploymentStatus.readyReplicas",
    "DeploymentStatus.replicas",
    "DeploymentStatus.unavailableReplicas",
    "DeploymentStatus.updatedReplicas",
    "Event.count",
    "Event.deprecatedCount",
    "EventSeries.count",
    "FCVolumeSource.readOnly",
    "FlexVolumeSource.readOnly",
    "GCEPersistentDiskVolumeSource.readOnly",
    "GlusterfsVolumeSource.readOnly",
    "ISCSIVolumeSource.chapAuthDiscovery",
    "ISCSIVolumeSource.chapAuthSession",
    "ISCSIVolumeSource.readOnly",
    "JSONSchemaProps.exclusiveMaximum",
    "JSONSchemaProps.exclusiveMinimum",
    "JSONSchemaProps.nullable",
    "JSONSchemaProps.uniqueItems",
    "JSONSchemaProps.x-kubernetes-embedded-resource",
    "JSONSchemaProps.x-kubernetes-int-or-string",
    "JobStatus.active",
    "JobStatus.failed",
    "JobStatus.succeeded",
    "NFSVolumeSource.readOnly",
    "NodeSpec.unschedulable",
    "ObjectMeta.generation",
    "PersistentVolumeClaimVolumeSource.readOnly",
    "PodDisruptionBudgetStatus.currentHealthy",
    "PodDisruptionBudgetStatus.desiredHealthy",
    "PodDisruptionBudgetStatus.disruptionsAllowed",
    "PodDisruptionBudgetStatus.expectedPods",
    "PodSpec.hostIPC",
    "PodSpec.hostNetwork",
    "PodSpec.hostPID",
    "PortworxVolumeSource.readOnly",
    "PriorityClass.globalDefault",
    "Probe.failureThreshold",
    "Probe.initialDelaySeconds",
    "Probe.periodSeconds",
    "Probe.successThreshold",
    "Probe.timeoutSeconds",
    "QuobyteVolumeSource.readOnly",
    "RBDVolumeSource.readOnly",
    "ReplicaSetStatus.availableReplicas",
    "ReplicaSetStatus.fullyLabeledReplicas",
    "ReplicaSetStatus.readyReplicas",
    "ReplicationControllerStatus.availableReplicas",
    "ReplicationControllerStatus.fullyLabeledReplicas",
    "ReplicationControllerStatus.readyReplicas",
    "ScaleIOVolumeSource.readOnly",
    "ScaleIOVolumeSource.sslEnabled",
    "ScaleSpec.replicas",
    "ServiceBackendPort.number",
    "ServicePort.nodePort",
    "ServicePort.targetPort",
    "ServiceSpec.healthCheckNodePort",
    "ServiceSpec.publishNotReadyAddresses",
    "StatefulSetOrdinals.start",
    "StatefulSetStatus.availableReplicas",
    "StatefulSetStatus.currentReplicas",
    "StatefulSetStatus.readyReplicas",
    "StatefulSetStatus.updatedReplicas",
    "Status.code",
    "StatusDetails.retryAfterSeconds",
    "StorageOSVolumeSource.readOnly",
    "SubjectAccessReviewStatus.denied",
    "TokenReviewStatus.authenticated",
    "VolumeMount.readOnly",
    "VolumeMountStatus.readOnly",
];

/// `*.partition` above is about disks; this one is a pointer.
const ZERO_IS_VALUE: &[&str] = &[
    "RollingUpdateStatefulSetStrategy.partition",
    "EndpointPort.name",
    "GRPCAction.service",
    "HostPathVolumeSource.type",
    "PersistentVolumeClaimSpec.storageClassName",
];

/// Protobuf numbers of fields that JSON flattens. `=Container@1`: all of Container's, inside field 1.
const NESTED: &[(&str, &str)] = &[
    ("BoundObjectReference.uid", "4"),
    ("ConfigMapEnvSource.name", "1.1"),
    ("ConfigMapKeySelector.name", "1.1"),
    ("ConfigMapProjection.name", "1.1"),
    ("ConfigMapVolumeSource.name", "1.1"),
    ("IngressClassParametersReference.apiGroup", "1"),
    ("IngressRule.http", "2.1"),
    ("JSONSchemaProps.$ref", "3"),
    ("JSONSchemaProps.$schema", "2"),
    ("JSONSchemaProps.x-kubernetes-embedded-resource", "39"),
    ("JSONSchemaProps.x-kubernetes-int-or-string", "40"),
    ("JSONSchemaProps.x-kubernetes-list-map-keys", "41"),
    ("JSONSchemaProps.x-kubernetes-list-type", "42"),
    ("JSONSchemaProps.x-kubernetes-map-type", "43"),
    ("JSONSchemaProps.x-kubernetes-preserve-unknown-fields", "38"),
    ("JSONSchemaProps.x-kubernetes-validations", "44"),
    ("MutatingWebhookConfiguration.webhooks", "2"),
    ("NamedRuleWithOperations.apiGroups", "2.2.1"),
    ("NamedRuleWithOperations.apiVersions", "2.2.2"),
    ("NamedRuleWithOperations.operations", "2.1"),
    ("NamedRuleWithOperations.resources", "2.2.3"),
    ("NamedRuleWithOperations.scope", "2.2.4"),
    ("Probe.exec", "1.1"),
    ("Probe.grpc", "1.4"),
    ("Probe.httpGet", "1.2"),
    ("Probe.tcpSocket", "1.3"),
    ("RuleWithOperations.apiGroups", "2.1"),
    ("RuleWithOperations.apiVersions", "2.2"),
    ("RuleWithOperations.resources", "2.3"),
    ("RuleWithOperations.scope", "2.4"),
    ("SecretEnvSource.name", "1.1"),
    ("SecretKeySelector.name", "1.1"),
    ("SecretProjection.name", "1.1"),
    ("ValidatingWebhookConfiguration.webhooks", "2"),
    ("Validation.expression", "1"),
    ("Variable.expression", "2"),
    ("Variable.name", "1"),
    ("Volume.awsElasticBlockStore", "2.4"),
    ("Volume.azureDisk", "2.22"),
    ("Volume.azureFile", "2.18"),
    ("Volume.cephfs", "2.14"),
    ("Volume.cinder", "2.13"),
    ("Volume.configMap", "2.19"),
    ("Volume.csi", "2.28"),
    ("Volume.downwardAPI", "2.16"),
    ("Volume.emptyDir", "2.2"),
    ("Volume.ephemeral", "2.29"),
    ("Volume.fc", "2.17"),
    ("Volume.flexVolume", "2.12"),
    ("Volume.flocker", "2.15"),
    ("Volume.gcePersistentDisk", "2.3"),
    ("Volume.gitRepo", "2.5"),
    ("Volume.glusterfs", "2.9"),
    ("Volume.hostPath", "2.1"),
    ("Volume.image", "2.30"),
    ("Volume.iscsi", "2.8"),
    ("Volume.nfs", "2.7"),
    ("Volume.persistentVolumeClaim", "2.10"),
    ("Volume.photonPersistentDisk", "2.23"),
    ("Volume.portworxVolume", "2.24"),
    ("Volume.projected", "2.26"),
    ("Volume.quobyte", "2.21"),
    ("Volume.rbd", "2.11"),
    ("Volume.scaleIO", "2.25"),
    ("Volume.secret", "2.6"),
    ("Volume.storageos", "2.27"),
    ("Volume.vsphereVolume", "2.20"),
];

/// What an item of a list has when it leaves out a key.
const KEY_DEFAULTS: &[(&str, &str)] = &[("ContainerPort.protocol", "TCP"), ("ServicePort.protocol", "TCP")];

/// Structures that are no pointers on the wire, and a list that is never left out: there, maybe empty, whenever their owner is. `*.x` holds for every structure.
const ALWAYS: &[&str] = &[
    "*.metadata",
    "*.spec",
    "*.status",
    "Container.resources",
    "ContainerStatus.lastState",
    "ContainerStatus.state",
    "CronJobSpec.jobTemplate",
    "CustomResourceDefinitionSpec.names",
    "CustomResourceDefinitionStatus.acceptedNames",
    "DaemonSetSpec.template",
    "DaemonSetSpec.updateStrategy",
    "DeploymentSpec.strategy",
    "DeploymentSpec.template",
    "EphemeralContainer.resources",
    "IngressStatus.loadBalancer",
    "JobSpec.template",
    "NodeDaemonEndpoints.kubeletEndpoint",
    "NodeStatus.daemonEndpoints",
    "NodeStatus.nodeInfo",
    "PersistentVolumeClaimSpec.resources",
    "PodSpec.containers",
    "PodTemplate.template",
    "ReplicaSetSpec.template",
    "ServiceStatus.loadBalancer",
    "StatefulSetSpec.template",
    "StatefulSetSpec.updateStrategy",
];

/// Types without fields, and the scalar each stands for.
const OPAQUE: &[(&str, &str)] = &[
    ("Time", "time"),
    ("MicroTime", "microtime"),
    ("FieldsV1", "any"),
    ("RawExtension", "any"),
    ("Quantity", "quantity"),
    ("IntOrString", "intstr"),
    ("JSON", "any"),
    ("JSONSchemaPropsOrArray", "any"),
    ("JSONSchemaPropsOrBool", "any"),
    ("JSONSchemaPropsOrStringArray", "any"),
    ("CustomResourceSubresourceStatus", "any"),
];

struct Facts<'a> {
    lines: Vec<&'a str>,
    container_tags: BTreeMap<&'a str, &'a str>,
}

#[test]
fn type_tables_agree_with_the_facts() {
    let Some(path) = facts_path() else {
        eprintln!("{FACTS} is not beside this checkout: the type tables are not compared");
        return;
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let facts = Facts::read(&text);
    for (alias, prefix) in PACKAGES {
        let want = facts.table(alias, prefix);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/schema/types/{alias}.txt"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, &want).unwrap();
        }
        let have = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(have == want, "{} differs from the facts; BLESS=1 rewrites it", file.display());
    }
}

fn facts_path() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.ancestors().map(|folder| folder.join(FACTS)).find(|path| path.exists())
}

impl<'a> Facts<'a> {
    fn read(text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let mut container_tags = BTreeMap::new();
        let start = lines.iter().position(|line| *line == "io.k8s.api.core.v1.Container").unwrap();
        for line in lines[start + 1..].iter().take_while(|line| line.starts_with(' ')) {
            let cells: Vec<&str> = line.trim_start().split('\t').collect();
            container_tags.insert(cells[0], cells[3].split(' ').next().unwrap());
        }
        Facts { lines, container_tags }
    }

    fn table(&self, alias: &str, prefix: &str) -> String {
        let mut out = format!(
            "# Types of {}, one line a field. What the columns mean: ../../schema.rs. Generated by tests/it/type_tables.rs.\n",
            prefix.trim_end_matches('.')
        );
        let mut current: Option<&str> = None;
        for line in &self.lines {
            if line.starts_with(' ') {
                if let Some(name) = current {
                    writeln!(out, "  {}", self.field(prefix, name, line.trim_start())).unwrap();
                }
                continue;
            }
            let cells: Vec<&str> = line.split('\t').collect();
            current = cells[0].strip_prefix(prefix).filter(|rest| !rest.contains('.'));
            if let Some(name) = current {
                out.push_str(name);
                if cells.get(2).is_some_and(|map_type| *map_type == "atomic") {
                    out.push_str(" atomic");
                }
                if let Some((_, scalar)) = OPAQUE.iter().find(|(opaque, _)| *opaque == name) {
                    write!(out, " ={scalar}").unwrap();
                }
                out.push('\n');
            }
        }
        assert!(out.lines().count() > 1, "the facts have nothing of {alias}");
        out
    }

    fn field(&self, prefix: &str, owner: &str, line: &str) -> String {
        let cells: Vec<&str> = line.split('\t').collect();
        let (name, ty, flags, tag) = (cells[0], cells[1], cells[2], cells[3]);
        let key = format!("{owner}.{name}");
        let required = flags.split(' ').any(|flag| flag == "R");
        let mark = match (required, zero_is_value(&key, name, ty)) {
            (true, _) => "!",
            (false, true) => "?",
            (false, false) => "",
        };
        let mut out = format!("{name}{mark} {} {}", self.tag(&key, owner, name, tag), short_type(prefix, ty));
        for flag in flags.split(' ') {
            let word = match flag.split_once('=') {
                Some(("L", "atomic()")) | None => continue,
                Some(("L", "set()")) => "set".to_owned(),
                Some(("L", keys)) => keys.to_owned(),
                Some(("M", "atomic")) => "atomic".to_owned(),
                Some(("M", _)) => continue,
                Some(("P", "merge()")) => "merge".to_owned(),
                Some(("P", "retainKeys()")) => "retain".to_owned(),
                Some(("P", "replace()")) => "replace".to_owned(),
                Some(("P", strategy)) => strategy.replace("merge,retainKeys", "merge+retain"),
                Some(other) => panic!("{key}: flag {other:?}"),
            };
            write!(out, " {word}").unwrap();
        }
        if let Some((_, value)) = KEY_DEFAULTS.iter().find(|(field, _)| *field == key) {
            write!(out, " default({value})").unwrap();
        }
        let known = ALWAYS.contains(&key.as_str()) || ALWAYS.contains(&format!("*.{name}").as_str());
        let is_opaque = OPAQUE.iter().any(|(opaque, _)| ty.ends_with(&format!(".{opaque}")));
        if known && ty.contains("io.k8s.") && !is_opaque {
            out.push_str(" always");
        }
        out
    }

    fn tag(&self, key: &str, owner: &str, name: &str, tag: &str) -> String {
        if let Some((_, nested)) = NESTED.iter().find(|(field, _)| *field == key) {
            return (*nested).to_owned();
        }
        if owner == "EphemeralContainer" && tag == "-" {
            return format!("1.{}", self.container_tags[name]);
        }
        if tag == "-" {
            assert!(matches!(name, "apiVersion" | "kind"), "{key} needs a protobuf number");
        }
        tag.split(' ').next().unwrap().to_owned()
    }
}

fn zero_is_value(key: &str, name: &str, ty: &str) -> bool {
    if ZERO_IS_VALUE.contains(&key) {
        return true;
    }
    let scalar = ty.starts_with("integer")
        || ty.starts_with("number")
        || ty == "boolean"
        || ty.ends_with("IntOrString");
    scalar && !ZERO_IS_ABSENT.contains(&key) && !ZERO_IS_ABSENT.contains(&format!("*.{name}").as_str())
}

fn short_type(prefix: &str, ty: &str) -> String {
    if let Some(item) = ty.strip_prefix('[') {
        return format!("[{}]", short_type(prefix, item.trim_end_matches(']')));
    }
    if let Some(value) = ty.strip_prefix('{') {
        return format!("{{{}}}", short_type(prefix, value.strip_suffix('}').unwrap()));
    }
    match ty {
        "string:byte" => return "bytes".to_owned(),
        "integer:int32" => return "int32".to_owned(),
        "integer:int64" => return "int64".to_owned(),
        "boolean" => return "bool".to_owned(),
        "number:double" => return "double".to_owned(),
        "string" => return ty.to_owned(),
        _ => {}
    }
    if let Some(name) = ty.strip_prefix(prefix) {
        return name.to_owned();
    }
    let package = PACKAGES.iter().find_map(|(alias, prefix)| Some((alias, ty.strip_prefix(prefix)?)));
    let (alias, name) = package.unwrap_or_else(|| panic!("type {ty} is in no package"));
    format!("{alias}:{name}")
}
