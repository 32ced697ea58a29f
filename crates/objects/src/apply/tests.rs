//! Cases of stating, comparing, merging, removing and owning.

use serde_json::json;

use super::*;
use crate::registry::Registry;

fn resource(group: &str, kind: &str) -> &'static Resource {
    Registry::builtin().kind(group, "v1", kind).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn author(name: &str) -> Author<'_> {
    Author { name, subresource: "", now: at("2026-05-06T07:08:09.5Z") }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data})
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": spec})
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": spec})
}

/// Applies to an object (null: there is none) as the server does: config decoded, result as stored.
fn applied(
    resource: &Resource,
    live: &Value,
    name: &str,
    config: &Value,
    force: bool,
) -> Result<Value, ApplyError> {
    let body = config.to_string();
    let config =
        decode(&resource.object, body.as_bytes(), FieldValidation::Strict).map_err(ApplyError::Refused)?;
    apply(resource, (!live.is_null()).then_some(live), &config, &author(name), force)
}

/// Who owns what, by name and operation.
fn owners(object: &Value) -> Value {
    let entries = object.list(&["metadata", "managedFields"]).iter();
    entries
        .map(|entry| {
            let subresource = entry.text(&["subresource"]);
            let slash = if subresource.is_empty() { "" } else { "/" };
            let name =
                format!("{} {}{slash}{subresource}", entry.text(&["manager"]), entry.text(&["operation"]));
            (name, entry["fieldsV1"].clone())
        })
        .collect()
}

fn without_owners(mut object: Value) -> Value {
    object.take_at(&["metadata", "managedFields"]);
    object
}

fn message(result: Result<Value, ApplyError>) -> String {
    Status::from(result.unwrap_err()).message
}

