//! Role-based access control: rules, roles and bindings as data, and the decision over them.
//!
//! Rules only ever allow. A user is allowed what any rule says that reaches them: of every ClusterRoleBinding, and of the RoleBindings in
//! the namespace of the action. [`Rbac`] is built from stored objects and never changed; a change of a role or binding builds another.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fairway_objects::document::{self, Document};
use fairway_objects::selector::LabelSelector;
use serde_json::{Map, Value, json};

use super::authorize::{Action, Decision, ResourceAction};
use super::{MASTERS, User};

/// Stands for everything in verbs, groups, resources and paths.
const ALL: &str = "*";
/// Group of the objects.
const GROUP: &str = "rbac.authorization.k8s.io";

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// API groups, "" for core.
    pub groups: Vec<String>,
    /// Plurals, with `/subresource`, or `*/subresource` for that of every resource.
    pub resources: Vec<String>,
    /// Paths that are no objects, perhaps with a `*` at the end. A rule with paths has no groups and resources.
    pub paths: Vec<String>,
    /// Names of objects; empty for all.
    pub names: Vec<String>,
    /// What may be done.
    pub verbs: Vec<String>,
}

impl Rule {
    /// Everything with every object.
    pub fn everything_with_objects() -> Self {
        let all = || vec![ALL.to_owned()];
        Self { groups: all(), resources: all(), verbs: all(), ..Self::default() }
    }

    /// Everything with every path.
    pub fn everything_with_paths() -> Self {
        let all = || vec![ALL.to_owned()];
        Self { paths: all(), verbs: all(), ..Self::default() }
    }

    /// Reads a `PolicyRule`.
    pub fn read(rule: &Value) -> Self {
        let texts = |name| rule.list(&[name]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            groups: texts("apiGroups"),
            resources: texts("resources"),
            paths: texts("nonResourceURLs"),
            names: texts("resourceNames"),
            verbs: texts("verbs"),
        }
    }

    /// As a `PolicyRule`.
    pub fn to_value(&self) -> Value {
        let mut rule = Map::new();
        for (name, texts) in self.parts() {
            if !texts.is_empty() {
                rule.insert(name.1.to_owned(), json!(texts));
            }
        }
        Value::Object(rule)
    }

    /// Every part, with its name in messages and in documents.
    fn parts(&self) -> [((&'static str, &'static str), &[String]); 5] {
        [
            (("APIGroups", "apiGroups"), &self.groups),
            (("Resources", "resources"), &self.resources),
            (("NonResourceURLs", "nonResourceURLs"), &self.paths),
            (("ResourceNames", "resourceNames"), &self.names),
            (("Verbs", "verbs"), &self.verbs),
        ]
    }

    /// Whether it allows an action.
    pub fn allows(&self, action: &Action<'_>) -> bool {
        match action {
            Action::Resource(action) => self.allows_resource(action),
            Action::Path { verb, path } => {
                includes(&self.verbs, verb) && self.paths.iter().any(|known| path_covers(known, path))
            }
        }
    }

    fn allows_resource(&self, action: &ResourceAction<'_>) -> bool {
        includes(&self.verbs, action.verb)
            && includes(&self.groups, action.group)
            && self.resources.iter().any(|known| resource_is(known, action.resource, action.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == action.name))
    }

    /// Whether it allows all that a rule of one verb, group, resource (or path) and at most one name allows.
    fn covers(&self, single: &Rule) -> bool {
        let resource = |wanted: &String| {
            let (resource, part) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|known| resource_is(known, resource, part))
        };
        single.verbs.iter().all(|verb| includes(&self.verbs, verb))
            && single.groups.iter().all(|group| includes(&self.groups, group))
            && single.resources.iter().all(resource)
            && single.paths.iter().all(|path| self.paths.iter().any(|known| path_covers(known, path)))
            && (self.names.is_empty()
                || !single.names.is_empty() && single.names.iter().all(|name| self.names.contains(name)))
    }

    /// The same as rules of one verb, group, resource (or path) and name each.
    fn singles(&self) -> Vec<Rule> {
        let mut singles = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for verb in &self.verbs {
            for path in &self.paths {
                singles.push(Rule { verbs: one(verb), paths: one(path), ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let rule = Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.names.is_empty() {
                        singles.push(rule);
                    } else {
                        let named = |name| Rule { names: one(name), ..rule.clone() };
                        singles.extend(self.names.iter().map(named));
                    }
                }
            }
        }
        singles
    }
}

