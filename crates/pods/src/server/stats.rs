//! What a node tells of itself and its pods: `/pods`, `/stats/summary`, `/metrics/resource`. Usage is counted from the processes of each
//! pod when somebody asks; nothing is sampled in between.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::agent::{Context, LivePod};
use crate::env::memory_bytes;

/// Kernel ticks a second in /proc (`USER_HZ`), the same on every architecture that Linux has today.
const TICKS_PER_SEC: u64 = 100;
const PAGE_BYTES: u64 = 4096;

/// CPU time since the start, and memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    cpu_nanos: u64,
    memory_bytes: u64,
}

impl Usage {
    fn add(&mut self, other: Self) {
        self.cpu_nanos = self.cpu_nanos.saturating_add(other.cpu_nanos);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
    }
}

/// Usage of the node, and of processes by mount namespace: each container has one of its own.
#[derive(Debug, Default)]
struct Census {
    node: Usage,
    by_mounts: BTreeMap<u64, Usage>,
}

impl Census {
    /// Looks at every process of this machine. Blocking.
    fn take() -> Self {
        let mut census = Self::default();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(text) = std::fs::read_to_string(path.join("stat")) else { continue };
            let Some(usage) = parse_stat(&text) else { continue };
            if let Ok(meta) = std::fs::metadata(path.join("ns/mnt")) {
                census.by_mounts.entry(meta.ino()).or_default().add(usage);
            }
        }
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let available = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        census.node = Usage {
            cpu_nanos: parse_cpu(&stat),
            memory_bytes: u64::try_from(memory_bytes())
                .unwrap_or(0)
                .saturating_sub(parse_available(&available)),
        };
        census
    }
}

/// proc(5): fields 14 to 17 (own time and that of children waited for) and 24 (resident pages), counted behind the name in parentheses.
fn parse_stat(text: &str) -> Option<Usage> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks: u64 = (11..15).filter_map(number).sum();
    Some(Usage { cpu_nanos: ticks * (1_000_000_000 / TICKS_PER_SEC), memory_bytes: number(21)? * PAGE_BYTES })
}

/// The first line of /proc/stat: everything but idle time and waiting for disks.
fn parse_cpu(text: &str) -> u64 {
    let line = text.lines().next().unwrap_or_default();
    let ticks = line.split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
    let busy =
        ticks.enumerate().filter(|(index, _)| !matches!(index, 3 | 4) && *index < 8).map(|(_, ticks)| ticks);
    busy.sum::<u64>() * (1_000_000_000 / TICKS_PER_SEC)
}

