//! Doing scenarios: which cluster, in which order, and cleaning up after each.

mod cluster;
mod conditions;
mod facts;
mod load;
mod objects;
mod origin;
mod process;
mod ranges;
mod steps;
mod variables;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fairway_kit::Shutdown;

use crate::document::{self, FILE_BYTES_MAX, Mistake, Needs, Scenario};
use crate::report::{Difference, Report, ScenarioReport, StepFailure};

use cluster::Cluster;
pub use cluster::ClusterError;

/// Scenario files of one run.
const FILES_MAX: usize = 1000;

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Scenario files, and folders whose `*.yaml` files are taken (not deeper).
    pub files: Vec<PathBuf>,
    /// Use this running cluster; without it one is started for the run and forgotten at its end.
    pub cluster: Option<String>,
    /// The `fairway` executable: starts clusters and probes.
    pub executable: PathBuf,
    /// The kubectl that steps run: a path, or a name to be found in PATH.
    pub kubectl: PathBuf,
    /// Where clusters keep their state (`/var/lib/fairway`).
    pub state_root: PathBuf,
    /// Where clusters keep their processes (`/run/fairway`).
    pub run_root: PathBuf,
    /// What is printed.
    pub format: Format,
    /// Also write JUnit XML here.
    pub junit: Option<PathBuf>,
    /// Also write JSON here.
    pub json: Option<PathBuf>,
    /// Keep the namespaces of failed scenarios, and the cluster that was started, for a look at them.
    pub keep: bool,
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// Ctrl-C: the step under way is given up, everything is cleaned.
    pub shutdown: Shutdown,
}

/// What is printed on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line a scenario as it ends, and at last `N passed, N failed`.
    #[default]
    Text,
    /// One JSON object at the end.
    Json,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Scenarios that were as expected.
    pub passed: usize,
    /// Those that were not.
    pub failed: usize,
    /// All of it.
    pub report: Report,
}

/// Why nothing could be run. A scenario that fails is no error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is nothing to run.
    #[error("no scenario: {path} has no *.yaml file; see docs/test.md for how to write one")]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// Too much to run.
    #[error("more than {FILES_MAX} scenario files; run fewer folders at once")]
    TooMany,
    /// A file is too long to be a scenario.
    #[error("{path} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// Some files have mistakes; none was run.
    #[error("{}", mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes {
        /// Of all files.
        mistakes: Vec<Mistake>,
    },
    /// There is no cluster to run them in.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A report cannot be written.
    #[error("the report cannot be written: {0}")]
    Report(#[source] std::io::Error),
    /// Ctrl-C. Everything was cleaned.
    #[error("interrupted; everything was cleaned")]
    Interrupted,
}

impl Error {
    /// Whether the user's files or arguments are at fault (exit code 2) rather than the surroundings (3).
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoFiles { .. } | Self::TooMany | Self::TooLong { .. } | Self::Mistakes { .. } => true,
            Self::Read { .. } | Self::Cluster(_) | Self::Report(_) | Self::Interrupted => false,
        }
    }
}

/// Runs all scenarios. Mistakes in any file are told before the first one is run.
pub async fn run(options: Options) -> Result<Summary, Error> {
    let scenarios = load(&options.files)?;
    let mut groups: BTreeMap<(bool, usize, Needs), Vec<Scenario>> = BTreeMap::new();
    for (index, scenario) in scenarios.into_iter().enumerate() {
        // Each that wants a fresh cluster is a group of its own; they come last.
        let own = if scenario.needs.fresh { index } else { 0 };
        groups.entry((scenario.needs.fresh, own, scenario.needs)).or_default().push(scenario);
    }
    let mut report = Report::default();
    for (number, ((.., needs), scenarios)) in groups.into_iter().enumerate() {
        let started = options.shutdown.unless_requested(Cluster::get(&options, needs, number)).await;
        let outcome = match started {
            Some(Ok(cluster)) => {
                let outcome = run_group(&options, &cluster, &scenarios, &mut report).await;
                cluster.finish(options.keep && report.counts().1 > 0).await;
                outcome
            }
            Some(Err(error)) => {
                cluster::forget(&options, number).await;
                return Err(error.into());
            }
            None => {
                cluster::forget(&options, number).await;
                return Err(Error::Interrupted);
            }
        };
        outcome?;
        if options.fail_fast && report.counts().1 > 0 {
            break;
        }
    }
    publish(&options, &report)?;
    let (passed, failed) = report.counts();
    Ok(Summary { passed, failed, report })
}

