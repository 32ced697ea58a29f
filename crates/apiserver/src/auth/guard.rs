//! Who asks, and whether they may: what proves an identity, acting as somebody else, and the refusals.

use std::sync::Arc;

use fairway_objects::Reason;
use fairway_objects::document;
use fairway_objects::status::{Details, Qualified, Status};
use http::{HeaderMap, HeaderValue, header};

use super::authorize::{Action, Decision, ResourceAction};
use super::rbac::{Rbac, Stored};
use super::token::{Claims, ISSUER, Reference};
use super::{AUTHENTICATED, UNAUTHENTICATED, User};
use crate::http::listen::Peer;
use crate::http::query::Query;
use crate::http::route::Target;
use crate::server::Api;
use crate::store::{Collection, Key, Objects, State};

/// Why a token stands for nobody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is not valid: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    #[error("the {kind} {name:?} that the token is bound to is gone")]
    Gone { kind: &'static str, name: String },
}

const IMPERSONATE_USER: &str = "impersonate-user";
const IMPERSONATE_GROUP: &str = "impersonate-group";
const IMPERSONATE_UID: &str = "impersonate-uid";
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";

impl Api {
    /// Who asks: a certificate, else a token, else nobody. A bad token is refused, not ignored.
    pub(crate) fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<User, Status> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let user = match (&peer.certificate, bearer) {
            (Some(user), _) => user.clone(),
            (None, Some((_, token))) => {
                let claims = self.token_claims(token.trim(), &[ISSUER.to_owned()]);
                claims
                    .map_err(|error| {
                        tracing::debug!(address = %peer.address, %error, "refused a token");
                        Status::unauthorized()
                    })?
                    .user()
            }
            (None, None) => User::anonymous(),
        };
        match Impersonation::read(headers)? {
            None => Ok(user),
            Some(wanted) => {
                wanted.actions().try_for_each(|action| self.allow(&user, &action))?;
                Ok(wanted.user)
            }
        }
    }

    /// The claims of a token whose account, and what else it is bound to, still exist.
    pub(crate) fn token_claims(&self, token: &str, audiences: &[String]) -> Result<Claims, TokenError> {
        let claims = self.keys.verify(token, audiences)?;
        let state = self.store.state();
        let binding = &claims.binding;
        let exists = |plural: &str, namespace: &str, reference: &Reference| {
            let object = state.object(&Collection::new("", plural), &Key::new(namespace, &reference.name));
            object.is_some_and(|object| document::uid(object.value()) == reference.uid)
        };
        let namespace = binding.namespace.as_str();
        // A pod's token goes with the pod, wherever that runs.
        let node = binding.node.as_ref().filter(|_| binding.pod.is_none());
        let bound = [
            ("service account", "serviceaccounts", namespace, Some(&binding.serviceaccount)),
            ("pod", "pods", namespace, binding.pod.as_ref()),
            ("secret", "secrets", namespace, binding.secret.as_ref()),
            ("node", "nodes", "", node),
        ];
        for (kind, plural, namespace, reference) in bound {
            if let Some(gone) = reference.filter(|reference| !exists(plural, namespace, reference)) {
                return Err(TokenError::Gone { kind, name: gone.name.clone() });
            }
        }
        Ok(claims)
    }

    /// Roles and bindings as they are now.
    pub(crate) fn rbac(&self) -> Arc<Rbac> {
        let state = self.store.state();
        self.rbac.at(state.marks().access, || rbac(&state))
    }

    /// Whether a user may do something.
    pub(crate) fn decide(&self, user: &User, action: &Action<'_>) -> Decision {
        self.rbac().decide(user, action)
    }

    /// Refuses what the user may not do.
    fn allow(&self, user: &User, action: &Action<'_>) -> Result<(), Status> {
        let decision = self.decide(user, action);
        if decision.is_allowed() {
            return Ok(());
        }
        let mut status = match action {
            Action::Path { verb, path } => {
                let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
                let details = Some(Box::new(Details::default()));
                Status { details, ..Status::new(403, Reason::Forbidden, message) }
            }
            Action::Resource(action) => {
                let ResourceAction { verb, group, resource, subresource, namespace, name } = *action;
                let resource = Qualified { group, name: resource };
                Status::unauthorized_action(resource, name, &user.name, verb, subresource, namespace)
            }
        };
        let reason = decision.reason();
        if !reason.is_empty() {
            status.message.push_str(": ");
            status.message.push_str(&reason);
        }
        Err(status)
    }

    /// Whether a user may use a path that is no object. `verb` is the method in small letters.
    pub(crate) fn allow_path(&self, user: &User, verb: &str, path: &str) -> Result<(), Status> {
        self.allow(user, &Action::Path { verb, path })
    }

    /// Whether a user may use a resource so.
    pub(crate) fn allow_resource(
        &self,
        user: &User,
        verb: &'static str,
        target: &Target,
        query: &Query,
    ) -> Result<(), Status> {
        let name = match (&target.name, verb) {
            (Some(name), _) => name.as_str(),
            // A selection of one name asks for no more than that object.
            (None, "list" | "watch" | "deletecollection") => selected_name(query.text("fieldSelector")),
            (None, _) => "",
        };
        // A namespace is in itself.
        let is_namespace = target.resource == "namespaces" && target.group.is_empty();
        let namespace =
            if is_namespace { target.name.as_deref().unwrap_or_default() } else { &target.namespace };
        let action = ResourceAction {
            verb,
            group: &target.group,
            resource: &target.resource,
            subresource: target.subresource.as_deref().unwrap_or_default(),
            namespace,
            name,
        };
        self.allow(user, &Action::Resource(action))
    }
}