#[test]
fn a_configuration_states_leaves_items_entries_and_empty_structures() {
    struct Case {
        name: &'static str,
        resource: &'static Resource,
        object: Value,
        want: Value,
    }
    let cases = [
        Case {
            name: "ports by number and protocol, which is TCP when missing",
            resource: resource("", "Service"),
            object: json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 80, "protocol": "UDP"}]}}),
            want: json!({"f:spec": {"f:ports": {
                r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:port": {}, "f:name": {}},
                r#"k:{"port":80,"protocol":"UDP"}"#: {".": {}, "f:port": {}, "f:protocol": {}},
            }}}),
        },
        Case {
            name: "map entries, atomic maps",
            resource: resource("", "Service"),
            object: json!({"metadata": {"labels": {"a": "b"}, "annotations": {}}, "spec": {"selector": {"x": "y"}}}),
            want: json!({"f:metadata": {"f:labels": {"f:a": {}}, "f:annotations": {}}, "f:spec": {"f:selector": {}}}),
        },
        Case {
            name: "nested lists of maps, atomic structures and lists",
            resource: resource("", "Pod"),
            object: json!({"spec": {
                "containers": [{"name": "c", "command": ["x"], "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "f"}}}],
                                "resources": {}}],
                "tolerations": [{"key": "k"}], "nodeSelector": {"a": "b"},
            }}),
            want: json!({"f:spec": {
                "f:containers": {r#"k:{"name":"c"}"#: {
                    ".": {}, "f:name": {}, "f:command": {}, "f:resources": {},
                    "f:env": {r#"k:{"name":"E"}"#: {".": {}, "f:name": {}, "f:valueFrom": {"f:fieldRef": {}}}},
                }},
                "f:tolerations": {}, "f:nodeSelector": {},
            }}),
        },
        Case {
            name: "sets, and owner references by uid",
            resource: resource("", "ConfigMap"),
            object: json!({"metadata": {"finalizers": ["b", "a"], "ownerReferences": [{"uid": "u", "name": "o"}]}}),
            want: json!({"f:metadata": {
                "f:finalizers": {r#"v:"a""#: {}, r#"v:"b""#: {}}, "f:ownerReferences": {r#"k:{"uid":"u"}"#: {}},
            }}),
        },
        Case {
            name: "without schema maps have parts and lists have not",
            resource: resource("apps", "ControllerRevision"),
            object: json!({"data": {"a": {"b": [1, 2], "c": {}}, "d": 1}}),
            want: json!({"f:data": {"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}}),
        },
    ];
    for case in cases {
        let set = set_of(&case.resource.object.schema, &case.object);
        assert_eq!(set.to_fields_v1(), case.want, "{}", case.name);
    }
}

#[test]
fn changes_are_what_differs() {
    struct Case {
        name: &'static str,
        old: Value,
        new: Value,
        /// Added, modified, removed.
        want: [&'static [&'static str]; 3],
    }
    let cases = [
        Case {
            name: "nothing",
            old: json!({"hostname": "a"}),
            new: json!({"hostname": "a"}),
            want: [&[], &[], &[]],
        },
        Case {
            name: "scalars",
            old: json!({"hostname": "a", "subdomain": "x"}),
            new: json!({"hostname": "b", "nodeName": "n"}),
            want: [&[".spec.nodeName"], &[".spec.hostname"], &[".spec.subdomain"]],
        },
        Case {
            name: "what appears counts with everything in it",
            old: json!({}),
            new: json!({"securityContext": {"sysctls": [{"name": "s"}], "windowsOptions": {"hostProcess": true}}}),
            want: [
                &[
                    ".spec.securityContext",
                    ".spec.securityContext.sysctls",
                    ".spec.securityContext.windowsOptions",
                    ".spec.securityContext.windowsOptions.hostProcess",
                ],
                &[],
                &[],
            ],
        },
        Case {
            name: "atomic parts change as one",
            old: json!({"tolerations": [{"key": "a"}], "nodeSelector": {"a": "b"}}),
            new: json!({"tolerations": [{"key": "a"}, {"key": "b"}], "nodeSelector": {"a": "c"}}),
            want: [&[], &[".spec.nodeSelector", ".spec.tolerations"], &[]],
        },
        Case {
            name: "items by key; their order is nothing",
            old: json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}, {"name": "c"}]}),
            new: json!({"containers": [{"name": "d"}, {"name": "c"}, {"name": "a", "image": "2"}]}),
            want: [
                &[r#".spec.containers[name="d"]"#, r#".spec.containers[name="d"].name"#],
                &[r#".spec.containers[name="a"].image"#],
                &[r#".spec.containers[name="b"]"#, r#".spec.containers[name="b"].name"#],
            ],
        },
        Case {
            name: "items that share a key change as one",
            old: json!({"containers": [{"name": "a", "env": [{"name": "E", "value": "1"}, {"name": "E", "value": "2"}]}]}),
            new: json!({"containers": [{"name": "a", "env": [{"name": "E", "value": "1"}]}]}),
            want: [&[], &[r#".spec.containers[name="a"].env[name="E"]"#], &[]],
        },
    ];
    for case in cases {
        let schema = &resource("", "Pod").object.schema;
        let changes = compare(schema, &json!({"spec": case.old}), &json!({"spec": case.new}));
        let got = [changes.added.paths(), changes.modified.paths(), changes.removed.paths()];
        assert_eq!(got, case.want.map(<[&str]>::to_vec), "{}", case.name);
    }
}

#[test]
fn configurations_merge_by_topology() {
    struct Case {
        name: &'static str,
        live: Value,
        config: Value,
        want: Value,
    }
    let names = |names: &[&str]| -> Value {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"containers": containers})
    };
    let cases = [
        Case {
            name: "scalars win, others stay",
            live: json!({"hostname": "a", "nodeName": "n"}),
            config: json!({"hostname": "b"}),
            want: json!({"hostname": "b", "nodeName": "n"}),
        },
        Case {
            name: "atomic lists, maps and structures are replaced",
            live: json!({"tolerations": [{"key": "a"}], "nodeSelector": {"a": "b"}}),
            config: json!({"tolerations": [{"key": "b"}], "nodeSelector": {"c": "d"}}),
            want: json!({"tolerations": [{"key": "b"}], "nodeSelector": {"c": "d"}}),
        },
        Case {
            name: "items merge by key, nested too",
            live: json!({"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "x"}]}]}),
            config: json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 8}, {"containerPort": 81}]}]}),
            want: json!({"containers": [{"name": "a", "image": "1", "ports": [
                {"containerPort": 80, "protocol": "TCP", "name": "x", "hostPort": 8}, {"containerPort": 81}]}]}),
        },
        Case {
            name: "new items last",
            live: names(&["a", "b"]),
            config: names(&["c"]),
            want: names(&["a", "b", "c"]),
        },
        Case {
            name: "the order of the configuration",
            live: names(&["a", "b", "c"]),
            config: names(&["c", "a"]),
            want: names(&["b", "c", "a"]),
        },
        Case {
            name: "others keep their place",
            live: names(&["x", "a", "y", "b", "z"]),
            config: names(&["a", "n", "b"]),
            want: names(&["x", "a", "y", "n", "b", "z"]),
        },
        Case {
            name: "of items that share a key the first stays",
            live: json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}, {"name": "a", "image": "2"}]}),
            config: json!({"containers": [{"name": "a", "tty": true}]}),
            want: json!({"containers": [{"name": "a", "image": "1", "tty": true}, {"name": "b"}]}),
        },
    ];
    for case in cases {
        let got = merge(&resource("", "Pod").object.schema, pod(case.live), &pod(case.config));
        assert_eq!(got, pod(case.want), "{}", case.name);
    }
    let finalizers = |names: &[&str]| json!({"metadata": {"finalizers": names}});
    let got = merge(&resource("", "Pod").object.schema, finalizers(&["a", "b"]), &finalizers(&["c", "b"]));
    assert_eq!(got, finalizers(&["a", "c", "b"]), "sets unite");
}

