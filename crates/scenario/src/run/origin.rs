//! Where requests begin: the network namespace and the resolver files of a pod, a node or the host.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fairway_netns::Netns;
use fairway_toolbox::probe::{Outcome, Pace, Plan, ResolverFiles, Target};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::cluster::Cluster;
use super::objects::{ApiError, PodName};
use crate::document::step::{Authorities, Probe, Source};

/// The longest PEM file or Secret entry.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Why requests could not be made at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OriginError {
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error(
        "pod {pod} has no network: {path}: {detail}; wait for it first (wait: {{condition: Ready, object: pod/…}})"
    )]
    NoFacts { pod: String, path: PathBuf, detail: String },
    #[error("the network namespace {name}: {detail}")]
    Netns { name: String, detail: String },
    #[error("the probe: {0}")]
    Probe(#[from] std::io::Error),
    #[error("the probe ended with {code}: {stderr}")]
    Ended { code: i32, stderr: String },
    #[error("the probe said something that is no outcome: {0}")]
    Garbled(#[source] serde_json::Error),
    #[error("trusted certificates: {0}")]
    Authorities(String),
}

/// What a node agent writes about each of its pods.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PodFacts {
    pub(super) netns: String,
    pub(super) pid: u32,
    resolv_conf: PathBuf,
}

impl PodFacts {
    pub(super) fn read(cluster: &Cluster, pod: &PodName) -> Result<Self, OriginError> {
        let path = cluster.run_dir.join("pods").join(format!("{}_{}.json", pod.namespace, pod.name));
        let failed = |detail: String| OriginError::NoFacts {
            pod: format!("{}/{}", pod.namespace, pod.name),
            path: path.clone(),
            detail,
        };
        let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }
}

/// A place that requests begin at.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// `None`: the host's.
    netns: Option<String>,
    resolver: ResolverFiles,
}

impl Origin {
    pub(super) async fn of(cluster: &Cluster, source: &Source, home: &str) -> Result<Self, OriginError> {
        Ok(match source {
            Source::Outside => Self { netns: None, resolver: ResolverFiles::default() },
            Source::Node(node) => Self {
                netns: Some(format!("fw-{}-{node}", cluster.name)),
                resolver: ResolverFiles::default(),
            },
            Source::Pod(object) => {
                let pod = cluster.pod_of(object, home).await?;
                let facts = PodFacts::read(cluster, &pod)?;
                // A name or a path: what counts is the entry in /run/netns.
                let netns =
                    Path::new(&facts.netns).file_name().map(|name| name.to_string_lossy().into_owned());
                let resolver = ResolverFiles { resolv_conf: facts.resolv_conf, hosts: None };
                Self { netns, resolver }
            }
        })
    }

    /// Starts a probe that makes the requests from here.
    pub(super) async fn start(&self, cluster: &Cluster, plan: &Plan) -> Result<Running, OriginError> {
        let plan = Plan { resolver: self.resolver.clone(), ..plan.clone() };
        let mut command = std::process::Command::new(&cluster.executable);
        command.args(["toolbox", "probe"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(name) = &self.netns {
            let failed = |error: fairway_netns::Error| OriginError::Netns {
                name: name.clone(),
                detail: error.to_string(),
            };
            Netns::open(name).map_err(failed)?.enter_on_spawn(&mut command);
        }
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (mut input, output) = pipes.ok_or_else(|| std::io::Error::other("the probe has no pipes"))?;
        input.write_all(format!("{}\n", serde_json::json!(plan)).as_bytes()).await?;
        Ok(Running { child, input: Some(input), lines: BufReader::new(output).lines() })
    }
}

/// A probe at work.
pub(super) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// The next outcome; nothing when the plan has ended well.
    pub(super) async fn next(&mut self) -> Result<Option<Outcome>, OriginError> {
        if let Some(line) = self.lines.next_line().await? {
            return serde_json::from_str(&line).map(Some).map_err(OriginError::Garbled);
        }
        let status = self.child.wait().await?;
        if status.success() {
            return Ok(None);
        }
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            tokio::io::AsyncReadExt::read_to_string(&mut pipe, &mut stderr).await?;
        }
        Err(OriginError::Ended { code: status.code().unwrap_or(128), stderr: stderr.trim_end().to_owned() })
    }