/// The index over everything stored.
fn rbac(state: &State) -> Rbac {
    let of = |plural: &str| state.objects(&Collection::new("rbac.authorization.k8s.io", plural));
    let all = [of("roles"), of("clusterroles"), of("rolebindings"), of("clusterrolebindings")];
    let [roles, cluster_roles, role_bindings, cluster_role_bindings] = &all;
    let values =
        |objects: &'_ Objects| objects.values().map(|object| object.value().clone()).collect::<Vec<_>>();
    let [a, b, c, d] =
        [values(roles), values(cluster_roles), values(role_bindings), values(cluster_role_bindings)];
    Rbac::new(&Stored {
        roles: a.iter().collect(),
        cluster_roles: b.iter().collect(),
        role_bindings: c.iter().collect(),
        cluster_role_bindings: d.iter().collect(),
    })
}

/// The name that a field selector demands; "" when it demands none.
fn selected_name(selector: &str) -> &str {
    let names = selector.split(',').filter_map(|term| term.trim().strip_prefix("metadata.name="));
    names.map(|name| name.trim_start_matches('=')).next().unwrap_or_default()
}

/// Who the request is to count as.
#[derive(Debug, PartialEq, Eq)]
struct Impersonation {
    user: User,
    /// Groups that the request names, apart from those that follow from the name.
    groups: Vec<String>,
}

impl Impersonation {
    /// From the `Impersonate-` headers; none when there are none.
    fn read(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let asked = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
        let name = headers.get(IMPERSONATE_USER).and_then(text).filter(|name| !name.is_empty());
        let groups: Vec<String> = headers.get_all(IMPERSONATE_GROUP).iter().filter_map(text).collect();
        let Some(name) = name else {
            return if asked {
                Err(Status::internal(
                    "an impersonation without a user: groups, uid and extra need Impersonate-User",
                ))
            } else {
                Ok(None)
            };
        };
        let mut user = User { name, groups: groups.clone(), ..User::default() };
        user.uid = headers.get(IMPERSONATE_UID).and_then(text).unwrap_or_default();
        for key in headers.keys() {
            let Some(extra) = key.as_str().strip_prefix(IMPERSONATE_EXTRA) else { continue };
            let extra = crate::http::route::decode(extra).unwrap_or_else(|| extra.to_owned());
            user.extra.insert(extra, headers.get_all(key).iter().filter_map(text).collect());
        }
        if let (Some((namespace, _)), true) = (user.service_account(), groups.is_empty()) {
            let namespace = format!("system:serviceaccounts:{namespace}");
            user.groups.extend(["system:serviceaccounts".to_owned(), namespace]);
        }
        let all = if user.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
        if !user.is_in(all) {
            user.groups.push(all.to_owned());
        }
        Ok(Some(Self { user, groups }))
    }

