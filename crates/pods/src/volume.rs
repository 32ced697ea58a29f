//! Volumes: what is in them (pure), and writing it so that a reader never sees half of a change.
//!
//! Supported: emptyDir, configMap, secret, projected, downwardAPI, hostPath. Others are an error on the pod.

mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, KeyToPath, Pod, Secret, Volume,
    VolumeProjection,
};

use crate::env::{
    Addresses, ConfigError, Sources, field_value, namespace_of, quantity_milli, resource_value,
};
pub(crate) use write::write_files;

/// Bytes of a volume in memory that names no limit.
const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;
const MODE_DEFAULT: i32 = 0o644;
const TOKEN_SECS_DEFAULT: i64 = 3600;

/// The content of a file volume: relative path → file.
pub(crate) type Files = BTreeMap<String, VolumeFile>;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFile {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumePlan {
    /// An empty directory on disk. A pod that puts more into it is evicted.
    Directory { bytes_max: Option<u64> },
    /// An empty directory in memory.
    Memory { bytes_max: u64 },
    /// Something of this machine.
    HostPath { path: PathBuf, kind: HostPathKind },
    /// Files that follow their objects.
    Files(Files),
}

/// `hostPath.type`, as far as it asks for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostPathKind {
    Unchecked,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A service account token that a volume wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenWish {
    /// Empty: the API server's own.
    pub audience: String,
    pub expiration_secs: i64,
}

/// Why a volume cannot be made; shown as FailedMount until it can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Config { volume: String, source: ConfigError },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : {kind} is not supported here; emptyDir, configMap, secret, projected, downwardAPI and hostPath are"
    )]
    Unsupported { volume: String, kind: String },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : its service account token has not been issued yet"
    )]
    Token { volume: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : path {path:?} is absolute or contains '..'")]
    Path { volume: String, path: String },
}

/// The tokens that the volumes of a pod want.
pub(crate) fn token_wishes(pod: &Pod) -> Vec<TokenWish> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten());
    let mut wishes: Vec<TokenWish> = sources
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| wish(token.audience.as_ref(), token.expiration_seconds))
        .collect();
    wishes.sort();
    wishes.dedup();
    wishes
}

/// The versions of the ConfigMaps and Secrets that the pod's volumes show, in order; as long as they are the same, so are the files.
pub(crate) fn versions(pod: &Pod, sources: &Sources) -> Vec<Option<String>> {
    let namespace = namespace_of(pod);
    let config_map =
        |name: &str| sources.config_maps.find(namespace, name).map(|it| it.metadata.resource_version.clone());
    let secret =
        |name: &str| sources.secrets.find(namespace, name).map(|it| it.metadata.resource_version.clone());
    let mut all = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        all.extend(volume.config_map.as_ref().map(|source| config_map(&source.name)));
        all.extend(
            volume.secret.as_ref().map(|source| secret(source.secret_name.as_deref().unwrap_or_default())),
        );
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            all.extend(source.config_map.as_ref().map(|source| config_map(&source.name)));
            all.extend(source.secret.as_ref().map(|source| secret(&source.name)));
        }
    }
    // One that is not there and one without a version are different.
    all.into_iter().map(|found| found.map(Option::unwrap_or_default)).collect()
}

fn wish(audience: Option<&String>, expiration_secs: Option<i64>) -> TokenWish {
    TokenWish {
        audience: audience.cloned().unwrap_or_default(),
        expiration_secs: expiration_secs.unwrap_or(TOKEN_SECS_DEFAULT),
    }
}

/// What the volumes are made of, by the pod, the objects and the tokens that are there.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    pub pod: &'a Pod,
    pub sources: &'a Sources,
    pub addresses: Addresses,
    pub tokens: &'a BTreeMap<TokenWish, String>,
}

