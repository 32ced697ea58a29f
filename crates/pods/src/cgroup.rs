//! Resource limits: which control groups a container is put into, and what is written to them. Finding the mounts and making plans is
//! pure; PID 1 of the pod carries the plan out.
//!
//! Both layouts of control groups are spoken: version 2 where its memory controller is there, else the separate trees of version 1.
//! Only containers that have limits get a group.

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;
use serde::{Deserialize, Serialize};

use crate::env::quantity_milli;

/// The period of CPU quotas, Kubernetes' own.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses quotas below.
const CPU_QUOTA_US_MIN: u64 = 1000;

/// What of the kernel's control groups can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tree {
    /// Limits are not enforced.
    #[default]
    None,
    /// Version 2: one tree.
    Unified(PathBuf),
    /// Version 1: a tree a controller.
    Separate { memory: Option<PathBuf>, cpu: Option<PathBuf> },
}

/// Groups of one container, all of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupPlan {
    /// Made, and joined by every process of the container.
    pub directories: Vec<PathBuf>,
    /// Limits: file and text, in order.
    pub writes: Vec<(PathBuf, String)>,
    /// A file with a line `oom_kill N`.
    pub oom_events: Option<PathBuf>,
}

/// The groups of one cluster on this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cgroups {
    tree: Tree,
    /// The directory of the cluster below each root.
    cluster: String,
}

impl Tree {
    /// By the text of /proc/self/mountinfo; `controllers` gives the file `cgroup.controllers` of a version 2 mount.
    pub(crate) fn find(mountinfo: &str, controllers: impl Fn(&Path) -> String) -> Self {
        let (mut memory, mut cpu) = (None, None);
        for line in mountinfo.lines() {
            // mountinfo: … root mount-point options … - type source super-options
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let Some(point) = place.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut kind = kind.split(' ');
            match (kind.next(), kind.nth(1)) {
                (Some("cgroup2"), _)
                    if controllers(&point).split_whitespace().any(|name| name == "memory") =>
                {
                    return Self::Unified(point);
                }
                (Some("cgroup"), Some(options)) => {
                    let has = |name: &str| options.split(',').any(|option| option == name);
                    if has("memory") {
                        memory = Some(point);
                    } else if has("cpu") {
                        cpu = Some(point);
                    }
                }
                _ => {}
            }
        }
        match (memory, cpu) {
            (None, None) => Self::None,
            (memory, cpu) => Self::Separate { memory, cpu },
        }
    }
}

impl Cgroups {
    /// Looks for the kernel's trees and prepares one for a cluster. Said once when limits cannot be enforced.
    pub(crate) fn open(cluster: &str) -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let mut tree = Tree::find(&read(Path::new("/proc/self/mountinfo")), |point| {
            read(&point.join("cgroup.controllers"))
        });
        let cluster = format!("fairway-{cluster}");
        if let Tree::Unified(root) = &tree
            && let Err(error) = delegate(root, &cluster)
        {
            tracing::info!(%error, root = %root.display(), "resource limits of containers are not enforced: control groups cannot be made here");
            tree = Tree::None;
        } else if tree == Tree::None {
            tracing::info!(
                "resource limits of containers are not enforced: this machine has no control groups for memory and CPU"
            );
        }
        Self { tree, cluster }
    }

    /// The groups for a container with limits. Limits that are no quantities count as none: the API server refuses them.
    pub(crate) fn plan(&self, uid: &str, container: &Container) -> Option<CgroupPlan> {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        let limit = |name: &str| u64::try_from(quantity_milli(&limits.get(name)?.0)?).ok();
        let memory_bytes = limit("memory").map(|milli| milli / 1000).filter(|bytes| *bytes > 0);
        let cpu_quota_us = limit("cpu").map(|milli| (milli * CPU_PERIOD_US / 1000).max(CPU_QUOTA_US_MIN));
        if memory_bytes.is_none() && cpu_quota_us.is_none() {
            return None;
        }
        let below = |root: &Path| root.join(&self.cluster).join(uid).join(&container.name);
        let mut plan = CgroupPlan::default();
        match &self.tree {
            Tree::None => return None,
            Tree::Unified(root) => {
                let directory = below(root);
                if let Some(bytes) = memory_bytes {
                    plan.writes.push((directory.join("memory.max"), bytes.to_string()));
                    plan.oom_events = Some(directory.join("memory.events"));
                }
                if let Some(quota) = cpu_quota_us {
                    plan.writes.push((directory.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}")));
                }
                plan.directories.push(directory);
            }
            Tree::Separate { memory, cpu } => {
                if let (Some(root), Some(bytes)) = (memory, memory_bytes) {
                    let directory = below(root);
                    plan.writes.push((directory.join("memory.limit_in_bytes"), bytes.to_string()));
                    plan.oom_events = Some(directory.join("memory.oom_control"));
                    plan.directories.push(directory);
                }
                if let (Some(root), Some(quota)) = (cpu, cpu_quota_us) {
                    let directory = below(root);
                    plan.writes.push((directory.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string()));
                    plan.writes.push((directory.join("cpu.cfs_quota_us"), quota.to_string()));
                    plan.directories.push(directory);
                }
            }
        }
        Some(plan)
    }

    /// Removes what is left of a pod's groups, and the cluster's when it was the last. Blocking; its processes must have ended.
    pub(crate) fn forget(&self, uid: &str) {
        let roots: Vec<&PathBuf> = match &self.tree {
            Tree::None => Vec::new(),
            Tree::Unified(root) => vec![root],
            Tree::Separate { memory, cpu } => memory.iter().chain(cpu).collect(),
        };
        for root in roots {
            let of_cluster = root.join(&self.cluster);
            let of_pod = of_cluster.join(uid);
            for entry in std::fs::read_dir(&of_pod).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(entry.path());
            }
            // Refused while something is in it, which is what is wanted.
            let _ = std::fs::remove_dir(&of_pod).and_then(|()| std::fs::remove_dir(&of_cluster));
        }
    }
}

