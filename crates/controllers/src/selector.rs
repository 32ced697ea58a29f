//! Label selectors, node selectors, taints: who is meant.

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::metadata::{StringMap, name_of};

/// Whether `labels` satisfy the selector. An empty selector matches everything; an operator that does not exist matches nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&StringMap>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let pairs = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    pairs
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or(&[]);
            holds(value(&requirement.key), &requirement.operator, values)
        })
}

/// Whether a Service-style selector (all pairs) matches.
pub fn matches_pairs(pairs: &StringMap, labels: Option<&StringMap>) -> bool {
    pairs.iter().all(|(key, wanted)| labels.and_then(|labels| labels.get(key)) == Some(wanted))
}

fn holds(value: Option<&str>, operator: &str, values: &[String]) -> bool {
    let listed = |value: &str| values.iter().any(|candidate| candidate == value);
    match operator {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => ordered(value, values, |left, right| left > right),
        "Lt" => ordered(value, values, |left, right| left < right),
        _ => false,
    }
}

fn ordered(value: Option<&str>, values: &[String], compare: fn(i64, i64) -> bool) -> bool {
    let number = |text: &str| text.parse::<i64>().ok();
    match (value.and_then(number), values) {
        (Some(left), [right]) => number(right).is_some_and(|right| compare(left, right)),
        _ => false,
    }
}

/// Whether the node satisfies any term. Without terms nothing is satisfied.
pub fn matches_node(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_node_term(term, node))
}

/// All expressions and fields of one term; a term with neither matches no node.
pub fn matches_node_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    let check = |requirement: &NodeSelectorRequirement, value: Option<&str>| {
        holds(value, &requirement.operator, requirement.values.as_deref().unwrap_or(&[]))
    };
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| {
            check(requirement, labels.and_then(|labels| labels.get(&requirement.key)).map(String::as_str))
        })
        && fields.iter().all(|requirement| {
            requirement.key == "metadata.name" && check(requirement, Some(name_of(&node.metadata)))
        })
}

/// Whether a pod with this toleration may stay in spite of the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        // An empty key with Equal is refused by validation: it tolerates nothing.
        "" | "Equal" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn label_selectors() {
        struct Case {
            name: &'static str,
            given: Value,
            want: bool,
        }
        let labels: StringMap = serde_json::from_value(json!({"app": "web", "tier": "1"})).unwrap();
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for case in [
            Case { name: "empty matches all", given: json!({}), want: true },
            Case { name: "pair", given: json!({"matchLabels": {"app": "web"}}), want: true },
            Case { name: "other value", given: json!({"matchLabels": {"app": "db"}}), want: false },
            Case { name: "In", given: expression("app", "In", json!(["web", "db"])), want: true },
            Case { name: "In without the label", given: expression("x", "In", json!(["web"])), want: false },
            Case {
                name: "NotIn without the label",
                given: expression("x", "NotIn", json!(["web"])),
                want: true,
            },
            Case { name: "NotIn", given: expression("app", "NotIn", json!(["web"])), want: false },
            Case { name: "Exists", given: expression("tier", "Exists", json!(null)), want: true },
            Case {
                name: "DoesNotExist",
                given: expression("tier", "DoesNotExist", json!(null)),
                want: false,
            },
            Case { name: "unknown operator", given: expression("tier", "Near", json!(["1"])), want: false },
        ] {
            let selector: LabelSelector = serde_json::from_value(case.given).unwrap();
            assert_eq!(matches(&selector, Some(&labels)), case.want, "{}", case.name);
        }
    }

    #[test]
    fn node_selectors() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"cores": "8"}}})).unwrap();
        struct Case {
            name: &'static str,
            given: Value,
            want: bool,
        }
        let term = |term: Value| json!({"nodeSelectorTerms": [term]});
        for case in [
            Case { name: "no terms", given: json!({"nodeSelectorTerms": []}), want: false },
            Case { name: "empty term", given: term(json!({})), want: false },
            Case {
                name: "Gt",
                given: term(
                    json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}),
                ),
                want: true,
            },
            Case {
                name: "Lt",
                given: term(
                    json!({"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["8"]}]}),
                ),
                want: false,
            },
            Case {
                name: "field",
                given: term(
                    json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}),
                ),
                want: true,
            },
            Case {
                name: "terms are alternatives",
                given: json!({"nodeSelectorTerms": [{}, {"matchExpressions": [{"key": "cores", "operator": "Exists"}]}]}),
                want: true,
            },
        ] {
            let selector: NodeSelector = serde_json::from_value(case.given).unwrap();
            assert_eq!(matches_node(&selector, &node), case.want, "{}", case.name);
        }
    }

    #[test]
    fn tolerations() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
        for (given, want) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"value": "v"}), false),
        ] {
            let toleration: Toleration = serde_json::from_value(given.clone()).unwrap();
            assert_eq!(tolerates(&toleration, &taint), want, "{given}");
        }
    }
}