/// As messages show a rule.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = self.parts().into_iter().filter(|(_, texts)| !texts.is_empty());
        let parts: Vec<String> =
            parts.map(|((name, _), texts)| format!("{name}:{}", quoted(texts))).collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}

/// A list of texts as messages show it: `["a" "b"]`.
fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}

fn includes(known: &[String], wanted: &str) -> bool {
    known.iter().any(|known| known == wanted || known == ALL)
}

fn resource_is(known: &str, resource: &str, subresource: &str) -> bool {
    match known.split_once('/') {
        _ if known == ALL => true,
        None => subresource.is_empty() && known == resource,
        Some((parent, part)) => {
            !subresource.is_empty() && part == subresource && (parent == ALL || parent == resource)
        }
    }
}

fn path_covers(known: &str, wanted: &str) -> bool {
    known == wanted || known.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix))
}

/// What of `wanted` no rule of `held` covers, without repetition: the verbs of one group, resource and name together.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let missing: BTreeSet<Rule> = wanted
        .iter()
        .flat_map(Rule::singles)
        .filter(|single| !held.iter().any(|rule| rule.covers(single)))
        .collect();
    let mut together: Vec<Rule> = Vec::new();
    for single in missing {
        let same = |known: &&mut Rule| {
            (&known.groups, &known.resources, &known.paths, &known.names)
                == (&single.groups, &single.resources, &single.paths, &single.names)
        };
        match together.iter_mut().find(same) {
            Some(known) => known.verbs.extend(single.verbs),
            None => together.push(single),
        }
    }
    together
}

/// The rules of a stored role.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    role.list(&["rules"]).iter().map(Rule::read).collect()
}

/// One binding as one of its subjects has it.
#[derive(Debug, Clone)]
struct Grant {
    /// Why, for whoever asks.
    reason: Arc<str>,
    rules: Result<Arc<[Rule]>, Arc<str>>,
}

/// Grants by the name of a user, and of a group.
#[derive(Debug, Default)]
struct Grants {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

impl Grants {
    fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Grant> {
        let own = self.users.get(&user.name);
        let by_groups = user.groups.iter().filter_map(|group| self.groups.get(group));
        own.into_iter().chain(by_groups).flatten()
    }

    fn add(&mut self, subject: &Value, binding_namespace: &str, describe: &str, rules: &Grant) {
        let name = subject.text(&["name"]);
        let kind = subject.text(&["kind"]);
        let mut shown = name.to_owned();
        let (map, key) = match kind {
            "User" => (&mut self.users, name.to_owned()),
            "Group" => (&mut self.groups, name.to_owned()),
            "ServiceAccount" => {
                let namespace = match subject.text(&["namespace"]) {
                    "" => binding_namespace,
                    namespace => namespace,
                };
                shown = format!("{name}/{namespace}");
                (&mut self.users, format!("system:serviceaccount:{namespace}:{name}"))
            }
            _ => return,
        };
        let reason = format!("RBAC: allowed by {describe} to {kind} {shown:?}").into();
        map.entry(key).or_default().push(Grant { reason, rules: rules.rules.clone() });
    }
}

/// Everything that roles and bindings allow.
#[derive(Debug, Default)]
pub struct Rbac {
    cluster: Grants,
    namespaces: HashMap<String, Grants>,
}

/// The stored objects that decide.
#[derive(Debug, Default)]
pub struct Stored<'a> {
    /// `roles`
    pub roles: Vec<&'a Value>,
    /// `clusterroles`
    pub cluster_roles: Vec<&'a Value>,
    /// `rolebindings`
    pub role_bindings: Vec<&'a Value>,
    /// `clusterrolebindings`
    pub cluster_role_bindings: Vec<&'a Value>,
}

