//! What `up` and `status` print for people.

use std::fmt::Write;

use fairway_local::{Event, EventKind, Objects, ProcessStatus, Status, Summary};

/// Two blanks between columns, as kubectl has at least.
const GAP: usize = 2;

/// An event of `up` as a line, or the table of what to try.
pub(super) fn event(event: &Event) -> String {
    let at = format!("{:>7.2}s", f64::from(u32::try_from(event.at_ms).unwrap_or(u32::MAX)) / 1000.0);
    match &event.kind {
        EventKind::Done { step } => format!("{at}  {step}"),
        EventKind::Cleaned { what } => format!("{at}  removed what an earlier run left: {what}"),
        EventKind::Restarted { role, reason, after_ms: 0 } => {
            format!("{at}  {role} ended ({reason}) and is started again")
        }
        EventKind::Restarted { role, reason, after_ms } => {
            format!("{at}  {role} ended ({reason}) and is started again after {after_ms} ms")
        }
        EventKind::Ready(ready) => format!("{at}  ready\n\n{}", summary(ready)),
        EventKind::Warning { text } => format!("{at}  warning: {text}"),
        EventKind::Stopping => format!("{at}  stopping"),
        EventKind::Stopped => format!("{at}  stopped; nothing is left but the state directory"),
        EventKind::Failed { problems } => problems.join("\n"),
    }
}

fn summary(summary: &Summary) -> String {
    let mut rows = vec![
        vec!["kubeconfig".to_owned(), summary.kubeconfig.clone()],
        vec!["API server".to_owned(), summary.api.clone()],
    ];
    rows.extend(summary.nodes.iter().map(|(name, address)| vec![name.clone(), address.clone()]));
    rows.push(vec!["cluster DNS".to_owned(), summary.dns.clone()]);
    rows.push(vec!["gateway".to_owned(), gateway(summary.gateway.as_deref())]);
    let named = named(&summary.name);
    let gateway = summary.gateway.as_deref().unwrap_or("GATEWAY");
    format!(
        "{}\nTry:\n  export KUBECONFIG={}\n  kubectl apply -f examples/shop\n  \
         curl --resolve shop.example.test:80:{gateway} http://shop.example.test/cart\n  \
         fairway why{named} outside http://shop.example.test/cart\n  fairway status{named}\n",
        indented(&columns(&rows)),
        summary.kubeconfig,
    )
}

/// The whole of `fairway status`.
pub(super) fn status(status: &Status) -> String {
    let named = named(&status.name);
    let mut text = match (status.supervisor, status.saved) {
        (Some(pid), _) => format!("cluster {} runs (process {pid})\n", status.name),
        (None, true) => {
            format!("cluster {} does not run; its objects are kept: fairway up{named}\n", status.name)
        }
        (None, false) => return format!("there is no cluster {}: fairway up{named}\n", status.name),
    };
    let Some(addresses) = &status.addresses else { return text };
    let mut rows = vec![
        vec!["kubeconfig".to_owned(), addresses.kubeconfig.clone()],
        vec!["API server".to_owned(), addresses.api.clone()],
        vec!["cluster DNS".to_owned(), addresses.dns.clone()],
    ];
    if let Some(objects) = &status.objects {
        rows.push(vec!["gateway".to_owned(), gateway(objects.gateway.as_deref())]);
    }
    let mut section = |lines: String| {
        let _ = write!(text, "\n{lines}");
    };
    section(indented(&columns(&rows)));
    if status.supervisor.is_some() {
        section(processes(&status.processes));
        match &status.objects {
            Some(objects) => {
                section(nodes(objects));
                section(system_pods(objects));
            }
            None => section(
                "its API server does not answer: Services go on as they are, changes wait\n".to_owned(),
            ),
        }
    }
    text
}