impl Planner<'_> {
    /// One volume.
    pub(crate) fn plan(&self, volume: &Volume) -> Result<VolumePlan, VolumeError> {
        let config = |source| VolumeError::Config { volume: volume.name.clone(), source };
        let plan = if let Some(empty) = &volume.empty_dir {
            empty_dir(empty)
        } else if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
            let optional = source.optional == Some(true);
            VolumePlan::Files(
                self.config_map(&source.name, source.items.as_deref(), mode, optional).map_err(config)?,
            )
        } else if let Some(source) = &volume.secret {
            let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
            let (name, optional) =
                (source.secret_name.as_deref().unwrap_or_default(), source.optional == Some(true));
            VolumePlan::Files(self.secret(name, source.items.as_deref(), mode, optional).map_err(config)?)
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
            VolumePlan::Files(
                self.downward(source.items.as_deref().unwrap_or_default(), mode).map_err(config)?,
            )
        } else if let Some(source) = &volume.projected {
            let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
            let mut files = Files::new();
            for projection in source.sources.iter().flatten() {
                files.extend(self.projection(&volume.name, projection, mode)?);
            }
            VolumePlan::Files(files)
        } else if let Some(source) = &volume.host_path {
            let kind = match source.type_.as_deref().unwrap_or_default() {
                "DirectoryOrCreate" => HostPathKind::DirectoryOrCreate,
                "Directory" => HostPathKind::Directory,
                "FileOrCreate" => HostPathKind::FileOrCreate,
                "File" => HostPathKind::File,
                "Socket" => HostPathKind::Socket,
                "CharDevice" => HostPathKind::CharDevice,
                "BlockDevice" => HostPathKind::BlockDevice,
                _ => HostPathKind::Unchecked,
            };
            VolumePlan::HostPath { path: PathBuf::from(&source.path), kind }
        } else {
            return Err(VolumeError::Unsupported { volume: volume.name.clone(), kind: kind_of(volume) });
        };
        if let VolumePlan::Files(files) = &plan
            && let Some(path) = files.keys().find(|path| !is_inside(path))
        {
            return Err(VolumeError::Path { volume: volume.name.clone(), path: path.clone() });
        }
        Ok(plan)
    }

    fn projection(&self, volume: &str, source: &VolumeProjection, mode: i32) -> Result<Files, VolumeError> {
        let config = |source| VolumeError::Config { volume: volume.to_owned(), source };
        let mut files = Files::new();
        let unsupported = [
            ("clusterTrustBundle", source.cluster_trust_bundle.is_some()),
            ("podCertificate", source.pod_certificate.is_some()),
        ];
        if let Some((kind, _)) = unsupported.into_iter().find(|(_, asked)| *asked) {
            return Err(VolumeError::Unsupported {
                volume: volume.to_owned(),
                kind: format!("projected {kind}"),
            });
        }
        if let Some(map) = &source.config_map {
            files.extend(
                self.config_map(&map.name, map.items.as_deref(), mode, map.optional == Some(true))
                    .map_err(config)?,
            );
        }
        if let Some(secret) = &source.secret {
            files.extend(
                self.secret(&secret.name, secret.items.as_deref(), mode, secret.optional == Some(true))
                    .map_err(config)?,
            );
        }
        if let Some(downward) = &source.downward_api {
            files.extend(self.downward(downward.items.as_deref().unwrap_or_default(), mode).map_err(config)?);
        }
        if let Some(token) = &source.service_account_token {
            let wish = wish(token.audience.as_ref(), token.expiration_seconds);
            let text =
                self.tokens.get(&wish).ok_or_else(|| VolumeError::Token { volume: volume.to_owned() })?;
            // Kubernetes narrows tokens to the owner; a container that runs as another user must read it, too.
            let mode = if self.runs_as_other_user() { 0o644 } else { mode_bits(mode) };
            files.insert(token.path.clone(), VolumeFile { bytes: text.clone().into_bytes(), mode });
        }
        Ok(files)
    }

    fn runs_as_other_user(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        let of_pod =
            spec.and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.run_as_user);
        let of = |container: &Container| {
            container.security_context.as_ref().and_then(|context| context.run_as_user)
        };
        spec.is_some_and(|spec| {
            spec.containers.iter().any(|container| of(container).or(of_pod).is_some_and(|uid| uid != 0))
        })
    }

    fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
    ) -> Result<Files, ConfigError> {
        let namespace = namespace_of(self.pod);
        let Some(found) = self.sources.config_maps.find(namespace, name) else {
            return if optional {
                Ok(Files::new())
            } else {
                Err(ConfigError::ConfigMapMissing { name: name.to_owned() })
            };
        };
        select(config_map_bytes(found), items, mode, optional, ("ConfigMap", namespace, name))
    }

    fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
    ) -> Result<Files, ConfigError> {
        let namespace = namespace_of(self.pod);
        let Some(found) = self.sources.secrets.find(namespace, name) else {
            return if optional {
                Ok(Files::new())
            } else {
                Err(ConfigError::SecretMissing { name: name.to_owned() })
            };
        };
        select(secret_bytes(found), items, mode, optional, ("Secret", namespace, name))
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Files, ConfigError> {
        let mut files = Files::new();
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => field_value(self.pod, &field.field_path, self.addresses)?,
                (None, Some(field)) => resource_value(self.pod, &Container::default(), field)?,
                (None, None) => String::new(),
            };
            let mode = mode_bits(item.mode.unwrap_or(mode));
            files.insert(item.path.clone(), VolumeFile { bytes: text.into_bytes(), mode });
        }
        Ok(files)
    }
}

fn empty_dir(source: &EmptyDirVolumeSource) -> VolumePlan {
    let limit = source.size_limit.as_ref().and_then(|quantity| quantity_milli(&quantity.0));
    let bytes_max = limit.and_then(|milli| u64::try_from(milli / 1000).ok()).filter(|bytes| *bytes > 0);
    if source.medium.as_deref() != Some("Memory") {
        return VolumePlan::Directory { bytes_max };
    }
    VolumePlan::Memory { bytes_max: bytes_max.unwrap_or(MEMORY_BYTES_DEFAULT) }
}

