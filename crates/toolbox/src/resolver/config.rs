//! resolv.conf(5) and hosts(5) as data. Pure.

use std::net::IpAddr;
use std::time::Duration;

/// glibc's MAXNS.
const SERVERS_MAX: usize = 3;
/// Search domains that are kept (glibc has no limit since 2.26; a file may not make a lookup endless).
const SEARCH_MAX: usize = 32;
/// Lines of a hosts file that are kept.
const HOSTS_MAX: usize = 4096;

/// What resolv.conf says, with glibc's defaults and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Asked in this order.
    pub servers: Vec<IpAddr>,
    /// Tried in this order, without dots around.
    pub search: Vec<String>,
    /// A name with so many dots is first tried as it is.
    pub ndots: usize,
    /// For one server.
    pub timeout: Duration,
    /// Rounds over all servers.
    pub attempts: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        }
    }
}

impl Config {
    /// Reads a file; lines that are not understood are ignored, as the C library does.
    pub fn parse(text: &str) -> Self {
        let mut config = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    if config.servers.len() < SERVERS_MAX {
                        config.servers.extend(server);
                    }
                }
                // The last of `search` and `domain` wins.
                Some("search") => {
                    config.search =
                        words.take(SEARCH_MAX).map(|word| word.trim_matches('.').to_owned()).collect();
                }
                Some("domain") => {
                    config.search = words.take(1).map(|word| word.trim_matches('.').to_owned()).collect();
                }
                Some("options") => words.for_each(|option| config.set(option)),
                _ => {}
            }
        }
        config.search.retain(|domain| !domain.is_empty());
        config
    }

    fn set(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else { return };
        let Ok(value) = value.parse::<u32>() else { return };
        match name {
            "ndots" => self.ndots = usize::try_from(value.min(15)).unwrap_or(1),
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The absolute names to ask for, in order, without the last dot.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let dots = name.bytes().filter(|&byte| byte == b'.').count();
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let as_it_is = std::iter::once(name.to_owned());
        if dots >= self.ndots {
            as_it_is.chain(searched).collect()
        } else {
            searched.chain(as_it_is).collect()
        }
    }
}

/// What hosts(5) says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<(String, IpAddr)>);

impl Hosts {
    /// Reads a file; lines that are not understood are ignored.
    pub fn parse(text: &str) -> Self {
        let mut entries = Vec::new();
        for line in text.lines().take(HOSTS_MAX) {
            let mut words = line.split('#').next().unwrap_or("").split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse) else { continue };
            entries.extend(words.map(|name| (name.to_ascii_lowercase(), address)));
        }
        Self(entries)
    }

    /// IPv4 before IPv6, each in the file's order.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let mut found: Vec<_> =
            self.0.iter().filter(|(known, _)| *known == name).map(|(_, address)| *address).collect();
        found.sort_by_key(IpAddr::is_ipv6);
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";

    #[test]
    fn a_pod_s_file_is_understood() {
        let config = Config::parse(POD);
        assert_eq!(config.servers, [IpAddr::from([10, 96, 0, 10])]);
        assert_eq!((config.ndots, config.search.len(), config.attempts), (5, 3, 2));
    }

    #[test]
    fn names_are_searched_as_glibc_does() {
        let config = Config::parse(POD);
        let cases: [(&str, &[&str]); 3] = [
            ("web", &["web.shop.svc.cluster.local", "web.svc.cluster.local", "web.cluster.local", "web"]),
            ("web.shop.svc.cluster.local.", &["web.shop.svc.cluster.local"]),
            (
                "a.b.c.d.e.f",
                &[
                    "a.b.c.d.e.f",
                    "a.b.c.d.e.f.shop.svc.cluster.local",
                    "a.b.c.d.e.f.svc.cluster.local",
                    "a.b.c.d.e.f.cluster.local",
                ],
            ),
        ];
        for (given, want) in cases {
            assert_eq!(config.candidates(given), want, "{given}");
        }
        assert_eq!(Config::default().candidates("localhost"), ["localhost"]);
    }

    #[test]
    fn limits_and_nonsense() {
        let config = Config::parse(
            "nameserver 1.1.1.1\nnameserver x\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n\
             domain a.\nsearch b. c\noptions ndots:99 timeout:0 attempts:x rotate\nbanana\n",
        );
        assert_eq!(config.servers.len(), 3);
        assert_eq!(config.search, ["b", "c"]);
        assert_eq!((config.ndots, config.timeout, config.attempts), (15, Duration::from_secs(1), 2));
    }

    #[test]
    fn hosts_know_several_names_a_line() {
        let hosts = Hosts::parse("# comment\n::1 web\n10.0.0.1 Web web.local # x\nnonsense here\n");
        assert_eq!(hosts.addresses("WEB."), [IpAddr::from([10, 0, 0, 1]), "::1".parse().unwrap()]);
        assert!(hosts.addresses("x").is_empty());
    }
}