/// Version 2: controllers must be handed down level by level.
fn delegate(root: &Path, cluster: &str) -> io::Result<()> {
    let control = |directory: &Path| std::fs::write(directory.join("cgroup.subtree_control"), "+memory +cpu");
    control(root)?;
    let directory = root.join(cluster);
    std::fs::create_dir_all(&directory)?;
    control(&directory)
}

impl CgroupPlan {
    /// Makes the groups and sets their limits. Version 2 wants the level of the pod to hand controllers down, too.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        for directory in &self.directories {
            std::fs::create_dir_all(directory)?;
            if let Some(parent) =
                directory.parent().filter(|parent| parent.join("cgroup.subtree_control").exists())
            {
                std::fs::write(parent.join("cgroup.subtree_control"), "+memory +cpu")?;
            }
        }
        self.set_limits()
    }

    /// Writes the limits of groups that are there.
    pub(crate) fn set_limits(&self) -> io::Result<()> {
        self.writes.iter().try_for_each(|(file, text)| std::fs::write(file, text))
    }

    /// Puts this process into the groups.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| std::fs::write(directory.join("cgroup.procs"), "0"))
    }

    /// How often the kernel killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let text =
            self.oom_events.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the groups; one that still has processes stays for the next attempt.
    pub(crate) fn remove(&self) {
        for directory in &self.directories {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGACY: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn container(limits: serde_json::Value) -> Container {
        serde_json::from_value(serde_json::json!({"name": "c", "resources": {"limits": limits}})).unwrap()
    }

    #[test]
    fn trees_are_found() {
        let separate = Tree::Separate {
            memory: Some("/sys/fs/cgroup/memory".into()),
            cpu: Some("/sys/fs/cgroup/cpu,cpuacct".into()),
        };
        assert_eq!(Tree::find(LEGACY, |_| "hugetlb".into()), separate);
        assert_eq!(
            Tree::find(LEGACY, |_| "cpu memory pids".into()),
            Tree::Unified("/sys/fs/cgroup/unified".into())
        );
        assert_eq!(Tree::find("garbage\n", |_| String::new()), Tree::None);
    }

    #[test]
    fn limits_become_files() {
        let both = container(serde_json::json!({"memory": "64Mi", "cpu": "250m"}));
        let unified = Cgroups { tree: Tree::Unified("/c".into()), cluster: "fairway-x".into() };
        let plan = unified.plan("u", &both).unwrap();
        let write = |file: &str, text: &str| (PathBuf::from(file), text.to_owned());
        assert_eq!(
            plan.writes,
            [
                write("/c/fairway-x/u/c/memory.max", "67108864"),
                write("/c/fairway-x/u/c/cpu.max", "25000 100000")
            ]
        );
        assert_eq!(plan.oom_events, Some("/c/fairway-x/u/c/memory.events".into()));
        let separate = Cgroups {
            tree: Tree::Separate { memory: Some("/m".into()), cpu: Some("/p".into()) },
            cluster: "fairway-x".into(),
        };
        let plan = separate.plan("u", &both).unwrap();
        assert_eq!(plan.directories, [PathBuf::from("/m/fairway-x/u/c"), PathBuf::from("/p/fairway-x/u/c")]);
        assert_eq!(plan.writes[0], write("/m/fairway-x/u/c/memory.limit_in_bytes", "67108864"));
        assert_eq!(unified.plan("u", &container(serde_json::json!({"example.com/gpu": "1"}))), None);
        assert_eq!(Cgroups::default().plan("u", &both), None);
    }
}
