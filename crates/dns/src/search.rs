//! The search path of resolv.conf(5): which names a client asks for, in order.

use std::net::IpAddr;

/// More search domains than this are ignored (glibc has no limit since 2.26, Kubernetes allows 32).
const SEARCH_MAX: usize = 32;

/// What a client's resolv.conf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers, in order.
    pub servers: Vec<IpAddr>,
    /// Search domains, in order.
    pub search: Vec<String>,
    /// Names with fewer dots than this are tried with the search domains first.
    pub ndots: usize,
}

impl ResolvConf {
    /// Reads the text. Unknown lines are ignored, as resolvers do; a later `search` replaces an earlier one.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self { servers: vec![], search: vec![], ndots: 1 };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    conf.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search") => {
                    conf.search = words
                        .take(SEARCH_MAX)
                        .map(|domain| domain.trim_end_matches('.').to_owned())
                        .collect();
                    conf.search.retain(|domain| !domain.is_empty());
                }
                Some("options") => {
                    let ndots =
                        words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    conf.ndots = ndots.unwrap_or(conf.ndots).min(15);
                }
                _ => {}
            }
        }
        conf
    }

    /// The names asked for, in order, until one exists.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        if name.matches('.').count() >= self.ndots {
            std::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(name.to_owned())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ndots_decides_what_is_asked_first() {
        let conf = ResolvConf::parse(
            "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5 edns0 # x\n",
        );
        assert_eq!(conf.servers, [IpAddr::from([10, 96, 0, 10])]);
        assert_eq!(conf.candidates("web"), ["web.ns.svc.cluster.local", "web.svc.cluster.local", "web"]);
        assert_eq!(conf.candidates("a.b.c.d.e.f")[0], "a.b.c.d.e.f");
        assert_eq!(conf.candidates("api.example.com."), ["api.example.com"]);
    }
}
