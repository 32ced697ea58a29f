//! `serviceaccounts/token`: a TokenRequest answered with a signed token.

use fairway_objects::document::Document;
use fairway_objects::field::{FieldError, Path};
use fairway_objects::status::{Qualified, Status};
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Call;
use crate::auth::token::{self, Binding, Claims, Reference};
use crate::http::body::{self, Body};
use crate::store::{Collection, Key, State};

impl Call<'_> {
    pub(super) fn token(&self, name: &str, mut request: Value) -> Result<Response<Body>, Status> {
        let state = self.api.store.state();
        let account = state.object(&self.collection, &self.key(name)).ok_or_else(|| self.not_found(name))?;
        let spec = Path::new("spec");
        let invalid = |error: FieldError| {
            let kind = Qualified { group: "authentication.k8s.io", name: "TokenRequest" };
            Status::invalid_kind(kind, "", &[error])
        };
        let life = match request.int(&["spec", "expirationSeconds"]) {
            None => token::LIFE_SECONDS_DEFAULT,
            Some(seconds) if seconds < token::LIFE_SECONDS_MIN => {
                let why = "may not specify a duration less than 10 minutes";
                return Err(invalid(FieldError::invalid(&spec.field("expirationSeconds"), seconds, why)));
            }
            Some(seconds) => seconds.min(token::LIFE_SECONDS_MAX),
        };
        let named = request.list(&["spec", "audiences"]).iter().filter_map(Value::as_str);
        let mut audiences: Vec<String> = named.map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.push(token::ISSUER.to_owned());
        }
        let reference = request.at(&["spec", "boundObjectRef"]);
        let bound = if reference.is_null() { None } else { Some(self.bound(&state, reference)?) };
        let serviceaccount = Reference { name: name.to_owned(), uid: account.metadata("uid").to_owned() };
        let namespace = self.target.namespace.clone();
        let mut binding = Binding { namespace, serviceaccount, pod: None, secret: None, node: None };
        match bound {
            Some(Bound::Pod { pod, node }) => (binding.pod, binding.node) = (Some(pod), node),
            Some(Bound::Secret(secret)) => binding.secret = Some(secret),
            Some(Bound::Node(node)) => binding.node = Some(node),
            None => {}
        }
        let now = Timestamp::now();
        let claims = Claims::new(binding, audiences.clone(), now.as_second(), life);
        let signed = self.api.keys.sign(&claims).map_err(Status::internal)?;
        let expires = Timestamp::from_second(claims.exp).map_err(Status::internal)?;
        request.put(&["spec", "audiences"], audiences);
        request.put(&["spec", "expirationSeconds"], life);
        request.put(&["metadata", "name"], name);
        request.put(&["metadata", "namespace"], self.target.namespace.as_str());
        request.put(&["metadata", "creationTimestamp"], now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        request.put(&["status"], json!({"token": signed, "expirationTimestamp": expires}));
        Ok(body::json(201, &request))
    }

    /// The object that the token is to be bound to; it must be there and, if a pod, be the account's.
    fn bound(&self, state: &State, reference: &Value) -> Result<Bound, Status> {
        let namespace = self.target.namespace.as_str();
        let (plural, namespace) = match (reference.text(&["apiVersion"]), reference.text(&["kind"])) {
            ("v1", "Pod") => ("pods", namespace),
            ("v1", "Secret") => ("secrets", namespace),
            ("v1", "Node") => ("nodes", ""),
            (version, kind) => {
                let why =
                    format!("cannot bind token for serviceaccount to object of type {version}, Kind={kind}");
                return Err(Status::bad_request(why));
            }
        };
        let name = reference.text(&["name"]);
        let resource = Qualified { group: "", name: plural };
        let object = state.object(&Collection::new("", plural), &Key::new(namespace, name));
        let object = object.ok_or_else(|| Status::not_found(resource, name))?;
        let (wanted, uid) = (reference.text(&["uid"]), object.metadata("uid"));
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            );
            return Err(Status::conflict(resource, name, &why));
        }
        let found = Reference { name: name.to_owned(), uid: uid.to_owned() };
        match plural {
            "secrets" => return Ok(Bound::Secret(found)),
            "nodes" => return Ok(Bound::Node(found)),
            _ => {}
        }
        let account = self.target.name.as_deref().unwrap_or_default();
        if object.value().text(&["spec", "serviceAccountName"]) != account {
            let why = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            );
            return Err(Status::bad_request(why));
        }
        let node = object.value().text(&["spec", "nodeName"]);
        let node = state.object(&Collection::new("", "nodes"), &Key::new("", node));
        let node = node.map(|node| Reference {
            name: node.metadata("name").to_owned(),
            uid: node.metadata("uid").to_owned(),
        });
        Ok(Bound::Pod { pod: found, node })
    }
}

/// What a token can be bound to.
enum Bound {
    /// With the node that it runs on.
    Pod {
        pod: Reference,
        node: Option<Reference>,
    },
    Secret(Reference),
    Node(Reference),
}