/// The scenarios of one cluster, one after the other.
async fn run_group(
    options: &Options,
    cluster: &Cluster,
    scenarios: &[Scenario],
    report: &mut Report,
) -> Result<(), Error> {
    for scenario in scenarios {
        let begin = Instant::now();
        let done = run_one(options, cluster, scenario).await;
        let Some((steps, failure)) = done else { return Err(Error::Interrupted) };
        let entry = ScenarioReport {
            file: scenario.path.display().to_string(),
            name: scenario.name.clone(),
            steps,
            duration_ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            failure,
        };
        if options.format == Format::Text {
            print(&entry.text())?;
        }
        let failed = entry.failure.is_some();
        report.scenarios.push(entry);
        if failed && options.fail_fast {
            break;
        }
    }
    Ok(())
}

/// `None` when it was interrupted. Its namespace is deleted in any case.
async fn run_one(
    options: &Options,
    cluster: &Cluster,
    scenario: &Scenario,
) -> Option<(usize, Option<StepFailure>)> {
    let refused = |what: &str, found: String| StepFailure {
        step: 0,
        line: 0,
        what: what.to_owned(),
        mismatches: vec![Difference { expected: String::new(), found }],
        facts: Vec::new(),
    };
    if scenario.needs.fresh && !cluster.is_own() {
        let found = "it needs a cluster of its own; run it without --cluster".to_owned();
        return Some((0, Some(refused("cluster.fresh", found))));
    }
    let mut world = match steps::World::create(cluster, scenario).await {
        Ok(world) => world,
        Err(error) => return Some((0, Some(refused("the scenario's namespace", error.to_string())))),
    };
    let done = options.shutdown.unless_requested(world.run(&scenario.steps)).await;
    let failed = done.as_ref().is_none_or(|(_, failure)| failure.is_some());
    world.clean(options.keep && failed).await;
    done
}

/// All files, read and checked.
fn load(paths: &[PathBuf]) -> Result<Vec<Scenario>, Error> {
    let (mut scenarios, mut mistakes) = (Vec::new(), Vec::new());
    for path in files(paths)? {
        let failed = |source| Error::Read { path: path.clone(), source };
        if std::fs::metadata(&path).map_err(failed)?.len() > FILE_BYTES_MAX {
            return Err(Error::TooLong { path });
        }
        match document::parse(&path, &std::fs::read_to_string(&path).map_err(failed)?) {
            Ok(scenario) => scenarios.push(scenario),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(scenarios) } else { Err(Error::Mistakes { mistakes }) }
}

fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = yaml_files(path).map_err(|source| Error::Read { path: path.clone(), source })?;
        if found.is_empty() {
            return Err(Error::NoFiles { path: path.clone() });
        }
        files.append(&mut found);
    }
    if files.len() > FILES_MAX { Err(Error::TooMany) } else { Ok(files) }
}

/// The YAML files of a folder, by name.
fn yaml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)?.take(FILES_MAX) {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn publish(options: &Options, report: &Report) -> Result<(), Error> {
    match options.format {
        Format::Text => print(&format!("{}\n", report.last_line()))?,
        Format::Json => print(&report.json())?,
    }
    for (path, text) in [(&options.json, report.json()), (&options.junit, report.junit())] {
        if let Some(path) = path {
            std::fs::write(path, text).map_err(Error::Report)?;
        }
    }
    Ok(())
}

fn print(text: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(Error::Report)
}
