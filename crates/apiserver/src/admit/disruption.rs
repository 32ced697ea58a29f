//! PodDisruptionBudget: whether a pod may be evicted now, and the note of it, in the transaction of the eviction.

use fairway_objects::Reason;
use fairway_objects::document::{self, Document};
use fairway_objects::selector::LabelSelector;
use fairway_objects::status::{Qualified, Status};
use fairway_objects::strategy;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::store::{Collection, Txn};

/// Evictions that a budget may have under way; more means that nobody follows them up.
const DISRUPTED_MAX: usize = 2000;
/// When to try again while the budget is being computed.
const RETRY_SECONDS: u32 = 10;

/// Takes one disruption of the pod's budget, or refuses the eviction.
pub(crate) fn take(txn: &mut Txn, pod: &Value, now: Timestamp) -> Result<(), Status> {
    let collection = Collection::new("policy", "poddisruptionbudgets");
    let ended = matches!(pod.text(&["status", "phase"]), "Succeeded" | "Failed" | "Pending");
    if ended || document::is_terminating(pod) {
        return Ok(());
    }
    let budgets = txn.state().objects(&collection);
    let mut selecting = budgets.iter().filter(|(key, budget)| {
        key.namespace() == document::namespace(pod)
            && LabelSelector::from_object(budget.value().at(&["spec", "selector"]))
                .is_ok_and(|selector| selector.matches_object(pod))
    });
    let Some((key, budget)) = selecting.next() else { return Ok(()) };
    if selecting.next().is_some() {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::new(500, Reason::InternalError, why));
    }
    if let Some(changed) = taken(budget.value(), pod, now)? {
        txn.put(&collection, key, changed);
    }
    Ok(())
}

/// The budget after the eviction of a pod; none when it costs nothing.
fn taken(budget: &Value, pod: &Value, now: Timestamp) -> Result<Option<Value>, Status> {
    let name = document::name(budget);
    let status = |field: &str| budget.int(&["status", field]).unwrap_or(0);
    let (healthy, desired) = (status("currentHealthy"), status("desiredHealthy"));
    if !is_ready(pod) {
        let always = budget.text(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
        if always || (healthy >= desired && desired > 0) {
            return Ok(None);
        }
    }
    if status("observedGeneration") < budget.int(&["metadata", "generation"]).unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        let mut status = Status::disruption_budget(&why);
        status.details.get_or_insert_default().retry_after_seconds = RETRY_SECONDS;
        return Err(status);
    }
    let budgets = Qualified { group: "policy", name: "poddisruptionbudgets" };
    let allowed = status("disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden(budgets, name, "pdb disruptions allowed is negative"));
    }
    if budget.map(&["status", "disruptedPods"]).is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        return Err(Status::forbidden(
            budgets,
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let why =
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        return Err(Status::disruption_budget(&why));
    }
    let mut changed = budget.clone();
    changed.put(&["status", "disruptionsAllowed"], allowed - 1);
    changed.put(&["status", "disruptedPods", document::name(pod)], strategy::timestamp(now));
    if allowed == 1 {
        set_exhausted(&mut changed, now);
    }
    Ok(Some(changed))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.list(&["status", "conditions"]).iter();
    conditions.into_iter().any(|known| known.text(&["type"]) == "Ready" && known.text(&["status"]) == "True")
}

/// The condition DisruptionAllowed is False from now on.
fn set_exhausted(budget: &mut Value, now: Timestamp) {
    let condition = json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": strategy::timestamp(now), "observedGeneration": budget.at(&["metadata", "generation"]),
    });
    let conditions = budget.list(&["status", "conditions"]).iter();
    let others = conditions.filter(|known| known.text(&["type"]) != "DisruptionAllowed").cloned();
    let conditions: Vec<Value> = others.chain([condition]).collect();
    budget.put(&["status", "conditions"], conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_taken_from_until_it_is_empty() {
        struct Case {
            name: &'static str,
            status: Value,
            policy: &'static str,
            ready: bool,
            /// Disruptions left, or the cause.
            want: Result<Option<i64>, &'static str>,
        }
        let status = |allowed: i64, healthy: i64| json!({"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": 2});
        let cases = [
            Case { name: "one left", status: status(1, 3), policy: "", ready: true, want: Ok(Some(0)) },
            Case {
                name: "none left",
                status: status(0, 2),
                policy: "",
                ready: true,
                want: Err("The disruption budget b needs 2 healthy pods and has 2 currently"),
            },
            Case {
                name: "an unready pod of a healthy budget",
                status: status(0, 2),
                policy: "",
                ready: false,
                want: Ok(None),
            },
            Case {
                name: "an unready pod of an unhealthy budget",
                status: status(0, 1),
                policy: "",
                ready: false,
                want: Err("The disruption budget b needs 2 healthy pods and has 1 currently"),
            },
            Case {
                name: "always",
                status: status(0, 1),
                policy: "AlwaysAllow",
                ready: false,
                want: Ok(None),
            },
            Case {
                name: "not computed yet",
                status: json!({}),
                policy: "",
                ready: true,
                want: Err("The disruption budget b is still being processed by the server."),
            },
        ];
        for case in cases {
            let budget = json!({"metadata": {"name": "b", "generation": 1},
                                "spec": {"unhealthyPodEvictionPolicy": case.policy}, "status": case.status});
            let pod = json!({"metadata": {"name": "p"},
                             "status": {"conditions": [{"type": "Ready", "status": if case.ready { "True" } else { "False" }}]}});
            let got = taken(&budget, &pod, Timestamp::UNIX_EPOCH);
            let got =
                got.map(|budget| budget.map(|budget| budget.int(&["status", "disruptionsAllowed"]).unwrap()));
            let got = got.map_err(|status| {
                assert_eq!(
                    (status.code, status.message.as_str()),
                    (429, "Cannot evict pod as it would violate the pod's disruption budget.")
                );
                status.details.unwrap().causes[0].message.clone()
            });
            assert_eq!(got, case.want.map_err(str::to_owned), "{}", case.name);
        }
    }
}
