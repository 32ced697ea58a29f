//! Whole lives of clusters whose roles are stand-ins (`sh`), on the real kernel. Names and ranges are made from the process number;
//! everything is removed also when a test fails.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fairway_netns::{Links, Netns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::down::{State, down};
use crate::process::{MARK, Process};
use crate::progress::Event;
use crate::role::RunningRole;

/// A cluster that goes with the test.
struct Scratch {
    settings: Settings,
    roots: Roots,
    _directory: tempfile::TempDir,
}

impl Scratch {
    fn new(suffix: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots { state: directory.path().join("state"), run: directory.path().join("run") };
        let name = format!("t{}{suffix}", std::process::id());
        Self { settings: settings(&name, &roots), roots, _directory: directory }
    }

    /// A reporter that keeps what happens and ends the cluster as soon as it is ready.
    fn events(&self) -> (Reporter, Arc<Mutex<Vec<EventKind>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let reporter = Reporter::new(move |event: Event| {
            let is_ready = matches!(event.kind, EventKind::Ready(_));
            log.lock().unwrap().push(event.kind);
            if is_ready {
                stop_self();
            }
        });
        (reporter, seen)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = clean(&self.settings.name, &self.settings.directories, RunDirectory::Remove);
    }
}

/// Ranges that no other test uses, from the number in the name.
fn settings(name: &str, roots: &Roots) -> Settings {
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    let number: u32 = digits.parse().unwrap();
    let byte = |value: u32| u8::try_from(value).unwrap();
    let net = |text: String| Some(text.parse().unwrap());
    let flags = Flags {
        underlay: net(format!("10.{}.{}.0/24", byte(220 + number % 30), byte(number / 30 % 256))),
        pods: net(format!("100.{}.{}.0/22", byte(64 + number % 32), byte(number / 32 % 64 * 4))),
        services: net(format!("100.{}.{}.0/24", byte(96 + number % 32), byte(number / 32 % 256))),
        ..Flags::default()
    };
    Settings::resolve(&ClusterName::parse(name).unwrap(), roots, &flags, None).unwrap()
}

/// The real table of roles with a shell in place of the program.
fn stand_ins(settings: &Settings, script: &str) -> Vec<Role> {
    let mut table = roles(settings, Path::new("/bin/sh"));
    for role in &mut table {
        role.arguments = vec!["-c".into(), script.into()];
    }
    table
}

fn running(settings: &Settings) -> Vec<RunningRole> {
    serde_json::from_slice(&std::fs::read(settings.directories.processes_file()).unwrap()).unwrap()
}

fn pid_of(settings: &Settings, role: &str, name: &str) -> Option<u32> {
    running(settings).iter().find(|found| found.role == role && found.name == name).map(|found| found.pid)
}

fn stop_self() {
    kill(Pid::this(), Signal::SIGTERM).unwrap();
}

/// What of the cluster is left in the kernel and on disk.
fn traces(settings: &Settings) -> Vec<String> {
    let name = &settings.name;
    let mut links = Links::open(&Netns::host().unwrap()).unwrap();
    let mut found = underlay::owned_links(name, &links.list().unwrap());
    found.extend(Netns::list(&format!("fw-{name}-")).unwrap());
    let pods = settings.networks.pods();
    let routes = links.routes().unwrap();
    found.extend(
        routes
            .iter()
            .filter(|route| route.destination.to_string().starts_with(&pods.network().to_string()))
            .map(|r| format!("{r:?}")),
    );
    let tables =
        Command::new("nft").args(["list", "tables"]).output().expect("needs the program nft (nftables)");
    let tables = String::from_utf8(tables.stdout).unwrap();
    found.extend(tables.lines().filter(|line| line.ends_with(&name.table())).map(str::to_owned));
    found.extend(
        crate::process::marked(name).unwrap().iter().map(|process| format!("process {}", process.pid)),
    );
    found.extend(settings.directories.run.exists().then(|| "run directory".to_owned()));
    found
}

/// A process of the cluster that no supervisor started.
fn spawn_orphan(settings: &Settings) -> std::process::Child {
    let child = Command::new("sleep").arg("1000").env(MARK, settings.name.as_str()).spawn().unwrap();
    // While it executes it shows no environment.
    let is_seen =
        || crate::process::marked(&settings.name).unwrap().iter().any(|process| process.pid == child.id());
    assert!((0..1000).any(|_| is_seen()));
    child
}

/// Sends a word from a namespace to an address and returns what arrived and from whom.
fn talk(from: &Netns, to: &Netns, address: Ipv4Addr) -> (String, std::net::IpAddr) {
    let listener = to.run(|| TcpListener::bind((address, 0))).unwrap();
    let target = listener.local_addr().unwrap();
    let mut client = from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let (mut stream, peer) = listener.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (text, peer.ip())
}