fn processes(processes: &[ProcessStatus]) -> String {
    let mut rows = vec![heading(["PROCESS", "STATE", "PID"])];
    rows.extend(processes.iter().map(|process| {
        let label = [process.role.role.as_str(), process.role.name.as_str()].join(" ");
        let state = if process.alive { "running" } else { "gone" };
        vec![label.trim().to_owned(), state.to_owned(), process.role.pid.to_string()]
    }));
    columns(&rows)
}

fn nodes(objects: &Objects) -> String {
    let mut rows = vec![heading(["NODE", "STATE", "ADDRESS"])];
    let nodes = objects.nodes.iter();
    rows.extend(nodes.map(|node| vec![node.name.clone(), ready(node.ready), node.address.clone()]));
    columns(&rows)
}

fn system_pods(objects: &Objects) -> String {
    let mut rows = vec![heading(["SYSTEM POD", "STATE", "NODE", "ADDRESS"])];
    let pods = objects.system_pods.iter();
    rows.extend(pods.map(|pod| vec![pod.name.clone(), ready(pod.ready), pod.node.clone(), pod.ip.clone()]));
    columns(&rows)
}

fn heading<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn ready(ready: bool) -> String {
    if ready { "ready" } else { "not ready" }.to_owned()
}

fn gateway(address: Option<&str>) -> String {
    address.unwrap_or("no address yet").to_owned()
}

/// What to add to a command about this cluster.
fn named(cluster: &str) -> String {
    if cluster == "fairway" { String::new() } else { format!(" --name {cluster}") }
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

/// Rows with their columns aligned, without blanks at the ends of lines.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<0$}", width + GAP));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use fairway_local::{NodeStatus, PodStatus, RunningRole};

    use super::*;

    fn stopped() -> Status {
        Status {
            name: "dev".into(),
            supervisor: None,
            saved: false,
            processes: Vec::new(),
            addresses: None,
            objects: None,
        }
    }

    #[test]
    fn a_status_is_a_few_aligned_tables() {
        let running = Status {
            supervisor: Some(7),
            saved: true,
            processes: vec![process("supervisor", "", 7, true), process("node", "node-1", 12, false)],
            addresses: Some(fairway_local::Addresses {
                api: "https://10.200.0.1:6443".into(),
                kubeconfig: "/k".into(),
                dns: "10.96.0.10".into(),
                networks: Default::default(),
            }),
            objects: Some(Objects {
                nodes: vec![NodeStatus { name: "node-1".into(), address: "10.200.0.2".into(), ready: true }],
                system_pods: vec![PodStatus {
                    name: "kube-system/dns".into(),
                    node: "node-1".into(),
                    ip: "10.244.1.2".into(),
                    ready: false,
                }],
                gateway: None,
            }),
            ..stopped()
        };
        let want = "\
cluster dev runs (process 7)

  kubeconfig   /k
  API server   https://10.200.0.1:6443
  cluster DNS  10.96.0.10
  gateway      no address yet

PROCESS      STATE    PID
supervisor   running  7
node node-1  gone     12

NODE    STATE  ADDRESS
node-1  ready  10.200.0.2

SYSTEM POD       STATE      NODE    ADDRESS
kube-system/dns  not ready  node-1  10.244.1.2
";
        assert_eq!(status(&running), want);
        let silent = Status { objects: None, processes: Vec::new(), ..running };
        assert!(status(&silent).contains("its API server does not answer"));
    }

    fn process(role: &str, name: &str, pid: u32, alive: bool) -> ProcessStatus {
        ProcessStatus { role: RunningRole { role: role.into(), name: name.into(), pid }, alive }
    }

    #[test]
    fn a_cluster_that_does_not_run_says_how_to_start_it() {
        assert_eq!(status(&stopped()), "there is no cluster dev: fairway up --name dev\n");
        let saved = Status { name: "fairway".into(), saved: true, ..stopped() };
        assert_eq!(status(&saved), "cluster fairway does not run; its objects are kept: fairway up\n");
    }
}
