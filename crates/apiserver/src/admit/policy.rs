//! ValidatingAdmissionPolicy: expressions over a request that must hold, and what becomes of it when one does not.

use std::sync::Arc;
use std::time::Instant;

use fairway_objects::Reason;
use fairway_objects::document::{self, Document};
use fairway_objects::expression::Expression;
use fairway_objects::field::{FieldError, Path};
use fairway_objects::registry::Registry;
use fairway_objects::selector::LabelSelector;
use fairway_objects::status::{Cause, Status};
use serde_json::{Value, json};

use super::condition::{Conditions, Met, Variables};
use super::matching::{Matching, in_version};
use super::webhook::review;
use super::{Request, Warnings};
use crate::metrics::{self, Metrics};
use crate::store::{Collection, Key, State};

/// Parameter objects that one binding may select.
const PARAMETERS_MAX: usize = 100;

/// One policy with its bindings. Without bindings it does nothing.
#[derive(Debug)]
pub(super) struct Policy {
    name: String,
    matching: Matching,
    conditions: Conditions,
    variables: Vec<(String, Compiled)>,
    validations: Vec<Validation>,
    fails_closed: bool,
    /// API version and kind.
    parameters: Option<(String, String)>,
    bindings: Vec<Binding>,
}

/// An expression, or why it is none.
type Compiled = Result<Expression, String>;

#[derive(Debug)]
struct Validation {
    text: String,
    expression: Compiled,
    message: String,
    message_expression: Option<Compiled>,
    reason: Reason,
}

#[derive(Debug)]
struct Binding {
    name: String,
    matching: Option<Matching>,
    parameters: Option<ParameterReference>,
    denies: bool,
    warns: bool,
    audits: bool,
}

#[derive(Debug)]
struct ParameterReference {
    namespace: String,
    name: String,
    selector: Option<LabelSelector>,
    /// Whether a request is refused when nothing is found.
    demands: bool,
}

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    message: String,
    reason: Reason,
}

fn compile(text: &str) -> Compiled {
    Expression::compile(text)
}

impl Policy {
    /// All policies that have a binding, by name.
    pub(super) fn read_all(state: &State) -> Vec<Self> {
        let of = |plural: &str| state.objects(&Collection::new("admissionregistration.k8s.io", plural));
        let bindings = of("validatingadmissionpolicybindings");
        let policies = of("validatingadmissionpolicies");
        let read = policies.values().map(|policy| {
            let bound = bindings.values().map(|binding| binding.value());
            let bound =
                bound.filter(|binding| binding.text(&["spec", "policyName"]) == policy.metadata("name"));
            Self::read(policy.value(), bound.map(Binding::read).collect())
        });
        read.filter(|policy| !policy.bindings.is_empty()).collect()
    }

    fn read(policy: &Value, bindings: Vec<Binding>) -> Self {
        let spec = policy.at(&["spec"]);
        let fails_closed = spec.text(&["failurePolicy"]) != "Ignore";
        let kind = spec.at(&["paramKind"]);
        let variable =
            |variable: &Value| (variable.text(&["name"]).to_owned(), compile(variable.text(&["expression"])));
        Self {
            name: document::name(policy).to_owned(),
            matching: Matching::read(spec.at(&["matchConstraints"]), "resourceRules"),
            conditions: Conditions::read(spec, fails_closed),
            variables: spec.list(&["variables"]).iter().map(variable).collect(),
            validations: spec.list(&["validations"]).iter().map(Validation::read).collect(),
            fails_closed,
            parameters: kind
                .is_object()
                .then(|| (kind.text(&["apiVersion"]).to_owned(), kind.text(&["kind"]).to_owned())),
            bindings,
        }
    }