fn config_map_bytes(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
    text.chain(binary).collect()
}

fn secret_bytes(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone())).collect()
}

fn select(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    (kind, namespace, name): (&'static str, &str, &str),
) -> Result<Files, ConfigError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data
            .into_iter()
            .map(|(key, bytes)| (key, VolumeFile { bytes, mode: mode_bits(mode) }))
            .collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let file = VolumeFile { bytes: bytes.clone(), mode: mode_bits(item.mode.unwrap_or(mode)) };
                files.insert(item.path.clone(), file);
            }
            None if optional => {}
            None => {
                let (namespace, name, key) = (namespace.to_owned(), name.to_owned(), item.key.clone());
                return Err(ConfigError::KeyMissing { kind, namespace, name, key });
            }
        }
    }
    Ok(files)
}

fn mode_bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != ".." && part != ".")
}

/// The field that says what the volume is, for a message.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    fields.filter(|name| *name != "name").collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(volume: serde_json::Value, tokens: &[(&str, &str)]) -> Result<VolumePlan, VolumeError> {
        let config: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": "conf"}, "data": {"a": "1", "b": "2"}
        }))
        .unwrap();
        let sources = crate::env::tests::sources_of(vec![config], Vec::new());
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": "p", "labels": {"x": "y"}}, "spec": {"containers": [], "volumes": [volume]}
        }))
        .unwrap();
        let tokens = tokens
            .iter()
            .map(|(audience, text)| (wish(Some(&(*audience).to_owned()), None), (*text).to_owned()))
            .collect();
        let addresses = Addresses { pod: None, host: [10, 0, 0, 1].into() };
        let planner = Planner { pod: &pod, sources: &sources, addresses, tokens: &tokens };
        planner.plan(&pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0])
    }

    fn files(plan: Result<VolumePlan, VolumeError>) -> Vec<(String, String, u32)> {
        match plan.unwrap() {
            VolumePlan::Files(files) => files
                .into_iter()
                .map(|(path, file)| (path, String::from_utf8(file.bytes).unwrap(), file.mode))
                .collect(),
            other => panic!("no files: {other:?}"),
        }
    }

    #[test]
    fn config_maps_by_key_path_and_mode() {
        let all = files(plan(serde_json::json!({"name": "v", "configMap": {"name": "conf"}}), &[]));
        assert_eq!(all, [("a".into(), "1".into(), 0o644), ("b".into(), "2".into(), 0o644)]);
        let some = serde_json::json!({"name": "v", "configMap": {"name": "conf", "defaultMode": 256,
            "items": [{"key": "b", "path": "d/x"}, {"key": "a", "path": "y", "mode": 384}]}});
        assert_eq!(
            files(plan(some, &[])),
            [("d/x".into(), "2".into(), 0o400), ("y".into(), "1".into(), 0o600)]
        );
    }

    #[test]
    fn projected_sources_come_together() {
        let volume = serde_json::json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "conf", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}});
        let want = [
            ("ca.crt".into(), "1".into(), 0o644),
            ("ns".into(), "ns".into(), 0o644),
            ("token".into(), "t".into(), 0o644),
        ];
        assert_eq!(files(plan(volume.clone(), &[("", "t")])), want);
        assert_eq!(plan(volume, &[]), Err(VolumeError::Token { volume: "v".into() }));
    }

    #[test]
    fn what_cannot_be_made_says_why() {
        struct Case {
            given: serde_json::Value,
            want: &'static str,
        }
        let cases = [
            Case {
                given: serde_json::json!({"name": "v", "configMap": {"name": "x"}}),
                want: "MountVolume.SetUp failed for volume \"v\" : configmap \"x\" not found",
            },
            Case {
                given: serde_json::json!({"name": "v", "secret": {"secretName": "s"}}),
                want: "MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found",
            },
            Case {
                given: serde_json::json!({"name": "v", "nfs": {"path": "/", "server": "s"}}),
                want: "MountVolume.SetUp failed for volume \"v\" : nfs is not supported here; emptyDir, configMap, secret, projected, downwardAPI and hostPath are",
            },
            Case {
                given: serde_json::json!({"name": "v", "configMap": {"name": "conf", "items": [{"key": "a", "path": "../x"}]}}),
                want: "MountVolume.SetUp failed for volume \"v\" : path \"../x\" is absolute or contains '..'",
            },
        ];
        for case in cases {
            assert_eq!(plan(case.given, &[]).unwrap_err().to_string(), case.want);
        }
        assert_eq!(
            plan(serde_json::json!({"name": "v", "configMap": {"name": "x", "optional": true}}), &[]),
            Ok(VolumePlan::Files(Files::new()))
        );
    }
}