    /// What one must be allowed for it: the verb `impersonate` on each part.
    fn actions(&self) -> impl Iterator<Item = Action<'_>> {
        let on = |group, resource, subresource, namespace, name| {
            let verb = "impersonate";
            Action::Resource(ResourceAction { verb, group, resource, subresource, namespace, name })
        };
        let user = match self.user.service_account() {
            Some((namespace, name)) => on("", "serviceaccounts", "", namespace, name),
            None => on("", "users", "", "", self.user.name.as_str()),
        };
        let groups = self.groups.iter().map(move |name| on("", "groups", "", "", name.as_str()));
        let extra = self.user.extra.iter().flat_map(move |(key, values)| {
            values
                .iter()
                .map(move |value| on("authentication.k8s.io", "userextras", key.as_str(), "", value.as_str()))
        });
        let uid = (!self.user.uid.is_empty())
            .then(|| on("authentication.k8s.io", "uids", "", "", self.user.uid.as_str()));
        [user].into_iter().chain(groups).chain(extra).chain(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn acting_as_another_asks_for_each_part() {
        struct Case {
            name: &'static str,
            headers: &'static [(&'static str, &'static str)],
            groups: &'static [&'static str],
            actions: &'static [&'static str],
        }
        let cases = [
            Case {
                name: "a person",
                headers: &[
                    ("impersonate-user", "bob"),
                    ("impersonate-group", "dev"),
                    ("impersonate-group", "ops"),
                ],
                groups: &["dev", "ops", "system:authenticated"],
                actions: &["users bob", "groups dev", "groups ops"],
            },
            Case {
                name: "an account is in its groups",
                headers: &[("impersonate-user", "system:serviceaccount:shop:app")],
                groups: &["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
                actions: &["serviceaccounts shop/app"],
            },
            Case {
                name: "nobody",
                headers: &[("impersonate-user", "system:anonymous")],
                groups: &["system:unauthenticated"],
                actions: &["users system:anonymous"],
            },
            Case {
                name: "uid and extra",
                headers: &[
                    ("impersonate-user", "bob"),
                    ("impersonate-uid", "1"),
                    ("impersonate-extra-a%2fb", "x"),
                ],
                groups: &["system:authenticated"],
                actions: &["users bob", "userextras/a/b x", "uids 1"],
            },
        ];
        for case in cases {
            let read = Impersonation::read(&headers(case.headers)).unwrap().unwrap();
            assert_eq!(read.user.groups, case.groups, "{}", case.name);
            let shown = read.actions().map(|action| {
                let Action::Resource(action) = action else { panic!("{action:?}") };
                let part = if action.subresource.is_empty() {
                    String::new()
                } else {
                    format!("/{}", action.subresource)
                };
                let namespace = if action.namespace.is_empty() {
                    String::new()
                } else {
                    format!("{}/", action.namespace)
                };
                format!("{}{part} {namespace}{}", action.resource, action.name)
            });
            assert_eq!(shown.collect::<Vec<_>>(), case.actions, "{}", case.name);
        }
        assert_eq!(Impersonation::read(&HeaderMap::new()), Ok(None));
        assert_eq!(Impersonation::read(&headers(&[("impersonate-group", "dev")])).unwrap_err().code, 500);
    }

    #[test]
    fn a_selection_of_one_name_is_a_question_about_it() {
        assert_eq!(selected_name("metadata.name=web"), "web");
        assert_eq!(selected_name("status.phase=Running,metadata.name==web"), "web");
        assert_eq!(selected_name("metadata.name!=web"), "");
        assert_eq!(selected_name(""), "");
    }
}
