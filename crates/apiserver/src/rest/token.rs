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
        let (pod, secret) = match bound {
            Some((Bound::Pod, reference)) => (Some(reference), None),
            Some((Bound::Secret, reference)) => (None, Some(reference)),
            None => (None, None),
        };
        let serviceaccount = Reference { name: name.to_owned(), uid: account.metadata("uid").to_owned() };
        let binding = Binding { namespace: self.target.namespace.clone(), serviceaccount, pod, secret };
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

    /// The object that the token is to be bound to; it must be there and be the account's.
    fn bound(&self, state: &State, reference: &Value) -> Result<(Bound, Reference), Status> {
        let (bound, plural) = match (reference.text(&["apiVersion"]), reference.text(&["kind"])) {
            ("v1", "Pod") => (Bound::Pod, "pods"),
            ("v1", "Secret") => (Bound::Secret, "secrets"),
            (_, kind) => {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount to object of kind {kind:?}"
                )));
            }
        };
        let name = reference.text(&["name"]);
        let resource = Qualified { group: "", name: plural };
        let object = state.object(&Collection::new("", plural), &Key::new(&self.target.namespace, name));
        let object = object.ok_or_else(|| Status::not_found(resource, name))?;
        let (wanted, uid) = (reference.text(&["uid"]), object.metadata("uid"));
        if !wanted.is_empty() && wanted != uid {
            return Err(Status::uid_mismatch(resource, name, wanted, uid));
        }
        let account = self.target.name.as_deref().unwrap_or_default();
        if matches!(bound, Bound::Pod) && object.value().text(&["spec", "serviceAccountName"]) != account {
            let why = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            );
            return Err(Status::bad_request(why));
        }
        Ok((bound, Reference { name: name.to_owned(), uid: uid.to_owned() }))
    }
}

/// What a token can be bound to.
enum Bound {
    Pod,
    Secret,
}