    /// Ends an open-ended plan: no further request is started.
    pub(super) fn stop(&mut self) {
        self.input = None;
    }
}

/// The plan of a probe, with the certificates that it trusts.
pub(super) async fn plan(
    cluster: &Cluster,
    probe: &Probe,
    folder: &Path,
    home: &str,
) -> Result<Plan, OriginError> {
    let mut target = probe.target.clone();
    if let (Target::Http(http), Some(authorities)) = (&mut target, &probe.authorities) {
        http.tls.authorities_pem = Some(pem(cluster, authorities, folder, home).await?);
    }
    Ok(Plan {
        target,
        pace: probe.pace,
        timeout_ms: u64::try_from(probe.timeout.as_millis()).unwrap_or(u64::MAX),
        resolver: ResolverFiles::default(),
    })
}

async fn pem(
    cluster: &Cluster,
    authorities: &Authorities,
    folder: &Path,
    home: &str,
) -> Result<String, OriginError> {
    match authorities {
        Authorities::Text(text) => Ok(text.clone()),
        Authorities::File(name) => {
            let path = folder.join(name);
            let failed = |detail: String| OriginError::Authorities(format!("{}: {detail}", path.display()));
            let length = std::fs::metadata(&path).map_err(|error| failed(error.to_string()))?.len();
            if length > PEM_BYTES_MAX {
                return Err(failed(format!("longer than {PEM_BYTES_MAX} bytes")));
            }
            std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))
        }
        Authorities::Secret(object) => {
            let failed = |detail: &str| OriginError::Authorities(format!("{object}: {detail}"));
            let secret = cluster.find(object, home).await?.ok_or_else(|| failed("it does not exist"))?;
            let entry = ["ca.crt", "tls.crt"].into_iter().find_map(|name| {
                let text = secret.get("data")?.get(name)?.as_str()?;
                serde_json::from_value::<k8s_openapi::ByteString>(text.into()).ok()
            });
            let bytes = entry.ok_or_else(|| failed("it has neither ca.crt nor tls.crt"))?;
            String::from_utf8(bytes.0).map_err(|_| failed("its certificate is not PEM"))
        }
    }
}

/// Makes all requests of a probe and waits for their outcomes, in the order of their start.
pub(super) async fn ask(
    cluster: &Cluster,
    probe: &Probe,
    folder: &Path,
    home: &str,
) -> Result<Vec<Outcome>, OriginError> {
    let plan = plan(cluster, probe, folder, home).await?;
    let mut running = Origin::of(cluster, &probe.from, home).await?.start(cluster, &plan).await?;
    let mut outcomes = Vec::new();
    let limit = limit(&plan.pace, probe.timeout);
    let collect = async {
        while let Some(outcome) = running.next().await? {
            outcomes.push(outcome);
        }
        Ok::<(), OriginError>(())
    };
    let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "it did not end");
    tokio::time::timeout(limit, collect).await.map_err(|_| late())??;
    outcomes.sort_by_key(|outcome| outcome.sequence);
    Ok(outcomes)
}

/// Longer than any plan with this pace can take.
fn limit(pace: &Pace, timeout: Duration) -> Duration {
    let count = u32::try_from(pace.count.unwrap_or(1)).unwrap_or(u32::MAX);
    let rounds = count.div_ceil(pace.concurrency.max(1));
    let paced = Duration::from_secs(u64::from(count / pace.rate_per_second.unwrap_or(u32::MAX).max(1)));
    timeout.saturating_mul(rounds).saturating_add(paced).saturating_add(Duration::from_secs(10))
}