#[test]
fn a_cluster_comes_up_is_kept_running_and_leaves_only_its_state() {
    let scratch = Scratch::new("life");
    let settings = &scratch.settings;
    let (reporter, seen) = scratch.events();
    let table = stand_ins(settings, "echo started; exec sleep 1000");
    let events = seen.clone();
    let outcome = run(settings, table, &reporter, async |_, _: &Missing| {
        let restarted =
            || events.lock().unwrap().iter().any(|event| matches!(event, EventKind::Restarted { .. }));
        wait_until(|| running(settings).len() == 5).await;

        assert!(underlay::nodes_reach_each_other(settings).unwrap());
        let host = Netns::host().unwrap();
        let nodes = settings.nodes();
        let [one, two] = [0, 1].map(|index: usize| Netns::open(&nodes[index].netns).unwrap());
        assert_eq!(talk(&one, &two, nodes[1].address), ("hello".into(), nodes[0].address.into()));
        assert_eq!(talk(&two, &host, settings.host_address()), ("hello".into(), nodes[1].address.into()));
        assert_eq!(talk(&host, &one, nodes[0].address), ("hello".into(), settings.host_address().into()));

        one.run(|| {
            Command::new("nft")
                .arg("add table ip t; add chain ip t in { type filter hook input priority 0; policy drop; }")
                .status()
        })
        .unwrap();
        assert!(!underlay::nodes_reach_each_other(settings).unwrap(), "no answer is no reach");

        let agent = pid_of(settings, "node", "node-1").unwrap();
        assert_eq!(Netns::of_pid(agent).unwrap(), one, "an agent runs in its node's namespace");
        let environment = std::fs::read_to_string(format!("/proc/{agent}/environ")).unwrap();
        assert!(environment.contains(&format!("{MARK}={}", settings.name)));
        kill(Pid::from_raw(agent.try_into().unwrap()), Signal::SIGKILL).unwrap();
        wait_until(|| restarted() && pid_of(settings, "node", "node-1").is_some_and(|pid| pid != agent))
            .await;
        Ok(Some("192.0.2.1".into()))
    });
    outcome.unwrap();
    let seen = seen.lock().unwrap();
    assert!(matches!(seen.last(), Some(EventKind::Stopped)), "{seen:?}");
    assert_eq!(traces(settings), Vec::<String>::new());
    assert_eq!(Settings::load(&settings.directories.settings_file()).unwrap(), *settings);
    assert!(settings.directories.kubeconfig().exists());
}

/// Waits on what no event tells: files and processes of stand-ins.
async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_role_that_does_not_come_up_ends_the_start_with_its_log_and_leaves_nothing() {
    let scratch = Scratch::new("fail");
    let (reporter, _) = scratch.events();
    let mut table = stand_ins(&scratch.settings, "exec sleep 1000");
    table[0].arguments = vec!["-c".into(), "echo the store is broken >&2; exit 3".into()];
    let error = run(&scratch.settings, table, &reporter, async |_, _: &Missing| std::future::pending().await)
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("apiserver ended 5 times") && text.contains("exit status: 3"), "{text}");
    assert!(text.contains("the store is broken"), "{text}");
    assert_eq!(traces(&scratch.settings), Vec::<String>::new());
    assert!(
        !scratch.settings.directories.state.exists(),
        "a first start that failed must not bind the next one"
    );
}

#[test]
fn a_role_that_ignores_the_stop_is_killed_and_an_interrupted_start_leaves_nothing() {
    let scratch = Scratch::new("stub");
    let settings = &scratch.settings;
    let (reporter, _) = scratch.events();
    let table = stand_ins(settings, "trap '' TERM; while :; do sleep 1000; done");
    let outcome = run(settings, table, &reporter, async |_, _: &Missing| {
        wait_until(|| running(settings).len() == 5).await;
        stop_self();
        std::future::pending().await
    });
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
    assert_eq!(traces(settings), Vec::<String>::new());
}

/// A supervisor in a process of its own, run again from this test program; see [`stand_in_supervisor`].
fn supervisor(scratch: &Scratch) -> Command {
    supervisor_of(&std::env::current_exe().unwrap(), scratch)
}

fn supervisor_of(program: &Path, scratch: &Scratch) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--exact", "up::tests::stand_in_supervisor", "--nocapture"])
        .env("FAIRWAY_TEST_ROOT", scratch.roots.state.parent().unwrap())
        .env("FAIRWAY_TEST_NAME", scratch.settings.name.as_str())
        .stdout(Stdio::piped());
    command
}

/// Starts it and waits until it is ready.
fn spawn_supervisor(scratch: &Scratch) -> std::process::Child {
    let mut child = supervisor(scratch).spawn().unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"ready\"") {
        line.clear();
        let length = std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_ne!(length, 0, "the supervisor ended before it was ready");
    }
    // The pipe stays open: the test program prints its verdict at the end.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    child
}

