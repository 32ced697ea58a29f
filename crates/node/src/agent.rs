//! The loop: objects → model → rules → kernel.
//!
//! ```text
//! watches ──► World::update ──► compile_changed ──► change::update ──► one transaction ──► addresses, ARP
//!                                      │ (start, failure, drift: change::repair against what was read)
//! ```
//!
//! A lone change is applied at once; what arrives meanwhile is taken together in the next turn. A failed transaction leaves the old rules in
//! force and makes the next turn read the kernel back and repair it, with growing pauses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fairway_ingest::Diagnostic;
use fairway_kit::findings::Recorder;
use fairway_kit::{Shutdown, Watched};
use fairway_model::{Node, NodeName, ServiceKey};
use fairway_netfilter::Family;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use crate::change;
use crate::compile::{Place, compile_changed};
use crate::findings::findings;
use crate::kernel::{Kernel, KernelError};
use crate::metrics::{Metrics, Sync};
use crate::ruleset::Ruleset;
use crate::world::{Changes, Delivered, World};
use crate::{Error, LoadBalancer};

/// How soon a change that somebody else made to our rules is undone.
const AUDIT_INTERVAL: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The state between two turns.
#[derive(Debug)]
pub(crate) struct Agent {
    kernel: Kernel,
    world: World,
    node: NodeName,
    load_balancer: LoadBalancer,
    metrics: Metrics,
    /// One a family: what was compiled last.
    rulesets: Vec<Ruleset>,
    /// Whether `rulesets` is what the kernel holds.
    trusted: bool,
    /// Addresses taken over in the last turn: announced once more, in case the first frame was lost (RFC 5227 section 2.3).
    announce_again: Vec<std::net::IpAddr>,
    /// Of Services that have some.
    problems: BTreeMap<ServiceKey, Vec<Diagnostic>>,
    events: Recorder,
}

/// The watches of the agent.
#[derive(Debug)]
pub(crate) struct Watches {
    pub(crate) services: Watched<core::Service>,
    pub(crate) slices: Watched<discovery::EndpointSlice>,
    pub(crate) nodes: Watched<core::Node>,
}

impl Watches {
    async fn synced(&mut self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.services.changed() => {}
            () = self.slices.changed() => {}
            () = self.nodes.changed() => {}
        }
    }

    fn take(&mut self) -> Delivered {
        Delivered {
            services: self.services.snapshot(),
            slices: self.slices.snapshot(),
            nodes: self.nodes.snapshot(),
        }
    }
}

impl Agent {
    pub(crate) fn new(
        kernel: Kernel,
        world: World,
        node: NodeName,
        load_balancer: LoadBalancer,
        families: &[Family],
        metrics: Metrics,
        events: Recorder,
    ) -> Self {
        Self {
            kernel,
            world,
            node,
            load_balancer,
            metrics,
            rulesets: families.iter().map(|family| Ruleset::empty(*family)).collect(),
            trusted: false,
            announce_again: Vec::new(),
            problems: BTreeMap::new(),
            events,
        }
    }

