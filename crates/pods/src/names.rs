//! How a pod finds others by name: /etc/resolv.conf, /etc/hosts and its host name, as texts.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::env::namespace_of;

/// Limits of glibc's resolver as Kubernetes applies them.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
/// Linux `HOST_NAME_MAX`.
const HOSTNAME_BYTES_MAX: usize = 63;

/// The cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterDns {
    pub servers: Vec<IpAddr>,
    pub domain: String,
}

/// The host name of a pod: `spec.hostname`, else its name (cut to what the kernel takes).
pub(crate) fn hostname(pod: &Pod, node_name: &str) -> String {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(uses_host_network) {
        return node_name.to_owned();
    }
    let wanted =
        spec.and_then(|spec| spec.hostname.as_deref()).or(pod.metadata.name.as_deref()).unwrap_or("pod");
    let end = wanted.len().min(HOSTNAME_BYTES_MAX);
    wanted.get(..end).unwrap_or(wanted).trim_end_matches(['-', '.']).to_owned()
}

/// Whether the pod has no network namespace of its own.
pub(crate) fn uses_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// The fully qualified name, for pods with a subdomain.
fn qualified(pod: &Pod, hostname: &str, dns: &ClusterDns) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|text| !text.is_empty())?;
    Some(format!("{hostname}.{subdomain}.{}.svc.{}", namespace_of(pod), dns.domain))
}

/// /etc/hosts.
pub(crate) fn hosts(pod: &Pod, hostname: &str, ip: Option<IpAddr>, dns: &ClusterDns) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    if let Some(ip) = ip {
        let full = qualified(pod, hostname, dns).map(|full| format!("{full}\t")).unwrap_or_default();
        text.push_str(&format!("{ip}\t{full}{hostname}\n"));
    }
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    let mut first = true;
    for alias in aliases {
        if std::mem::take(&mut first) {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.as_deref().unwrap_or_default().join("\t")
        ));
    }
    text
}

#[derive(Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// /etc/resolv.conf by `dnsPolicy` and `dnsConfig`; `host` is the text of the node's own.
pub(crate) fn resolv_conf(pod: &Pod, dns: &ClusterDns, host: &str) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let host = parse(host);
    let policy = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        // Without a pod network the cluster's DNS is asked only on request.
        "ClusterFirst" if uses_host_network(&spec) => "Default",
        other => other,
    };
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "Default" => host,
        _ => {
            let domain = &dns.domain;
            let own =
                [format!("{}.svc.{domain}", namespace_of(pod)), format!("svc.{domain}"), domain.clone()];
            Resolver {
                nameservers: dns.servers.iter().map(ToString::to_string).collect(),
                searches: own.into_iter().chain(host.searches).collect(),
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(config) = &spec.dns_config {
        resolver.nameservers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            // An option given by the pod replaces the same one of the policy.
            resolver.options.retain(|known| known.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    resolver.render()
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
            Some("options") => resolver.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    resolver
}

impl Resolver {
    fn render(&self) -> String {
        let mut seen = std::collections::BTreeSet::new();
        let searches: Vec<&str> = self
            .searches
            .iter()
            .map(String::as_str)
            .filter(|name| seen.insert(*name))
            .take(SEARCHES_MAX)
            .collect();
        let mut text = String::new();
        if !searches.is_empty() {
            text.push_str(&format!("search {}\n", searches.join(" ")));
        }
        let mut seen = std::collections::BTreeSet::new();
        for server in self.nameservers.iter().filter(|server| seen.insert(*server)).take(NAMESERVERS_MAX) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"namespace": "shop", "name": "web-1"}, "spec": spec}),
        )
        .unwrap()
    }

    fn dns() -> ClusterDns {
        ClusterDns { servers: vec![[10, 96, 0, 10].into()], domain: "cluster.local".into() }
    }

    #[test]
    fn resolv_conf_by_policy() {
        struct Case {
            name: &'static str,
            given: serde_json::Value,
            want: &'static str,
        }
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";
        let host = "search corp.example\nnameserver 192.0.2.1\noptions timeout:1\n";
        let cases = [
            Case { name: "cluster first", given: serde_json::json!({"containers": []}), want: cluster },
            Case {
                name: "host network",
                given: serde_json::json!({"containers": [], "hostNetwork": true}),
                want: host,
            },
            Case {
                name: "host network, asked for",
                given: serde_json::json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                want: cluster,
            },
            Case {
                name: "default",
                given: serde_json::json!({"containers": [], "dnsPolicy": "Default"}),
                want: host,
            },
            Case {
                name: "none and own configuration",
                given: serde_json::json!({"containers": [], "dnsPolicy": "None",
                    "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                want: "search a\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
            },
            Case {
                name: "an option replaced",
                given: serde_json::json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                want: "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:1\n",
            },
        ];
        for case in cases {
            let got = resolv_conf(
                &pod(case.given),
                &dns(),
                "# c\nnameserver 192.0.2.1\nsearch corp.example\noptions timeout:1\n",
            );
            assert_eq!(got, case.want, "{}", case.name);
        }
    }

    #[test]
    fn hosts_know_the_pod_and_its_aliases() {
        let pod = pod(serde_json::json!({"containers": [], "hostname": "db-0", "subdomain": "db",
            "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}));
        let name = hostname(&pod, "node-1");
        let text = hosts(&pod, &name, Some([10, 244, 1, 2].into()), &dns());
        assert!(text.contains("10.244.1.2\tdb-0.db.shop.svc.cluster.local\tdb-0\n"), "{text}");
        assert!(text.ends_with("192.0.2.9\ta\tb\n"), "{text}");
    }
}
