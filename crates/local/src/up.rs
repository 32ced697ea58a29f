//! `fairway up`: from settings to a cluster that is ready, until it is told to stop; then nothing of it is left but its state.

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::Error;
use crate::leftovers::{RunDirectory, clean};
use crate::lock::{Locked, SupervisorLock};
use crate::preflight::{Problem, preflight};
use crate::progress::{EventKind, Reporter, Summary};
use crate::readiness::{self, Missing};
use crate::role::{Role, StopPhase, roles};
use crate::settings::{ClusterName, Directories, Flags, Roots, Settings};
use crate::supervisor::Supervisor;
use crate::{files, host, kubeconfig, log, masquerade, pki, underlay};

/// A cluster that is not ready within this is given up.
const READY_LIMIT: Duration = Duration::from_secs(60);

const UNREACHABLE_NODES: &str = "the nodes do not reach each other: a packet filter of this machine drops what the bridge forwards, so \
    pods on different nodes will not either; allow it there (iptables -I FORWARD -i fw-+ -o fw-+ -j ACCEPT) or keep bridged packets \
    out of it (sysctl -w net.bridge.bridge-nf-call-iptables=0)";

/// What to start.
#[derive(Clone, Debug)]
pub struct UpRequest {
    /// The cluster.
    pub name: ClusterName,
    /// Where clusters keep their files.
    pub roots: Roots,
    /// What the user asked for.
    pub flags: Flags,
    /// The program that has the roles as subcommands; see [`roles`].
    pub executable: PathBuf,
}

/// Starts the cluster, keeps it running, and returns after SIGINT, SIGTERM or SIGHUP, when everything was removed again.
///
/// Call it on the main thread and outside any async runtime: roles are tied to the thread that spawns them.
pub fn up(request: &UpRequest, reporter: &Reporter) -> Result<(), Error> {
    let settings = settle(&request.name, &request.roots, &request.flags)?;
    let problems = preflight(&settings);
    if !problems.is_empty() {
        return Err(Error::Preflight(problems));
    }
    let table = roles(&settings, &request.executable);
    run(&settings, table, reporter, async |started, missing: &Missing| {
        readiness::wait(&settings, started, reporter, missing).await.map(Some)
    })
}

/// The settings that `up` would use: flags over what is saved over defaults. Touches nothing.
pub fn settle(name: &ClusterName, roots: &Roots, flags: &Flags) -> Result<Settings, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Preflight(vec![Problem::NotRoot]));
    }
    let directories = Directories::new(roots, name);
    if let Some(pid) = SupervisorLock::holder(&directories.lock_file()) {
        return Err(Error::Preflight(vec![Problem::Running { name: name.to_string(), pid }]));
    }
    let saved = Settings::load_if_any(&directories.settings_file())?;
    Ok(Settings::resolve(name, roots, flags, saved.as_ref())?)
}

/// Everything after the checks. `ready` says when the cluster is up, and the gateway's address.
fn run<R>(settings: &Settings, table: Vec<Role>, reporter: &Reporter, ready: R) -> Result<(), Error>
where
    R: AsyncFnOnce(Timestamp, &Missing) -> Result<Option<String>, Error>,
{
    let directories = &settings.directories;
    let lock = match SupervisorLock::try_take(&directories.lock_file())? {
        Locked::Mine(lock) => lock,
        Locked::By(pid) => {
            return Err(Error::Preflight(vec![Problem::Running { name: settings.name.to_string(), pid }]));
        }
    };
    let is_new = !directories.settings_file().exists();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { action: "start the runtime", source })?;
    let outcome = runtime.block_on(supervise(settings, table, reporter, ready));
    // Joins the blocking threads, so that nothing is made any more.
    drop(runtime);
    let cleaned = clean(&settings.name, directories, RunDirectory::Remove);
    if is_new && matches!(&outcome, Err(error) if !matches!(error, Error::Interrupted)) {
        forget_first_start(directories);
    }
    drop(lock);
    // Only an empty directory goes: anything else was not ours.
    let _ = std::fs::remove_dir(&directories.run);
    outcome?;
    cleaned?;
    reporter.report(EventKind::Stopped);
    Ok(())
}

/// A first start that failed leaves nothing that would bind the next one to its flags; files that a user put there stay.
fn forget_first_start(directories: &Directories) {
    // Best effort: the error to tell is the one that made the start fail.
    let state = &directories.state;
    for file in [directories.settings_file(), directories.kubeconfig()] {
        let _ = std::fs::remove_file(file);
    }
    for directory in [directories.pki(), state.join("store"), state.join("nodes")] {
        let _ = std::fs::remove_dir_all(directory);
    }
    for directory in [state.join("images"), state.clone()] {
        let _ = std::fs::remove_dir(directory);
    }
}

