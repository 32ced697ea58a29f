//! A scenario at work: its namespace, its background requests, and one step after the other.

mod commands;
mod waiting;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::load::Load;
use super::objects::ApiError;
use super::origin::{self, Origin, OriginError};
use super::process::{self, KillError};
use super::variables::{self, VariableError};
use super::{facts, yaml_files};
use crate::document::step::{Action, Checked, Manifest, ObjectRef, Probe, State};
use crate::document::{CheckError, Scenario, Step, StepKind, raw, yaml};
use crate::expect::{CommandExpect, Mismatch, ProbeExpect, judge};
use crate::report::{Difference, StepFailure};
use crate::template::{self, TemplateError};

/// A namespace and everything in it is gone after this, or something keeps it.
const CLEAN_WITHIN: Duration = Duration::from_secs(60);
/// The first pause between the tries of `eventually`, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// The longest manifest file.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;
/// Background requests of one scenario at the same time.
const LOADS_MAX: usize = 16;

/// Why a step was not as expected.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("not as expected")]
    Mismatches(Vec<Mismatch>),
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error("{0}")]
    Origin(#[from] OriginError),
    #[error("{0}")]
    Kill(#[from] KillError),
    #[error("{0}")]
    Variable(#[from] VariableError),
    #[error("{0}")]
    Template(#[from] TemplateError),
    #[error("{0}")]
    Check(#[from] CheckError),
    #[error("{path}: {detail}")]
    File { path: PathBuf, detail: String },
    #[error("there is no load \"{load}\" running; start it first")]
    NoLoad { load: String },
    #[error("the load \"{load}\" cannot be started: {detail}")]
    Load { load: String, detail: &'static str },
    #[error("{what}: {detail}")]
    Command { what: &'static str, detail: String },
}

impl StepError {
    fn differences(self) -> Vec<Difference> {
        match self {
            Self::Mismatches(mismatches) => mismatches
                .into_iter()
                .map(|Mismatch { expected, found }| Difference { expected, found })
                .collect(),
            other => vec![Difference { expected: String::new(), found: other.to_string() }],
        }
    }
}

fn unless_empty(mismatches: Vec<Mismatch>) -> Result<(), StepError> {
    if mismatches.is_empty() { Ok(()) } else { Err(StepError::Mismatches(mismatches)) }
}

/// A scenario at work.
pub(super) struct World<'a> {
    cluster: &'a Cluster,
    namespace: String,
    folder: PathBuf,
    loads: BTreeMap<String, Load>,
    /// What was created outside of the namespace.
    elsewhere: Vec<ObjectRef>,
    /// The replicas, as they were, of workloads outside of the namespace that were scaled.
    replicas_before: BTreeMap<ObjectRef, u32>,
    done: usize,
}

impl<'a> World<'a> {
    /// Makes the scenario's namespace.
    pub(super) async fn create(cluster: &'a Cluster, scenario: &Scenario) -> Result<Self, ApiError> {
        let namespace = namespace_name(&scenario.path);
        let labels = json!({ "app.kubernetes.io/managed-by": "fairway-test" });
        let manifest = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace, "labels": labels } });
        cluster.apply(manifest, &namespace).await?;
        let folder = scenario.path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self {
            cluster,
            namespace,
            folder,
            loads: BTreeMap::new(),
            elsewhere: Vec::new(),
            replicas_before: BTreeMap::new(),
            done: 0,
        })
    }

    /// Does all steps up to the first that fails. How many were done, and what failed.
    pub(super) async fn run(&mut self, steps: &[Step]) -> (usize, Option<StepFailure>) {
        let failure = self.run_steps(steps).await.err();
        (self.done, failure.map(|failure| *failure))
    }

    /// Boxed, because blocks are nested.
    fn run_steps<'b>(
        &'b mut self,
        steps: &'b [Step],
    ) -> Pin<Box<dyn Future<Output = Result<(), Box<StepFailure>>> + Send + 'b>> {
        Box::pin(async move {
            for step in steps {
                match &step.kind {
                    StepKind::Repeat { times, steps } => {
                        for _ in 0..*times {
                            self.run_steps(steps).await?;
                        }
                    }
                    StepKind::Do(raw) => self.run_step(step.line, raw).await?,
                }
            }
            Ok(())
        })
    }

    async fn run_step(&mut self, line: u64, raw: &raw::Step) -> Result<(), Box<StepFailure>> {
        self.done += 1;
        let begin = Instant::now();
        let outcome = self.until_as_expected(raw).await;
        tracing::debug!(
            line,
            step = self.done,
            took_ms = begin.elapsed().as_millis(),
            ok = outcome.is_ok(),
            "step"
        );
        let Err(error) = outcome else { return Ok(()) };
        let what = raw.name.clone().unwrap_or_else(|| describe(raw));
        Err(Box::new(StepFailure {
            step: self.done,
            line,
            what,
            mismatches: error.differences(),
            facts: facts::gather(self.cluster, &self.namespace).await,
        }))
    }

    /// Once, or again and again as long as `eventually` says.
    async fn until_as_expected(&mut self, raw: &raw::Step) -> Result<(), StepError> {
        let patience = raw.check()?.eventually;
        let begin = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let outcome = match self.fill(raw).await {
                Ok(checked) => self.act(checked.action).await,
                Err(error) => Err(error),
            };
            match (outcome, patience) {
                (Err(_), Some(patience)) if begin.elapsed() < patience => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                (outcome, _) => return outcome,
            }
        }
    }

    /// The step with the values of its variables as they are now.
    async fn fill(&self, raw: &raw::Step) -> Result<Checked, StepError> {
        let broken =
            |error: serde_json::Error| StepError::Command { what: "the step", detail: error.to_string() };
        let value = serde_json::to_value(raw).map_err(broken)?;
        let names = template::names(&value);
        if names.is_empty() {
            return Ok(raw.check()?);
        }
        let values = variables::values(self.cluster, names, &self.namespace).await?;
        let filled: raw::Step = serde_json::from_value(template::fill(&value, &values)?).map_err(broken)?;
        Ok(filled.check()?)
    }

    async fn act(&mut self, action: Action) -> Result<(), StepError> {
        let (cluster, home) = (self.cluster, self.namespace.clone());
        match action {
            Action::Apply(manifests) => self.apply(&manifests).await,
            Action::Patch(patch) => Ok(cluster.patch(&patch, &home).await?),
            Action::Delete(objects) => {
                for object in &objects {
                    cluster.delete(object, &home).await?;
                }
                Ok(())
            }
            Action::Scale(scales) => {
                for (object, replicas) in &scales {
                    self.remember(object).await?;
                    cluster.scale(object, *replicas, &home).await?;
                }
                Ok(())
            }
            Action::Wait { state, within } => Ok(waiting::wait(cluster, &state, within, &home).await?),
            Action::Probe { probe, expect } => self.probe(&probe, &expect).await,
            Action::Exec { exec, expect } => {
                self.judge(&expect, commands::exec(cluster, &exec, &home).await?)
            }
            Action::Kubectl { args, expect } => {
                self.judge(&expect, commands::kubectl(cluster, &args, &self.folder, &home).await?)
            }
            Action::Shell { script, expect } => {
                self.judge(&expect, commands::shell(cluster, &script, &self.folder, &home).await?)
            }
            Action::Logs { logs, text } => {
                let found = commands::logs(cluster, &logs, &home).await?;
                let value = Value::String(found.trim_end().to_owned());
                if text.accepts(Some(&value)) {
                    return Ok(());
                }
                unless_empty(vec![Mismatch::new(format!("a log {text}"), crate::expect::excerpt(&found))])
            }
            Action::Kill(victim) => Ok(process::end(cluster, &victim, &home).await?),
            Action::Start { load, probe } => self.start(load, &probe).await,
            Action::Stop { load, expect } => {
                let running = self.loads.remove(&load).ok_or(StepError::NoLoad { load })?;
                unless_empty(running.finish(&expect).await?)
            }
            Action::Tolerate { load, tolerance } => {
                self.loads.get_mut(&load).ok_or(StepError::NoLoad { load })?.tolerate(tolerance);
                Ok(())
            }
            Action::Observe { load, answered, failed, within } => {
                let running = self.loads.get_mut(&load).ok_or(StepError::NoLoad { load })?;
                let outcome = running.go_on(answered, failed, within).await;
                outcome.map_err(|mismatch| StepError::Mismatches(vec![mismatch]))
            }
        }
    }

    /// Others use what is outside of the namespace: its size is restored at the end.
    async fn remember(&mut self, object: &ObjectRef) -> Result<(), StepError> {
        if object.namespace.is_none() || self.replicas_before.contains_key(object) {
            return Ok(());
        }
        let found = self.cluster.find(object, &self.namespace).await?;
        let replicas = found.as_ref().and_then(|found| found.pointer("/spec/replicas")?.as_u64());
        let replicas = replicas.and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(1);
        self.replicas_before.insert(object.clone(), replicas);
        Ok(())
    }

    fn judge(&self, expect: &CommandExpect, result: crate::expect::CommandResult) -> Result<(), StepError> {
        unless_empty(expect.judge(&result))
    }

    async fn probe(&self, probe: &Probe, expect: &ProbeExpect) -> Result<(), StepError> {
        let outcomes = origin::ask(self.cluster, probe, &self.folder, &self.namespace).await?;
        unless_empty(judge(expect, &outcomes))
    }

    async fn start(&mut self, load: String, probe: &Probe) -> Result<(), StepError> {
        if self.loads.contains_key(&load) {
            return Err(StepError::Load { load, detail: "one of that name is running" });
        }
        if self.loads.len() >= LOADS_MAX {
            return Err(StepError::Load { load, detail: "16 others are running" });
        }
        let plan = origin::plan(self.cluster, probe, &self.folder, &self.namespace).await?;
        let origin = Origin::of(self.cluster, &probe.from, &self.namespace).await?;
        let running = Load::start(self.cluster, &origin, &plan).await?;
        self.loads.insert(load, running);
        Ok(())
    }

    async fn apply(&mut self, manifests: &[Manifest]) -> Result<(), StepError> {
        for manifest in manifests {
            for object in self.read(manifest)? {
                let created = self.cluster.apply(object, &self.namespace).await?;
                self.elsewhere.extend(created.filter(|object| !self.elsewhere.contains(object)));
            }
        }
        Ok(())
    }

    /// The objects of a manifest; lists are taken apart.
    fn read(&self, manifest: &Manifest) -> Result<Vec<Value>, StepError> {
        let documents = match manifest {
            Manifest::Inline(value) => vec![value.clone()],
            Manifest::Text(text) => documents(Path::new("apply"), text)?,
            Manifest::File(name) => {
                let path = self.folder.join(name);
                let failed =
                    |error: std::io::Error| StepError::File { path: path.clone(), detail: error.to_string() };
                let files =
                    if path.is_dir() { yaml_files(&path).map_err(failed)? } else { vec![path.clone()] };
                let mut all = Vec::new();
                for file in files {
                    if std::fs::metadata(&file).map_err(failed)?.len() > MANIFEST_BYTES_MAX {
                        let detail = format!("longer than {MANIFEST_BYTES_MAX} bytes");
                        return Err(StepError::File { path: file, detail });
                    }
                    all.extend(documents(&file, &std::fs::read_to_string(&file).map_err(failed)?)?);
                }
                all
            }
        };
        let items = |document: Value| match document.get("items").and_then(Value::as_array) {
            Some(items) => items.clone(),
            None => vec![document],
        };
        Ok(documents.into_iter().filter(|document| !document.is_null()).flat_map(items).collect())
    }

    /// Ends what runs in the background and deletes what was created, unless somebody wants to look at it.
    pub(super) async fn clean(mut self, keep: bool) {
        self.loads.clear();
        // Not there unless a step ran kubectl.
        let _ = std::fs::remove_dir_all(self.cluster.kubectl_cache(&self.namespace));
        if keep {
            eprintln!("the namespace {} is kept", self.namespace);
            return;
        }
        for (object, replicas) in std::mem::take(&mut self.replicas_before) {
            if let Err(error) = self.cluster.scale(&object, replicas, &self.namespace).await {
                eprintln!("{object} could not be scaled back to {replicas}: {error}");
            }
        }
        let mut left = std::mem::take(&mut self.elsewhere);
        let namespace = ObjectRef { namespace: None, kind: "namespace".into(), name: self.namespace.clone() };
        left.push(namespace.clone());
        for object in left.iter().rev() {
            if let Err(error) = self.cluster.delete(object, &self.namespace).await {
                eprintln!("{object} could not be deleted: {error}");
            }
        }
        let gone = State::Deleted(namespace);
        if let Err(error) = waiting::wait(self.cluster, &gone, CLEAN_WITHIN, &self.namespace).await {
            eprintln!("the namespace {} is still there: {error}", self.namespace);
        }
    }
}