#[test]
fn what_nobody_else_owns_is_removed() {
    struct Case {
        name: &'static str,
        object: Value,
        dropped: Value,
        kept: Value,
        want: Value,
    }
    let item = |name: &str, fields: Value| {
        let mut set = json!({".": {}, "f:name": {}});
        set.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap_or_default());
        json!({"f:containers": {format!("k:{{\"name\":\"{name}\"}}"): set}})
    };
    let cases = [
        Case {
            name: "a field of one owner goes, of two stays",
            object: json!({"hostname": "a", "subdomain": "b", "nodeName": "n"}),
            dropped: json!({"f:hostname": {}, "f:subdomain": {}}),
            kept: json!({"f:subdomain": {}}),
            want: json!({"subdomain": "b", "nodeName": "n"}),
        },
        Case {
            name: "an item goes with what nobody owned in it",
            object: json!({"containers": [{"name": "a", "image": "1", "imagePullPolicy": "Always"}, {"name": "b"}]}),
            dropped: item("a", json!({"f:image": {}})),
            kept: item("b", json!({})),
            want: json!({"containers": [{"name": "b"}]}),
        },
        Case {
            name: "an item of two owners loses one's fields, never its key",
            object: json!({"containers": [{"name": "a", "image": "1", "tty": true}]}),
            dropped: item("a", json!({"f:image": {}})),
            kept: json!({"f:containers": {r#"k:{"name":"a"}"#: {".": {}, "f:tty": {}}}}),
            want: json!({"containers": [{"name": "a", "tty": true}]}),
        },
        Case {
            name: "a structure goes when nobody owns anything in it",
            object: json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}, "hostname": "h"}),
            dropped: json!({"f:securityContext": {"f:runAsUser": {}}, "f:hostname": {}}),
            kept: json!({"f:hostname": {}}),
            want: json!({"hostname": "h"}),
        },
        Case {
            name: "and stays when somebody does",
            object: json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
            dropped: json!({"f:securityContext": {"f:runAsUser": {}}}),
            kept: json!({"f:securityContext": {"f:fsGroup": {}}}),
            want: json!({"securityContext": {"fsGroup": 2}}),
        },
    ];
    for case in cases {
        let set = |fields: Value| FieldSet::from_fields_v1(&json!({"f:spec": fields})).unwrap();
        let mut object = pod(case.object);
        remove(&resource("", "Pod").object.schema, &mut object, &set(case.dropped), &set(case.kept));
        assert_eq!(object, pod(case.want), "{}", case.name);
    }
}

