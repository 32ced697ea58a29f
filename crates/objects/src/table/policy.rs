//! How Jobs, limits, permissions and admission print.

use jiff::Timestamp;
use serde_json::Value;

use super::workload::containers;
use super::{Printer, age, duration, number, or_none, selector, since, text, wide};
use crate::document::{self, Document};

pub(super) const JOB: Printer = Printer {
    columns: &[
        text("Name"),
        text("Status"),
        text("Completions"),
        text("Duration"),
        text("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |job, now| {
        let [names, images] = containers(job.at(&["spec", "template"]));
        vec![
            document::name(job).into(),
            job_status(job).into(),
            completions(job).into(),
            job_duration(job, now).into(),
            age(job, now),
            names,
            images,
            selector(job.at(&["spec", "selector"])),
        ]
    },
};

fn job_status(job: &Value) -> &'static str {
    let is = |name: &str| {
        let conditions = job.list(&["status", "conditions"]).iter();
        conditions.clone().any(|item| item.text(&["type"]) == name && item.text(&["status"]) == "True")
    };
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if document::is_terminating(job) => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Value) -> String {
    let succeeded = job.int(&["status", "succeeded"]).unwrap_or(0);
    match (job.int(&["spec", "completions"]), job.int(&["spec", "parallelism"]).unwrap_or(0)) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let time = |field: &str| job.text(&["status", field]).parse::<Timestamp>().ok();
    match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), Some(end)) => duration(end.as_second() - start.as_second()),
        (Some(start), None) => duration(now.as_second() - start.as_second()),
    }
}

