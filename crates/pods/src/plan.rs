//! From a container of a pod to the plan that PID 1 carries out: pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

use crate::capability;
use crate::cgroup::Cgroups;
use crate::env::{Addresses, ConfigError, Sources, command_line, expand, variables};
use crate::image::{Image, ImageRoot};
use crate::names::uses_host_network;
use crate::protocol::{ContainerPlan, MemoryVolume, MountPlan, PodSetup, Privileges, RootPlan, UserPlan};
use crate::volume::{VolumePlan, token_wishes};

/// Where the things of a pod are on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodPaths {
    /// Volumes, logs and records of the pod.
    pub directory: PathBuf,
    /// Where its PID 1 listens.
    pub socket: PathBuf,
    /// The facts for tools on the host.
    pub facts: PathBuf,
}

impl PodPaths {
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.directory.join("volumes").join(name)
    }

    pub(crate) fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.directory.join("logs").join(container).join(format!("{attempt}.log"))
    }

    /// A file that is mounted over one of /etc.
    pub(crate) fn etc(&self, name: &str) -> PathBuf {
        self.directory.join("etc").join(name)
    }

    /// What a container writes to its termination message path.
    pub(crate) fn termination(&self, container: &str, attempt: u32) -> PathBuf {
        self.directory.join("termination").join(format!("{container}-{attempt}"))
    }

    /// What must survive the agent.
    pub(crate) fn record(&self) -> PathBuf {
        self.directory.join("pod.json")
    }
}

/// Why a container cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("no command: neither the container nor the image {image:?} says what to run")]
    NoCommand { image: String },
    #[error(
        "container runs as root and securityContext.runAsNonRoot is set; set runAsUser, or use an image with a numeric user"
    )]
    Root,
    #[error("volume mount {mount:?} names a volume that the pod does not have")]
    Volume { mount: String },
}

/// What a plan is made from, beside the container.
#[derive(Debug)]
pub(crate) struct PlanInput<'a> {
    pub pod: &'a Pod,
    pub image: &'a Image,
    pub sources: &'a Sources,
    pub addresses: Addresses,
    pub volumes: &'a BTreeMap<String, VolumePlan>,
    pub paths: &'a PodPaths,
    pub executable: &'a Path,
    pub cgroups: &'a Cgroups,
}