#[test]
fn two_appliers_share_conflict_and_take_over() {
    let maps = resource("", "ConfigMap");
    let object = applied(maps, &Value::Null, "m1", &config_map(json!({"k": "1", "j": "1"})), false).unwrap();
    assert_eq!(owners(&object), json!({"m1 Apply": {"f:data": {"f:j": {}, "f:k": {}}}}));
    assert_eq!(object["metadata"]["managedFields"][0]["time"], "2026-05-06T07:08:09Z");

    let change = config_map(json!({"k": "2"}));
    let refused = applied(maps, &object, "m2", &change, false);
    let status = Status::from(refused.unwrap_err());
    assert_eq!((status.code, status.reason), (409, crate::Reason::Conflict));
    assert_eq!(status.message, r#"Apply failed with 1 conflict: conflict with "m1": .data.k"#);
    let cause = &status.details.unwrap().causes[0];
    assert_eq!(
        (&*cause.reason, &*cause.message, &*cause.field),
        ("FieldManagerConflict", r#"conflict with "m1""#, ".data.k")
    );

    let forced = applied(maps, &object, "m2", &change, true).unwrap();
    assert_eq!(forced["data"], json!({"j": "1", "k": "2"}));
    assert_eq!(
        owners(&forced),
        json!({"m1 Apply": {"f:data": {"f:j": {}}}, "m2 Apply": {"f:data": {"f:k": {}}}})
    );

    let shared = applied(maps, &forced, "m1", &config_map(json!({"k": "2"})), false).unwrap();
    assert_eq!(shared["data"], json!({"k": "2"}), "j had no other owner");
    let both = json!({"m1 Apply": {"f:data": {"f:k": {}}}, "m2 Apply": {"f:data": {"f:k": {}}}});
    assert_eq!(owners(&shared), both);
    let left = applied(maps, &shared, "m1", &config_map(json!({})), false).unwrap();
    assert_eq!(left["data"], json!({"k": "2"}), "m2 still states it");
    assert_eq!(owners(&left)["m2 Apply"], json!({"f:data": {"f:k": {}}}));
}

#[test]
fn several_conflicts_are_told_by_manager() {
    let maps = resource("", "ConfigMap");
    let mut object =
        applied(maps, &Value::Null, "m1", &config_map(json!({"a": "1", "b": "1"})), false).unwrap();
    let before = object.clone();
    object.put(&["data", "c"], "1");
    track(maps, Some(&before), &mut object, &author("editor"));
    let all = config_map(json!({"a": "2", "b": "2", "c": "2"}));
    assert_eq!(
        message(applied(maps, &object, "m2", &all, false)),
        "Apply failed with 3 conflicts: conflicts with \"editor\" using v1:\n- .data.c\nconflicts with \"m1\":\n- .data.a\n- .data.b"
    );
}

#[test]
fn ports_are_told_apart_by_the_defaulted_protocol() {
    let services = resource("", "Service");
    let config = service(json!({"ports": [{"port": 80, "name": "a"}]}));
    let mut object = applied(services, &Value::Null, "m1", &config, false).unwrap();
    crate::defaults::apply(services, &mut object);
    assert_eq!(object["spec"]["ports"][0]["protocol"], "TCP");
    let again = applied(services, &object, "m1", &config, false).unwrap();
    assert!(strategy::is_no_op(&again, &object), "{again}");
    let moved = service(json!({"ports": [{"port": 80, "protocol": "UDP"}]}));
    let object = applied(services, &object, "m1", &moved, false).unwrap();
    assert_eq!(object["spec"]["ports"], json!([{"port": 80, "protocol": "UDP"}]));
    let target = service(json!({"ports": [{"port": 80, "protocol": "UDP", "targetPort": 1}]}));
    let object = applied(services, &object, "m2", &target, false).unwrap();
    let other = service(json!({"ports": [{"port": 80, "protocol": "UDP", "targetPort": 2}]}));
    assert_eq!(
        message(applied(services, &object, "m1", &other, false)),
        r#"Apply failed with 1 conflict: conflict with "m2": .spec.ports[port=80,protocol="UDP"].targetPort"#
    );
}

#[test]
fn zero_values_are_stated_although_they_mean_absence() {
    let services = resource("", "Service");
    let with = |value: bool| service(json!({"publishNotReadyAddresses": value, "clusterIP": "None"}));
    let object = applied(services, &Value::Null, "m1", &with(true), false).unwrap();
    assert_eq!(
        message(applied(services, &object, "m2", &with(false), false)),
        r#"Apply failed with 1 conflict: conflict with "m1": .spec.publishNotReadyAddresses"#
    );
    let forced = applied(services, &object, "m2", &with(false), true).unwrap();
    assert_eq!(forced["spec"], json!({"clusterIP": "None"}));
    let again = applied(services, &forced, "m2", &with(false), false).unwrap();
    assert!(strategy::is_no_op(&again, &forced));
}

#[test]
fn a_set_list_has_an_owner_an_item() {
    let maps = resource("", "ConfigMap");
    let with = |finalizers: &[&str]| {
        let mut object = config_map(json!({}));
        object.put(&["metadata", "finalizers"], json!(finalizers));
        object
    };
    let object = applied(maps, &Value::Null, "m1", &with(&["a/a", "a/b"]), false).unwrap();
    let object = applied(maps, &object, "m2", &with(&["a/b", "a/c"]), false).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["a/a", "a/b", "a/c"]));
    let object = applied(maps, &object, "m1", &with(&[]), false).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["a/b", "a/c"]));
}

