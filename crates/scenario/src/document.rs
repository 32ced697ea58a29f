//! A scenario file as data: what `docs/test.md` describes.
//!
//! A file is read in two steps. [`raw`] is its shape: every field by name, unknown ones refused with their line and the name that was
//! probably meant. [`Step::check`] is its meaning: exactly one action a step, only expectations that fit the action. The check is
//! done once when the file is loaded, so that a mistake in the last step is told before the first one runs, and again for each step
//! when its variables have got their values.

mod check;
mod mistake;
pub mod raw;
pub mod step;

use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

pub use check::CheckError;
pub use mistake::Mistake;

/// Nested `repeat` blocks.
const REPEAT_DEPTH_MAX: usize = 4;
/// Steps of one list.
const STEPS_MAX: usize = 500;
/// A scenario file is at most so long.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// One file.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it came from; manifests are found relative to it.
    pub path: PathBuf,
    /// Its name, for people.
    pub name: String,
    /// What it needs of the cluster.
    pub needs: Needs,
    /// What is done.
    pub steps: Vec<Step>,
}

/// What a scenario needs of its cluster. Scenarios with equal needs share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs {
    /// Nodes.
    pub nodes: u8,
    /// A cluster that no other scenario used.
    pub fresh: bool,
}

impl Default for Needs {
    fn default() -> Self {
        Self { nodes: 2, fresh: false }
    }
}

/// One step, or a block that is repeated.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it begins in the file, from 1.
    pub line: u64,
    /// What it does.
    pub kind: StepKind,
}

/// One step, or a block that is repeated.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// A single action; still with its variables.
    Do(Box<raw::Step>),
    /// A block, so many times.
    Repeat {
        /// How often.
        times: u32,
        /// The block.
        steps: Vec<Step>,
    },
}

/// Only `true` and `false` are booleans (YAML 1.2 §10.3.2): a pod may be called `on`, a header may be `y`.
pub(crate) fn yaml() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true }
}

/// Reads a scenario. `path` is only for messages and for the manifests that it names.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, Mistake> {
    let file: raw::File = serde_saphyr::from_str_with_options(text, yaml())
        .map_err(|error| Mistake::of_yaml(path, text, &error))?;
    let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let needs =
        Needs { nodes: file.cluster.nodes.unwrap_or(Needs::default().nodes), fresh: file.cluster.fresh };
    let steps = steps_of(path, text, file.steps, 0)?;
    if steps.is_empty() {
        return Err(Mistake::at(path, text, 1, "the scenario has no steps"));
    }
    Ok(Scenario { path: path.to_owned(), name: file.name.unwrap_or_else(stem), needs, steps })
}

