//! From the shape of a step to its meaning. Pure.

mod requests;

use std::time::Duration;

use fairway_toolbox::duration::{self, DurationError};
use fairway_toolbox::probe::Target;
use serde_json::Value;

use self::requests::{background, connect, request, resolve};
use super::raw;
use super::step::{Action, Checked, Exec, Logs, Manifest, ObjectRef, Patch, PatchBody, State, Victim};
use crate::expect::{CommandExpect, ExpectError, Matcher, ProbeExpect, Tolerance};

/// How long a `wait` and an `observe` may take when they say nothing.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// How long an `exec` may take when it says nothing.
const EXEC_DEFAULT: Duration = Duration::from_secs(10);

/// Why a step makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// There is nothing to do.
    #[error("the step has no action; give it one of {}", ACTIONS.join(", "))]
    NoAction,
    /// There is too much to do.
    #[error("the step has more than one action; make a step of each")]
    TwoActions,
    /// A field is not there.
    #[error("{action} needs \"{field}\"")]
    Missing {
        /// The action.
        action: &'static str,
        /// The field, or a choice of fields.
        field: &'static str,
    },
    /// A field that this action cannot have.
    #[error("{action} has no \"{field}\"")]
    NotHere {
        /// The action.
        action: &'static str,
        /// The field.
        field: String,
    },
    /// A value that is not understood.
    #[error("{field}: \"{given}\" is not {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// What was written.
        given: String,
        /// What could have been.
        expected: &'static str,
    },
    /// A duration that is none.
    #[error("{field}: {source}")]
    Duration {
        /// The field.
        field: &'static str,
        /// Why not.
        source: DurationError,
    },
    /// An expectation that makes no sense.
    #[error(transparent)]
    Expect(#[from] ExpectError),
}

const ACTIONS: [&str; 18] = [
    "apply", "patch", "delete", "scale", "wait", "request", "connect", "resolve", "exec", "kubectl", "shell",
    "logs", "kill", "start", "stop", "tolerate", "observe", "repeat",
];

const PROBE_EXPECTS: [&str; 7] = ["body", "error", "failed", "answered", "latency", "pods", "text"];
const REQUEST_EXPECTS: [&str; 7] =
    ["status", "version", "headers", "body_bytes", "messages", "grpc_status", "certificate"];
const RESOLVE_EXPECTS: [&str; 7] =
    ["records", "record_count", "alias", "error", "failed", "answered", "latency"];

impl raw::Step {
    /// Whether there is an action besides `repeat`.
    pub(super) fn has_action(&self) -> bool {
        self.actions() > 0
    }

    fn actions(&self) -> usize {
        [
            self.apply.is_some(),
            self.patch.is_some(),
            self.delete.is_some(),
            self.scale.is_some(),
            self.wait.is_some(),
            self.request.is_some(),
            self.connect.is_some(),
            self.resolve.is_some(),
            self.exec.is_some(),
            self.kubectl.is_some(),
            self.shell.is_some(),
            self.logs.is_some(),
            self.kill.is_some(),
            self.start.is_some(),
            self.stop.is_some(),
            self.tolerate.is_some(),
            self.observe.is_some(),
        ]
        .into_iter()
        .filter(|&present| present)
        .count()
    }

    /// The meaning of the step.
    pub fn check(&self) -> Result<Checked, CheckError> {
        match self.actions() {
            0 => return Err(CheckError::NoAction),
            1 => {}
            _ => return Err(CheckError::TwoActions),
        }
        let (action, expects) = self.action()?;
        self.refuse_others(name_of(&action), &expects)?;
        let eventually = self.eventually.as_deref().map(|text| time("eventually", text)).transpose()?;
        let retries = matches!(
            action,
            Action::Probe { .. }
                | Action::Exec { .. }
                | Action::Kubectl { .. }
                | Action::Shell { .. }
                | Action::Logs { .. }
        );
        if eventually.is_some() && !retries {
            return Err(CheckError::NotHere { action: name_of(&action), field: "eventually".into() });
        }
        Ok(Checked { action, eventually })
    }