    /// The violations of one binding with one parameter object.
    fn violations(&self, variables: &Variables, parameter: &Value) -> Vec<Violation> {
        let mut variables = variables.clone();
        variables.0.set("params", parameter);
        match self.conditions.met(&variables) {
            Met::No => return Vec::new(),
            Met::Yes => {}
            Met::Failed(reason) => {
                return vec![Violation { message: reason, reason: Reason::Invalid }];
            }
        }
        // A variable that fails is not there: only who reads it fails.
        let mut computed = json!({});
        variables.0.set("variables", &computed);
        for (name, expression) in &self.variables {
            if let Ok(expression) = expression
                && let Ok(value) = expression.evaluate(&variables.0)
            {
                computed.put(&[name], value);
                variables.0.set("variables", &computed);
            }
        }
        let violations = self.validations.iter().map(|validation| validation.violation(&variables));
        violations
            .filter_map(|outcome| match outcome {
                Ok(violation) => violation,
                Err(message) if self.fails_closed => Some(Violation { message, reason: Reason::Invalid }),
                Err(message) => {
                    tracing::debug!(
                        policy = self.name,
                        message,
                        "an expression failed; the failurePolicy is Ignore"
                    );
                    None
                }
            })
            .collect()
    }
}

impl Validation {
    fn read(validation: &Value) -> Self {
        let text = validation.text(&["expression"]);
        let message = validation.text(&["messageExpression"]);
        Self {
            text: text.to_owned(),
            expression: compile(text),
            message: validation.text(&["message"]).to_owned(),
            message_expression: (!message.is_empty()).then(|| compile(message)),
            reason: match Reason::parse(validation.text(&["reason"])) {
                Reason::Unstated => Reason::Invalid,
                reason => reason,
            },
        }
    }

    /// None when it holds; the error when it cannot be said.
    fn violation(&self, variables: &Variables) -> Result<Option<Violation>, String> {
        let text = self.text.trim();
        let failed = |error: String| format!("expression '{text}' resulted in error: {error}");
        let expression = self.expression.as_ref().map_err(|error| failed(error.clone()))?;
        match expression.evaluate(&variables.0) {
            Ok(Value::Bool(true)) => Ok(None),
            Ok(Value::Bool(false)) => {
                Ok(Some(Violation { message: self.explain(variables), reason: self.reason }))
            }
            Ok(_) => Err(failed("the value is no boolean".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The message: computed when it can be and is one line of text, else written, else the expression.
    fn explain(&self, variables: &Variables) -> String {
        if let Some(Ok(expression)) = &self.message_expression
            && let Ok(Value::String(message)) = expression.evaluate(&variables.0)
            && !message.trim().is_empty()
            && !message.contains('\n')
        {
            return message.trim().to_owned();
        }
        match self.message.trim() {
            "" => format!("failed expression: {}", self.text.trim()),
            message => message.to_owned(),
        }
    }
}

impl Binding {
    fn read(binding: &Value) -> Self {
        let spec = binding.at(&["spec"]);
        let resources = spec.at(&["matchResources"]);
        let reference = spec.at(&["paramRef"]);
        let acts = |action: &str| spec.list(&["validationActions"]).iter().any(|known| known == action);
        Self {
            name: document::name(binding).to_owned(),
            matching: resources.is_object().then(|| Matching::read(resources, "resourceRules")),
            parameters: reference.is_object().then(|| ParameterReference {
                namespace: reference.text(&["namespace"]).to_owned(),
                name: reference.text(&["name"]).to_owned(),
                selector: reference
                    .has(&["selector"])
                    .then(|| LabelSelector::from_object(reference.at(&["selector"])).ok())
                    .flatten(),
                demands: reference.text(&["parameterNotFoundAction"]) != "Allow",
            }),
            denies: acts("Deny"),
            warns: acts("Warn"),
            audits: acts("Audit"),
        }
    }

    fn concerns(&self, request: &Request<'_>, object: &Value) -> bool {
        let attributes = request.attributes;
        self.matching.as_ref().is_none_or(|matching| {
            (!matching.has_rules() || matching.version(attributes, &request.registry).is_some())
                && matching.selects(attributes, request.namespace.as_ref(), object, request.old)
        })
    }

    /// The parameter objects; a policy or binding without any has one that is null. None: nothing is found and that is fine.
    fn parameters(
        &self,
        kind: Option<&(String, String)>,
        request: &Request<'_>,
    ) -> Result<Option<Vec<Value>>, String> {
        let (Some((version, kind)), Some(reference)) = (kind, &self.parameters) else {
            return Ok(Some(vec![Value::Null]));
        };
        let found = reference.find(version, kind, request)?;
        match (found.is_empty(), reference.demands) {
            (false, _) => Ok(Some(found)),
            (true, false) => Ok(None),
            (true, true) => {
                Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned())
            }
        }
    }
}

impl ParameterReference {
    fn find(&self, version: &str, kind: &str, request: &Request<'_>) -> Result<Vec<Value>, String> {
        let resource = resource_of(&request.registry, version, kind)
            .ok_or_else(|| format!("paramKind kind {kind:?} of {version:?} is not served"))?;
        let collection = Collection::new(resource.group(), &resource.plural);
        let shown = |object: &Value| in_version(object, resource.group(), resource.version());
        let namespace = match (resource.is_namespaced(), self.namespace.as_str()) {
            (false, _) => "",
            (true, "") if request.attributes.namespace.is_empty() => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                        .to_owned(),
                );
            }
            (true, "") => request.attributes.namespace,
            (true, namespace) => namespace,
        };
        let Some(selector) = &self.selector else {
            let found = request.state.object(&collection, &Key::new(namespace, &self.name));
            return Ok(found.map(|object| shown(object.value())).into_iter().collect());
        };
        let objects = request.state.objects(&collection);
        let found = objects
            .iter()
            .filter(|(key, object)| key.namespace() == namespace && selector.matches_object(object.value()));
        Ok(found.take(PARAMETERS_MAX).map(|(_, object)| shown(object.value())).collect())
    }
}

fn resource_of<'a>(
    registry: &'a Registry,
    api_version: &str,
    kind: &str,
) -> Option<&'a Arc<fairway_objects::Resource>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    registry.kind(group, version, kind)
}