#[test]
fn status_and_spec_have_owners_of_their_own() {
    let services = resource("", "Service");
    let config = service(json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
    let mut config_with_status = config.clone();
    config_with_status.put(&["status"], json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}));
    let object = applied(services, &Value::Null, "m", &config_with_status, false).unwrap();
    assert!(owners(&object)["m Apply"].get("f:status").is_none(), "not through the object");
    let mut status = object.clone();
    status.put(&["status"], json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}}));
    let by = Author { subresource: "status", ..author("balancer") };
    track(services, Some(&object), &mut status, &by);
    let owned = owners(&status);
    assert_eq!(owned["balancer Update/status"], json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}}));
    let config =
        decode(&services.object, config_with_status.to_string().as_bytes(), FieldValidation::Ignore).unwrap();
    let by = Author { subresource: "status", ..author("m") };
    let refused = apply(services, Some(&status), &config, &by, false);
    assert_eq!(
        message(refused),
        "Apply failed with 1 conflict: conflict with \"balancer\" with subresource \"status\" using v1: \
         .status.loadBalancer.ingress"
    );
    let forced = apply(services, Some(&status), &config, &by, true).unwrap();
    assert_eq!(owners(&forced)["m Apply/status"], json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}}));
    assert!(owners(&forced)["m Apply"].get("f:spec").is_some(), "and the other entry is as it was");
}