/// Not a test by itself: without the variables of [`spawn_supervisor`] there is nothing to do.
#[test]
fn stand_in_supervisor() {
    let (Ok(root), Ok(name)) = (std::env::var("FAIRWAY_TEST_ROOT"), std::env::var("FAIRWAY_TEST_NAME"))
    else {
        return;
    };
    let roots = Roots { state: Path::new(&root).join("state"), run: Path::new(&root).join("run") };
    let settings = settings(&name, &roots);
    if std::env::var("FAIRWAY_TEST_USER").is_ok() {
        println!("{}", settle(&settings.name, &roots, &Flags::default()).unwrap_err());
        println!("{}", down(&settings.name, &roots, State::Keep).unwrap_err());
        println!("{}", preflight(&settings)[0]);
        return;
    }
    let table = stand_ins(&settings, "exec sleep 1000");
    run(&settings, table, &Reporter::json_lines(), async |_, _: &Missing| {
        wait_until(|| running(&settings).len() == 5).await;
        Ok(None)
    })
    .unwrap();
}

#[test]
fn a_second_up_says_so_and_down_stops_the_first() {
    let scratch = Scratch::new("down");
    let settings = &scratch.settings;
    let mut supervisor = spawn_supervisor(&scratch);
    let problems = preflight(settings);
    assert_eq!(problems, [Problem::Running { name: settings.name.to_string(), pid: supervisor.id() }]);
    let refused = settle(&settings.name, &scratch.roots, &Flags::default()).unwrap_err().to_string();
    assert!(refused.contains(&format!("process {}", supervisor.id())), "{refused}");

    let status = crate::status(&settings.name, &scratch.roots).unwrap();
    assert_eq!(status.supervisor, Some(supervisor.id()));
    assert!(
        status.processes.len() == 5 && status.processes.iter().all(|process| process.alive),
        "{status:?}"
    );

    // The supervisor is our child, so somebody has to reap it while `down` waits for its end.
    let stopped = down(&settings.name, &scratch.roots, State::Keep).unwrap();
    assert_eq!(stopped.supervisor, Some(supervisor.id()));
    assert!(stopped.leftovers.is_empty(), "{stopped:?}");
    assert!(supervisor.wait().unwrap().success());
    assert_eq!(traces(settings), Vec::<String>::new());
    assert!(settings.directories.state.exists());

    let stopped = down(&settings.name, &scratch.roots, State::Purge).unwrap();
    assert!(stopped.purged && stopped.supervisor.is_none());
    assert!(!settings.directories.state.exists());
    assert!(!down(&settings.name, &scratch.roots, State::Purge).unwrap().purged);
}