/// Asks all policies. The first violation of a binding that denies is the answer; those of bindings that warn are told in any case.
pub(super) fn validate(
    metrics: &Metrics,
    request: &Request<'_>,
    policies: &[Policy],
    object: &Value,
) -> Result<Warnings, Status> {
    let attributes = request.attributes;
    let (mut warnings, mut refusal) = (Warnings::new(), None);
    for policy in policies {
        let Some(version) = policy.matching.version(attributes, &request.registry) else { continue };
        if !policy.matching.selects(attributes, request.namespace.as_ref(), object, request.old) {
            continue;
        }
        let started = Instant::now();
        let asked = review::request(attributes, &version, "", object, request.old);
        let mut variables = Variables::new(&asked);
        variables.0.set("namespaceObject", &request.namespace.clone().unwrap_or_default());
        let mut denied = false;
        for binding in policy.bindings.iter().filter(|binding| binding.concerns(request, object)) {
            for violation in bound_violations(policy, binding, request, &variables) {
                let (name, bound, message) = (&policy.name, &binding.name, &violation.message);
                if binding.audits {
                    tracing::info!(policy = name, binding = bound, message, "a policy is violated");
                }
                if binding.warns {
                    let text = format!(
                        "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{bound}': {message}"
                    );
                    warnings.push(text);
                }
                if binding.denies {
                    denied = true;
                    refusal = refusal.or_else(|| Some(denial(request, name, bound, &violation)));
                }
            }
        }
        let verdict = if denied { metrics::Verdict::Denied } else { metrics::Verdict::Allowed };
        metrics.admitted(&policy.name, verdict, started.elapsed());
    }
    refusal.map_or(Ok(warnings), Err)
}

fn bound_violations(
    policy: &Policy,
    binding: &Binding,
    request: &Request<'_>,
    variables: &Variables,
) -> Vec<Violation> {
    match binding.parameters(policy.parameters.as_ref(), request) {
        Ok(Some(parameters)) => {
            parameters.iter().flat_map(|parameter| policy.violations(variables, parameter)).collect()
        }
        Err(reason) if policy.fails_closed => {
            vec![Violation {
                message: format!("failed to configure binding: {reason}"),
                reason: Reason::Invalid,
            }]
        }
        Ok(None) | Err(_) => Vec::new(),
    }
}

fn denial(request: &Request<'_>, policy: &str, binding: &str, violation: &Violation) -> Status {
    let attributes = request.attributes;
    let Violation { message, reason } = violation;
    let message =
        format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}");
    let mut status = Status::forbidden(attributes.resource.qualified(), attributes.name, &message);
    status.reason = *reason;
    status.code = match reason {
        Reason::Forbidden => 403,
        Reason::Unauthorized => 401,
        Reason::RequestEntityTooLarge => 413,
        _ => 422,
    };
    let cause = Cause { message, ..Cause::default() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}