#[test]
fn a_create_owns_what_it_said_and_what_was_defaulted() {
    let deployments = resource("apps", "Deployment");
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
        }},
    });
    crate::defaults::apply(deployments, &mut object);
    track(deployments, None, &mut object, &author("kubectl-create"));
    // What a server of the original shows for this object.
    let want = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {}, "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {r#"k:{"name":"c"}"#: {
                        ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                        "f:ports": {".": {}, r#"k:{"containerPort":80,"protocol":"TCP"}"#: {
                            ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                        "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
                    }},
                    "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
                    "f:terminationGracePeriodSeconds": {},
                },
            },
        },
    });
    assert_eq!(owners(&object)["kubectl-create Update"], want);
}

#[test]
fn updates_take_what_they_change_and_lose_what_they_remove() {
    let maps = resource("", "ConfigMap");
    let object =
        applied(maps, &Value::Null, "m1", &config_map(json!({"a": "1", "b": "1", "c": "1"})), false).unwrap();
    let mut changed = object.clone();
    changed.put(&["data"], json!({"a": "2", "b": "1"}));
    let later = Author { now: at("2027-01-01T00:00:00Z"), ..author("editor") };
    track(maps, Some(&object), &mut changed, &later);
    let want = json!({"m1 Apply": {"f:data": {"f:b": {}}}, "editor Update": {"f:data": {"f:a": {}}}});
    assert_eq!(owners(&changed), want);
    assert_eq!(changed["metadata"]["managedFields"][1]["time"], "2027-01-01T00:00:00Z");
    let mut same = changed.clone();
    let latest = Author { now: at("2028-01-01T00:00:00Z"), ..author("other") };
    track(maps, Some(&changed), &mut same, &latest);
    assert_eq!(same, changed, "a write that changes nothing owns nothing");
}

#[test]
fn clients_that_know_nothing_of_owners_keep_them_and_others_reset_them() {
    let maps = resource("", "ConfigMap");
    let object = applied(maps, &Value::Null, "m1", &config_map(json!({"a": "1"})), false).unwrap();
    struct Case {
        name: &'static str,
        given: Option<Value>,
        want: Value,
    }
    let kept = owners(&object);
    let moved = json!([{"manager": "m9", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                        "fieldsV1": {"f:data": {"f:a": {}}}}]);
    let cases = [
        Case { name: "left out", given: None, want: kept.clone() },
        Case { name: "emptied", given: Some(json!([])), want: kept.clone() },
        Case { name: "garbled", given: Some(json!([{"manager": "x", "operation": "Guess"}])), want: kept },
        Case { name: "reset", given: Some(json!([{}])), want: json!({}) },
        Case { name: "rewritten", given: Some(moved), want: json!({"m9 Apply": {"f:data": {"f:a": {}}}}) },
    ];
    for case in cases {
        let mut new = without_owners(object.clone());
        if let Some(given) = case.given {
            new.put(&["metadata", "managedFields"], given);
        }
        track(maps, Some(&object), &mut new, &author("editor"));
        assert_eq!(owners(&new), case.want, "{}", case.name);
    }
}