#[test]
fn what_a_killed_supervisor_leaves_is_removed_by_the_next_start_and_by_down() {
    let scratch = Scratch::new("kill");
    let settings = &scratch.settings;
    for next in ["up", "down"] {
        let mut supervisor = spawn_supervisor(&scratch);
        let agents: Vec<Process> =
            running(settings).iter().filter_map(|role| Process::open(role.pid)).collect();
        // A process of a pod does not die with the supervisor.
        let mut orphan = spawn_orphan(settings);
        kill(Pid::from_raw(supervisor.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
        supervisor.wait().unwrap();
        assert!(
            agents.iter().all(|agent| agent.wait(Duration::from_secs(5))),
            "roles die with their supervisor"
        );
        assert_eq!(preflight(settings), [], "its own leftovers are not in the way of a start");

        if next == "up" {
            let (reporter, seen) = scratch.events();
            let table = stand_ins(settings, "exec sleep 1000");
            let outcome = run(settings, table, &reporter, async |_, _: &Missing| {
                stop_self();
                std::future::pending().await
            });
            assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
            let seen = seen.lock().unwrap();
            let cleaned = seen.iter().find_map(|event| match event {
                EventKind::Cleaned { what } => Some(what.as_str()),
                _ => None,
            });
            assert_eq!(cleaned, Some("1 process, 2 namespaces, 3 links, 1 nft table"), "{seen:?}");
        } else {
            let stopped = down(&settings.name, &scratch.roots, State::Keep).unwrap();
            assert_eq!(stopped.leftovers.summary(), "1 process, 2 namespaces, 3 links, 1 nft table");
        }
        assert!(!orphan.wait().unwrap().success());
        assert_eq!(traces(settings), Vec::<String>::new(), "after {next}");
    }
}

#[test]
fn killed_at_any_moment_of_the_start_it_starts_again_and_can_be_removed() {
    let scratch = Scratch::new("any");
    for moment_ms in (0..80).step_by(8) {
        let mut killed = supervisor(&scratch).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment_ms));
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let mut whole = spawn_supervisor(&scratch);
    let nodes = scratch.settings.nodes();
    let [from, to] = [0, 1].map(|index: usize| Netns::open(&nodes[index].netns).unwrap());
    assert_eq!(talk(&from, &to, nodes[1].address).0, "hello");
    whole.kill().unwrap();
    whole.wait().unwrap();
    down(&scratch.settings.name, &scratch.roots, State::Purge).unwrap();
    assert_eq!(traces(&scratch.settings), Vec::<String>::new());
}

#[test]
fn without_root_every_command_says_so_before_it_looks_at_anything() {
    let scratch = Scratch::new("user");
    // A program that everybody may run: the build directory need not be.
    let program = scratch.roots.state.with_file_name("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(program.parent().unwrap(), open).unwrap();
    let mut as_nobody = supervisor_of(&program, &scratch);
    std::os::unix::process::CommandExt::uid(&mut as_nobody, 65_534);
    as_nobody.env("FAIRWAY_TEST_USER", "nobody");
    let output = as_nobody.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text.matches("not root: network namespaces need it; run it again with sudo").count(),
        3,
        "{output:?}"
    );
    assert!(!scratch.roots.run.exists() && !scratch.roots.state.exists());
}

#[test]
fn clusters_with_other_names_and_ranges_live_side_by_side() {
    let (one, two) = (Scratch::new("0a"), Scratch::new("1b"));
    let (mut first, mut second) = (spawn_supervisor(&one), spawn_supervisor(&two));
    down(&one.settings.name, &one.roots, State::Keep).unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(traces(&one.settings), Vec::<String>::new());
    let nodes = two.settings.nodes();
    let [from, to] = [0, 1].map(|index: usize| Netns::open(&nodes[index].netns).unwrap());
    assert_eq!(talk(&from, &to, nodes[1].address).0, "hello", "the other goes on");
    down(&two.settings.name, &two.roots, State::Keep).unwrap();
    assert!(second.wait().unwrap().success());
}

#[test]
fn a_taken_port_is_a_problem_unless_a_leftover_has_it() {
    let scratch = Scratch::new("port");
    let mut settings = scratch.settings.clone();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    settings.api_port = listener.local_addr().unwrap().port().try_into().unwrap();
    assert!(matches!(preflight(&settings).as_slice(), [Problem::PortTaken { .. }]));
    let mut leftover = spawn_orphan(&settings);
    assert_eq!(preflight(&settings), []);
    leftover.kill().unwrap();
    leftover.wait().unwrap();
}

#[test]
fn a_range_in_use_is_found_before_anything_is_touched() {
    let scratch = Scratch::new("range");
    let other = settings(&format!("{}0", scratch.settings.name), &scratch.roots);
    underlay::create_bridge(&other).unwrap();
    let mut taken = scratch.settings.clone();
    taken.networks = other.networks;
    let problems = preflight(&taken);
    clean(&other.name, &other.directories, RunDirectory::Remove).unwrap();
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), 1, "{text:?}");
    assert!(text[0].contains(&other.name.bridge()) && text[0].contains("--underlay"), "{text:?}");
    assert_eq!(traces(&taken), Vec::<String>::new());
}

#[test]
fn a_detached_supervisor_shows_its_progress_and_is_left_running_when_ready() {
    let scratch = Scratch::new("detach");
    let settings = &scratch.settings;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let reporter = Reporter::new(move |event: Event| log.lock().unwrap().push(event.kind));
    let program = Path::new("/usr/bin/env");
    let test = std::env::current_exe().unwrap();
    let arguments = [
        format!("FAIRWAY_TEST_ROOT={}", scratch.roots.state.parent().unwrap().display()),
        format!("FAIRWAY_TEST_NAME={}", settings.name),
        test.display().to_string(),
        "--exact".into(),
        "up::tests::stand_in_supervisor".into(),
        "--nocapture".into(),
    ];
    let arguments = arguments.map(std::ffi::OsString::from);
    crate::up_detached(program, &arguments, &settings.directories, &reporter).unwrap();
    let pid = SupervisorLock::holder(&settings.directories.lock_file()).unwrap();
    let session = nix::unistd::getsid(Some(Pid::from_raw(pid.try_into().unwrap()))).unwrap();
    assert_ne!(session, nix::unistd::getsid(None).unwrap(), "it must outlive this terminal");
    assert!(matches!(seen.lock().unwrap().last(), Some(EventKind::Ready(_))));
    assert_eq!(running(settings).len(), 5);

    let again =
        crate::up_detached(program, &arguments, &settings.directories, &reporter).unwrap_err().to_string();
    assert!(again.contains("ended (exit status: 101)") && again.contains("supervisor.log"), "{again}");
    assert_eq!(down(&settings.name, &scratch.roots, State::Keep).unwrap().supervisor, Some(pid));
    assert_eq!(traces(settings), Vec::<String>::new());
}