/// Every expression of a policy must compile.
pub(super) fn check(policy: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let lists: [(&str, &[&str]); 4] = [
        ("validations", &["expression", "messageExpression"]),
        ("variables", &["expression"]),
        ("matchConditions", &["expression"]),
        ("auditAnnotations", &["valueExpression"]),
    ];
    for (list, fields) in lists {
        let path = spec.field(list);
        for (index, item) in policy.list(&["spec", list]).iter().enumerate() {
            for field in fields.iter().filter(|field| item.has(&[**field])) {
                let text = item.text(&[*field]);
                if let Err(error) = Expression::compile(text) {
                    errors.push(FieldError::invalid(&path.index(index).field(field), text, &error));
                }
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_is_explained() {
        struct Case {
            name: &'static str,
            validation: Value,
            object: Value,
            fails_closed: bool,
            want: &'static [(&'static str, Reason)],
        }
        let cases = [
            Case {
                name: "it holds",
                validation: json!({"expression": "object.spec.replicas <= variables.most"}),
                object: json!({"spec": {"replicas": 5}}),
                fails_closed: true,
                want: &[],
            },
            Case {
                name: "the expression is the message",
                validation: json!({"expression": "object.spec.replicas <= variables.most"}),
                object: json!({"spec": {"replicas": 6}}),
                fails_closed: true,
                want: &[("failed expression: object.spec.replicas <= variables.most", Reason::Invalid)],
            },
            Case {
                name: "a written message and reason",
                validation: json!({"expression": "false", "message": "no", "reason": "Forbidden"}),
                object: json!({}),
                fails_closed: true,
                want: &[("no", Reason::Forbidden)],
            },
            Case {
                name: "a computed message",
                validation: json!({"expression": "false", "message": "no", "messageExpression": "'at most ' + string(params.most)"}),
                object: json!({}),
                fails_closed: true,
                want: &[("at most 5", Reason::Invalid)],
            },
            Case {
                name: "a message that cannot be computed",
                validation: json!({"expression": "false", "message": "no", "messageExpression": "params.absent"}),
                object: json!({}),
                fails_closed: true,
                want: &[("no", Reason::Invalid)],
            },
            Case {
                name: "a failure refuses",
                validation: json!({"expression": "object.spec.replicas < 5"}),
                object: json!({}),
                fails_closed: true,
                want: &[(
                    "expression 'object.spec.replicas < 5' resulted in error: no such key: spec",
                    Reason::Invalid,
                )],
            },
            Case {
                name: "or not",
                validation: json!({"expression": "object.spec.replicas < 5"}),
                object: json!({}),
                fails_closed: false,
                want: &[],
            },
            Case {
                name: "a variable that fails harms only its readers",
                validation: json!({"expression": "variables.bad == 1 || true"}),
                object: json!({}),
                fails_closed: true,
                want: &[],
            },
        ];
        for case in cases {
            let policy = json!({"metadata": {"name": "p"}, "spec": {
                "failurePolicy": if case.fails_closed { "Fail" } else { "Ignore" },
                "variables": [{"name": "bad", "expression": "object.no.such"}, {"name": "most", "expression": "params.most"}],
                "validations": [case.validation],
            }});
            let variables = Variables::new(&json!({"object": case.object, "operation": "CREATE"}));
            let got = Policy::read(&policy, Vec::new()).violations(&variables, &json!({"most": 5}));
            let got: Vec<(&str, Reason)> =
                got.iter().map(|violation| (violation.message.as_str(), violation.reason)).collect();
            assert_eq!(got, case.want, "{}", case.name);
        }
    }

    #[test]
    fn a_policy_that_does_not_compile_is_refused() {
        let policy = json!({"spec": {"validations": [{"expression": "true"}, {"expression": "object."}]}});
        let errors: Vec<String> = check(&policy).iter().map(|error| error.field.clone()).collect();
        assert_eq!(errors, ["spec.validations[1].expression"]);
    }
}