    /// Runs until shutdown. Rules and addresses stay.
    pub(crate) async fn run(
        self,
        mut watches: Watches,
        readiness: fairway_kit::admin::Readiness,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        if shutdown.unless_requested(watches.synced()).await.is_none() {
            return Ok(());
        }
        let mut agent = Box::new(self);
        let mut failures = 0u32;
        let mut audit = tokio::time::interval(AUDIT_INTERVAL);
        audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = shutdown.unless_requested(async {
                tokio::select! {
                    biased;
                    () = watches.changed(), if failures == 0 => Wake::Changed,
                    () = tokio::time::sleep(retry_delay(failures)), if failures > 0 => Wake::Changed,
                    _ = audit.tick(), if failures == 0 => Wake::Audit,
                }
            });
            let Some(wake) = wake.await else { return Ok(()) };
            let delivered = watches.take();
            // Netlink calls take microseconds for a change but 100 ms at the start of a large cluster: not on a thread of the runtime.
            let turn = tokio::task::spawn_blocking(move || {
                let outcome = agent.turn(wake, &delivered);
                (agent, outcome)
            });
            let (returned, outcome) = turn.await.map_err(|source| Error::Turn { source })?;
            agent = returned;
            match outcome {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(failures, "rules are programmed again");
                    }
                    failures = 0;
                    readiness.set(true);
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    agent.trusted = false;
                    agent.metrics.failed();
                    tracing::error!(%error, retry_in = ?retry_delay(failures), "rules not programmed; the old ones stay in force");
                }
            }
        }
    }

    fn turn(&mut self, wake: Wake, delivered: &Delivered) -> Result<(), KernelError> {
        if wake == Wake::Audit {
            let again = std::mem::take(&mut self.announce_again);
            self.kernel.announce(&again, &self.load_balancer.interface)?;
            if self.trusted && !self.kernel.was_touched()? {
                return Ok(());
            }
            if self.kernel.repair(&self.rulesets)? {
                self.metrics.repaired_drift();
                tracing::warn!(
                    "somebody changed the rules of table {}; they are restored",
                    crate::layout::TABLE
                );
            }
        }
        self.follow(delivered)
    }

    /// One change from objects to kernel.
    fn follow(&mut self, delivered: &Delivered) -> Result<(), KernelError> {
        let started = Instant::now();
        let changes = self.world.update(delivered);
        self.metrics.changed(&changes);
        self.tell(&changes, delivered);
        let unknown = unknown_node(&self.node);
        let (network, frontends) = (self.world.network(), self.world.frontends());
        let node = network.nodes.get(&self.node).map_or(&unknown, std::convert::AsRef::as_ref);
        let compiled: Vec<Ruleset> = self
            .rulesets
            .iter()
            .map(|installed| {
                let place = Place {
                    node,
                    family: installed.family,
                    load_balancer_ranges: &self.load_balancer.ranges,
                };
                compile_changed(network, frontends, &place, installed, &changes.touched)
            })
            .collect();
        let sync = if self.trusted { Sync::Partial } else { Sync::Full };
        let moved = !self.trusted
            || self.rulesets.iter().zip(&compiled).any(|(old, new)| old.announced != new.announced);
        let old = std::mem::replace(&mut self.rulesets, compiled);
        self.program(&old, sync)?;
        if moved {
            self.answer()?;
        }
        self.metrics.synced(sync, started.elapsed(), Timestamp::now());
        if sync == Sync::Partial {
            self.metrics.programmed(&changes.triggered, Timestamp::now());
        }
        Ok(())
    }

    fn program(&mut self, old: &[Ruleset], sync: Sync) -> Result<(), KernelError> {
        // Until it has succeeded: a half-done change is read back.
        self.trusted = false;
        match sync {
            Sync::Full => {
                let changed = self.kernel.repair(&self.rulesets)?;
                for ruleset in &self.rulesets {
                    self.metrics.cut_flows(self.kernel.cut_stale_flows(ruleset)?);
                }
                let frontends: usize = self.rulesets.iter().map(|ruleset| ruleset.frontends().len()).sum();
                tracing::info!(frontends, changed, "rules read back and in force");
            }
            Sync::Partial => {
                for (old, new) in old.iter().zip(&self.rulesets) {
                    self.metrics.cut_flows(self.kernel.apply(&change::update(old, new))?);
                }
            }
        }
        self.trusted = true;
        Ok(())
    }

    /// Answers for the addresses that are this node's now. After the rules: nobody is to reach a listener of the node itself.
    fn answer(&mut self) -> Result<(), KernelError> {
        let announced = self.rulesets.iter().flat_map(|ruleset| ruleset.announced.iter().copied()).collect();
        let new = self.kernel.answer_for(&announced, &self.load_balancer.ranges)?;
        if !new.is_empty() {
            tracing::info!(addresses = ?new, "this node answers for load-balancer addresses");
        }
        self.announce_again.clone_from(&new);
        self.kernel.announce(&new, &self.load_balancer.interface)
    }

    /// Tells on the Services themselves what is wrong with them.
    fn tell(&mut self, changes: &Changes, delivered: &Delivered) {
        for (key, problems) in &changes.problems {
            match problems.is_empty() {
                true => self.problems.remove(key),
                false => self.problems.insert(key.clone(), problems.clone()),
            };
        }
        let uid = |key: &ServiceKey| {
            delivered
                .services
                .find(&key.namespace, &key.name)
                .and_then(|object| object.metadata.uid.as_deref())
        };
        self.events.report(findings(&self.problems, self.world.frontends().conflicts(), uid));
    }
}

/// Before its Node object exists: nothing is local to it, everything else works.
fn unknown_node(name: &NodeName) -> Node {
    Node { name: name.clone(), addresses: Vec::new(), pod_ranges: Vec::new(), zone: None, ready: false }
}

/// Why a turn is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// There are newer objects, or the last turn failed.
    Changed,
    /// It is time to look whether the kernel still holds what it should.
    Audit,
}

fn retry_delay(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX)
}