    /// The action and the expectations that it can have.
    fn action(&self) -> Result<(Action, Vec<&'static str>), CheckError> {
        let expect = self.expect.clone().unwrap_or_default();
        let greeting = expect.pods.is_some() || !expect.body.is_empty();
        let web = || [&PROBE_EXPECTS[..], &REQUEST_EXPECTS[..]].concat();
        let probe = |probe| -> Result<Action, CheckError> {
            Ok(Action::Probe { probe: Box::new(probe), expect: Box::new(ProbeExpect::parse(&expect)?) })
        };
        if let Some(raw) = &self.request {
            return Ok((probe(request(raw, Some(1))?)?, web()));
        }
        if let Some(raw) = &self.connect {
            return Ok((probe(connect(raw, greeting, Some(1))?)?, PROBE_EXPECTS.to_vec()));
        }
        if let Some(raw) = &self.resolve {
            return Ok((probe(resolve(raw, Some(1))?)?, RESOLVE_EXPECTS.to_vec()));
        }
        if let Some(raw) = &self.start {
            let probe = Box::new(background(raw)?);
            return Ok((Action::Start { load: raw.load.clone(), probe }, vec![]));
        }
        if let Some(load) = &self.stop {
            let expect = Box::new(ProbeExpect::parse(&expect)?);
            return Ok((
                Action::Stop { load: load.clone(), expect },
                [web(), RESOLVE_EXPECTS.to_vec()].concat(),
            ));
        }
        let command = || Ok::<_, CheckError>(CommandExpect::parse(&expect)?);
        if let Some(raw) = &self.exec {
            let action = Action::Exec { exec: exec(raw)?, expect: command()? };
            return Ok((action, vec!["exit", "stdout", "stderr"]));
        }
        if let Some(args) = &self.kubectl {
            let args = match args {
                raw::OneOrMany::Many(words) => words.clone(),
                raw::OneOrMany::One(line) => line.split_whitespace().map(str::to_owned).collect(),
            };
            return Ok((Action::Kubectl { args, expect: command()? }, vec!["exit", "stdout", "stderr"]));
        }
        if let Some(script) = &self.shell {
            let action = Action::Shell { script: script.clone(), expect: command()? };
            return Ok((action, vec!["exit", "stdout", "stderr"]));
        }
        if let Some(raw) = &self.logs {
            let text =
                expect.text.as_ref().ok_or(CheckError::Missing { action: "logs", field: "expect.text" })?;
            let logs =
                Logs { pod: pod("pod", &raw.pod)?, container: raw.container.clone(), previous: raw.previous };
            return Ok((Action::Logs { logs, text: Matcher::parse("text", text)? }, vec!["text"]));
        }
        Ok((self.change()?, vec![]))
    }

    /// The actions that expect nothing.
    fn change(&self) -> Result<Action, CheckError> {
        if let Some(apply) = &self.apply {
            return apply.list().iter().map(manifest).collect::<Result<_, _>>().map(Action::Apply);
        }
        if let Some(raw) = &self.patch {
            return patch(raw).map(Action::Patch);
        }
        if let Some(raw) = &self.delete {
            let objects = raw.list();
            let objects = objects.iter().map(|text| object("delete", text)).collect::<Result<_, _>>();
            return objects.map(Action::Delete);
        }
        if let Some(raw) = &self.scale {
            let scale = |(text, replicas): (&String, &u32)| Ok((object("scale", text)?, *replicas));
            return raw.iter().map(scale).collect::<Result<_, _>>().map(Action::Scale);
        }
        if let Some(raw) = &self.wait {
            let within = optional("within", raw.within.as_deref())?.unwrap_or(WAIT_DEFAULT);
            return Ok(Action::Wait { state: state(raw)?, within });
        }
        if let Some(target) = &self.kill {
            return victim(target).map(Action::Kill);
        }
        if let Some(raw) = &self.tolerate {
            let tolerance =
                Tolerance::parse(&raw.errors, &raw.statuses, optional("within", raw.within.as_deref())?)?;
            return Ok(Action::Tolerate { load: raw.load.clone(), tolerance });
        }
        let raw = self.observe.as_ref().ok_or(CheckError::NoAction)?;
        if raw.answered.is_none() && raw.failed.is_none() {
            return Err(CheckError::Missing { action: "observe", field: "answered or failed" });
        }
        Ok(Action::Observe {
            load: raw.load.clone(),
            answered: raw.answered.unwrap_or(0),
            failed: raw.failed.unwrap_or(0),
            within: optional("within", raw.within.as_deref())?.unwrap_or(WAIT_DEFAULT),
        })
    }

    /// Expectations that do not fit the action would never be looked at: they are refused.
    fn refuse_others(&self, action: &'static str, allowed: &[&str]) -> Result<(), CheckError> {
        let Some(expect) = &self.expect else { return Ok(()) };
        let Ok(Value::Object(given)) = serde_json::to_value(expect) else { return Ok(()) };
        match given.keys().find(|field| !allowed.contains(&field.as_str())) {
            Some(field) => Err(CheckError::NotHere { action, field: format!("expect.{field}") }),
            None => Ok(()),
        }
    }
}

/// The field that an action has in a step.
fn name_of(action: &Action) -> &'static str {
    match action {
        Action::Apply(_) => "apply",
        Action::Patch(_) => "patch",
        Action::Delete(_) => "delete",
        Action::Scale(_) => "scale",
        Action::Wait { .. } => "wait",
        Action::Probe { probe, .. } => match &probe.target {
            Target::Http(_) => "request",
            Target::Tcp(_) | Target::Udp(_) => "connect",
            Target::Resolve(_) => "resolve",
        },
        Action::Exec { .. } => "exec",
        Action::Kubectl { .. } => "kubectl",
        Action::Shell { .. } => "shell",
        Action::Logs { .. } => "logs",
        Action::Kill(_) => "kill",
        Action::Start { .. } => "start",
        Action::Stop { .. } => "stop",
        Action::Tolerate { .. } => "tolerate",
        Action::Observe { .. } => "observe",
    }
}

