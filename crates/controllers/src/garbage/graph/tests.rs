use proptest::prelude::*;

use super::*;

fn item(uid: &str, owners: &[&str]) -> Item {
    let owner = |uid: &&str| Owner {
        uid: (*uid).into(),
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: (*uid).into(),
        blocks: true,
    };
    Item {
        uid: uid.into(),
        resource: "configmaps".into(),
        key: ObjectKey::new("ns", uid),
        owners: owners.iter().map(owner).collect(),
        deleting: false,
        waits: Waits::default(),
    }
}

fn deleting(item: Item, foreground: bool, orphan: bool) -> Item {
    Item { deleting: true, waits: Waits { foreground, orphan }, ..item }
}

fn graph(items: Vec<Item>) -> Graph {
    let mut graph = Graph::default();
    items.into_iter().for_each(|item| _ = graph.observe(item));
    graph
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn verdicts() {
    struct Case {
        name: &'static str,
        given: Vec<Item>,
        absent: &'static [&'static str],
        want: Verdict,
    }
    let other_namespace = || Item { key: ObjectKey::new("other", "a"), ..item("a", &[]) };
    let cluster_wide = || Item { key: ObjectKey::new("", "a"), ..item("a", &[]) };
    let cases = [
        Case { name: "no owner", given: vec![item("x", &[])], absent: &[], want: Verdict::Keep },
        Case {
            name: "owner there",
            given: vec![item("a", &[]), item("x", &["a"])],
            absent: &[],
            want: Verdict::Keep,
        },
        Case {
            name: "owner unknown",
            given: vec![item("x", &["a"])],
            absent: &[],
            want: Verdict::Ask(item("x", &["a"]).owners),
        },
        Case {
            name: "owner gone",
            given: vec![item("x", &["a"])],
            absent: &["a"],
            want: Verdict::Delete(Policy::Background),
        },
        Case {
            name: "one of two gone",
            given: vec![item("b", &[]), item("x", &["a", "b"])],
            absent: &["a"],
            want: Verdict::Detach(["a".into()].into()),
        },
        Case {
            name: "owner in another namespace",
            given: vec![other_namespace(), item("x", &["a"])],
            absent: &[],
            want: Verdict::Delete(Policy::Background),
        },
        Case {
            name: "owner cluster-wide",
            given: vec![cluster_wide(), item("x", &["a"])],
            absent: &[],
            want: Verdict::Keep,
        },
        Case {
            name: "owner being deleted in the background keeps until it is gone",
            given: vec![deleting(item("a", &[]), false, false), item("x", &["a"])],
            absent: &[],
            want: Verdict::Keep,
        },
        Case {
            name: "owner waits for its dependents",
            given: vec![deleting(item("a", &[]), true, false), item("x", &["a"])],
            absent: &[],
            want: Verdict::Delete(Policy::Background),
        },
        Case {
            name: "so do those of the dependent",
            given: vec![deleting(item("a", &[]), true, false), item("x", &["a"]), item("y", &["x"])],
            absent: &[],
            want: Verdict::Delete(Policy::Foreground),
        },
        Case {
            name: "foreground waits",
            given: vec![deleting(item("x", &[]), true, false), item("y", &["x"])],
            absent: &[],
            want: Verdict::Keep,
        },
        Case {
            name: "foreground ends",
            given: vec![deleting(item("x", &[]), true, false)],
            absent: &[],
            want: Verdict::Finish,
        },
        Case {
            name: "orphan",
            given: vec![deleting(item("x", &[]), false, true), item("y", &["x"])],
            absent: &[],
            want: Verdict::Orphan(vec!["y".into()]),
        },
        Case {
            name: "deleted already",
            given: vec![deleting(item("x", &["a"]), false, false)],
            absent: &["a"],
            want: Verdict::Keep,
        },
    ];
    for case in cases {
        let mut graph = graph(case.given);
        case.absent.iter().for_each(|uid| graph.confirm_absent((*uid).into()));
        assert_eq!(graph.examine("x"), case.want, "{}", case.name);
    }
}

