//! Binding a pod to a node, and evicting one.

use fairway_objects::document::{self, Document};
use fairway_objects::status::{Qualified, Status};
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, Refusal};
use crate::http::body::Body;
use crate::store::{Collection, Keep, Key};

impl Call<'_> {
    /// `pods/binding`: decides the node, once.
    pub(super) async fn bind(&self, name: &str, binding: &Value) -> Result<Response<Body>, Status> {
        let options = self.write_options("CreateOptions")?;
        let kind = binding.text(&["target", "kind"]);
        let node = binding.text(&["target", "name"]).to_owned();
        if node.is_empty() || !matches!(kind, "" | "Node") {
            return Err(Status::bad_request("binding: target must be a Node with a name"));
        }
        let uid = document::uid(binding).to_owned();
        let annotations = binding.at(&["metadata", "annotations"]).clone();
        let (key, collection) = (Key::new(&self.target.namespace, name), Collection::new("", "pods"));
        let bound = self.api.store.commit(options.keep, move |txn| {
            let pods = Qualified { group: "", name: "pods" };
            let binding = Qualified { group: "", name: "pods/binding" };
            let current = txn.state().object(&collection, &key).cloned();
            let current = current.ok_or_else(|| Status::not_found(pods, key.name()))?;
            let mut pod = current.value().clone();
            if !uid.is_empty() && uid != document::uid(&pod) {
                return Err(Refusal::Final(Status::uid_mismatch(
                    pods,
                    key.name(),
                    &uid,
                    document::uid(&pod),
                )));
            }
            if document::is_terminating(&pod) {
                let why = format!("pod {} is being deleted, cannot be assigned to a host", key.name());
                return Err(Status::conflict(binding, key.name(), &why).into());
            }
            let assigned = pod.text(&["spec", "nodeName"]);
            if !assigned.is_empty() {
                let why = format!("pod {} is already assigned to node {assigned:?}", key.name());
                return Err(Status::conflict(binding, key.name(), &why).into());
            }
            pod.put(&["spec", "nodeName"], node);
            for (key, value) in annotations.as_object().into_iter().flatten() {
                pod.put(&["metadata", "annotations", key], value.clone());
            }
            let now =
                Timestamp::from_millisecond(i64::try_from(txn.now_ms()).unwrap_or(0)).unwrap_or_default();
            set_scheduled(&mut pod, now);
            Ok(txn.put(&collection, &key, pod))
        });
        bound.await.map_err(|error| match Refusal::from(error) {
            Refusal::Final(status) => status,
            Refusal::Stale => Status::internal("a binding cannot be stale"),
        })?;
        Ok(self.answer_status(&Status::success(201, None)))
    }

    /// `pods/eviction`: a delete with the pod's own grace.
    pub(super) async fn evict(&self, name: &str, eviction: &Value) -> Result<Response<Body>, Status> {
        let keep = if eviction.list(&["deleteOptions", "dryRun"]).is_empty() {
            self.write_options("CreateOptions")?.keep
        } else {
            Keep::DryRun
        };
        self.delete_gracefully(name, eviction.int(&["deleteOptions", "gracePeriodSeconds"]), keep).await?;
        Ok(self.answer_status(&Status::success(201, None)))
    }
}

/// The condition PodScheduled is True from now on.
fn set_scheduled(pod: &mut Value, now: Timestamp) {
    let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": at,
        "observedGeneration": pod.at(&["metadata", "generation"]),
    });
    let conditions = pod.list(&["status", "conditions"]).iter();
    let others = conditions.filter(|known| known.text(&["type"]) != "PodScheduled").cloned();
    let conditions: Vec<Value> = others.chain([condition]).collect();
    pod.put(&["status", "conditions"], conditions);
}