impl Rbac {
    /// From all roles and bindings.
    pub fn new(stored: &Stored<'_>) -> Self {
        let compile = |role: &&Value| {
            let name = (document::namespace(role).to_owned(), document::name(role).to_owned());
            (name, Arc::<[Rule]>::from(rules_of(role)))
        };
        let roles: HashMap<(String, String), Arc<[Rule]>> =
            stored.roles.iter().chain(&stored.cluster_roles).map(compile).collect();
        let mut rbac = Self::default();
        let bindings = stored.cluster_role_bindings.iter().chain(&stored.role_bindings);
        for binding in bindings {
            let (name, namespace) = (document::name(binding), document::namespace(binding));
            let (kind, role) = (binding.text(&["roleRef", "kind"]), binding.text(&["roleRef", "name"]));
            let home = if kind == "Role" { namespace } else { "" };
            let rules = roles.get(&(home.to_owned(), role.to_owned())).cloned();
            let missing = || format!("{}.{GROUP} {role:?} not found", kind.to_lowercase()).into();
            let grant = Grant { reason: Arc::from(""), rules: rules.ok_or_else(missing) };
            let (describe, grants) = if namespace.is_empty() {
                (format!("ClusterRoleBinding {name:?} of {kind} {role:?}"), &mut rbac.cluster)
            } else {
                let place = format!("{name}/{namespace}");
                let grants = rbac.namespaces.entry(namespace.to_owned()).or_default();
                (format!("RoleBinding {place:?} of {kind} {role:?}"), grants)
            };
            for subject in binding.list(&["subjects"]) {
                grants.add(subject, namespace, &describe, &grant);
            }
        }
        rbac
    }

    /// Decides.
    pub fn decide(&self, user: &User, action: &Action<'_>) -> Decision {
        if user.is_in(MASTERS) {
            return Decision::Allow(None);
        }
        let namespace = match action {
            Action::Resource(action) => action.namespace,
            Action::Path { .. } => "",
        };
        let mut missing = Vec::new();
        for grant in self.grants(user, namespace) {
            match &grant.rules {
                Ok(rules) if rules.iter().any(|rule| rule.allows(action)) => {
                    return Decision::Allow(Some(Arc::clone(&grant.reason)));
                }
                Ok(_) => {}
                Err(role) => missing.push(Arc::clone(role)),
            }
        }
        Decision::NoOpinion(missing)
    }

    fn grants<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let local = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        self.cluster.of(user).chain(local.into_iter().flat_map(|grants| grants.of(user)))
    }

    /// All rules that reach a user in a namespace ("": only those of the whole cluster), and what went wrong on the way.
    pub fn rules(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<Arc<str>>) {
        if user.is_in(MASTERS) {
            return (vec![Rule::everything_with_objects(), Rule::everything_with_paths()], Vec::new());
        }
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        for grant in self.grants(user, namespace) {
            match &grant.rules {
                Ok(granted) => rules.extend(granted.iter().cloned()),
                Err(role) => missing.push(Arc::clone(role)),
            }
        }
        (rules, missing)
    }
}

/// The refusal of a role or binding that would give more than its writer has.
pub fn escalation(user: &User, missing: &[Rule]) -> String {
    let mut rules: Vec<String> = missing.iter().map(Rule::to_string).collect();
    rules.sort();
    format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        rules.join("\n")
    )
}

/// The rules of the ClusterRoles that an `aggregationRule` selects, those of the first by name first, each once.
pub fn aggregate<'a>(role: &Value, others: impl Iterator<Item = &'a Value>) -> Option<Vec<Value>> {
    let selectors = role.at(&["aggregationRule", "clusterRoleSelectors"]).as_array()?;
    let selectors: Vec<LabelSelector> =
        selectors.iter().filter_map(|selector| LabelSelector::from_object(selector).ok()).collect();
    let mut rules: Vec<Value> = Vec::new();
    let selected = others.filter(|other| document::name(other) != document::name(role));
    for other in selected.filter(|other| selectors.iter().any(|selector| selector.matches_object(other))) {
        for rule in other.list(&["rules"]) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests;
