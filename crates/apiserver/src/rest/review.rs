//! Kinds that are questions: answered at once, never stored.

use fairway_objects::document::Document;
use fairway_objects::registry::BuiltinKind;
use fairway_objects::status::Status;
use http::Response;
use serde_json::{Value, json};

use super::Call;
use crate::auth::User;
use crate::auth::authorize::{Action, ResourceAction};
use crate::auth::rbac::Rule;
use crate::http::body::{self, Body};

impl Call<'_> {
    pub(super) async fn review(&self, mut object: Value) -> Result<Response<Body>, Status> {
        let status = match self.resource.builtin {
            Some(BuiltinKind::Binding) => {
                let name = object.text(&["metadata", "name"]).to_owned();
                return self.bind(&name, &object).await;
            }
            Some(BuiltinKind::SelfSubjectReview) => json!({"userInfo": self.user.to_json()}),
            Some(BuiltinKind::TokenReview) => self.token_review(&object),
            Some(BuiltinKind::SelfSubjectAccessReview) => self.access(self.user, &object),
            Some(BuiltinKind::SubjectAccessReview | BuiltinKind::LocalSubjectAccessReview) => {
                self.access(&subject(&object), &object)
            }
            Some(BuiltinKind::SelfSubjectRulesReview) => self.rules(&object),
            _ => return Err(Status::method_not_allowed()),
        };
        object.put(&["status"], status);
        Ok(body::json(201, &object))
    }

    fn token_review(&self, review: &Value) -> Value {
        let named = review.list(&["spec", "audiences"]).iter().filter_map(Value::as_str);
        let mut audiences: Vec<String> = named.map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.push(crate::auth::token::ISSUER.to_owned());
        }
        match self.api.token_claims(review.text(&["spec", "token"]), &audiences) {
            Ok(claims) => {
                audiences.retain(|audience| claims.aud.contains(audience));
                json!({"authenticated": true, "user": claims.user().to_json(), "audiences": audiences})
            }
            Err(error) => json!({"authenticated": false, "user": {}, "error": error.to_string()}),
        }
    }

    fn access(&self, user: &User, review: &Value) -> Value {
        let resource = review.at(&["spec", "resourceAttributes"]);
        let path = |field| review.text(&["spec", "nonResourceAttributes", field]);
        let text = |field| resource.text(&[field]);
        let action = if resource.is_null() {
            Action::Path { verb: path("verb"), path: path("path") }
        } else {
            Action::Resource(ResourceAction {
                verb: text("verb"),
                group: text("group"),
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
            })
        };
        let decision = self.api.decide(user, &action);
        json!({"allowed": decision.is_allowed(), "reason": decision.reason()})
    }

    /// Every rule that reaches the asking user in a namespace.
    fn rules(&self, review: &Value) -> Value {
        let (rules, missing) = self.api.rbac().rules(self.user, review.text(&["spec", "namespace"]));
        let (paths, resources): (Vec<Rule>, Vec<Rule>) =
            rules.into_iter().partition(|rule| !rule.paths.is_empty());
        let values = |rules: &[Rule]| rules.iter().map(Rule::to_value).collect::<Vec<_>>();
        let mut status = json!({
            "resourceRules": values(&resources), "nonResourceRules": values(&paths), "incomplete": !missing.is_empty(),
        });
        if !missing.is_empty() {
            status.put(&["evaluationError"], missing.join(", "));
        }
        status
    }
}

/// The user that a review asks about.
fn subject(review: &Value) -> User {
    let groups = review.list(&["spec", "groups"]).iter().filter_map(Value::as_str);
    User {
        name: review.text(&["spec", "user"]).to_owned(),
        uid: review.text(&["spec", "uid"]).to_owned(),
        groups: groups.map(str::to_owned).collect(),
        ..User::default()
    }
}
