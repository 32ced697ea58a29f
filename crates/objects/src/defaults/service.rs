//! Defaults of Services. Addresses and families are allocated, see [`crate::allocate`].

use serde_json::Value;

use crate::document::Document;

pub(super) fn service(object: &mut Value) {
    object.put_default(&["spec", "type"], "ClusterIP");
    object.put_default(&["spec", "sessionAffinity"], "None");
    match object.text(&["spec", "sessionAffinity"]) {
        "None" => {
            object.take_at(&["spec", "sessionAffinityConfig"]);
        }
        "ClientIP" => {
            object.put_default(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"], 10_800)
        }
        _ => {}
    }
    for port in object.list_mut(&["spec", "ports"]) {
        port.put_default(&["protocol"], "TCP");
        if let Some(number) = port.int(&["port"]).filter(|number| *number != 0) {
            port.put_default(&["targetPort"], number);
        }
    }
    let service_type = object.text(&["spec", "type"]).to_owned();
    let external_ips = !object.list(&["spec", "externalIPs"]).is_empty();
    if matches!(service_type.as_str(), "NodePort" | "LoadBalancer")
        || (service_type == "ClusterIP" && external_ips)
    {
        object.put_default(&["spec", "externalTrafficPolicy"], "Cluster");
    }
    if matches!(service_type.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        object.put_default(&["spec", "internalTrafficPolicy"], "Cluster");
    }
    if service_type == "LoadBalancer" {
        object.put_default(&["spec", "allocateLoadBalancerNodePorts"], true);
        for ingress in object.list_mut(&["status", "loadBalancer", "ingress"]) {
            if ingress.has(&["ip"]) {
                ingress.put_default(&["ipMode"], "VIP");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_get_what_their_type_has() {
        struct Case {
            name: &'static str,
            given: Value,
            want: Value,
        }
        let cases = [
            Case {
                name: "ClusterIP",
                given: json!({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}),
                want: json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                    "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                              {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}),
            },
            Case {
                name: "external addresses make a policy",
                given: json!({"externalIPs": ["1.2.3.4"]}),
                want: json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                    "externalTrafficPolicy": "Cluster", "externalIPs": ["1.2.3.4"]}),
            },
            Case {
                name: "LoadBalancer with affinity",
                given: json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}),
                want: json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                    "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
                    "allocateLoadBalancerNodePorts": true}),
            },
            Case {
                name: "ExternalName",
                given: json!({"type": "ExternalName", "externalName": "a.b"}),
                want: json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}),
            },
        ];
        for case in cases {
            let mut object = json!({"spec": case.given});
            service(&mut object);
            assert_eq!(object["spec"], case.want, "{}", case.name);
        }
    }
}
