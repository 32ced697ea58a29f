//! Probes: when to ask, what an answer means (pure), and asking.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// While a container comes up, readiness and startup are asked this often, so that start-up does not wait for a period.
const EAGER_PERIOD: Duration = Duration::from_millis(100);

/// A container has so long to begin to listen before it is asked whether it is alive, as with kubelets, which look at containers once a second.
const LIVENESS_HEAD_START: Duration = Duration::from_secs(1);

/// Which probe of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// As events say it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Http(HttpQuestion),
    Tcp { address: Address },
    Grpc { address: Address, service: String },
    Exec { command: Vec<String> },
}

/// One GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpQuestion {
    pub tls: bool,
    pub address: Address,
    /// The header `Host`.
    pub host: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// Where to connect: the pod, or another host by address or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What a response means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Passed,
    /// Ask again there.
    Follow(HttpQuestion),
    Failed(String),
}

impl HttpQuestion {
    /// The verdict on a response: 200 to 399 pass, a redirect within the same host is followed (once it leads to another host it has
    /// answered).
    pub(crate) fn judge(&self, status: u16, location: Option<&str>) -> Reply {
        match (status, location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => match self.redirected(location) {
                Some(next) => Reply::Follow(next),
                None => Reply::Passed,
            },
            (200..=399, _) => Reply::Passed,
            _ => Reply::Failed(format!("HTTP probe failed with statuscode: {status}")),
        }
    }

    /// The question at the other end of a redirect, when it is the same host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let mut next = self.clone();
        if location.starts_with('/') && !location.starts_with("//") {
            next.path = location.to_owned();
        } else if location.starts_with("http://") || location.starts_with("https://") {
            let uri: Uri = location.parse().ok()?;
            let authority =
                uri.authority().filter(|it| it.host().trim_matches(['[', ']']) == self.address.host)?;
            next.tls = uri.scheme_str() == Some("https");
            next.address.port = authority.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
            next.host = authority.to_string();
            next.path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        } else if location.starts_with("//") || location.contains("://") {
            return None;
        } else {
            let directory = self.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            next.path = format!("{directory}/{location}");
        }
        Some(next)
    }
}

/// A probe with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbePlan {
    pub kind: ProbeKind,
    pub question: Question,
    pub initial_delay: Duration,
    pub timeout: Duration,
    pub period: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    pub grace_secs: Option<i64>,
}

/// A probe that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("port {0:?} is no number from 1 to 65535 and no named port of the container")]
    Port(String),
    #[error("it says neither httpGet, tcpSocket, grpc nor exec")]
    Empty,
}

impl ProbePlan {
    /// A probe of a container of the pod with that address.
    pub(crate) fn new(
        kind: ProbeKind,
        probe: &Probe,
        container: &Container,
        pod_ip: IpAddr,
    ) -> Result<Self, ProbeError> {
        let secs = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|it| u64::try_from(it).ok()).unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|it| u32::try_from(it).ok()).unwrap_or(default).max(1)
        };
        Ok(Self {
            kind,
            question: question(probe, container, pod_ip)?,
            initial_delay: secs(probe.initial_delay_seconds, 0).max(match kind {
                ProbeKind::Liveness => LIVENESS_HEAD_START,
                ProbeKind::Startup | ProbeKind::Readiness => Duration::ZERO,
            }),
            timeout: secs(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            period: secs(probe.period_seconds, 10).max(Duration::from_secs(1)),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
            grace_secs: probe.termination_grace_period_seconds,
        })
    }
}

