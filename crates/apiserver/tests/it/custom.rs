//! Custom resources, from their definition to their end.

use serde_json::{Value, json};

use crate::server::{Client, Running};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/shop.example.com/v1/namespaces/default/widgets";

/// A definition with two versions, a rule, defaults, columns, status and scale.
pub(crate) fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "color": {"type": "string", "default": "red", "enum": ["red", "green"]},
                "replicas": {"type": "integer"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {
                        "name": {"type": "string", "minLength": 1}, "count": {"type": "integer", "default": 1}}}},
            }, "x-kubernetes-validations": [
                {"rule": "self.color != 'green' || self.size > 2", "message": "green widgets are large"},
                {"rule": "self.size >= oldSelf.size", "message": "widgets do not shrink"},
            ]},
            "status": {"type": "object", "properties": {
                "replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string"}}},
        },
    }});
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": schema,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
            "additionalPrinterColumns": [
                {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            ],
            "selectableFields": [{"jsonPath": ".spec.color"}],
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.shop.example.com"},
        "spec": {
            "group": "shop.example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [version("v1", true), version("v1beta1", false)],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "shop.example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

async fn defined() -> (Running, Client) {
    let server = Running::start().await;
    let mut client = server.client().await;
    let made = client.post(DEFINITIONS, &definition()).await;
    assert_eq!(made.code, 201, "{}", made.text);
    (server, client)
}

#[tokio::test]
async fn a_definition_is_served_with_its_answer() {
    let server = Running::start().await;
    let mut client = server.client().await;
    assert_eq!(client.get(WIDGETS).await.code, 404);
    let made = client.post(DEFINITIONS, &definition()).await.json();
    let conditions = made["status"]["conditions"].as_array().unwrap();
    let conditions: Vec<_> = conditions.iter().map(|c| (c["type"].clone(), c["status"].clone())).collect();
    assert_eq!(json!(conditions), json!([["NamesAccepted", "True"], ["Established", "True"]]));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["status"]["acceptedNames"]["listKind"], "WidgetList");
    let list = client.get(WIDGETS).await.json();
    assert_eq!(
        (list["kind"].as_str(), list["apiVersion"].as_str()),
        (Some("WidgetList"), Some("shop.example.com/v1"))
    );
    let resources = client.get("/apis/shop.example.com/v1beta1").await.json();
    let names: Vec<_> =
        resources["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    let document = client.get("/openapi/v3/apis/shop.example.com/v1").await.json();
    let spec = &document["components"]["schemas"]["com.example.shop.v1.Widget"]["properties"]["spec"];
    assert_eq!(spec["properties"]["color"]["default"], "red");
    let swagger = client.get("/openapi/v2").await.json();
    assert!(swagger["definitions"]["com.example.shop.v1.Widget"].is_object());
    let mut changed = definition();
    changed["spec"]["versions"][1]["served"] = json!(false);
    let changed = client.merge(&format!("{DEFINITIONS}/widgets.shop.example.com"), &changed).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    assert_eq!(client.get("/apis/shop.example.com/v1beta1").await.code, 404);
    assert_eq!(client.get("/openapi/v3/apis/shop.example.com/v1beta1").await.code, 404);
    assert!(!client.get("/openapi/v3").await.text.contains("v1beta1"));
}

#[tokio::test]
async fn objects_are_pruned_completed_and_checked() {
    let (_server, mut client) = defined().await;
    let given =
        json!({"size": 3, "unknown": 1, "free": {"a": {"b": 1}}, "parts": [{"name": "a"}], "replicas": null});
    let made = client.post(WIDGETS, &widget("a", given)).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.headers["warning"], r#"299 - "unknown field \"spec.unknown\"""#);
    let made = made.json();
    let want =
        json!({"size": 3, "color": "red", "free": {"a": {"b": 1}}, "parts": [{"name": "a", "count": 1}]});
    assert_eq!(made["spec"], want);
    assert_eq!(made["metadata"]["generation"], 1);
    let strict = client
        .post(&format!("{WIDGETS}?fieldValidation=Strict"), &widget("b", json!({"size": 3, "x": 1})))
        .await;
    let want = "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.x\"";
    assert_eq!((strict.code, strict.message().as_str()), (400, want));
    let cases = [
        (
            json!({}),
            "spec.size: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]",
        ),
        (
            json!({"size": 10}),
            "spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9",
        ),
        (json!({"size": 1, "color": "green"}), "spec: Invalid value: green widgets are large"),
        (
            json!({"size": 1, "color": "blue"}),
            "spec.color: Unsupported value: \"blue\": supported values: \"green\", \"red\", ",
        ),
        (
            json!({"size": 1, "parts": [{"name": "a"}, {"name": "a"}]}),
            "spec.parts[1]: Duplicate value: {\"name\":\"a\"}",
        ),
    ];
    for (spec, want) in cases {
        let refused = client.post(WIDGETS, &widget("c", spec)).await;
        assert_eq!(refused.code, 422);
        assert!(refused.message().contains(want), "{}", refused.message());
    }
    let shrunk = client.merge(&format!("{WIDGETS}/a"), &json!({"spec": {"size": 2}})).await;
    assert_eq!(
        shrunk.message(),
        "Widget.shop.example.com \"a\" is invalid: spec: Invalid value: widgets do not shrink"
    );
    let strategic =
        client.ask("PATCH", &format!("{WIDGETS}/a"), "application/strategic-merge-patch+json", "{}").await;
    assert_eq!(strategic.code, 415);
    assert!(
        strategic.message().contains(
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
        ),
        "{}",
        strategic.message()
    );
    let blind = client.put(&format!("{WIDGETS}/a"), &widget("a", json!({"size": 4}))).await;
    let want = "widgets.shop.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update";
    assert_eq!((blind.code, blind.message().as_str()), (422, want));
    client.headers = vec![("accept", "application/vnd.kubernetes.protobuf".to_owned())];
    assert_eq!(client.get(WIDGETS).await.code, 406);
    client.headers = vec![];
    let body = client.ask("POST", WIDGETS, "application/vnd.kubernetes.protobuf", "k8s\0").await;
    assert_eq!(body.code, 415);
}

#[tokio::test]
async fn parts_of_an_object_are_written_apart() {
    let (_server, mut client) = defined().await;
    client.post(WIDGETS, &widget("a", json!({"size": 3, "replicas": 2}))).await;
    let path = format!("{WIDGETS}/a");
    let status = json!({"spec": {"size": 9}, "metadata": {"labels": {"a": "b"}}, "status": {"phase": "Ready", "replicas": 2, "selector": "a=b", "x": 1}});
    let written = client.merge(&format!("{path}/status"), &status).await.json();
    assert_eq!(written["status"], json!({"phase": "Ready", "replicas": 2, "selector": "a=b"}));
    assert_eq!(
        (&written["spec"]["size"], &written["metadata"]["generation"], &written["metadata"]["labels"]),
        (&json!(3), &json!(1), &Value::Null)
    );
    let written = client.merge(&path, &json!({"status": {"phase": "No"}, "spec": {"size": 4}})).await.json();
    assert_eq!(
        (&written["status"]["phase"], &written["metadata"]["generation"]),
        (&json!("Ready"), &json!(2))
    );
    let scale = client.get(&format!("{path}/scale")).await.json();
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 2}), &json!({"replicas": 2, "selector": "a=b"}))
    );
    let scaled = client.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 5}})).await.json();
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
    assert_eq!(client.get(&path).await.json()["spec"]["replicas"], 5);
    let negative = client.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(negative.code, 422, "{}", negative.text);
    assert_eq!(
        client.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let unknown = client.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D4")).await;
    assert_eq!((unknown.code, unknown.message().as_str()), (400, "field label not supported: spec.size"));
}