fn steps_of(
    path: &Path,
    text: &str,
    raw: Vec<Spanned<raw::Step>>,
    depth: usize,
) -> Result<Vec<Step>, Mistake> {
    let at = |line, what: String| Mistake::at(path, text, line, what);
    if raw.len() > STEPS_MAX {
        return Err(at(
            raw.last().map_or(1, |step| step.referenced.line()),
            format!("more than {STEPS_MAX} steps"),
        ));
    }
    let mut steps = Vec::with_capacity(raw.len());
    for Spanned { value: mut step, referenced, .. } in raw {
        let line = referenced.line();
        let kind = match step.repeat.take() {
            None => {
                step.check().map_err(|error| at(line, error.to_string()))?;
                StepKind::Do(Box::new(step))
            }
            Some(_) if depth >= REPEAT_DEPTH_MAX => {
                return Err(at(line, format!("repeat inside repeat, more than {REPEAT_DEPTH_MAX} deep")));
            }
            Some(_) if step.has_action() => {
                return Err(at(line, CheckError::TwoActions.to_string()));
            }
            Some(repeat) => StepKind::Repeat {
                times: repeat.times,
                steps: steps_of(path, text, repeat.steps, depth + 1)?,
            },
        };
        steps.push(Step { line, kind });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Scenario, Mistake> {
        parse(Path::new("a/web.yaml"), text)
    }

    #[test]
    fn a_scenario_is_read_with_its_lines() {
        let scenario = parsed(
            "cluster: {nodes: 3, fresh: true}\nsteps:\n- kill: server\n\n- repeat:\n    times: 2\n    steps:\n    - delete: pod/a\n",
        )
        .unwrap();
        assert_eq!(scenario.name, "web");
        assert_eq!(scenario.needs, Needs { nodes: 3, fresh: true });
        assert_eq!(scenario.steps[0].line, 3);
        let StepKind::Repeat { times: 2, steps } = &scenario.steps[1].kind else { panic!("{scenario:?}") };
        assert_eq!(steps[0].line, 8);
    }

    #[test]
    fn every_action_is_understood() {
        for step in [
            "apply: shop.yaml",
            "apply: [shop.yaml, {apiVersion: v1, kind: Namespace, metadata: {name: x}}]",
            "apply: |\n    apiVersion: v1\n    kind: Pod\n",
            "patch: {object: deployment/web, merge: {spec: {paused: true}}}",
            "patch: {object: deployment/web, json: [{op: remove, path: /spec}], subresource: status}",
            "delete: [pod/a, kube-system/pod/b]",
            "scale: {deployment/web: 5, sts/db: 0}",
            "wait: {rollout: deployment/web, within: 1m}",
            "wait: {deleted: pod/a}",
            "wait: {condition: Ready, object: pod/a, is: false}",
            "wait: {field: status.phase, object: pod/a, is: {matches: Run}}",
            "wait: {endpoints: other/web, ready: 3}",
            "request: {from: pod/client, url: 'http://web/', http: 2, count: 10}\n  expect: {status: 2xx, pods: {count: 2, share: even}}",
            "request: {from: outside, url: 'https://a.example/', to: '${gateway}', tls: {ca: secret/tls}}\n  eventually: 10s",
            "request: {from: node/node-1, url: 'grpc://web', grpc: hello}",
            "connect: {from: kube-system/deployment/x, tcp: 'db:5432', send: x}\n  expect: {error: [refused, timed-out]}",
            "resolve: {from: pod/client, name: web, type: SRV, server: '${dns}'}\n  expect: {record_count: 1}",
            "exec: {pod: client, command: [ls]}\n  expect: {stdout: {contains: x}, exit: 1}",
            "kubectl: get pods -o wide",
            "kubectl: [get, pods]\n  expect: {stdout: {matches: Running}}\n  eventually: 5s",
            "logs: {pod: deployment/web, previous: true}\n  expect: {text: {contains: started}}",
            "kill: agent/node-1",
            "kill: kube-system/deployment/fairway-dns",
            "start: {load: a, request: {from: pod/client, url: 'http://web/'}}",
            "stop: a\n  expect: {failed: 0, answered: 100, latency: {max: 1s}}",
            "tolerate: {load: a, errors: [refused], statuses: [503], within: 100ms}",
            "tolerate: {load: a, errors: []}",
            "observe: {load: a, answered: 50}",
        ] {
            let text = format!("steps:\n- {step}\n");
            assert!(parsed(&text).is_ok(), "{step}: {}", parsed(&text).unwrap_err());
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_was_meant() {
        let cases = [
            ("stepz: []\n", 1, "unknown field \"stepz\"; did you mean \"steps\"?"),
            ("name: x\nsteps:\n- reqest: {from: outside}\n", 3, "did you mean \"request\"?"),
            (
                "steps:\n- request:\n    from: outside\n    url: http://a/\n    banana: 1\n",
                5,
                "unknown field \"banana\"; known are from, url,",
            ),
            ("steps:\n- name: nothing\n", 2, "the step has no action; give it one of apply,"),
            ("steps:\n- kill: server\n  delete: pod/a\n", 2, "more than one action"),
            ("steps:\n- kill: serve\n", 2, "kill: \"serve\" is not pod/NAME,"),
            ("steps:\n- request: {url: 'http://a/'}\n", 2, "from: \"\" is not pod/NAME,"),
            ("steps:\n- request: {from: outside}\n", 2, "request needs \"url\""),
            ("steps:\n- delete: web\n", 2, "is not kind/name"),
            ("steps:\n- wait: {rollout: deployment/a, deleted: pod/b}\n", 2, "(one of them)"),
            ("steps:\n- wait: {condition: Ready}\n", 2, "wait needs \"object\""),
            ("steps:\n- kill: server\n  eventually: 1s\n", 2, "kill has no \"eventually\""),
            ("steps:\n- delete: pod/a\n  expect: {status: 200}\n", 2, "delete has no \"expect.status\""),
            (
                "steps:\n- resolve: {from: outside, name: a}\n  expect: {status: 200}\n",
                2,
                "resolve has no \"expect.status\"",
            ),
            (
                "steps:\n- request: {from: outside, url: 'http://a/', timeout: 5}\n",
                2,
                "timeout: \"5\" has no unit",
            ),
            ("steps:\n- stop: a\n  expect: {error: timeout}\n", 2, "expect.error: timeout is not refused,"),
            ("steps:\n- logs: {pod: a}\n", 2, "logs needs \"expect.text\""),
            ("steps:\n- tolerate: {load: a, errors: [x]}\n", 2, "expect.error: x is not refused,"),
            ("steps: []\n", 1, "the scenario has no steps"),
            ("steps:\n- repeat: {times: 2, steps: []}\n  kill: server\n", 2, "more than one action"),
        ];
        for (text, line, what) in cases {
            let mistake = parsed(text).expect_err(text);
            assert_eq!(mistake.line, line, "{mistake}");
            assert!(mistake.what.contains(what), "{mistake}");
            assert!(mistake.to_string().starts_with(&format!("a/web.yaml:{line}: ")), "{mistake}");
        }
    }

    #[test]
    fn not_yaml_is_a_mistake_too() {
        for text in ["", "steps: [", "steps: {a: 1}", "- a\n- b\n", "steps:\n- kill: [1\n"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn blocks_have_a_depth() {
        let mut text = String::from("steps:\n");
        for depth in 0..6 {
            text += &format!(
                "{:indent$}- repeat:\n{:indent$}    times: 1\n{:indent$}    steps:\n",
                "",
                "",
                "",
                indent = depth * 4
            );
        }
        text += &format!("{:indent$}- kill: server\n", "", indent = 24);
        assert!(parsed(&text).unwrap_err().what.contains("deep"));
    }

    #[test]
    fn a_step_survives_being_written_and_read() {
        let scenario = parsed(
            "steps:\n- request: {from: pod/a, url: 'http://${x}/', headers: {a: b}, http: 1.1}\n  expect: {status: [200, 404], pods: {names: a, share: {a: 50%}}}\n",
        )
        .unwrap();
        let StepKind::Do(step) = &scenario.steps[0].kind else { panic!() };
        let value = serde_json::to_value(step).unwrap();
        let again: raw::Step = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), value);
        assert!(again.check().is_ok());
    }
}