#[test]
fn an_untracked_object_belongs_to_nobody_until_it_is_applied() {
    let maps = resource("", "ConfigMap");
    let object = config_map(json!({"a": "1"}));
    let mut changed = config_map(json!({"a": "2"}));
    track(maps, Some(&object), &mut changed, &author("editor"));
    assert_eq!(owners(&changed), json!({}));
    assert_eq!(
        message(applied(maps, &changed, "m1", &config_map(json!({"a": "3"})), false)),
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.a"#
    );
    let shared = applied(maps, &changed, "m1", &config_map(json!({"a": "2"})), false).unwrap();
    assert_eq!(owners(&shared)["before-first-apply Update"], json!({"f:data": {".": {}, "f:a": {}}}));
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_client() {
    let maps = resource("", "ConfigMap");
    let client = "kubectl-client-side-apply";
    let mut object = config_map(json!({"a": "1", "b": "1"}));
    object.put(
        &["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"],
        config_map(json!({"a": "1", "b": "1"})).to_string(),
    );
    track(maps, None, &mut object, &author(client));
    let next = config_map(json!({"a": "2", "b": "1"}));
    let by_other = message(applied(maps, &object, "m2", &next, false));
    assert_eq!(by_other, format!("Apply failed with 1 conflict: conflict with {client:?} using v1: .data.a"));
    let taken = applied(maps, &object, "kubectl", &next, false).unwrap();
    assert_eq!(taken["data"], json!({"a": "2", "b": "1"}));
    let last = document::annotation(&taken, "kubectl.kubernetes.io/last-applied-configuration").unwrap();
    assert_eq!(serde_json::from_str::<Value>(last).unwrap(), next, "the client may go on with it");

    let mut edited = object.clone();
    edited.put(&["data", "a"], "9");
    track(maps, Some(&object), &mut edited, &author("editor"));
    assert_eq!(
        message(applied(maps, &edited, "kubectl", &next, false)),
        r#"Apply failed with 1 conflict: conflict with "editor" using v1: .data.a"#
    );
}

#[test]
fn old_updaters_become_one() {
    let maps = resource("", "ConfigMap");
    let mut object = config_map(json!({"k0": "1"}));
    track(maps, None, &mut object, &author("u0"));
    for index in 1..=12 {
        let before = object.clone();
        object.put(&["data", &format!("k{index}")], "1");
        let now = at(&format!("2026-06-01T00:00:{index:02}Z"));
        track(maps, Some(&before), &mut object, &Author { now, ..author(&format!("u{index}")) });
    }
    let entries = object.list(&["metadata", "managedFields"]);
    assert_eq!(entries.len(), UPDATERS_MAX);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert_eq!(entries[0]["time"], "2026-06-01T00:00:03Z");
    let ancient = json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}}});
    assert_eq!(entries[0]["fieldsV1"], ancient);
    assert_eq!(entries[9]["manager"], "u12");
}

#[test]
fn configurations_that_cannot_be_applied() {
    struct Case {
        resource: &'static Resource,
        body: &'static str,
        want: (u16, &'static str),
    }
    let cases = [
        Case {
            resource: resource("", "Service"),
            body: "apiVersion: v2\nkind: Service",
            want: (
                400,
                "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1",
            ),
        },
        Case {
            resource: resource("", "Service"),
            body: r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"managedFields": [{}]}}"#,
            want: (400, "metadata.managedFields must be nil"),
        },
        Case {
            resource: resource("apps", "Deployment"),
            body: r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "namespace": "n"}, "spec": {"foo": 1}}"#,
            want: (
                500,
                "failed to create typed patch object (n/x; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
            ),
        },
        Case {
            resource: resource("", "Service"),
            body: "apiVersion: v1\nkind: Service\nspec:\n  ports: [{port: 80}, {port: 80, protocol: TCP}, {name: x}]\n  a: 1",
            want: (
                500,
                "failed to create typed patch object (/; /v1, Kind=Service): errors:\n  .spec.a: field not declared in \
                 schema\n  .spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]\n  .spec.ports: element 2: \
                 associative list with keys has an element that omits key field \"port\" (and doesn't have default value)",
            ),
        },
        Case {
            resource: resource("", "Service"),
            body: r#"{"apiVersion": "v1", "kind": "Service", "spec": {"ports": 5}}"#,
            want: (
                400,
                "Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal number into Go struct \
                 field ServiceSpec.spec.ports of type []v1.ServicePort",
            ),
        },
    ];
    for case in cases {
        let status = decode(&case.resource.object, case.body.as_bytes(), FieldValidation::Warn).unwrap_err();
        assert_eq!((status.code, status.message.as_str()), case.want);
    }
    for body in ["", "- a", "5", "{", "\u{0}"] {
        let status =
            decode(&resource("", "Service").object, body.as_bytes(), FieldValidation::Warn).unwrap_err();
        assert_eq!(status.code, 400, "{body}: {}", status.message);
    }
}
