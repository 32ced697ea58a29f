//! Defaults of webhook configurations and admission policies.

use serde_json::{Value, json};

use crate::document::Document;

const TIMEOUT_SECONDS: i64 = 10;

pub(super) fn webhooks(object: &mut Value, mutating: bool) {
    for webhook in object.list_mut(&["webhooks"]) {
        webhook.put_default(&["failurePolicy"], "Fail");
        webhook.put_default(&["matchPolicy"], "Equivalent");
        webhook.put_default(&["namespaceSelector"], json!({}));
        webhook.put_default(&["objectSelector"], json!({}));
        webhook.put_default(&["timeoutSeconds"], TIMEOUT_SECONDS);
        if mutating {
            webhook.put_default(&["reinvocationPolicy"], "Never");
        }
        if webhook.has(&["clientConfig", "service"]) {
            webhook.put_default(&["clientConfig", "service", "port"], 443);
        }
        rules(webhook, "rules");
    }
}

fn rules(object: &mut Value, field: &str) {
    for rule in object.list_mut(&[field]) {
        rule.put_default(&["scope"], "*");
    }
}

pub(super) fn policy(object: &mut Value) {
    if object.has(&["spec"]) {
        object.put_default(&["spec", "failurePolicy"], "Fail");
    }
    match_resources(object, &["spec", "matchConstraints"]);
}

/// Which requests a policy or its binding is about, if it says so.
pub(super) fn match_resources(object: &mut Value, path: &[&str]) {
    let Some(resources) = object.at_mut(path).filter(|resources| resources.is_object()) else { return };
    resources.put_default(&["matchPolicy"], "Equivalent");
    resources.put_default(&["namespaceSelector"], json!({}));
    resources.put_default(&["objectSelector"], json!({}));
    rules(resources, "resourceRules");
    rules(resources, "excludeResourceRules");
}