#[tokio::test]
async fn versions_and_new_defaults_show_on_reading() {
    let (mut server, mut client) = defined().await;
    client.post(WIDGETS, &widget("a", json!({"size": 3}))).await;
    let beta = WIDGETS.replace("/v1/", "/v1beta1/");
    let shown = client.get(&format!("{beta}/a")).await.json();
    assert_eq!(shown["apiVersion"], "shop.example.com/v1beta1");
    assert_eq!(client.get(&beta).await.json()["items"][0]["apiVersion"], "shop.example.com/v1beta1");
    let mut written = shown.clone();
    written["spec"]["size"] = json!(4);
    assert_eq!(
        client.put(&format!("{beta}/a"), &written).await.json()["apiVersion"],
        "shop.example.com/v1beta1"
    );
    let stored = client.get(&format!("{WIDGETS}/a")).await.json();
    assert_eq!((&stored["apiVersion"], &stored["spec"]["size"]), (&json!("shop.example.com/v1"), &json!(4)));
    let mut newer = definition();
    for version in newer["spec"]["versions"].as_array_mut().unwrap() {
        let properties = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        properties["extra"] = json!({"type": "string", "default": "new"});
        properties.as_object_mut().unwrap().remove("color");
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]
            .as_object_mut()
            .unwrap()
            .remove("x-kubernetes-validations");
        version.as_object_mut().unwrap().remove("selectableFields");
    }
    newer["metadata"]["resourceVersion"] = client
        .get(&format!("{DEFINITIONS}/widgets.shop.example.com"))
        .await
        .json()["metadata"]["resourceVersion"]
        .clone();
    let put = client.put(&format!("{DEFINITIONS}/widgets.shop.example.com"), &newer).await;
    assert_eq!(put.code, 200, "{}", put.text);
    assert_eq!(client.get(&format!("{WIDGETS}/a")).await.json()["spec"], json!({"size": 4, "extra": "new"}));
    server.restart().await;
    let mut client = server.client().await;
    assert_eq!(client.get(&format!("{WIDGETS}/a")).await.json()["spec"], json!({"size": 4, "extra": "new"}));
}