pub(super) const CRON_JOB: Printer = Printer {
    columns: &[
        text("Name"),
        text("Schedule"),
        text("Timezone"),
        text("Suspend"),
        number("Active"),
        text("Last Schedule"),
        text("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |cron, now| {
        let job = cron.at(&["spec", "jobTemplate", "spec"]);
        let [names, images] = containers(job.at(&["template"]));
        let last = match cron.text(&["status", "lastScheduleTime"]) {
            "" => "<none>".to_owned(),
            time => since(time, now),
        };
        vec![
            document::name(cron).into(),
            cron.text(&["spec", "schedule"]).into(),
            or_none(cron.text(&["spec", "timeZone"])),
            if cron.is_true(&["spec", "suspend"]) { "True" } else { "False" }.into(),
            cron.list(&["status", "active"]).len().into(),
            last.into(),
            age(cron, now),
            names,
            images,
            selector(job.at(&["selector"])),
        ]
    },
};

/// A number or percentage, `N/A` for none.
fn share(value: &Value) -> Value {
    match value {
        Value::Null => "N/A".into(),
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

pub(super) const DISRUPTION_BUDGET: Printer = Printer {
    columns: &[
        text("Name"),
        text("Min Available"),
        text("Max Unavailable"),
        number("Allowed Disruptions"),
        text("Age"),
    ],
    cells: |budget, now| {
        vec![
            document::name(budget).into(),
            share(budget.at(&["spec", "minAvailable"])),
            share(budget.at(&["spec", "maxUnavailable"])),
            budget.int(&["status", "disruptionsAllowed"]).unwrap_or(0).into(),
            age(budget, now),
        ]
    },
};

pub(super) const RESOURCE_QUOTA: Printer = Printer {
    columns: &[text("Name"), text("Request"), text("Limit"), text("Age")],
    cells: |quota, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in quota.map(&["status", "hard"]).into_iter().flatten() {
            let used = match quota.text(&["status", "used", name]) {
                "" => "0",
                used => used,
            };
            let list = if name.starts_with("limits.") { &mut limits } else { &mut requests };
            list.push(format!("{name}: {used}/{}", hard.as_str().unwrap_or_default()));
        }
        let (requests, limits) = (requests.join(", "), limits.join(", "));
        vec![document::name(quota).into(), requests.into(), limits.into(), age(quota, now)]
    },
};

pub(super) const PRIORITY_CLASS: Printer = Printer {
    columns: &[text("Name"), number("Value"), text("Global-Default"), text("Age"), text("PreemptionPolicy")],
    cells: |class, now| {
        vec![
            document::name(class).into(),
            class.int(&["value"]).unwrap_or(0).into(),
            class.is_true(&["globalDefault"]).to_string().into(),
            age(class, now),
            class.text(&["preemptionPolicy"]).into(),
        ]
    },
};

/// A role binding, with those who have the role.
pub(super) const ROLE_BINDING: Printer = Printer {
    columns: &[
        text("Name"),
        text("Role"),
        text("Age"),
        wide("Users"),
        wide("Groups"),
        wide("ServiceAccounts"),
    ],
    cells: |binding, now| {
        let role = binding.at(&["roleRef"]);
        let subjects = |kind: &str| -> Value {
            let subjects =
                binding.list(&["subjects"]).iter().filter(|subject| subject.text(&["kind"]) == kind);
            let names = subjects.map(|subject| match (kind, subject.text(&["namespace"])) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", subject.text(&["name"])),
                _ => subject.text(&["name"]).to_owned(),
            });
            names.collect::<Vec<_>>().join(", ").into()
        };
        vec![
            document::name(binding).into(),
            format!("{}/{}", role.text(&["kind"]), role.text(&["name"])).into(),
            age(binding, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
};

pub(super) const WEBHOOKS: Printer = Printer {
    columns: &[text("Name"), number("Webhooks"), text("Age")],
    cells: |object, now| {
        vec![document::name(object).into(), object.list(&["webhooks"]).len().into(), age(object, now)]
    },
};

pub(super) const POLICY: Printer = Printer {
    columns: &[text("Name"), number("Validations"), text("ParamKind"), text("Age")],
    cells: |policy, now| {
        let parameter = policy.at(&["spec", "paramKind"]);
        let parameter = match parameter.is_null() {
            true => "<unset>".to_owned(),
            false => format!("{}/{}", parameter.text(&["apiVersion"]), parameter.text(&["kind"])),
        };
        let validations = policy.list(&["spec", "validations"]).len();
        vec![document::name(policy).into(), validations.into(), parameter.into(), age(policy, now)]
    },
};

pub(super) const POLICY_BINDING: Printer = Printer {
    columns: &[text("Name"), text("PolicyName"), text("ParamRef"), text("Age")],
    cells: |binding, now| {
        let reference = binding.at(&["spec", "paramRef"]);
        let parameter = match (reference.is_null(), reference.text(&["namespace"]), reference.text(&["name"]))
        {
            (true, ..) => "<unset>".to_owned(),
            (false, "", name) => name.to_owned(),
            (false, namespace, name) => format!("{namespace}/{name}"),
        };
        vec![
            document::name(binding).into(),
            binding.text(&["spec", "policyName"]).into(),
            parameter.into(),
            age(binding, now),
        ]
    },
};

/// Texts of a list, joined.
fn joined(object: &Value, path: &[&str]) -> String {
    object.list(path).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

pub(super) const SERVICE_CIDR: Printer = Printer {
    columns: &[text("Name"), text("CIDRs"), text("Age")],
    cells: |range, now| {
        vec![document::name(range).into(), joined(range, &["spec", "cidrs"]).into(), age(range, now)]
    },
};

pub(super) const IP_ADDRESS: Printer = Printer {
    columns: &[text("Name"), text("ParentRef")],
    cells: |address, _| {
        let parent = address.at(&["spec", "parentRef"]);
        let parts = [&["group"], &["resource"], &["namespace"], &["name"]].map(|path| parent.text(path));
        let parent = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        vec![document::name(address).into(), parent.into()]
    },
};

pub(super) const CLAIM: Printer = Printer {
    columns: &[
        text("Name"),
        text("Status"),
        text("Volume"),
        text("Capacity"),
        text("Access Modes"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        text("Age"),
        wide("VolumeMode"),
    ],
    cells: |claim, now| {
        let modes = claim.list(&["status", "accessModes"]).iter().filter_map(Value::as_str);
        let modes = modes.map(|mode| match mode {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            other => other,
        });
        let class = match claim.text(&["spec", "volumeAttributesClassName"]) {
            "" => "<unset>",
            class => class,
        };
        let phase =
            if document::is_terminating(claim) { "Terminating" } else { claim.text(&["status", "phase"]) };
        vec![
            document::name(claim).into(),
            phase.into(),
            claim.text(&["spec", "volumeName"]).into(),
            claim.text(&["status", "capacity", "storage"]).into(),
            modes.collect::<Vec<_>>().join(",").into(),
            claim.text(&["spec", "storageClassName"]).into(),
            class.into(),
            age(claim, now),
            claim.text(&["spec", "volumeMode"]).into(),
        ]
    },
};

pub(super) const STORAGE_CLASS: Printer = Printer {
    columns: &[
        text("Name"),
        text("Provisioner"),
        text("ReclaimPolicy"),
        text("VolumeBindingMode"),
        text("AllowVolumeExpansion"),
        text("Age"),
    ],
    cells: |class, now| {
        let default =
            document::annotation(class, "storageclass.kubernetes.io/is-default-class") == Some("true");
        let name = document::name(class);
        vec![
            if default { format!("{name} (default)") } else { name.to_owned() }.into(),
            class.text(&["provisioner"]).into(),
            class.text(&["reclaimPolicy"]).into(),
            class.text(&["volumeBindingMode"]).into(),
            class.is_true(&["allowVolumeExpansion"]).to_string().into(),
            age(class, now),
        ]
    },
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cells(printer: &Printer, object: Value) -> Vec<Value> {
        (printer.cells)(&object, "1970-01-01T00:10:00Z".parse().unwrap())
    }

    #[test]
    fn jobs_show_how_far_they_are() {
        let job = json!({
            "metadata": {"name": "j", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"completions": 3, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
                     "selector": {"matchLabels": {"a": "b"}}},
            "status": {"succeeded": 1, "startTime": "1970-01-01T00:05:00Z"},
        });
        let want = ["j", "Running", "1/3", "5m", "10m", "c", "i", "a=b"];
        assert_eq!(cells(&JOB, job.clone()), want);
        let mut done = job;
        done["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]);
        done["status"]["completionTime"] = json!("1970-01-01T00:05:07Z");
        assert_eq!(cells(&JOB, done)[1..4], ["Complete", "1/3", "7s"]);
        let cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "suspend": true},
                          "status": {"active": [{}], "lastScheduleTime": "1970-01-01T00:09:00Z"}});
        let row = cells(&CRON_JOB, cron);
        assert_eq!(row[..4], ["c", "* * * * *", "<none>", "True"]);
        assert_eq!(row[4..6], [json!(1), json!("60s")]);
    }

    #[test]
    fn the_small_kinds_show_what_they_say() {
        let parent = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {
            "resource": "services", "namespace": "n", "name": "s"}}});
        assert_eq!(cells(&IP_ADDRESS, parent), ["10.0.0.1", "services/n/s"]);
        let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": "50%"}});
        assert_eq!(cells(&DISRUPTION_BUDGET, budget)[1..3], ["50%", "N/A"]);
        let quota = json!({"metadata": {"name": "q"}, "status": {
            "hard": {"limits.cpu": "2", "pods": "3"}, "used": {"pods": "1"}}});
        assert_eq!(cells(&RESOURCE_QUOTA, quota)[1..3], ["pods: 1/3", "limits.cpu: 0/2"]);
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "a", "namespace": "n"}]});
        let row = cells(&ROLE_BINDING, binding);
        assert_eq!((&row[1], &row[3], &row[5]), (&json!("Role/r"), &json!("u"), &json!("n/a")));
        let class = json!({"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"});
        assert_eq!(cells(&PRIORITY_CLASS, class)[1..3], [json!(7), json!("false")]);
    }
}
