//! Killed at any moment, with everything or alone: no acknowledged write is lost, nothing stays in the way, and traffic goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{Api, revision};
use crate::cluster::{Cluster, eventually, kill_9};
use crate::machine::on_own_machine;
use crate::shop;
use crate::traffic::{answered, request, stream};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const KILLS: usize = 20;
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// What the API server acknowledged.
#[derive(Debug, Default)]
struct Ledger {
    /// Name to the revision and number that were acknowledged last; `None` once the removal was.
    maps: BTreeMap<String, Option<(u64, u64)>>,
    /// The latest revision that was seen in any answer.
    revision: u64,
    writes: usize,
    checks: usize,
    violations: Vec<String>,
}

impl Ledger {
    /// Compares with what is there.
    fn check(&mut self, list: &Value) {
        self.checks += 1;
        self.see(revision(list), "the list");
        let there: BTreeMap<&str, &Value> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|map| (map["metadata"]["name"].as_str().unwrap(), map))
            .collect();
        for (name, acknowledged) in &self.maps {
            let found = there.get(name.as_str());
            let violation = match (acknowledged, found) {
                (Some(_), None) => Some("is lost".to_owned()),
                (None, Some(_)) => Some("is back after its removal".to_owned()),
                (Some((at, number)), Some(map)) => {
                    let is_older = revision(map) < *at || number_of(map) < *number;
                    is_older.then(|| format!("is older than {number} at {at}: {map}"))
                }
                (None, None) => None,
            };
            self.violations.extend(violation.map(|violation| format!("{name} {violation}")));
        }
    }

    fn see(&mut self, revision: u64, what: &str) {
        if revision < self.revision {
            self.violations.push(format!("{what} has revision {revision} after {}", self.revision));
        }
        self.revision = self.revision.max(revision);
    }

    /// One write; an error means that nothing is known about it.
    fn write(&mut self, api: &Api) -> Result<(), kube::Error> {
        let turn = self.writes as u64;
        self.writes += 1;
        let living = self.maps.iter().filter(|(_, state)| state.is_some()).map(|(name, _)| name);
        let some = living.cycle().nth(self.writes % 7).cloned();
        match (turn % 4, some) {
            (1 | 2, Some(name)) => {
                let answer = api.replace(&format!("{MAPS}/{name}"), &map(&name, turn))?;
                self.acknowledge(&name, &answer);
            }
            (3, Some(name)) if turn.is_multiple_of(3) => {
                // Until it is acknowledged it may or may not have happened.
                self.maps.remove(&name);
                api.delete(&format!("{MAPS}/{name}"))?;
                self.maps.insert(name, None);
            }
            _ => {
                let name = format!("map-{turn}");
                let answer = api.create(MAPS, &map(&name, turn))?;
                self.acknowledge(&name, &answer);
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, name: &str, answer: &Value) {
        let at = revision(answer);
        self.see(at, name);
        self.maps.insert(name.to_owned(), Some((at, number_of(answer))));
    }
}

fn map(name: &str, number: u64) -> Value {
    let data = json!({"number": number.to_string(), "padding": "x".repeat(200)});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn number_of(map: &Value) -> u64 {
    map["data"]["number"].as_str().unwrap().parse().unwrap()
}

/// Writes whenever there is a server, after a look at whether all is there that was acknowledged before.
fn write_until(stop: &AtomicBool, kubeconfig: &Path) -> Ledger {
    let mut ledger = Ledger::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok(api) = Api::open(kubeconfig) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        match api.get(MAPS) {
            Ok(list) => ledger.check(&without_foreign(list)),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        }
        while !stop.load(Ordering::Relaxed) && ledger.write(&api).is_ok() {}
    }
    ledger
}

/// The list without the maps that the cluster itself makes (`kube-root-ca.crt`).
fn without_foreign(mut list: Value) -> Value {
    let items = list["items"].as_array_mut().unwrap();
    items.retain(|map| map["metadata"]["name"].as_str().unwrap().starts_with("map-"));
    list
}

/// SplitMix64: moments that a failure can be repeated with.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        below.mul_f64(((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[test]
fn no_acknowledged_write_is_lost_by_kills_of_the_supervisor_at_random_moments() {
    let seed = std::env::var("FAIRWAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5eed_0000);
    println!("FAIRWAY_TEST_SEED={seed} repeats it");
    on_own_machine(|machine| {
        let before = machine.network();
        let cluster = Cluster::new("kills");
        let first = cluster.started();
        let longest = first_start(&first) + Duration::from_millis(1500);
        shop::create(&Api::open(&cluster.kubeconfig()).unwrap());
        let (ingress, node_port) = doors(&cluster);
        answered(&[&ingress, &node_port]);

        let mut moments = Moments(seed);
        let stop = AtomicBool::new(false);
        let kubeconfig = cluster.kubeconfig();
        let ledger = std::thread::scope(|scope| {
            let _stop = StopWhenDropped(&stop);
            let writer = scope.spawn(|| write_until(&stop, &kubeconfig));
            let mut supervisor = first;
            for kill in 1..=KILLS {
                let moment = moments.next(longest);
                let ready = supervisor.kill_after(moment);
                println!("kill {kill} after {moment:?}{}", if ready { ", ready" } else { "" });
                supervisor = cluster.start();
            }
            supervisor.wait_ready();
            // The writer looks at what is there whenever it has a new connection.
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            let mut ledger = writer.join().unwrap();
            let api = Api::open(&kubeconfig).unwrap();
            ledger.check(&without_foreign(api.get(MAPS).unwrap()));
            answered(&[&ingress, &node_port]);
            assert!(supervisor.interrupt().success());
            ledger
        });
        println!(
            "{} writes, {} acknowledged objects, {} checks, revision {}",
            ledger.writes,
            ledger.maps.len(),
            ledger.checks,
            ledger.revision
        );
        assert_eq!(ledger.violations, [""; 0]);
        assert!(ledger.checks > KILLS / 3 && ledger.writes > 200, "too little was tried: {ledger:?}");
        assert_eq!(cluster.remains(), [""; 0]);
        assert_eq!(machine.network(), before);
    });
}

/// A failure must not leave the other thread running: the scope waits for it.
struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How long a start took, as it says itself.
fn first_start(supervisor: &crate::cluster::Supervisor) -> Duration {
    let text = supervisor.text();
    let line = text.lines().find(|line| line.ends_with("  ready")).unwrap();
    Duration::from_secs_f64(line.trim().split_once('s').unwrap().0.parse().unwrap())
}

/// The Ingress at the gateway's address, and the NodePort Service at the second node.
fn doors(cluster: &Cluster) -> (String, String) {
    let api = Api::open(&cluster.kubeconfig()).unwrap();
    let port = &shop::addresses(&api)["node ports"][0];
    (format!("{}:80", cluster.gateway()), format!("{}:{port}", cluster.node(2)))
}

#[test]
fn everything_killed_at_once_is_cleaned_up_and_started_again() {
    on_own_machine(|machine| {
        let before = machine.network();
        let cluster = Cluster::new("massacre");
        let mut supervisor = cluster.started();
        shop::create(&Api::open(&cluster.kubeconfig()).unwrap());
        let (ingress, node_port) = doors(&cluster);
        answered(&[&ingress, &node_port]);

        let all = cluster.processes();
        supervisor.kill();
        all.into_iter().for_each(kill_9);
        let supervisor = cluster.started();
        assert!(supervisor.text().contains("removed what an earlier run left"), "{}", supervisor.text());
        answered(&[&ingress, &node_port]);

        assert!(supervisor.interrupt().success());
        assert_eq!(cluster.remains(), [""; 0]);
        assert_eq!(machine.network(), before);
    });
}

#[test]
fn down_cleans_up_after_a_killed_supervisor() {
    on_own_machine(|machine| {
        let before = machine.network();
        let cluster = Cluster::new("orphans");
        cluster.started().kill();
        let output = cluster.output("down", &[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("removed"), "{text}");
        assert_eq!(cluster.remains(), [""; 0]);
        assert_eq!(machine.network(), before);
    });
}

#[test]
fn no_request_fails_while_agents_controller_and_api_server_are_killed() {
    on_own_machine(|_| {
        let cluster = Cluster::new("traffic");
        let _supervisor = cluster.started();
        let api = Api::open(&cluster.kubeconfig()).unwrap();
        shop::create(&api);
        let (ingress, node_port) = doors(&cluster);
        answered(&[&ingress, &node_port]);
        let stop = AtomicBool::new(false);
        let roles = [("apiserver", ""), ("controller", ""), ("node", "node-1"), ("node", "node-2")];
        let (sent, failures) = std::thread::scope(|scope| {
            let _stop = StopWhenDropped(&stop);
            let requests = scope.spawn(|| stream(&[&ingress, &node_port], &stop));
            for (role, name) in roles {
                kill_and_wait(&cluster, role, name);
            }
            scale(&cluster, 3);
            let since = Instant::now();
            let pods = eventually("the third pod gets no request", SETTLE_LIMIT, || third_pod(&node_port));
            println!("{} pods answer {:?} after the last kill", pods, since.elapsed());
            stop.store(true, Ordering::Relaxed);
            requests.join().unwrap()
        });
        println!("{sent} requests");
        assert_eq!(failures, [""; 0], "of {sent} requests");
        assert!(sent > 100, "only {sent} requests were sent");
    });
}

fn kill_and_wait(cluster: &Cluster, role: &str, name: &str) {
    let old = cluster.process(role, name).unwrap();
    kill_9(old);
    eventually("not started again", SETTLE_LIMIT, || match cluster.process(role, name) {
        Some(new) if new != old => Ok(()),
        other => Err(format!("{role} {name} is {other:?}")),
    });
    // What the dead role left undone is seen by requests of the next moments.
    std::thread::sleep(Duration::from_millis(500));
}

fn scale(cluster: &Cluster, replicas: u32) {
    let patch = json!({"spec": {"replicas": replicas}});
    eventually("cannot scale", SETTLE_LIMIT, || {
        let api = Api::open(&cluster.kubeconfig())?;
        api.merge(shop::DEPLOYMENT, &patch).map(drop).map_err(|error| error.to_string())
    });
}

fn third_pod(address: &str) -> Result<usize, String> {
    let pods: std::collections::BTreeSet<String> =
        (0..12).map(|_| request(address)).collect::<Result<_, _>>()?;
    if pods.len() >= 3 { Ok(pods.len()) } else { Err(format!("only {pods:?} answer")) }
}
