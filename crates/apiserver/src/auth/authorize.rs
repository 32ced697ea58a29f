//! Whether a user may do something: fixed roles, until rules stored in the API replace them.

use super::{AUTHENTICATED, MASTERS, NODES, User};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Something with objects.
    Resource(ResourceAction<'a>),
    /// A path that is no object.
    Path(&'a str),
}

/// Something with objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceAction<'a> {
    /// `get`, `list`, `create` …
    pub verb: &'a str,
    /// "" for core.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// "" for the object itself.
    pub subresource: &'a str,
    /// "" for the whole cluster.
    pub namespace: &'a str,
    /// "" for no certain object.
    pub name: &'a str,
}

/// The answer, with its reason either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow(&'static str),
    /// No rule says yes.
    NoOpinion(&'static str),
}

impl Decision {
    /// True for yes.
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// Why.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Allow(reason) | Self::NoOpinion(reason) => reason,
        }
    }
}

/// How it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorizer {
    /// The roles that a local cluster needs and no others.
    FixedRoles,
}

/// Namespaces whose service accounts run the cluster.
const SYSTEM_NAMESPACES: &[&str] = &["kube-system", "fairway-system"];

/// What everybody may read, also without a name.
const PUBLIC_PATHS: &[&str] = &["/version", "/healthz", "/livez", "/readyz"];

/// What everybody with a name may read.
const DISCOVERY_PATHS: &[&str] = &["/", "/api", "/apis", "/openapi", "/.well-known", "/openid"];

impl Authorizer {
    /// Decides.
    pub fn decide(self, user: &User, action: &Action<'_>) -> Decision {
        match self {
            Self::FixedRoles => fixed_roles(user, action),
        }
    }
}

fn fixed_roles(user: &User, action: &Action<'_>) -> Decision {
    if user.is_in(MASTERS) {
        return Decision::Allow("the group system:masters may do everything");
    }
    if let Action::Path(path) = action
        && within(path, PUBLIC_PATHS)
    {
        return Decision::Allow("everybody may read versions and health");
    }
    if !user.is_in(AUTHENTICATED) {
        return Decision::NoOpinion("nothing else is open to users without a name");
    }
    if user.service_account().is_some_and(|(namespace, _)| SYSTEM_NAMESPACES.contains(&namespace)) {
        return Decision::Allow("service accounts of the system's namespaces run the cluster");
    }
    match action {
        Action::Path(path) if within(path, DISCOVERY_PATHS) => {
            Decision::Allow("everybody with a name may discover")
        }
        Action::Path(_) => Decision::NoOpinion("no role allows this path"),
        Action::Resource(action) if is_own_question(action) => {
            Decision::Allow("everybody with a name may ask about themselves")
        }
        Action::Resource(action) if user.is_in(NODES) && is_for_nodes(action) => {
            Decision::Allow("node agents read everything and report on nodes, pods and leases")
        }
        Action::Resource(_) => Decision::NoOpinion("no role allows this"),
    }
}

/// True if `path` is one of `roots` or below one.
fn within(path: &str, roots: &[&str]) -> bool {
    roots.iter().any(|root| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && *root != "/"))
    })
}

fn is_own_question(action: &ResourceAction<'_>) -> bool {
    action.verb == "create"
        && match action.group {
            "authentication.k8s.io" => action.resource == "selfsubjectreviews",
            "authorization.k8s.io" => {
                matches!(action.resource, "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
            }
            _ => false,
        }
}

fn is_for_nodes(action: &ResourceAction<'_>) -> bool {
    let reads = matches!(action.verb, "get" | "list" | "watch");
    let writes = match (action.group, action.resource, action.subresource) {
        ("", "pods", "status") | ("", "nodes", "" | "status") | ("", "services", "status") => {
            action.verb != "delete"
        }
        ("", "pods", "") => action.verb == "delete",
        ("" | "events.k8s.io", "events", "") | ("coordination.k8s.io", "leases", "") => true,
        ("", "serviceaccounts", "token") => action.verb == "create",
        ("authentication.k8s.io", "tokenreviews", "") => action.verb == "create",
        ("authorization.k8s.io", "subjectaccessreviews", "") => action.verb == "create",
        _ => false,
    };
    reads && action.subresource.is_empty() || writes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        User { name: name.to_owned(), groups, ..User::default() }
    }

    #[test]
    fn roles_allow_what_they_are_for() {
        let masters = user("admin", &[MASTERS, AUTHENTICATED]);
        let node = user("system:node:n1", &[NODES, AUTHENTICATED]);
        let dns = user("system:serviceaccount:kube-system:fairway-dns", &[AUTHENTICATED]);
        let app = user("system:serviceaccount:shop:default", &[AUTHENTICATED]);
        let anonymous = User::anonymous();
        let on = |verb, group, resource, subresource| {
            Action::Resource(ResourceAction {
                verb,
                group,
                resource,
                subresource,
                ..ResourceAction::default()
            })
        };
        let cases = [
            (&masters, on("delete", "", "nodes", ""), true),
            (&node, on("list", "", "secrets", ""), true),
            (&node, on("patch", "", "pods", "status"), true),
            (&node, on("create", "", "serviceaccounts", "token"), true),
            (&node, on("create", "", "pods", ""), false),
            (&node, on("get", "", "pods", "exec"), false),
            (&node, on("delete", "", "nodes", ""), false),
            (&dns, on("watch", "discovery.k8s.io", "endpointslices", ""), true),
            (&app, on("list", "", "pods", ""), false),
            (&app, on("create", "authorization.k8s.io", "selfsubjectaccessreviews", ""), true),
            (&app, Action::Path("/apis"), true),
            (&app, Action::Path("/openapi/v3"), true),
            (&app, Action::Path("/metrics"), false),
            (&anonymous, Action::Path("/version"), true),
            (&anonymous, Action::Path("/readyz/ping"), true),
            (&anonymous, Action::Path("/apis"), false),
            (&anonymous, on("list", "", "pods", ""), false),
        ];
        for (user, action, want) in cases {
            let got = Authorizer::FixedRoles.decide(user, &action);
            assert_eq!(got.is_allowed(), want, "{} {action:?}: {got:?}", user.name);
        }
    }
}