fn documents(path: &Path, text: &str) -> Result<Vec<Value>, StepError> {
    serde_saphyr::from_multiple_with_options(text, yaml())
        .map_err(|error| StepError::File { path: path.to_owned(), detail: error.to_string() })
}

/// `t-`, the file's name as far as it fits, and a number of this moment: at most 63 characters of a DNS label (RFC 1123).
fn namespace_name(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let stem: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let unique = (u64::from(now.subsec_nanos()) << 20) ^ now.as_secs() ^ u64::from(std::process::id());
    format!("t-{}-{:06x}", stem.trim_matches('-'), unique & 0x00ff_ffff)
}

/// A step without a name, in a few words.
fn describe(raw: &raw::Step) -> String {
    let pieces = [
        raw.request.as_ref().map(|request| format!("request {} from {}", request.url, request.from)),
        raw.connect.as_ref().map(|connect| {
            let to = connect.tcp.as_ref().or(connect.udp.as_ref());
            format!("connect to {} from {}", to.map_or("", String::as_str), connect.from)
        }),
        raw.resolve.as_ref().map(|resolve| {
            let kind = resolve.record_type.as_deref().unwrap_or("A");
            format!("resolve {} {kind} from {}", resolve.name, resolve.from)
        }),
        raw.exec.as_ref().map(|exec| format!("exec in {}: {}", exec.pod, exec.command.join(" "))),
        raw.kubectl.as_ref().map(|args| format!("kubectl {}", args.list().join(" "))),
        raw.shell.as_ref().map(|script| format!("shell: {}", script.lines().next().unwrap_or_default())),
        raw.logs.as_ref().map(|logs| format!("logs of {}", logs.pod)),
        raw.kill.as_ref().map(|victim| format!("kill {victim}")),
        raw.start.as_ref().map(|start| format!("start the load {}", start.load)),
        raw.stop.as_ref().map(|load| format!("stop the load {load}")),
        raw.tolerate.as_ref().map(|tolerate| format!("tolerate failures of the load {}", tolerate.load)),
        raw.observe.as_ref().map(|observe| format!("observe the load {}", observe.load)),
        raw.wait.as_ref().map(|wait| format!("wait for {}", describe_wait(wait))),
        raw.scale.as_ref().map(|scale| {
            let each: Vec<_> =
                scale.iter().map(|(object, replicas)| format!("{object} to {replicas}")).collect();
            format!("scale {}", each.join(", "))
        }),
        raw.delete.as_ref().map(|objects| format!("delete {}", objects.list().join(", "))),
        raw.patch.as_ref().map(|patch| format!("patch {}", patch.object)),
        raw.apply.as_ref().map(|_| "apply manifests".to_owned()),
    ];
    pieces.into_iter().flatten().next().unwrap_or_default()
}

fn describe_wait(wait: &raw::Wait) -> String {
    let object = wait.object.as_deref().unwrap_or_default();
    let pieces = [
        wait.rollout.as_ref().map(|object| format!("the rollout of {object}")),
        wait.deleted.as_ref().map(|object| format!("{object} to be gone")),
        wait.condition.as_ref().map(|condition| format!("{condition} of {object}")),
        wait.field.as_ref().map(|field| format!("{field} of {object}")),
        wait.endpoints.as_ref().map(|service| format!("endpoints of {service}")),
    ];
    pieces.into_iter().flatten().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_label() {
        let long = "A scenario_with.a rather long name, longer than a label may be.yaml";
        let name = namespace_name(Path::new(long));
        assert!(name.len() <= 63 && name.starts_with("t-a-scenario-with-a"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
    }
}
