//! Where `[scheme:]name[:port]` leads: from the objects, as they are.

use std::net::IpAddr;

use fairway_objects::document::Document;
use fairway_objects::status::{Qualified, Status};
use rand::seq::IndexedRandom;
use serde_json::Value;

use crate::store::{Collection, Key, State};

/// Where a kubelet would listen; here it is the agent's socket.
const KUBELET_PORT: u16 = 10250;

/// How to speak with the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// As URLs write it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// To the agent of a node.
    Agent {
        /// Which.
        node: String,
    },
    /// To an address in the cluster's networks.
    Address {
        /// How.
        scheme: Scheme,
        /// Which.
        host: IpAddr,
        /// Which.
        port: u16,
    },
}

/// What the name in a path says.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    scheme: Scheme,
    name: &'a str,
    port: &'a str,
}

/// `name`, `name:port`, `scheme:name:port`; the scheme may be empty.
fn parse(text: &str) -> Option<Asked<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let scheme = match scheme {
        "" | "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    (!name.is_empty()).then_some(Asked { scheme, name, port })
}

/// The destination of a request for a proxy subresource of `resource`.
pub(super) fn find(
    state: &State,
    resource: &str,
    namespace: &str,
    text: &str,
) -> Result<Destination, Status> {
    let kind = resource.strip_suffix('s').unwrap_or(resource);
    let asked = parse(text).ok_or_else(|| Status::bad_request(format!("invalid {kind} request {text:?}")))?;
    let collection = Collection::new("", resource);
    let object = state.object(&collection, &Key::new(namespace, asked.name));
    let object =
        object.ok_or_else(|| Status::not_found(Qualified { group: "", name: resource }, asked.name))?.value();
    match resource {
        "pods" => pod(&asked, object),
        "nodes" => node(&asked, object),
        _ => service(state, namespace, &asked, object),
    }
}

fn pod(asked: &Asked<'_>, pod: &Value) -> Result<Destination, Status> {
    let ports = || pod.list(&["spec", "containers"]).iter().flat_map(|container| container.list(&["ports"]));
    let number = |port: &Value| port.int(&["containerPort"]).and_then(|port| u16::try_from(port).ok());
    let port = match asked.port {
        "" => Some(ports().find_map(number).unwrap_or(asked.scheme.default_port())),
        text => text.parse().ok().or_else(|| {
            let named = ports().find(|port| port.text(&["name"]) == text);
            named.and_then(number)
        }),
    };
    let port = port.filter(|port| *port > 0);
    let port = port.ok_or_else(|| Status::bad_request(format!("port {:?} is not valid", asked.port)))?;
    let host = address(pod.text(&["status", "podIP"]))?;
    Ok(Destination::Address { scheme: asked.scheme, host, port })
}

fn node(asked: &Asked<'_>, node: &Value) -> Result<Destination, Status> {
    let port = match asked.port {
        "" => KUBELET_PORT,
        text => text.parse().map_err(|_| Status::bad_request(format!("port {text:?} is not valid")))?,
    };
    if port == KUBELET_PORT {
        return Ok(Destination::Agent { node: asked.name.to_owned() });
    }
    let addresses = node.list(&["status", "addresses"]).iter();
    let internal = addresses.filter(|address| address.text(&["type"]) == "InternalIP");
    let host = internal.map(|address| address.text(&["address"])).next().unwrap_or_default();
    Ok(Destination::Address { scheme: asked.scheme, host: address(host)?, port })
}

/// An endpoint that is ready, at the port of that name; a number is a port of the Service.
fn service(
    state: &State,
    namespace: &str,
    asked: &Asked<'_>,
    service: &Value,
) -> Result<Destination, Status> {
    let port_name = match asked.port.parse::<u16>() {
        Err(_) => asked.port,
        Ok(number) => {
            let mut ports = service.list(&["spec", "ports"]).iter();
            let port = ports.find(|port| port.int(&["port"]) == Some(i64::from(number)));
            let missing = || {
                Status::unavailable(format!("no service port {number} found for service {:?}", asked.name))
            };
            port.ok_or_else(missing)?.text(&["name"])
        }
    };
    let slices = state.objects(&Collection::new("discovery.k8s.io", "endpointslices"));
    let own = slices.values().map(|slice| slice.value()).filter(|slice| {
        slice.text(&["metadata", "namespace"]) == namespace
            && slice.text(&["metadata", "labels", "kubernetes.io/service-name"]) == asked.name
    });
    let candidates: Vec<(IpAddr, u16)> = own.flat_map(|slice| ready_at(slice, port_name)).collect();
    let (host, port) = candidates
        .choose(&mut rand::rng())
        .copied()
        .ok_or_else(|| Status::unavailable(format!("no endpoints available for service {:?}", asked.name)))?;
    Ok(Destination::Address { scheme: asked.scheme, host, port })
}