fn question(probe: &Probe, container: &Container, pod_ip: IpAddr) -> Result<Question, ProbeError> {
    let address = |host: Option<&String>, port: &IntOrString| {
        let host = host.filter(|host| !host.is_empty()).cloned();
        Ok(Address { host: host.unwrap_or_else(|| pod_ip.to_string()), port: port_number(port, container)? })
    };
    if let Some(http) = &probe.http_get {
        let address = address(http.host.as_ref(), &http.port)?;
        let headers = http.http_headers.iter().flatten();
        let (hosts, headers): (Vec<_>, Vec<_>) = headers
            .map(|header| (header.name.clone(), header.value.clone()))
            .partition(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = hosts.into_iter().next().map_or_else(|| address.to_string(), |(_, value)| value);
        let path = http.path.as_deref().unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let tls = http.scheme.as_deref() == Some("HTTPS");
        return Ok(Question::Http(HttpQuestion { tls, address, host, path, headers }));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Question::Tcp { address: address(tcp.host.as_ref(), &tcp.port)? });
    }
    if let Some(grpc) = &probe.grpc {
        let address = address(None, &IntOrString::Int(grpc.port))?;
        return Ok(Question::Grpc { address, service: grpc.service.clone().unwrap_or_default() });
    }
    match &probe.exec {
        Some(exec) => Ok(Question::Exec { command: exec.command.clone().unwrap_or_default() }),
        None => Err(ProbeError::Empty),
    }
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, ProbeError> {
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map_or_else(|| name.parse().ok(), |port| u16::try_from(port.container_port).ok())
        }
    };
    let text = || match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    number.filter(|number| *number > 0).ok_or_else(|| ProbeError::Port(text()))
}

/// What changed through an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// From now on it counts as passing.
    Passed,
    /// From now on it counts as failing.
    Failed,
}

/// The answers so far. Thresholds count exactly what Kubernetes counts: the extra questions while a container comes up can only
/// make it pass earlier, never fail earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    plan: ProbePlan,
    verdict: Option<Verdict>,
    successes: u32,
    failures: u32,
    /// Time of the next question that counts as a failure.
    next_counted: Duration,
}

impl Tally {
    pub(crate) fn new(plan: ProbePlan) -> Self {
        let next_counted = plan.initial_delay;
        Self { plan, verdict: None, successes: 0, failures: 0, next_counted }
    }

    pub(crate) fn plan(&self) -> &ProbePlan {
        &self.plan
    }

    /// When to ask next, given the time since the container started.
    pub(crate) fn next_at(&self, age: Duration) -> Duration {
        let eager = self.verdict != Some(Verdict::Passed) && self.plan.kind != ProbeKind::Liveness;
        match (eager, age < self.plan.initial_delay) {
            (_, true) => self.plan.initial_delay,
            (true, false) => (age + EAGER_PERIOD.min(self.plan.period)).min(self.next_counted.max(age)),
            (false, false) => self.next_counted.max(age),
        }
    }