fn time(field: &'static str, text: &str) -> Result<Duration, CheckError> {
    duration::parse(text).map_err(|source| CheckError::Duration { field, source })
}

fn optional(field: &'static str, text: Option<&str>) -> Result<Option<Duration>, CheckError> {
    text.map(|text| time(field, text)).transpose()
}

fn object(field: &'static str, text: &str) -> Result<ObjectRef, CheckError> {
    let expected = "kind/name or namespace/kind/name";
    ObjectRef::parse(text).ok_or_else(|| CheckError::Value { field, given: text.to_owned(), expected })
}

/// A pod: a bare name, `pod/name`, or what owns pods.
fn pod(field: &'static str, text: &str) -> Result<ObjectRef, CheckError> {
    if !text.is_empty() && !text.contains('/') {
        return Ok(ObjectRef { namespace: None, kind: "pod".into(), name: text.to_owned() });
    }
    object(field, text)
}

fn victim(text: &str) -> Result<Victim, CheckError> {
    let expected = "pod/NAME, deployment/NAME, agent/NODE, server or controller";
    match text.split_once('/') {
        None if text == "server" => Ok(Victim::Server),
        None if text == "controller" => Ok(Victim::Controller),
        Some(("agent", node)) if !node.is_empty() => Ok(Victim::Agent(node.to_owned())),
        Some(_) => ObjectRef::parse(text).map(Victim::Pod).ok_or_else(|| CheckError::Value {
            field: "kill",
            given: text.to_owned(),
            expected,
        }),
        None => Err(CheckError::Value { field: "kill", given: text.to_owned(), expected }),
    }
}

fn manifest(value: &Value) -> Result<Manifest, CheckError> {
    match value {
        Value::String(text) if text.contains('\n') => Ok(Manifest::Text(text.clone())),
        Value::String(path) => Ok(Manifest::File(path.clone())),
        Value::Object(_) => Ok(Manifest::Inline(value.clone())),
        other => Err(CheckError::Value {
            field: "apply",
            given: other.to_string(),
            expected: "an object, a file name, or YAML text",
        }),
    }
}

fn patch(raw: &raw::Patch) -> Result<Patch, CheckError> {
    let body = match (&raw.merge, &raw.json, &raw.strategic) {
        (Some(merge), None, None) => PatchBody::Merge(merge.clone()),
        (None, Some(json), None) => PatchBody::Json(json.clone()),
        (None, None, Some(strategic)) => PatchBody::Strategic(strategic.clone()),
        _ => {
            return Err(CheckError::Missing {
                action: "patch",
                field: "merge, json or strategic (one of them)",
            });
        }
    };
    Ok(Patch { object: object("patch", &raw.object)?, body, subresource: raw.subresource.clone() })
}

fn state(raw: &raw::Wait) -> Result<State, CheckError> {
    let states = [&raw.rollout, &raw.deleted, &raw.condition, &raw.field, &raw.endpoints];
    if states.into_iter().filter(|state| state.is_some()).count() != 1 {
        let field = "rollout, deleted, condition, field or endpoints (one of them)";
        return Err(CheckError::Missing { action: "wait", field });
    }
    let of = || {
        let text = raw.object.as_deref().ok_or(CheckError::Missing { action: "wait", field: "object" })?;
        object("object", text)
    };
    if let Some(text) = &raw.rollout {
        return object("rollout", text).map(State::Rollout);
    }
    if let Some(text) = &raw.deleted {
        return object("deleted", text).map(State::Deleted);
    }
    if let Some(condition) = &raw.condition {
        let status = match &raw.is {
            None => "True".to_owned(),
            Some(Value::String(status)) => status.clone(),
            // `is: true` is what people write.
            Some(Value::Bool(true)) => "True".to_owned(),
            Some(Value::Bool(false)) => "False".to_owned(),
            Some(other) => {
                let expected = "\"True\", \"False\" or \"Unknown\"";
                return Err(CheckError::Value { field: "is", given: other.to_string(), expected });
            }
        };
        return Ok(State::Condition { object: of()?, condition: condition.clone(), status });
    }
    if let Some(path) = &raw.field {
        let is = match &raw.is {
            Some(value) => Matcher::parse("is", value)?,
            None => Matcher::Present,
        };
        return Ok(State::Field { object: of()?, path: path.clone(), is });
    }
    let text = raw.endpoints.as_deref().unwrap_or_default();
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, text),
    };
    let service = ObjectRef { namespace, kind: "service".into(), name: name.to_owned() };
    Ok(State::Endpoints { service, ready: raw.ready })
}

fn exec(raw: &raw::Exec) -> Result<Exec, CheckError> {
    if raw.command.is_empty() {
        return Err(CheckError::Missing { action: "exec", field: "command" });
    }
    Ok(Exec {
        pod: pod("pod", &raw.pod)?,
        container: raw.container.clone(),
        command: raw.command.clone(),
        stdin: raw.stdin.clone(),
        timeout: optional("timeout", raw.timeout.as_deref())?.unwrap_or(EXEC_DEFAULT),
    })
}
