//! What a node tells of itself: its pods, and the frame of the statistics that tools ask a kubelet for.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// `GET /pods`: a PodList.
pub(super) fn pod_list(pods: &[Arc<Pod>]) -> Value {
    let items: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// `GET /stats/summary`: which pods and containers there are. Nothing is measured: the figures, all of them optional, are left out.
pub(super) fn summary(node: &str, pods: &[Arc<Pod>]) -> Value {
    let start = |pod: &Pod| pod.status.as_ref().and_then(|status| status.start_time.clone());
    let container = |pod: &Pod, name: &str| json!({"name": name, "startTime": start(pod)});
    let pods: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let spec = pod.spec.iter().flat_map(|spec| &spec.containers);
            let containers: Vec<Value> = spec.map(|one| container(pod, &one.name)).collect();
            let metadata = &pod.metadata;
            let reference =
                json!({"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid});
            json!({"podRef": reference, "startTime": start(pod), "containers": containers})
        })
        .collect();
    json!({"node": {"nodeName": node}, "pods": pods})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_names_its_pods() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}
        }))
        .unwrap();
        let pods = [Arc::new(pod)];
        assert_eq!(pod_list(&pods)["items"][0]["metadata"]["name"], "p");
        let summary = summary("n", &pods);
        assert_eq!(summary["node"]["nodeName"], "n");
        assert_eq!(summary["pods"][0]["podRef"], json!({"name": "p", "namespace": "ns", "uid": "u"}));
        assert_eq!(summary["pods"][0]["containers"][0]["name"], "c");
    }
}
