use super::*;

fn user(name: &str, groups: &[&str]) -> User {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    User { name: name.to_owned(), groups, ..User::default() }
}

fn binding(name: &str, namespace: &str, role: &str, subjects: &[Value]) -> Value {
    let (kind, role) = role.split_once('/').unwrap();
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": subjects,
    })
}

fn example() -> Rbac {
    let reader = json!({"metadata": {"name": "reader"}, "rules": [
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log", "*/status"]},
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/logs/*"]},
    ]});
    let named = json!({"metadata": {"name": "named", "namespace": "shop"}, "rules": [
        {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["web"]},
    ]});
    let all = json!({"metadata": {"name": "all"}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let bindings = [
        binding("readers", "", "ClusterRole/reader", &[json!({"kind": "Group", "name": "readers"})]),
        binding("lost", "", "ClusterRole/absent", &[json!({"kind": "User", "name": "lost"})]),
    ];
    let local = [
        binding("named", "shop", "Role/named", &[json!({"kind": "ServiceAccount", "name": "app"})]),
        binding("all", "shop", "ClusterRole/all", &[json!({"kind": "User", "name": "owner"})]),
    ];
    Rbac::new(&Stored {
        roles: vec![&named],
        cluster_roles: vec![&reader, &all],
        role_bindings: local.iter().collect(),
        cluster_role_bindings: bindings.iter().collect(),
    })
}

/// `verb group/resource[/subresource] [namespace [name]]` or `verb /path`.
fn action(text: &'static str) -> Action<'static> {
    let words: Vec<&str> = text.split(' ').collect();
    let word = |index: usize| words.get(index).copied().unwrap_or_default();
    if word(1).starts_with("//") {
        return Action::Path { verb: word(0), path: &word(1)[1..] };
    }
    let parts: Vec<&str> = word(1).split('/').collect();
    Action::Resource(ResourceAction {
        verb: word(0),
        group: parts[0],
        resource: parts[1],
        subresource: parts.get(2).copied().unwrap_or_default(),
        namespace: word(2),
        name: word(3),
    })
}

#[test]
fn rules_allow_what_they_say_and_no_more() {
    struct Case {
        who: (&'static str, &'static [&'static str]),
        what: &'static str,
        want: Result<&'static str, &'static str>,
    }
    const READER: (&str, &[&str]) = ("r", &["readers"]);
    const APP: (&str, &[&str]) = ("system:serviceaccount:shop:app", &[]);
    const OWNER: (&str, &[&str]) = ("owner", &[]);
    let reader =
        r#"RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "readers""#;
    let named = r#"RBAC: allowed by RoleBinding "named/shop" of Role "named" to ServiceAccount "app/shop""#;
    let owner = r#"RBAC: allowed by RoleBinding "all/shop" of ClusterRole "all" to User "owner""#;
    let cases = [
        Case { who: READER, what: "list /pods", want: Ok(reader) },
        Case { who: READER, what: "get /pods/log shop p", want: Ok(reader) },
        Case { who: READER, what: "get /pods/exec shop p", want: Err("") },
        Case { who: READER, what: "get /services/status shop p", want: Ok(reader) },
        Case { who: READER, what: "get apps/deployments/status shop p", want: Err("") },
        Case { who: READER, what: "delete /pods shop p", want: Err("") },
        Case { who: READER, what: "get //healthz", want: Ok(reader) },
        Case { who: READER, what: "get //healthz/etcd", want: Err("") },
        Case { who: READER, what: "get //logs/a/b", want: Ok(reader) },
        Case { who: READER, what: "post //logs/a", want: Err("") },
        Case { who: APP, what: "delete apps/deployments shop web", want: Ok(named) },
        Case { who: APP, what: "delete apps/deployments shop other", want: Err("") },
        Case { who: APP, what: "create apps/deployments shop", want: Err("") },
        Case { who: APP, what: "delete apps/deployments other web", want: Err("") },
        Case { who: OWNER, what: "delete any.example.com/things shop x", want: Ok(owner) },
        Case { who: OWNER, what: "create /pods/exec shop p", want: Ok(owner) },
        Case { who: OWNER, what: "list /pods", want: Err("") },
        Case { who: OWNER, what: "get //healthz", want: Err("") },
        Case {
            who: ("lost", &[]),
            what: "list /pods",
            want: Err(r#"RBAC: clusterrole.rbac.authorization.k8s.io "absent" not found"#),
        },
        Case { who: ("root", &["system:masters"]), what: "delete /nodes n", want: Ok("") },
    ];
    let rbac = example();
    for Case { who, what, want } in cases {
        let decision = rbac.decide(&user(who.0, who.1), &action(what));
        assert_eq!(
            (decision.is_allowed(), decision.reason().as_str()),
            (want.is_ok(), want.unwrap_or_else(|no| no)),
            "{who:?} {what}"
        );
    }
}

#[test]
fn nobody_gives_what_they_do_not_have() {
    struct Case {
        name: &'static str,
        held: Value,
        wanted: Value,
        missing: &'static [&'static str],
    }
    let cases = [
        Case {
            name: "a part of what is held",
            held: json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "services"]}]),
            wanted: json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}]),
            missing: &[],
        },
        Case {
            name: "verbs of one resource are told together",
            held: json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
            wanted: json!([{"verbs": ["get", "delete", "create"], "apiGroups": [""], "resources": ["pods"]}]),
            missing: &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["create" "delete"]}"#],
        },
        Case {
            name: "a name is less than all names",
            held: json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"]}]),
            wanted: json!([{"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"]}]),
            missing: &[r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}"#],
        },
        Case {
            name: "subresources of everything",
            held: json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["*/status"]}]),
            wanted: json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/status", "pods/log"]}]),
            missing: &[r#"{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}"#],
        },
        Case {
            name: "paths",
            held: json!([{"verbs": ["get"], "nonResourceURLs": ["/logs/*"]}]),
            wanted: json!([{"verbs": ["get"], "nonResourceURLs": ["/logs/a*", "/metrics"]}]),
            missing: &[r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#],
        },
        Case {
            name: "everything",
            held: json!([]),
            wanted: json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
            missing: &[r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#],
        },
    ];
    for case in cases {
        let rules = |value: &Value| rules_of(&json!({"rules": value}));
        let missing = uncovered(&rules(&case.held), &rules(&case.wanted));
        let missing: Vec<String> = missing.iter().map(Rule::to_string).collect();
        assert_eq!(missing, case.missing, "{}", case.name);
    }
    let missing = rules_of(&json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}));
    let want = "user \"u\" (groups=[\"a\" \"b\"]) is attempting to grant RBAC permissions not currently held:\n\
                {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}";
    assert_eq!(escalation(&user("u", &["a", "b"]), &missing), want);
}

#[test]
fn an_aggregated_role_has_the_rules_of_those_it_selects() {
    let role = |name: &str, label: &str, rules: Value| json!({"metadata": {"name": name, "labels": {"in": label}}, "rules": rules});
    let one = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
    let two = json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]});
    let others = [
        role("a", "view", json!([one])),
        role("b", "edit", json!([two])),
        role("c", "view", json!([one, two])),
    ];
    let all = json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"in": "view"}}]}});
    assert_eq!(aggregate(&all, others.iter()), Some(vec![one, two]));
    assert_eq!(aggregate(&others[0], others.iter()), None, "not aggregated");
}

#[test]
fn decisions_are_fast() {
    let roles: Vec<Value> = crate::auth::bootstrap::cluster_roles().collect();
    let bindings: Vec<Value> = crate::auth::bootstrap::cluster_role_bindings().collect();
    let rbac = Rbac::new(&Stored {
        cluster_roles: roles.iter().collect(),
        cluster_role_bindings: bindings.iter().collect(),
        ..Stored::default()
    });
    for (who, groups, what) in [
        ("system:node:n1", vec!["system:nodes", "system:authenticated"], "patch /pods/status shop p"),
        ("system:kube-controller-manager", vec!["system:authenticated"], "create /pods shop"),
        (
            "system:serviceaccount:shop:app",
            vec!["system:serviceaccounts", "system:authenticated"],
            "get /pods shop p",
        ),
    ] {
        let (user, action) = (user(who, &groups), action(what));
        let started = std::time::Instant::now();
        for _ in 0..1000 {
            std::hint::black_box(rbac.decide(&user, &action));
        }
        let each = started.elapsed() / 1000;
        // Ten times what a debug build takes on a busy machine.
        assert!(each < std::time::Duration::from_micros(200), "{who}: {each:?}");
    }
}
