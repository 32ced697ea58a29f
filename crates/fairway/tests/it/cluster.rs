//! A local cluster of the real program, started, killed and looked for.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use fairway_netns::Netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_fairway");
const READY_LIMIT: Duration = Duration::from_secs(40);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A cluster's name, ranges and directories. Dropped, it is purged.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// The second byte of the addresses is shifted by this, for clusters side by side.
    shift: u8,
    directory: TempDir,
}

impl Cluster {
    pub(crate) fn new(what: &str) -> Self {
        Self::beside(what, 0)
    }

    /// A cluster whose ranges are not those of other shifts.
    pub(crate) fn beside(what: &str, shift: u8) -> Self {
        let name = format!("t{}-{what}", std::process::id());
        Self { name, shift, directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.state().join(&self.name).join("kubeconfig")
    }

    pub(crate) fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run").join(&self.name)
    }

    /// The first address of the load-balancer pool: the gateway's, which is the first Service to ask.
    pub(crate) fn gateway(&self) -> String {
        format!("10.{}.0.128", 200 + self.shift)
    }

    pub(crate) fn node(&self, number: u8) -> String {
        format!("10.{}.0.{}", 200 + self.shift, number + 1)
    }

    /// A command of the program for this cluster.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args([verb, "--name", &self.name]).arg("--state").arg(self.state());
        command.arg("--run").arg(self.directory.path().join("run"));
        if verb == "up" && self.shift > 0 {
            let ranges = [("--underlay", 200, 24), ("--pods", 130, 16), ("--services", 96, 16)];
            for (flag, base, prefix) in ranges {
                command.arg(flag).arg(format!("10.{}.0.0/{prefix}", base + self.shift));
            }
        }
        command
    }

    pub(crate) fn output(&self, verb: &str, arguments: &[&str]) -> Output {
        self.command(verb).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// `fairway up`, in a process group of its own as a shell would have it.
    pub(crate) fn start(&self) -> Supervisor {
        let mut command = self.command("up");
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (send, lines) = channel();
        let (output, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let send_errors = send.clone();
        std::thread::spawn(move || pass_on(output, |line| send.send(line).is_ok()));
        std::thread::spawn(move || pass_on(errors, |line| send_errors.send(line).is_ok()));
        Supervisor { child, lines, seen: Vec::new() }
    }

    /// `fairway up`, waited for.
    pub(crate) fn started(&self) -> Supervisor {
        let mut supervisor = self.start();
        supervisor.wait_ready();
        supervisor
    }

    /// What `processes.json` says: role and name to process.
    pub(crate) fn process(&self, role: &str, name: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.run_directory().join("processes.json")).ok()?;
        let all: Value = serde_json::from_str(&text).unwrap();
        let found = all.as_array().unwrap().iter().find(|one| one["role"] == role && one["name"] == name)?;
        i32::try_from(found["pid"].as_i64()?).ok()
    }

    /// The processes that carry the cluster's mark.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mark = format!("FAIRWAY_CLUSTER={}", self.name);
        let marked = |pid: &i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse().ok()
        });
        numbers.filter(marked).collect()
    }

    /// Whatever of the cluster is outside its state directory (the network is the machine's to say).
    pub(crate) fn remains(&self) -> Vec<String> {
        let mut remains: Vec<String> =
            self.processes().into_iter().map(|pid| format!("process {pid}")).collect();
        let namespaces = Netns::list(&format!("fw-{}-", self.name)).unwrap();
        remains.extend(namespaces.into_iter().map(|name| format!("namespace {name}")));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = |line: &&str| line.contains(self.directory.path().to_str().unwrap());
        remains.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
        if self.run_directory().exists() {
            remains.push(format!("run directory {}", self.run_directory().display()));
        }
        remains
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.output("down", &["--purge"]);
    }
}

fn pass_on(output: impl Read, mut send: impl FnMut(String) -> bool) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if !send(line) {
            return;
        }
    }
}

/// A running `fairway up`. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Supervisor {
    /// Waits for the word.
    pub(crate) fn wait_ready(&mut self) {
        let deadline = Instant::now() + READY_LIMIT;
        assert!(self.follow(deadline, |line| line.ends_with("  ready")), "not ready:\n{}", self.text());
    }

    /// Kills it with SIGKILL after that long; whether it had become ready before.
    pub(crate) fn kill_after(&mut self, delay: Duration) -> bool {
        let deadline = Instant::now() + delay;
        let ready = self.follow(deadline, |line| line.ends_with("  ready"));
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended by itself:\n{}", self.text());
        self.kill();
        ready
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ctrl-C, as a terminal sends it: to the process group.
    pub(crate) fn interrupt(mut self) -> ExitStatus {
        kill(Pid::from_raw(-self.pid()), Signal::SIGINT).unwrap();
        let deadline = Instant::now() + STOP_LIMIT;
        self.follow(deadline, |_| false);
        match self.child.try_wait().unwrap() {
            Some(status) => status,
            None => panic!("still there {} s after Ctrl-C:\n{}", STOP_LIMIT.as_secs(), self.text()),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// What it printed so far.
    pub(crate) fn text(&self) -> String {
        self.seen.join("\n")
    }

    /// Reads lines until one is wanted, the deadline, or the end of the process.
    fn follow(&mut self, deadline: Instant, wanted: impl Fn(&str) -> bool) -> bool {
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.seen.push(line);
                    if found {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => {
                    // Its output is closed: it is about to be gone.
                    let _ = self.child.wait();
                    return false;
                }
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills with SIGKILL; a process that is gone already is fine.
pub(crate) fn kill_9(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Waits for something that nothing announces, looking again every few milliseconds.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if Instant::now() > deadline => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The files below a directory with their contents, to see that nothing changed.
pub(crate) fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}