fn ready_at(slice: &Value, port_name: &str) -> Vec<(IpAddr, u16)> {
    let port = slice.list(&["ports"]).iter().find(|port| port.text(&["name"]) == port_name);
    let port = port.and_then(|port| u16::try_from(port.int(&["port"])?).ok());
    let Some(port) = port.filter(|port| *port > 0) else { return Vec::new() };
    let ready = slice.list(&["endpoints"]).iter().filter(|endpoint| {
        !endpoint.has(&["conditions", "ready"]) || endpoint.is_true(&["conditions", "ready"])
    });
    let addresses = ready.filter_map(|endpoint| endpoint.list(&["addresses"]).first()?.as_str());
    addresses.filter_map(|text| Some((address(text).ok()?, port))).collect()
}

/// An address that may be asked in the name of others: not this machine itself, nor its neighbours by link. Whoever may write a pod's
/// status could reach them otherwise.
fn address(text: &str) -> Result<IpAddr, Status> {
    let refused = || Status::bad_request("address not allowed");
    let ip: IpAddr = text.parse().map_err(|_| refused())?;
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
        Err(refused())
    } else {
        Ok(ip)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(scheme: Scheme, host: &str, port: u16) -> Result<Destination, String> {
        Ok(Destination::Address { scheme, host: host.parse().unwrap(), port })
    }

    #[test]
    fn names_say_scheme_name_and_port() {
        struct Case {
            given: &'static str,
            want: Option<(Scheme, &'static str, &'static str)>,
        }
        let cases = [
            Case { given: "web", want: Some((Scheme::Http, "web", "")) },
            Case { given: "web:80", want: Some((Scheme::Http, "web", "80")) },
            Case { given: "https:web:main", want: Some((Scheme::Https, "web", "main")) },
            Case { given: "https:web:", want: Some((Scheme::Https, "web", "")) },
            Case { given: ":web:80", want: Some((Scheme::Http, "web", "80")) },
            Case { given: "ftp:web:80", want: None },
            Case { given: "a:b:c:d", want: None },
            Case { given: ":80", want: None },
        ];
        for case in cases {
            let got = parse(case.given).map(|asked| (asked.scheme, asked.name, asked.port));
            assert_eq!(got, case.want, "{}", case.given);
        }
    }

    #[test]
    fn pods_are_asked_at_their_address() {
        let object = |ip: &str| {
            json!({"spec": {"containers": [{"name": "sidecar"}, {"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}]},
                   "status": {"podIP": ip}})
        };
        struct Case {
            given: &'static str,
            ip: &'static str,
            want: Result<Destination, String>,
        }
        let cases = [
            Case { given: "p", ip: "10.0.0.1", want: at(Scheme::Http, "10.0.0.1", 8080) },
            Case { given: "p:http", ip: "10.0.0.1", want: at(Scheme::Http, "10.0.0.1", 8080) },
            Case { given: "https:p:443", ip: "10.0.0.1", want: at(Scheme::Https, "10.0.0.1", 443) },
            Case { given: "p", ip: "", want: Err("address not allowed".to_owned()) },
            Case { given: "p", ip: "127.0.0.1", want: Err("address not allowed".to_owned()) },
            Case { given: "p", ip: "169.254.1.1", want: Err("address not allowed".to_owned()) },
            Case { given: "p:other", ip: "10.0.0.1", want: Err("port \"other\" is not valid".to_owned()) },
        ];
        for case in cases {
            let got = pod(&parse(case.given).unwrap(), &object(case.ip)).map_err(|status| status.message);
            assert_eq!(got, case.want, "{} {}", case.given, case.ip);
        }
    }

    #[test]
    fn only_ready_endpoints_with_that_port_are_asked() {
        let slice = json!({"ports": [{"name": "http", "port": 8080}, {"name": "", "port": 9090}, {"port": 1}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"]}]});
        let of = |name: &str| {
            ready_at(&slice, name).into_iter().map(|(ip, port)| format!("{ip}:{port}")).collect::<Vec<_>>()
        };
        assert_eq!(of("http"), ["10.0.0.1:8080", "10.0.0.3:8080"]);
        assert_eq!(of(""), ["10.0.0.1:9090", "10.0.0.3:9090"]);
        assert!(of("other").is_empty());
    }

    #[test]
    fn the_agent_is_a_node_s_own_port() {
        let object = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.9"}]}});
        let got = |text: &str| node(&parse(text).unwrap(), &object).map_err(|status| status.message);
        let agent = Ok(Destination::Agent { node: "n".to_owned() });
        assert_eq!(got("n"), agent);
        assert_eq!(got("https:n:10250"), agent);
        assert_eq!(got("n:10256"), at(Scheme::Http, "10.0.0.9", 10256));
    }
}
