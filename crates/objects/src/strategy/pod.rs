//! The parts of a pod that change while it runs.

use serde_json::Value;

use super::copy;
use crate::document::Document;

/// `pods/ephemeralcontainers`: everything else is as it was.
pub(super) fn keep_all_but_ephemeral(new: &mut Value, old: &Value) {
    let asked = new.clone();
    keep(new, old);
    copy(new, &asked, &["spec", "ephemeralContainers"]);
}

/// `pods/resize`: containers are as they were, with new resources.
pub(super) fn keep_all_but_resources(new: &mut Value, old: &Value) {
    let wanted = new.clone();
    keep(new, old);
    for list in ["containers", "initContainers"] {
        let asked = wanted.list(&["spec", list]);
        for container in new.list_mut(&["spec", list]) {
            let same = asked.iter().find(|asked| asked.text(&["name"]) == container.text(&["name"]));
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = same.map(|same| same.at(&[field])).filter(|value| !value.is_null()) {
                    container.put(&[field], value.clone());
                }
            }
        }
    }
}

fn keep(new: &mut Value, old: &Value) {
    for field in ["labels", "annotations", "ownerReferences", "finalizers"] {
        copy(new, old, &["metadata", field]);
    }
    for field in ["spec", "status"] {
        copy(new, old, &[field]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_part_changes() {
        let old = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "resources": {}}]}});
        let asked = json!({"metadata": {"labels": {"x": "y"}}, "status": {}, "spec": {
            "containers": [{"name": "c", "image": "other", "resources": {"limits": {"cpu": "1"}}}],
            "ephemeralContainers": [{"name": "debugger", "image": "i"}]}});
        let mut new = asked.clone();
        keep_all_but_ephemeral(&mut new, &old);
        let mut want = old.clone();
        want.put(&["spec", "ephemeralContainers"], json!([{"name": "debugger", "image": "i"}]));
        assert_eq!(new, want);
        let mut new = asked;
        keep_all_but_resources(&mut new, &old);
        let mut want = old.clone();
        want.put(
            &["spec", "containers"],
            json!([{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}]),
        );
        assert_eq!(new, want);
    }
}