#[test]
fn a_dependent_that_does_not_block_is_not_waited_for() {
    let mut free = item("y", &["x"]);
    free.owners[0].blocks = false;
    let graph = graph(vec![deleting(item("x", &[]), true, false), free]);
    assert_eq!(graph.examine("x"), Verdict::Finish);
}

#[test]
fn whoever_is_concerned_is_examined() {
    let mut graph = graph(vec![item("a", &[]), item("x", &["a"]), item("y", &["x"])]);
    let uids = |examine: Vec<Uid>| examine.into_iter().map(|uid| uid.to_string()).collect::<BTreeSet<_>>();
    let set = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(uids(graph.observe(deleting(item("x", &["a"]), true, false))), set(&["a", "x", "y"]));
    assert_eq!(uids(graph.observe(deleting(item("x", &["a"]), true, false))), set(&[]));
    assert_eq!(uids(graph.forget("x")), set(&["a", "y"]));
    assert_eq!(uids(graph.forget("x")), set(&[]));
    assert_eq!(graph.of_resource("configmaps").len(), 2);
}

/// Does what the verdicts say, on a store without delay, until nothing is left to do.
fn collect(graph: &mut Graph, mut examine: Vec<Uid>) {
    for _ in 0..10_000 {
        let Some(uid) = examine.pop() else { return };
        let Some(found) = graph.find(&uid).cloned() else { continue };
        match graph.examine(&uid) {
            Verdict::Keep => {}
            Verdict::Ask(owners) => {
                owners.into_iter().for_each(|owner| graph.confirm_absent(owner.uid));
                examine.push(uid);
            }
            Verdict::Delete(Policy::Foreground) => {
                examine.extend(graph.observe(deleting(found, true, false)))
            }
            Verdict::Delete(Policy::Background | Policy::Orphan) | Verdict::Finish => {
                examine.extend(graph.forget(&uid))
            }
            Verdict::Detach(gone) => {
                let owners =
                    found.owners.iter().filter(|owner| !gone.contains(&owner.uid)).cloned().collect();
                examine.extend(graph.observe(Item { owners, ..found }));
            }
            Verdict::Orphan(_) => unreachable!("not in this test"),
        }
    }
    panic!("the collector does not come to an end");
}

proptest! {
    #[test]
    fn what_remains_has_an_owner_that_remains(edges in prop::collection::vec((0..12usize, 0..12usize), 0..30), victim in 0..12usize, foreground: bool) {
        // Owners have lower numbers: no cycles. Number 12 never exists.
        let mut items: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); 12];
        for (one, two) in edges {
            if one != two {
                items[one.max(two)].insert(one.min(two));
            }
        }
        let name = |at: usize| format!("u{at:02}");
        let make = |at: usize, owners: &BTreeSet<usize>| {
            let owners: Vec<String> = owners.iter().map(|at| name(*at)).collect();
            item(&name(at), &owners.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let mut graph = graph(items.iter().enumerate().map(|(at, owners)| make(at, owners)).collect());
        let examine = if foreground {
            graph.observe(deleting(make(victim, &items[victim]), true, false))
        } else {
            graph.forget(&name(victim))
        };
        collect(&mut graph, examine);
        let mut remains = BTreeSet::new();
        for (at, owners) in items.iter().enumerate() {
            if at != victim && (owners.is_empty() || owners.iter().any(|owner| remains.contains(owner))) {
                remains.insert(at);
            }
        }
        let found: BTreeSet<usize> = (0..12).filter(|at| graph.find(&name(*at)).is_some()).collect();
        prop_assert_eq!(&found, &remains);
        for at in found {
            let owners = &graph.find(&name(at)).unwrap().owners;
            prop_assert!(owners.iter().all(|owner| graph.find(&owner.uid).is_some()), "a reference to nobody");
        }
    }
}