fn parse_available(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A pod with the usage of its running containers.
struct Counted {
    pod: LivePod,
    containers: Vec<(String, Usage)>,
}

impl Counted {
    fn sum(&self) -> Usage {
        let mut sum = Usage::default();
        self.containers.iter().for_each(|(_, usage)| sum.add(*usage));
        sum
    }

    /// When a container of it started, as text of the API.
    fn started(&self, container: &str) -> Option<String> {
        let object = self.pod.object.borrow();
        let statuses = object.status.as_ref()?.container_statuses.as_deref()?;
        let state = statuses.iter().find(|status| status.name == container)?.state.as_ref()?;
        Some(state.running.as_ref()?.started_at.as_ref()?.0.to_string())
    }
}

async fn count(context: &Context) -> (Census, Vec<Counted>) {
    let census = tokio::task::spawn_blocking(Census::take).await.unwrap_or_default();
    let of = |pod: LivePod| {
        let views = pod.containers.borrow().clone();
        let usage = |mounts: Option<u64>| mounts.and_then(|inode| census.by_mounts.get(&inode).copied());
        let containers =
            views.into_iter().filter_map(|(name, view)| Some((name, usage(view.mounts)?))).collect();
        Counted { pod, containers }
    };
    let pods = context.live.all().into_iter().map(of).collect();
    (census, pods)
}

/// `GET /pods`: the pods of this node with their newest status.
pub(super) fn pods(context: &Context) -> Value {
    let items: Vec<_> = context.live.all().iter().map(|pod| pod.object.borrow().clone()).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// `GET /stats/summary`, the kubelet's own format as far as there are figures.
pub(super) async fn summary(context: &Context) -> Value {
    let (census, pods) = count(context).await;
    let now = jiff::Timestamp::now().to_string();
    let shown = |usage: Usage| {
        json!({
            "cpu": {"time": now, "usageCoreNanoSeconds": usage.cpu_nanos},
            "memory": {"time": now, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.memory_bytes, "rssBytes": usage.memory_bytes},
        })
    };
    let with = |usage: Usage, fields: Value| {
        let mut all = shown(usage);
        if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
            all.extend(fields);
        }
        all
    };
    let pod = |counted: &Counted| {
        let id = &counted.pod.id;
        let containers = counted
            .containers
            .iter()
            .map(|(name, usage)| with(*usage, json!({"name": name, "startTime": counted.started(name)})));
        let start = counted.pod.object.borrow().status.as_ref().and_then(|status| status.start_time.clone());
        with(
            counted.sum(),
            json!({
                "podRef": {"name": id.name, "namespace": id.namespace, "uid": id.uid},
                "startTime": start,
                "containers": containers.collect::<Vec<_>>(),
            }),
        )
    };
    let node = with(census.node, json!({"nodeName": context.config.node_name}));
    json!({"node": node, "pods": pods.iter().map(pod).collect::<Vec<_>>()})
}

/// `GET /metrics/resource`: what metrics-server reads.
pub(super) async fn resource_metrics(context: &Context) -> String {
    let (census, pods) = count(context).await;
    let mut text = String::new();
    let secs = |usage: Usage| usage.cpu_nanos as f64 / 1e9;
    let mut family = |name: &str, kind: &str, samples: &[(String, String)]| {
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let none = String::new;
    family("node_cpu_usage_seconds_total", "counter", &[(none(), secs(census.node).to_string())]);
    family("node_memory_working_set_bytes", "gauge", &[(none(), census.node.memory_bytes.to_string())]);
    let (mut of_containers, mut of_pods) = (Vec::new(), Vec::new());
    for counted in &pods {
        let id = &counted.pod.id;
        let place = format!("namespace=\"{}\",pod=\"{}\"", id.namespace, id.name);
        let each = counted.containers.iter();
        of_containers.extend(each.map(|(name, usage)| (format!("{{container=\"{name}\",{place}}}"), *usage)));
        of_pods.push((format!("{{{place}}}"), counted.sum()));
    }
    for (kind, usages) in [("container", &of_containers), ("pod", &of_pods)] {
        let cpu: Vec<_> =
            usages.iter().map(|(labels, usage)| (labels.clone(), secs(*usage).to_string())).collect();
        let memory: Vec<_> =
            usages.iter().map(|(labels, usage)| (labels.clone(), usage.memory_bytes.to_string())).collect();
        family(&format!("{kind}_cpu_usage_seconds_total"), "counter", &cpu);
        family(&format!("{kind}_memory_working_set_bytes"), "gauge", &memory);
    }
    family("resource_scrape_error", "gauge", &[(none(), "0".to_owned())]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_processes_and_the_machine() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 7 3 2 1 20 0 1 0 100 1000000 25 184 1 1 0 0 0";
        assert_eq!(parse_stat(stat), Some(Usage { cpu_nanos: 130_000_000, memory_bytes: 25 * 4096 }));
        assert_eq!(parse_stat("garbage"), None);
        assert_eq!(parse_cpu("cpu  1 2 3 100 50 4 5 6 7 8\ncpu0 1 1\n"), 210_000_000);
        assert_eq!(parse_available("MemTotal: 9 kB\nMemAvailable:      12 kB\n"), 12 * 1024);
    }
}