async fn supervise<R>(
    settings: &Settings,
    table: Vec<Role>,
    reporter: &Reporter,
    ready: R,
) -> Result<(), Error>
where
    R: AsyncFnOnce(Timestamp, &Missing) -> Result<Option<String>, Error>,
{
    let mut signals = StopSignals::new()?;
    let started = Timestamp::now();
    blocking_clean(settings, reporter).await?;
    let mut supervisor = Supervisor::new(settings, reporter)?;
    let served = async {
        start_roles(settings, table, &mut supervisor, reporter).await?;
        let gateway = wait_ready(settings, &mut supervisor, &mut signals, ready, started).await?;
        supervisor.ready();
        reporter.report(EventKind::Ready(summary(settings, gateway)));
        signals.next().await;
        reporter.report(EventKind::Stopping);
        Ok(())
    }
    .await;
    let patient = served.is_ok();
    let grace = |phase| if patient { stop_grace(phase) } else { Duration::ZERO };
    tokio::select! {
        () = supervisor.stop(grace) => {}
        // A second Ctrl-C: the user does not want to wait.
        () = signals.next() => {}
    }
    served
}

/// How long a role may take to stop.
fn stop_grace(phase: StopPhase) -> Duration {
    match phase {
        StopPhase::Controller => Duration::from_secs(2),
        // It stops its pods first, which have their own grace.
        StopPhase::Node => Duration::from_secs(15),
        StopPhase::ApiServer => Duration::from_secs(5),
    }
}

async fn blocking_clean(settings: &Settings, reporter: &Reporter) -> Result<(), Error> {
    let (name, directories) = (settings.name.clone(), settings.directories.clone());
    let report = blocking(move || clean(&name, &directories, RunDirectory::KeepLogs)).await?;
    if !report.is_empty() {
        reporter.report(EventKind::Cleaned { what: report.summary() });
    }
    Ok(())
}

/// Runs what takes system calls of milliseconds away from the thread that watches the roles.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Error>
where
    T: Send + 'static,
    E: Into<Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(join) => {
            Err(Error::System { action: "run a part of the start", source: std::io::Error::other(join) })
        }
    }
}

/// Certificates and bridge first, side by side; then the API server and the controller, while the nodes are made; then each node's agent
/// as soon as its namespace is there.
async fn start_roles(
    settings: &Settings,
    table: Vec<Role>,
    supervisor: &mut Supervisor,
    reporter: &Reporter,
) -> Result<(), Error> {
    let (files, network) = (settings.clone(), settings.clone());
    let certificates = blocking(move || write_files(&files));
    let bridge = blocking(move || underlay::create_bridge(&network));
    futures::try_join!(certificates, bridge)?;
    reporter.done(format!("bridge {} with {}", settings.name.bridge(), settings.host_address()));

    let (in_nodes, in_host): (Vec<Role>, Vec<Role>) =
        table.into_iter().partition(|role| role.netns.is_some());
    in_host.into_iter().for_each(|role| supervisor.keep(role));
    let way_out = settings.clone();
    let way_out = blocking(move || {
        host::enable_forwarding(&way_out)?;
        masquerade::apply(&way_out)
    });
    let nodes = async {
        let mut made: FuturesUnordered<_> = settings
            .nodes()
            .into_iter()
            .map(|node| {
                let settings = settings.clone();
                blocking(move || underlay::create_node(&settings, &node).map(|()| node.netns))
            })
            .collect();
        while let Some(netns) = made.next().await {
            let netns = netns?;
            in_nodes
                .iter()
                .filter(|role| role.netns.as_ref() == Some(&netns))
                .for_each(|role| supervisor.keep(role.clone()));
        }
        Ok::<(), Error>(())
    };
    futures::try_join!(way_out, nodes)?;
    reporter.done(format!("{} nodes", settings.nodes().len()));
    let probed = settings.clone();
    if !blocking(move || underlay::nodes_reach_each_other(&probed)).await? {
        reporter.report(EventKind::Warning { text: UNREACHABLE_NODES.to_owned() });
    }
    Ok(())
}

fn write_files(settings: &Settings) -> Result<(), Error> {
    settings.save()?;
    pki::ensure(settings, Timestamp::now())?;
    kubeconfig::write_all(settings)?;
    files::create_directory(&settings.directories.state.join("images"))?;
    Ok(())
}

async fn wait_ready<R>(
    settings: &Settings,
    supervisor: &mut Supervisor,
    signals: &mut StopSignals,
    ready: R,
    started: Timestamp,
) -> Result<Option<String>, Error>
where
    R: AsyncFnOnce(Timestamp, &Missing) -> Result<Option<String>, Error>,
{
    let (missing, waiting_for) = tokio::sync::watch::channel(Vec::new());
    tokio::select! {
        gateway = ready(started, &missing) => gateway,
        failure = supervisor.failure() => Err(failure),
        () = signals.next() => Err(Error::Interrupted),
        () = tokio::time::sleep(READY_LIMIT) => {
            let log_end = log::tail(&settings.directories.logs().join("apiserver.log"));
            Err(Error::NotReady { limit: READY_LIMIT, waiting_for: waiting_for.borrow().clone(), log_end })
        }
    }
}

fn summary(settings: &Settings, gateway: Option<String>) -> Summary {
    let nodes = settings.nodes().into_iter().map(|node| (node.name, node.address.to_string())).collect();
    Summary {
        name: settings.name.to_string(),
        api: format!("https://{}", settings.api_address()),
        kubeconfig: settings.directories.kubeconfig().display().to_string(),
        nodes,
        dns: settings.dns_address().to_string(),
        gateway,
    }
}

/// The signals that stop a cluster.
struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> Result<Self, Error> {
        let listen =
            |kind| signal(kind).map_err(|source| Error::System { action: "listen for signals", source });
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests;
