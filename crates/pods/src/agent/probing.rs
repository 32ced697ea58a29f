//! Asking probes: the shell around [`crate::probe`]. Connections start in the node's namespace, where this process is.

mod grpc;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::worker::Event;
use crate::probe::{Address, HttpQuestion, ProbeKind, ProbePlan, Question, Reply, Tally, Verdict};
use crate::protocol::{ExecPlan, How};
use crate::sandbox::ExecSession;

/// Redirects that one question follows.
const REDIRECTS_MAX: usize = 10;

/// The probes of one attempt of a container.
#[derive(Clone, Debug)]
pub(super) struct Probing {
    pub container: String,
    pub attempt: u32,
    pub socket: PathBuf,
    pub plans: Vec<ProbePlan>,
    /// Since when it runs.
    pub started: Instant,
}

impl Probing {
    /// Asks until the task is aborted; what changes is sent to the worker.
    pub(super) async fn run(self, events: mpsc::Sender<Event>) {
        let find = |kind| self.plans.iter().find(|plan| plan.kind == kind).cloned();
        if let Some(plan) = find(ProbeKind::Startup) {
            self.ask_on(plan, &events).await;
        }
        let rest = [find(ProbeKind::Liveness), find(ProbeKind::Readiness)];
        let [liveness, readiness] = rest.map(|plan| async {
            if let Some(plan) = plan {
                self.ask_on(plan, &events).await;
            }
        });
        join(liveness, readiness).await;
    }

    /// A startup probe ends when it passed; the others never.
    async fn ask_on(&self, plan: ProbePlan, events: &mpsc::Sender<Event>) {
        let kind = plan.kind;
        let mut tally = Tally::new(plan);
        let mut age = self.started.elapsed();
        loop {
            age = tally.next_at(age);
            tokio::time::sleep_until(self.started + age).await;
            let timeout = tally.plan().timeout;
            let answer = tokio::time::timeout(timeout, ask(&tally.plan().question, self)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs())));
            let (verdict, counted_failure) = tally.record(age, answer.is_ok());
            let message = answer.err();
            if counted_failure {
                let message =
                    format!("{} probe failed: {}", kind.title(), message.as_deref().unwrap_or_default());
                let event =
                    Event::ProbeFailed { container: self.container.clone(), attempt: self.attempt, message };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            if let Some(verdict) = verdict {
                let event = Event::Probe {
                    container: self.container.clone(),
                    attempt: self.attempt,
                    kind,
                    verdict,
                    grace_secs: tally.plan().grace_secs,
                };
                if events.send(event).await.is_err()
                    || (kind == ProbeKind::Startup && verdict == Verdict::Passed)
                {
                    return;
                }
            }
            age = age.max(self.started.elapsed().saturating_sub(Duration::from_millis(1)));
        }
    }
}

async fn ask(question: &Question, probing: &Probing) -> Result<(), String> {
    match question {
        Question::Tcp { address } => connect(address).await.map(drop),
        Question::Http(question) => {
            let mut question = question.clone();
            for _ in 0..=REDIRECTS_MAX {
                match ask_http(&question).await? {
                    Reply::Passed => return Ok(()),
                    Reply::Failed(message) => return Err(message),
                    Reply::Follow(next) => question = next,
                }
            }
            Err(format!("stopped after {REDIRECTS_MAX} redirects"))
        }
        Question::Grpc { address, service } => grpc::check(connect(address).await?, address, service).await,
        Question::Exec { command } => run(&probing.socket, &probing.container, command).await,
    }
}

/// Runs a command in a container; an exit code other than 0 is an error.
pub(super) async fn run(socket: &Path, container: &str, command: &[String]) -> Result<(), String> {
    let plan = ExecPlan {
        container: container.to_owned(),
        argv: command.to_vec(),
        tty: false,
        stdin: false,
        stdout: false,
        stderr: false,
    };
    let mut session = ExecSession::start(socket, plan, &[]).await.map_err(|error| error.to_string())?;
    match session.wait().await {
        How::Code(0) => Ok(()),
        How::Code(code) => Err(format!("command {command:?} exited with code {code}")),
        How::Signal(signal) => Err(format!("command {command:?} was ended by signal {signal}")),
        How::NotStarted { message } => Err(message),
    }
}

async fn connect(address: &Address) -> Result<TcpStream, String> {
    TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|error| format!("dial tcp {address}: connect: {}", plain(&error)))
}

/// The system's words without its number.
fn plain(error: &std::io::Error) -> String {
    let errno = error.raw_os_error().map(nix::errno::Errno::from_raw);
    errno.map_or_else(|| error.to_string(), |errno| errno.desc().to_lowercase())
}

/// One GET and what its answer means.
pub(super) async fn ask_http(question: &HttpQuestion) -> Result<Reply, String> {
    let stream =
        connect(&question.address).await.map_err(|error| format!("Get {:?}: {error}", url(question)))?;
    match question.tls {
        true => get(tls::encrypt(stream, &question.address).await?, question).await,
        false => get(stream, question).await,
    }
}

fn url(question: &HttpQuestion) -> String {
    let scheme = if question.tls { "https" } else { "http" };
    format!("{scheme}://{}{}", question.address, question.path)
}

async fn get<S>(stream: S, question: &HttpQuestion) -> Result<Reply, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn std::fmt::Display| format!("Get {:?}: {error}", url(question));
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let mut request =
        Request::get(&question.path).header("host", &question.host).header("connection", "close");
    for (name, value) in [("user-agent", "kube-probe/1.36"), ("accept", "*/*")] {
        if !question.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            request = request.header(name, value);
        }
    }
    // A header that the probe gives empty is one that it does not want.
    for (name, value) in question.headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(name, value);
    }
    let answer = async {
        let request = request.body(Full::<Bytes>::default()).map_err(|error| failed(&error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let location =
            response.headers().get(http::header::LOCATION).and_then(|location| location.to_str().ok());
        Ok(question.judge(response.status().as_u16(), location))
    };
    let answer = answer.await;
    connection.abort();
    answer
}