    /// Takes an answer to a question that was asked at that age of the container. The verdict is there when it changed. A failure that
    /// is worth an event is told with `true`: one that counts, but not the first of a container that only comes up.
    pub(crate) fn record(&mut self, asked_at: Duration, passed: bool) -> (Option<Verdict>, bool) {
        let counted = asked_at >= self.next_counted;
        if counted {
            self.next_counted = asked_at + self.plan.period;
        }
        if passed {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(u32::from(counted));
        }
        let coming_up = self.verdict.is_none() && self.failures < 2 && self.plan.kind != ProbeKind::Liveness;
        let told = counted && !passed && !coming_up;
        let verdict = match passed {
            true if self.successes >= self.plan.success_threshold => Verdict::Passed,
            false if counted && self.failures >= self.plan.failure_threshold => Verdict::Failed,
            _ => return (None, told),
        };
        let changed = self.verdict != Some(verdict);
        self.verdict = Some(verdict);
        (changed.then_some(verdict), told || (verdict == Verdict::Failed && changed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: ProbeKind) -> ProbePlan {
        let question = Question::Tcp { address: Address { host: "10.0.0.1".into(), port: 80 } };
        let secs = Duration::from_secs;
        ProbePlan {
            kind,
            question,
            initial_delay: secs(1),
            timeout: secs(1),
            period: secs(10),
            success_threshold: 1,
            failure_threshold: 2,
            grace_secs: None,
        }
    }

    /// Asks as the shell does, with these answers; gives the time and verdict of every change, in milliseconds.
    fn run(
        kind: ProbeKind,
        until: Duration,
        answer: impl Fn(Duration) -> bool,
    ) -> (Vec<(u128, Verdict)>, usize) {
        let (mut tally, mut age, mut changes, mut questions) =
            (Tally::new(plan(kind)), Duration::ZERO, Vec::new(), 0);
        loop {
            age = tally.next_at(age);
            if age > until {
                return (changes, questions);
            }
            questions += 1;
            if let (Some(verdict), _) = tally.record(age, answer(age)) {
                changes.push((age.as_millis(), verdict));
            }
        }
    }

    #[test]
    fn readiness_is_seen_at_once_and_lost_after_the_threshold() {
        let up = |age: Duration| age >= Duration::from_millis(1250) && age < Duration::from_secs(20);
        let (changes, _) = run(ProbeKind::Readiness, Duration::from_secs(40), up);
        assert_eq!(changes[0], (1300, Verdict::Passed), "not only after a period");
        assert_eq!(changes[1].1, Verdict::Failed);
        assert!(changes[1].0 >= 30_000, "two periods: {changes:?}");
    }

    #[test]
    fn eager_questions_do_not_fail_a_startup_probe_earlier() {
        let (changes, questions) = run(ProbeKind::Startup, Duration::from_secs(12), |_| false);
        assert_eq!(changes, [(11_000, Verdict::Failed)]);
        assert!(questions > 50, "{questions}");
    }

    #[test]
    fn some_successes_in_a_row_are_asked_for() {
        let mut tally = Tally::new(ProbePlan { success_threshold: 3, ..plan(ProbeKind::Readiness) });
        let mut age = Duration::ZERO;
        let mut answer = |passed| {
            age = tally.next_at(age);
            tally.record(age, passed).0
        };
        let verdicts = [true, true, false, true, true, true, true].map(&mut answer);
        assert_eq!(verdicts, [None, None, None, None, None, Some(Verdict::Passed), None]);
    }

    #[test]
    fn liveness_is_asked_once_a_period() {
        let (changes, questions) = run(ProbeKind::Liveness, Duration::from_secs(21), |_| true);
        assert_eq!((changes, questions), (vec![(1000, Verdict::Passed)], 3));
    }

    #[test]
    fn ports_have_numbers_or_names() {
        let container: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}),
        )
        .unwrap();
        let ask = |port: serde_json::Value| {
            let probe: Probe =
                serde_json::from_value(serde_json::json!({"tcpSocket": {"port": port}})).unwrap();
            ProbePlan::new(ProbeKind::Liveness, &probe, &container, [10, 0, 0, 1].into())
                .map(|plan| plan.question)
        };
        let tcp = |port: u16| Ok(Question::Tcp { address: Address { host: "10.0.0.1".into(), port } });
        assert_eq!(ask("web".into()), tcp(8080));
        assert_eq!(ask(81.into()), tcp(81));
        assert_eq!(ask("x".into()), Err(ProbeError::Port("x".into())));
        assert_eq!(ask(0.into()), Err(ProbeError::Port("0".into())));
    }

    #[test]
    fn answers_of_http_servers() {
        struct Case {
            name: &'static str,
            status: u16,
            location: Option<&'static str>,
            want: Result<Option<(&'static str, u16)>, &'static str>,
        }
        let case = |name, status, location, want| Case { name, status, location, want };
        let cases = [
            case("all is well", 200, None, Ok(None)),
            case("not modified", 304, None, Ok(None)),
            case("unwell", 503, None, Err("HTTP probe failed with statuscode: 503")),
            case("not found", 404, Some("/x"), Err("HTTP probe failed with statuscode: 404")),
            case("elsewhere on this server", 302, Some("/login?a=b"), Ok(Some(("/login?a=b", 8080)))),
            case("beside it", 302, Some("login"), Ok(Some(("/app/login", 8080)))),
            case("another port of this host", 301, Some("http://10.0.0.1:81/z"), Ok(Some(("/z", 81)))),
            case("another host has nothing to do with this pod", 302, Some("http://example.com/"), Ok(None)),
        ];
        let address = Address { host: "10.0.0.1".into(), port: 8080 };
        let asked = HttpQuestion {
            tls: false,
            address,
            host: "h".into(),
            path: "/app/x".into(),
            headers: Vec::new(),
        };
        for case in cases {
            let got = match asked.judge(case.status, case.location) {
                Reply::Passed => Ok(None),
                Reply::Follow(next) => Ok(Some((next.path, next.address.port))),
                Reply::Failed(message) => Err(message),
            };
            let want = case.want.map(|next| next.map(|(path, port)| (path.to_owned(), port)));
            assert_eq!(got, want.map_err(str::to_owned), "{}", case.name);
        }
    }
}
