//! How a pod finds others by name: /etc/resolv.conf, /etc/hosts and its host name, as texts.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::env::namespace_of;

/// Limits of glibc's resolver as Kubernetes applies them.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;
/// Linux `HOST_NAME_MAX`.
const HOSTNAME_BYTES_MAX: usize = 63;

/// The cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterDns {
    pub servers: Vec<IpAddr>,
    pub domain: String,
}

/// The host name of a pod as its kernel has it: `spec.hostnameOverride`, the node's with host network, `spec.hostname`, else the pod's name
/// (cut to what the kernel takes); with `setHostnameAsFQDN` the whole name.
pub(crate) fn hostname(pod: &Pod, node_name: &str, dns: &ClusterDns) -> Result<String, NameTooLong> {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.clone()) {
        return Ok(name);
    }
    let short = short_hostname(pod, node_name);
    let full =
        qualified(pod, &short, dns).filter(|_| spec.and_then(|spec| spec.set_hostname_as_fqdn) == Some(true));
    match full {
        Some(name) if name.len() > HOSTNAME_BYTES_MAX => Err(NameTooLong { name }),
        full => Ok(full.unwrap_or(short)),
    }
}

/// The name without a domain.
pub(crate) fn short_hostname(pod: &Pod, node_name: &str) -> String {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(uses_host_network) {
        return node_name.to_owned();
    }
    let wanted =
        spec.and_then(|spec| spec.hostname.as_deref()).or(pod.metadata.name.as_deref()).unwrap_or("pod");
    let end = wanted.len().min(HOSTNAME_BYTES_MAX);
    wanted.get(..end).unwrap_or(wanted).trim_end_matches(['-', '.']).to_owned()
}

/// A whole name that the kernel does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long ({HOSTNAME_BYTES_MAX} characters is the max, {} characters requested)",
    name.len()
)]
pub(crate) struct NameTooLong {
    name: String,
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

/// /etc/hosts. With host network it is the node's (`host`), otherwise it knows the pod under `hostname`.
pub(crate) fn hosts(pod: &Pod, hostname: &str, ip: Option<IpAddr>, dns: &ClusterDns, host: &str) -> String {
    let own_network = !pod.spec.as_ref().is_some_and(uses_host_network);
    let mut text = match own_network {
        true => String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        ),
        false => format!("# Kubernetes-managed hosts file (host network).\n{host}"),
    };
    if let Some(ip) = ip.filter(|_| own_network) {
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

/// /etc/resolv.conf by `dnsPolicy` and `dnsConfig`; `host` is the text of the node's own. What its limits cut off is said beside it.
pub(crate) fn resolv_conf(pod: &Pod, dns: &ClusterDns, host: &str) -> (String, Vec<String>) {
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
    fn render(self) -> (String, Vec<String>) {
        let mut omitted = Vec::new();
        let searches = distinct(self.searches);
        let mut bytes = 0;
        let fits = |name: &&String| {
            bytes += name.len() + 1;
            bytes <= SEARCH_BYTES_MAX + 1
        };
        let kept: Vec<String> = searches.iter().take(SEARCHES_MAX).take_while(fits).cloned().collect();
        let mut text = String::new();
        if !kept.is_empty() {
            text.push_str(&format!("search {}\n", kept.join(" ")));
        }
        if kept.len() < searches.len() {
            omitted.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                kept.join(" ")
            ));
        }
        let servers = distinct(self.nameservers);
        let kept: Vec<String> = servers.iter().take(NAMESERVERS_MAX).cloned().collect();
        kept.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
        if kept.len() < servers.len() {
            omitted.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                kept.join(" ")
            ));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        (text, omitted)
    }
}

fn distinct(names: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
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
            assert_eq!(got, (case.want.to_owned(), Vec::new()), "{}", case.name);
        }
        let servers: Vec<String> = (1..6).map(|number| format!("192.0.2.{number}")).collect();
        let many = pod(
            serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": servers}}),
        );
        let (text, omitted) = resolv_conf(&many, &dns(), "");
        assert_eq!(text, "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n");
        assert!(omitted[0].ends_with("nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3"), "{omitted:?}");
    }

    #[test]
    fn hosts_know_the_pod_and_its_aliases() {
        let pod = pod(serde_json::json!({"containers": [], "hostname": "db-0", "subdomain": "db",
            "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}));
        let text = hosts(&pod, &short_hostname(&pod, "node-1"), Some([10, 244, 1, 2].into()), &dns(), "");
        assert!(text.contains("10.244.1.2\tdb-0.db.shop.svc.cluster.local\tdb-0\n"), "{text}");
        assert!(text.ends_with("192.0.2.9\ta\tb\n"), "{text}");
        let mut host = pod;
        host.spec.as_mut().unwrap().host_network = Some(true);
        let text = hosts(&host, "node-1", Some([10, 0, 0, 1].into()), &dns(), "127.0.0.1 localhost\n");
        let want = "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries added by HostAliases.\n192.0.2.9\ta\tb\n";
        assert_eq!(text, want);
    }

    #[test]
    fn host_names() {
        struct Case {
            given: serde_json::Value,
            want: Option<&'static str>,
        }
        let long = "a-name-of-sixty-characters-or-so-that-alone-is-short-enough-x";
        let cases = [
            Case { given: serde_json::json!({}), want: Some("web-1") },
            Case { given: serde_json::json!({"hostname": "db-0", "subdomain": "db"}), want: Some("db-0") },
            Case {
                given: serde_json::json!({"hostname": "db-0", "subdomain": "db", "setHostnameAsFQDN": true}),
                want: Some("db-0.db.shop.svc.cluster.local"),
            },
            Case { given: serde_json::json!({"setHostnameAsFQDN": true}), want: Some("web-1") },
            Case {
                given: serde_json::json!({"hostname": long, "subdomain": "db", "setHostnameAsFQDN": true}),
                want: None,
            },
            Case { given: serde_json::json!({"hostNetwork": true}), want: Some("node-1") },
            Case { given: serde_json::json!({"hostnameOverride": "x.y"}), want: Some("x.y") },
        ];
        for mut case in cases {
            case.given["containers"] = serde_json::json!([]);
            let got = hostname(&pod(case.given.clone()), "node-1", &dns());
            assert_eq!(got.as_deref().ok(), case.want, "{}: {got:?}", case.given);
        }
    }
}
