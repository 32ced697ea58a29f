//! The cluster that scenarios run in: one that is there, or one of the run's own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use fairway_kit::ClientSource;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::objects::{ApiError, Kind, Kinds};
use super::{Options, ranges};
use crate::document::Needs;
use crate::expect::CommandResult;

/// `fairway up` has so long.
const UP_TIMEOUT: Duration = Duration::from_secs(120);
/// `fairway down` has so long.
const DOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The named cluster is not there.
    #[error("there is no cluster {name}: {path} is missing; start it with fairway up --name {name}")]
    Missing {
        /// Its name.
        name: String,
        /// The file that is missing.
        path: PathBuf,
    },
    /// No client can be made of the kubeconfig.
    #[error(transparent)]
    Client(#[from] fairway_kit::ClientError),
    /// `fairway up` failed.
    #[error("the cluster for this run did not start: {command} ended with {code}\n{output}")]
    Up {
        /// What was run.
        command: String,
        /// Its exit code.
        code: i32,
        /// What it said.
        output: String,
    },
    /// `fairway up` could not be run, or did not end.
    #[error("the cluster for this run did not start: {command}: {source}")]
    Spawn {
        /// What was run.
        command: String,
        /// Why not.
        source: std::io::Error,
    },
    /// All address ranges are in use.
    #[error(
        "no address range is left for a cluster of its own; end other clusters (fairway down), or use --cluster"
    )]
    NoRange,
}

/// A cluster and the ways into it.
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) client: kube::Client,
    pub(super) kubeconfig: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) executable: PathBuf,
    /// The kubectl that steps run.
    pub(super) kubectl: PathBuf,
    kinds: Mutex<Option<Kinds>>,
    /// Forgotten at the end when it is the run's own.
    own: Option<PathBuf>,
}

impl Cluster {
    /// The named one, or one of the run's own with these needs.
    pub(super) async fn get(options: &Options, needs: Needs, number: usize) -> Result<Self, ClusterError> {
        let own = options.cluster.is_none();
        let name = match &options.cluster {
            Some(name) => name.clone(),
            None => {
                let name = own_name(number);
                up(options, &name, needs).await?;
                name
            }
        };
        let kubeconfig = options.state_root.join(&name).join("kubeconfig");
        if !kubeconfig.exists() {
            return Err(ClusterError::Missing { name, path: kubeconfig });
        }
        let client =
            fairway_kit::connect(&ClientSource::Kubeconfig(kubeconfig.clone()), "fairway-test").await?;
        Ok(Self {
            run_dir: options.run_root.join(&name),
            executable: options.executable.clone(),
            kubectl: options.kubectl.clone(),
            kinds: Mutex::new(None),
            own: own.then(|| options.executable.clone()),
            name,
            client,
            kubeconfig,
        })
    }

    /// Where kubectl keeps what it knows of the server, for one scenario.
    pub(super) fn kubectl_cache(&self, namespace: &str) -> PathBuf {
        self.run_dir.join("kubectl-cache").join(namespace)
    }

    /// Whether it was started by this run.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// A kind that the API server serves. It is asked once, and again for a kind that was not there: a scenario may have defined it.
    pub(super) async fn kind(
        &self,
        find: impl Fn(&Kinds) -> Result<Kind, ApiError>,
    ) -> Result<Kind, ApiError> {
        let mut kinds = self.kinds.lock().await;
        if let Some(found) = kinds.as_ref().and_then(|kinds| find(kinds).ok()) {
            return Ok(found);
        }
        find(kinds.insert(Kinds::discover(&self.client).await?))
    }

    /// Forgets it when it is the run's own and nobody wants to look at it.
    pub(super) async fn finish(self, keep: bool) {
        match &self.own {
            Some(_) if keep => {
                eprintln!(
                    "the cluster {name} is kept; end it with: fairway down --purge --name {name}",
                    name = self.name
                );
            }
            Some(executable) => down(executable, &self.name).await,
            None => {}
        }
    }
}

/// Removes what a start that failed or was interrupted has left.
pub(super) async fn forget(options: &Options, number: usize) {
    if options.cluster.is_none() {
        down(&options.executable, &own_name(number)).await;
    }
}

fn own_name(number: usize) -> String {
    format!("test-{}-{number}", std::process::id())
}

async fn up(options: &Options, name: &str, needs: Needs) -> Result<(), ClusterError> {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let ranges =
        ranges::pick(&ranges::parse_routes(&routes), std::process::id()).ok_or(ClusterError::NoRange)?;
    let nodes = needs.nodes.to_string();
    let (underlay, pods, services) =
        (ranges.underlay.to_string(), ranges.pods.to_string(), ranges.services.to_string());
    let args = [
        "up",
        "--detach",
        "--name",
        name,
        "--nodes",
        &nodes,
        "--underlay",
        &underlay,
        "--pods",
        &pods,
        "--services",
        &services,
    ];
    let command = format!("fairway {}", args.join(" "));
    let mut child = Command::new(&options.executable);
    child.args(args).stdin(Stdio::null());
    match output(child, UP_TIMEOUT).await {
        Ok(CommandResult { exit: 0, .. }) => Ok(()),
        Ok(result) => {
            let output = format!("{}{}", result.stdout, result.stderr);
            Err(ClusterError::Up { command, code: result.exit, output: output.trim_end().to_owned() })
        }
        Err(source) => Err(ClusterError::Spawn { command, source }),
    }
}

/// What is left when this fails is cleaned by the next `up` or `down` of that name; it is said.
async fn down(executable: &PathBuf, name: &str) {
    let mut child = Command::new(executable);
    child.args(["down", "--purge", "--name", name]).stdin(Stdio::null());
    let failed = match output(child, DOWN_TIMEOUT).await {
        Ok(CommandResult { exit: 0, .. }) => return,
        Ok(result) => format!("exit code {}: {}", result.exit, result.stderr.trim_end()),
        Err(error) => error.to_string(),
    };
    eprintln!("fairway down --purge --name {name} failed: {failed}; run it again");
}

/// Runs a command to its end. Killed when it takes longer than `limit`.
pub(super) async fn output(mut command: Command, limit: Duration) -> std::io::Result<CommandResult> {
    command.kill_on_drop(true);
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let output = tokio::time::timeout(limit, command.output()).await.map_err(|_| late())??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(CommandResult {
        // A command that a signal ended has none; shells say 128 and more.
        exit: output.status.code().unwrap_or(128),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    })
}
