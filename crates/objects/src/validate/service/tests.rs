use serde_json::{Value, json};

use super::super::tests::{errors, update_errors};

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_service_is_refused_in_the_words_of_the_wire() {
    let port = json!([{"port": 80}]);
    let cases: &[(Value, &[&str])] = &[
        (json!({"ports": port}), &[]),
        (json!({"clusterIP": "None"}), &[]),
        (json!({"type": "ExternalName", "externalName": "a.b."}), &[]),
        (json!({}), &["spec.ports: Required value"]),
        (
            json!({"type": "LoadBalancer", "clusterIP": "None", "ports": port}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services",
            ],
        ),
        (
            json!({"type": "ExternalName", "clusterIP": "10.0.0.1"}),
            &[
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                "spec.externalName: Required value",
            ],
        ),
        (
            json!({"ports": [{"port": 0}]}),
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"ports": [{"name": "a", "port": 1}, {"port": 2}, {"name": "a", "port": 3}]}),
            &["spec.ports[1].name: Required value", "spec.ports[2].name: Duplicate value: \"a\""],
        ),
        (
            json!({"ports": [{"port": 1, "protocol": "X"}]}),
            &[
                "spec.ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            json!({"ports": [{"port": 1, "targetPort": 70000}]}),
            &["spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (
            json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}),
            &["spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\",\"targetPort\":0}"],
        ),
        (
            json!({"ports": [{"port": 1, "nodePort": 30001}]}),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({"ports": port, "sessionAffinity": "ClientIP",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100_000}}}),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 100000: must be greater than 0 \
               and less than 86400",
            ],
        ),
        (
            json!({"ports": port, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
            &["spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"],
        ),
        (
            json!({"ports": port, "clusterIPs": ["10.0.0.2"]}),
            &[
                "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: must be empty when `clusterIP` is not specified",
            ],
        ),
        (
            json!({"ports": port, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            &[
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for \
               each IP family",
            ],
        ),
        (
            json!({"ports": port, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
            &["spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by \
               `ipFamilies[0]`"],
        ),
        (
            json!({"ports": port, "externalIPs": ["127.0.0.1"]}),
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
               ::1/128)",
            ],
        ),
        (
            json!({"ports": port, "loadBalancerSourceRanges": ["10.0.0.0/8"], "loadBalancerClass": "a/b"}),
            &[
                "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            json!({"ports": port, "externalTrafficPolicy": "Local"}),
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible \
               services",
            ],
        ),
        (
            json!({"ports": port, "type": "NodePort", "healthCheckNodePort": 30000}),
            &[
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and \
               `externalTrafficPolicy` is 'Local'",
            ],
        ),
        (
            json!({"ports": port, "trafficDistribution": "X"}),
            &["spec.trafficDistribution: Unsupported value: \"X\": supported values: \"PreferClose\", \
               \"PreferSameZone\", \"PreferSameNode\""],
        ),
        (
            json!({"ports": port, "type": "X"}),
            &[
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \
               \"LoadBalancer\", \"NodePort\"",
                "spec.internalTrafficPolicy: Required value",
            ],
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(errors("", "Service", json!({"spec": spec})), *want, "{spec}");
    }
}

#[test]
fn what_was_given_stays() {
    let spec = |ip: &str, more: Value| {
        let mut spec =
            json!({"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ports": [{"port": 1}]});
        json_patch::merge(&mut spec, &more);
        json!({"spec": spec})
    };
    let none = json!({});
    let cases: [(Value, Value, &[&str]); 4] = [
        (spec("10.0.0.1", none.clone()), spec("10.0.0.1", none.clone()), &[]),
        (json!({"spec": {"ports": [{"port": 1}]}}), spec("10.0.0.1", none.clone()), &[]),
        (
            spec("10.0.0.2", none.clone()),
            spec("10.0.0.1", none.clone()),
            &["spec.clusterIPs[0]: Invalid value: \"10.0.0.2\": may not change once set"],
        ),
        (
            spec("10.0.0.1", json!({"type": "LoadBalancer", "loadBalancerClass": "a/c"})),
            spec("10.0.0.1", json!({"type": "LoadBalancer", "loadBalancerClass": "a/b"})),
            &["spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"],
        ),
    ];
    for (new, old, want) in cases {
        assert_eq!(update_errors("", "Service", new, old), want);
    }
}