#[tokio::test]
async fn a_definition_takes_its_objects_with_it() {
    let (server, mut client) = defined().await;
    client.post(WIDGETS, &widget("a", json!({"size": 3}))).await;
    let mut held = widget("held", json!({"size": 3}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(WIDGETS, &held).await;
    let mut watch = server.client().await.watch(&format!("{WIDGETS}?watch=1")).await;
    assert_eq!(watch.brief().await, "ADDED a");
    assert_eq!(watch.brief().await, "ADDED held");
    let mut definitions = server.client().await.watch(&format!("{DEFINITIONS}?watch=1")).await;
    assert_eq!(definitions.brief().await, "ADDED widgets.shop.example.com");
    assert_eq!(client.delete(&format!("{DEFINITIONS}/widgets.shop.example.com")).await.code, 200);
    let mut events = [watch.brief().await, watch.brief().await];
    events.sort();
    assert_eq!(events, ["DELETED a", "MODIFIED held"]);
    let refused = client.post(WIDGETS, &widget("b", json!({"size": 3}))).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (405, "create not allowed while custom resource definition is terminating")
    );
    let released = client.merge(&format!("{WIDGETS}/held"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200, "{}", released.text);
    assert_eq!(watch.brief().await, "DELETED held");
    assert_eq!(watch.next().await, None);
    let mut last = definitions.brief().await;
    while last.starts_with("MODIFIED") {
        last = definitions.brief().await;
    }
    assert_eq!(last, "DELETED widgets.shop.example.com");
    assert_eq!(client.get(WIDGETS).await.code, 404);
    let again = client.post(DEFINITIONS, &definition()).await;
    assert_eq!(again.code, 201, "{}", again.text);
    assert_eq!(client.get(WIDGETS).await.json()["items"], json!([]));
}

#[tokio::test]
async fn names_belong_to_who_came_first() {
    let (_server, mut client) = defined().await;
    let mut second = definition();
    second["metadata"]["name"] = json!("gadgets.shop.example.com");
    second["spec"]["names"] = json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget"});
    let made = client.post(DEFINITIONS, &second).await.json();
    let accepted = &made["status"]["conditions"][0];
    assert_eq!(
        (&accepted["status"], &accepted["reason"], &accepted["message"]),
        (&json!("False"), &json!("KindConflict"), &json!("\"Widget\" is already in use"))
    );
    let gadgets = WIDGETS.replace("widgets", "gadgets");
    assert_eq!(client.get(&gadgets).await.code, 404);
    client.delete(&format!("{DEFINITIONS}/widgets.shop.example.com")).await;
    let watch = format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name%3Dgadgets.shop.example.com");
    let mut events = _server.client().await.watch(&watch).await;
    loop {
        let event = events.next().await.unwrap();
        if event["object"]["status"]["conditions"][1]["status"] == "True" {
            break;
        }
    }
    // The catalog follows within the same step as the condition.
    let mut code = 404;
    for _ in 0..100 {
        code = client.get(&gadgets).await.code;
        if code == 200 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(code, 200);
}

#[tokio::test]
async fn definitions_are_refused_in_the_words_of_the_wire() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let change = |edit: &dyn Fn(&mut Value)| {
        let mut definition = definition();
        edit(&mut definition);
        definition
    };
    let schema = |definition: &mut Value, schema: Value| {
        for index in 0..2 {
            definition["spec"]["versions"][index]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
                schema.clone();
            definition["spec"]["versions"][index].as_object_mut().unwrap().remove("selectableFields");
        }
    };
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec]";
    let cases: Vec<(Value, String)> = vec![
        (change(&|d| d["metadata"]["name"] = json!("x.y")), "metadata.name: Invalid value: \"x.y\": must be spec.names.plural+\".\"+spec.group".to_owned()),
        (change(&|d| d["spec"]["versions"][1]["storage"] = json!(true)), "must have exactly one version marked as storage version".to_owned()),
        (change(&|d| schema(d, json!({"properties": {}}))), format!("{at}.type: Required value: must not be empty for specified object fields")),
        (change(&|d| schema(d, json!({"type": "array"}))), format!("{at}.items: Required value: must be specified")),
        (change(&|d| schema(d, json!({"type": "object", "allOf": [{"type": "object"}]}))), format!("{at}.allOf[0].type: Forbidden: must be empty to be structural")),
        (change(&|d| schema(d, json!({"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]}))), format!("{at}.properties[a]: Required value: because it is defined in {at}.anyOf[0].properties[a]")),
        (change(&|d| schema(d, json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}))), format!("{at}.properties[a].default: Invalid value: \"string\": {at}.properties[a].default in body must be of type integer: \"string\"")),
        (change(&|d| schema(d, json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.nothing == 1"}]}))), format!("{at}.x-kubernetes-validations[0].rule: Invalid value: \"self.nothing == 1\": compilation failed: ERROR: <input>:1:5: undefined field 'nothing'")),
        (change(&|d| schema(d, json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["b"]}))), format!("{at}.x-kubernetes-list-map-keys[0]: Invalid value: \"b\": entries must all be names of item properties")),
        (change(&|d| { d["metadata"]["name"] = json!("widgets.shop.k8s.io"); d["spec"]["group"] = json!("shop.k8s.io"); }), "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111".to_owned()),
        (change(&|d| d["spec"]["conversion"] = json!({"strategy": "Webhook"})), "this server does not call conversion webhooks".to_owned()),
    ];
    for (definition, want) in cases {
        let refused = client.post(DEFINITIONS, &definition).await;
        assert_eq!(refused.code, 422, "{want}: {}", refused.text);
        assert!(refused.message().contains(&want), "{want}\n{}", refused.message());
    }
    client.post(DEFINITIONS, &definition()).await;
    let path = format!("{DEFINITIONS}/widgets.shop.example.com");
    let immutable = client.merge(&path, &json!({"spec": {"scope": "Cluster"}})).await;
    assert!(
        immutable.message().contains("spec.scope: Invalid value: \"Cluster\": field is immutable"),
        "{}",
        immutable.text
    );
    let versions = &definition()["spec"]["versions"];
    let mut only_beta = versions[1].clone();
    only_beta["storage"] = json!(true);
    let removed = client.merge(&path, &json!({"spec": {"versions": [only_beta]}})).await;
    assert!(
        removed
            .message()
            .contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"),
        "{}",
        removed.text
    );
}