/// The plan for one attempt.
pub(crate) fn plan_container(
    input: &PlanInput<'_>,
    container: &Container,
    attempt: u32,
) -> Result<ContainerPlan, PlanError> {
    let spec = input.pod.spec.clone().unwrap_or_default();
    let config = &input.image.config;
    let own = variables(input.pod, container, input.sources, input.addresses)?;
    let argv = command_line(container, &config.entrypoint, &config.cmd, &own);
    if argv.is_empty() {
        return Err(PlanError::NoCommand { image: container.image.clone().unwrap_or_default() });
    }
    let from_image = config.env.iter().filter_map(|line| line.split_once('='));
    let mut env: Vec<(String, String)> = from_image
        .filter(|(name, _)| !own.iter().any(|(known, _)| known == name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    env.extend(own);
    if !env.iter().any(|(name, _)| name == "HOSTNAME") {
        env.insert(
            0,
            (
                "HOSTNAME".to_owned(),
                crate::names::short_hostname(input.pod, spec.node_name.as_deref().unwrap_or_default()),
            ),
        );
    }
    let working_dir = container.working_dir.clone().unwrap_or_else(|| config.working_dir.clone());
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|context| context.privileged).unwrap_or(false);
    let caps = context.and_then(|context| context.capabilities.as_ref());
    let (add, drop) = caps.map(|caps| (caps.add.as_deref(), caps.drop.as_deref())).unwrap_or_default();
    let capabilities = if privileged {
        capability::ALL
    } else {
        capability::mask(add.unwrap_or_default(), drop.unwrap_or_default())
    };
    Ok(ContainerPlan {
        name: container.name.clone(),
        attempt,
        root: root_plan(input, &argv),
        mounts: mounts(input, &spec, container, &env, attempt)?,
        argv,
        env,
        working_dir: if working_dir.is_empty() { "/".to_owned() } else { working_dir },
        read_only_root: context.and_then(|context| context.read_only_root_filesystem).unwrap_or(false),
        user: user_plan(&spec, container, &config.user)?,
        privileges: Privileges {
            capabilities,
            no_new_privileges: context.and_then(|context| context.allow_privilege_escalation) == Some(false),
            privileged,
        },
        stdin: container.stdin == Some(true),
        tty: container.tty == Some(true),
        log: input.paths.log(&container.name, attempt),
        cgroup: input.cgroups.plan(input.pod.metadata.uid.as_deref().unwrap_or_default(), container),
    })
}

fn root_plan(input: &PlanInput<'_>, argv: &[String]) -> RootPlan {
    let host = |host_etc, extra| RootPlan::Host { executable: input.executable.to_owned(), host_etc, extra };
    match &input.image.root {
        ImageRoot::BuiltIn => host(false, Vec::new()),
        ImageRoot::Host => {
            // A program outside the directories that are shown anyway is shown with what lies beside it.
            let shown = ["/usr", "/bin", "/sbin", "/lib", "/opt", "/etc"];
            let command = input.image.config.entrypoint.first().or(argv.first()).map(Path::new);
            let outside =
                command.filter(|path| path.is_absolute() && !shown.iter().any(|dir| path.starts_with(dir)));
            host(
                true,
                outside
                    .and_then(Path::parent)
                    .filter(|dir| *dir != Path::new("/"))
                    .map(Path::to_owned)
                    .into_iter()
                    .collect(),
            )
        }
        ImageRoot::Unpacked(lower) => RootPlan::Image { lower: lower.clone() },
    }
}

fn user_plan(spec: &PodSpec, container: &Container, image_user: &str) -> Result<UserPlan, PlanError> {
    let (of_pod, of_container) = (spec.security_context.as_ref(), container.security_context.as_ref());
    let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let uid = number(of_container.and_then(|it| it.run_as_user).or(of_pod.and_then(|it| it.run_as_user)));
    let gid = number(of_container.and_then(|it| it.run_as_group).or(of_pod.and_then(|it| it.run_as_group)));
    let non_root =
        of_container.and_then(|it| it.run_as_non_root).or(of_pod.and_then(|it| it.run_as_non_root));
    let name = image_user.split(':').next().unwrap_or_default();
    let is_root = uid.map_or(matches!(name, "" | "0" | "root"), |uid| uid == 0);
    if non_root == Some(true) && is_root {
        return Err(PlanError::Root);
    }
    let extra = of_pod.and_then(|it| it.supplemental_groups.as_deref()).unwrap_or_default();
    let groups = extra
        .iter()
        .copied()
        .chain(of_pod.and_then(|it| it.fs_group))
        .filter_map(|id| u32::try_from(id).ok())
        .collect();
    Ok(UserPlan { image_user: (!image_user.is_empty()).then(|| image_user.to_owned()), uid, gid, groups })
}

fn mounts(
    input: &PlanInput<'_>,
    spec: &PodSpec,
    container: &Container,
    env: &[(String, String)],
    attempt: u32,
) -> Result<Vec<MountPlan>, PlanError> {
    let mut all = Vec::new();
    let asked = container.volume_mounts.as_deref().unwrap_or_default();
    for file in ["resolv.conf", "hosts", "hostname"] {
        let target = Path::new("/etc").join(file);
        // A pod may bring its own.
        if !asked.iter().any(|mount| Path::new(&mount.mount_path) == target) {
            all.push(MountPlan { source: input.paths.etc(file), sub_path: None, target, read_only: false });
        }
    }
    let message = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let termination = input.paths.termination(&container.name, attempt);
    all.push(MountPlan {
        source: termination,
        sub_path: None,
        target: PathBuf::from(message),
        read_only: false,
    });
    for mount in asked {
        let unknown = || PlanError::Volume { mount: mount.name.clone() };
        let volume =
            spec.volumes.iter().flatten().find(|volume| volume.name == mount.name).ok_or_else(unknown)?;
        let plan = input.volumes.get(&volume.name).ok_or_else(unknown)?;
        let source = source_of(volume, plan, input.paths);
        let find = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let sub_path =
            mount.sub_path.clone().or_else(|| mount.sub_path_expr.as_deref().map(|text| expand(text, find)));
        let sub_path = sub_path.filter(|path| !path.is_empty()).map(PathBuf::from);
        let read_only = mount.read_only == Some(true) || matches!(plan, VolumePlan::Files(_));
        all.push(MountPlan { source, sub_path, target: PathBuf::from(&mount.mount_path), read_only });
    }
    // A mount inside another one comes after it.
    all.sort_by_key(|mount| mount.target.components().count());
    Ok(all)
}

fn source_of(volume: &Volume, plan: &VolumePlan, paths: &PodPaths) -> PathBuf {
    match plan {
        VolumePlan::HostPath { path, .. } => path.clone(),
        VolumePlan::Directory { .. } | VolumePlan::Memory { .. } | VolumePlan::Files(_) => {
            paths.volume(&volume.name)
        }
    }
}

/// How PID 1 of the pod is started.
pub(crate) fn plan_sandbox(
    pod: &Pod,
    volumes: &BTreeMap<String, VolumePlan>,
    paths: &PodPaths,
    netns: Option<PathBuf>,
    hostname: String,
) -> PodSetup {
    let spec = pod.spec.clone().unwrap_or_default();
    let memory = |(name, plan): (&String, &VolumePlan)| match plan {
        VolumePlan::Memory { bytes_max } => {
            Some(MemoryVolume { path: paths.volume(name), bytes_max: *bytes_max })
        }
        VolumePlan::Directory { .. } | VolumePlan::HostPath { .. } | VolumePlan::Files(_) => None,
    };
    let mut sysctls = Vec::new();
    if !uses_host_network(&spec) {
        // As container runtimes have it: a program needs no privilege for port 80 of its own pod, nor for ping.
        sysctls.push(("net/ipv4/ip_unprivileged_port_start".to_owned(), "0".to_owned()));
        sysctls.push(("net/ipv4/ping_group_range".to_owned(), "0 2147483647".to_owned()));
    }
    // Those of the machine were refused before (lifecycle::rejection).
    let asked = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    sysctls.extend(asked.map(|it| (it.name.clone(), it.value.clone())));
    PodSetup {
        socket: paths.socket.clone(),
        netns,
        hostname,
        directory: paths.directory.clone(),
        memory_volumes: volumes.iter().filter_map(memory).collect(),
        sysctls,
    }
}

/// Whether the pod has content that follows other objects.
pub(crate) fn follows_objects(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some()
    }) || !token_wishes(pod).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageConfig;

    fn plan(pod: serde_json::Value, config: ImageConfig) -> Result<ContainerPlan, PlanError> {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": pod}),
        )
        .unwrap();
        let image = Image { id: "x".into(), root: ImageRoot::BuiltIn, config };
        let sources = crate::env::tests::sources_of(Vec::new(), Vec::new());
        let paths = PodPaths { directory: "/d".into(), socket: "/s".into(), facts: "/f".into() };
        let volumes = BTreeMap::from([("v".to_owned(), VolumePlan::Directory { bytes_max: None })]);
        let input = PlanInput {
            pod: &pod,
            image: &image,
            sources: &sources,
            addresses: Addresses { pod: None, host: [10, 0, 0, 1].into() },
            volumes: &volumes,
            paths: &paths,
            executable: Path::new("/fairway"),
            cgroups: &Cgroups::default(),
        };
        plan_container(&input, &pod.spec.as_ref().unwrap().containers[0], 2)
    }

    fn own(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn variables_of_the_container_win_over_the_image() {
        let config =
            ImageConfig { entrypoint: own(&["run"]), env: own(&["A=1", "B=2"]), ..ImageConfig::default() };
        let spec = serde_json::json!({"containers": [{"name": "c", "env": [{"name": "A", "value": "9"}], "args": ["$(A)$(B)"]}]});
        let plan = plan(spec, config).unwrap();
        assert_eq!(plan.argv, own(&["run", "9$(B)"]), "variables of the image are not expanded");
        let env: Vec<String> = plan.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, own(&["HOSTNAME=p", "B=2", "A=9"]));
        assert_eq!(plan.working_dir, "/");
    }

    #[test]
    fn mounts_are_ordered_by_depth_and_replace_etc_files() {
        let spec = serde_json::json!({"containers": [{"name": "c", "command": ["x"], "volumeMounts": [
            {"name": "v", "mountPath": "/data/inner"}, {"name": "v", "mountPath": "/data", "readOnly": true},
            {"name": "v", "mountPath": "/etc/hosts", "subPathExpr": "$(HOSTNAME)/h"}]}], "volumes": [{"name": "v", "emptyDir": {}}]});
        let plan = plan(spec, ImageConfig::default()).unwrap();
        let targets: Vec<_> = plan.mounts.iter().map(|mount| mount.target.to_str().unwrap()).collect();
        assert_eq!(
            targets,
            [
                "/data",
                "/etc/resolv.conf",
                "/etc/hostname",
                "/dev/termination-log",
                "/data/inner",
                "/etc/hosts"
            ]
        );
        assert!(plan.mounts[0].read_only && !plan.mounts[4].read_only);
        assert_eq!(plan.mounts[5].sub_path, Some("p/h".into()));
    }

    #[test]
    fn what_cannot_run_says_why() {
        struct Case {
            given: serde_json::Value,
            want: PlanError,
        }
        let cases = [
            Case {
                given: serde_json::json!({"containers": [{"name": "c", "image": "i"}]}),
                want: PlanError::NoCommand { image: "i".into() },
            },
            Case {
                given: serde_json::json!({"containers": [{"name": "c", "command": ["x"], "securityContext": {"runAsNonRoot": true}}]}),
                want: PlanError::Root,
            },
            Case {
                given: serde_json::json!({"containers": [{"name": "c", "command": ["x"], "volumeMounts": [{"name": "z", "mountPath": "/z"}]}]}),
                want: PlanError::Volume { mount: "z".into() },
            },
        ];
        for case in cases {
            assert_eq!(plan(case.given, ImageConfig::default()), Err(case.want));
        }
    }
}
