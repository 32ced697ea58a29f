//! The toolbox against itself: a real server process, real sockets, and the probing client on the other end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic")]

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fairway_toolbox::probe::{
    Asked, FailureClass, HttpTarget, HttpVersion, Outcome, Pace, Phase, Plan, RawTarget, Result as Answered,
    Target, TlsTrust, run,
};
use tokio_util::sync::CancellationToken;

const HTTP: u16 = 21_080;
const HTTP2: u16 = 21_081;
const TLS: u16 = 21_443;
const TCP: u16 = 21_900;
const UDP: u16 = 21_901;
/// Nobody listens here.
const NOBODY: u16 = 21_999;

/// A loopback address of this process alone: tests run side by side, each in a process of its own.
fn loopback() -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let third = u8::try_from(std::process::id() >> 16 & 0x3f).unwrap();
    IpAddr::from([127, 64 + third, high, low.max(1)])
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(loopback(), port)
}

/// A server process that ends with the test.
struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(more: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_toolbox"))
            .args(["serve", "--address", &loopback().to_string()])
            .args(["--http", &HTTP.to_string(), "--h2c", &HTTP2.to_string(), "--tls", &TLS.to_string()])
            .args(["--tcp", &TCP.to_string(), "--udp", &UDP.to_string()])
            .args(more)
            .env("POD_NAME", "web-0")
            .env("POD_NAMESPACE", "shop")
            .spawn()
            .unwrap();
        let server = Self { child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while once(server.url("/")).await.failure().is_some() {
            assert!(Instant::now() < deadline, "the server does not answer");
            tokio::task::yield_now().await;
        }
        server
    }

    fn url(&self, path: &str) -> HttpTarget {
        HttpTarget { url: format!("http://{}{path}", at(HTTP)), ..HttpTarget::default() }
    }

    fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

async fn outcomes(plan: Plan) -> Vec<Outcome> {
    let mut receiver = run(plan, CancellationToken::new());
    let mut outcomes = Vec::new();
    while let Some(outcome) = receiver.recv().await {
        outcomes.push(outcome);
    }
    outcomes
}

async fn plan_once(target: Target) -> Outcome {
    outcomes(Plan::once(target)).await.pop().unwrap()
}

async fn once(target: HttpTarget) -> Outcome {
    plan_once(Target::Http(target)).await
}

fn http(outcome: &Outcome) -> &fairway_toolbox::probe::HttpAnswer {
    match &outcome.result {
        Answered::Http(answer) => answer,
        other => panic!("not an HTTP answer: {other:?}"),
    }
}

#[tokio::test]
async fn an_answer_says_who_gave_it_and_what_was_asked() {
    let server = Server::start(&[]).await;
    let outcome =
        once(HttpTarget { method: "POST".into(), body: Some("hello".into()), ..server.url("/cart?id=7") })
            .await;
    let fields = outcome.fields().unwrap();
    assert_eq!(outcome.pod().as_deref(), Some("web-0"));
    for (field, want) in [
        ("pod", "web-0"),
        ("namespace", "shop"),
        ("ip", &loopback().to_string()),
        ("protocol", "HTTP/1.1"),
        ("method", "POST"),
        ("path", "/cart"),
        ("query", "id=7"),
        ("body", "hello"),
    ] {
        assert_eq!(fields[field], want, "{field} of {fields}");
    }
    assert_eq!(fields["headers"]["user-agent"], "fairway-toolbox");
    assert_eq!(http(&outcome).header("x-pod"), Some("web-0"));
}

#[tokio::test]
async fn behaviours_are_asked_for_by_path() {
    let server = Server::start(&[]).await;
    assert_eq!(http(&once(server.url("/status/503")).await).status, 503);
    assert_eq!(http(&once(server.url("/status/x")).await).status, 400);
    assert!(once(server.url("/delay/50ms")).await.latency_us >= 50_000);
    let bytes = once(server.url("/bytes/100000")).await;
    assert_eq!(http(&bytes).body_bytes, 100_000);
    let streamed = once(server.url("/stream?chunks=4&every=20ms")).await;
    let answer = http(&streamed);
    assert_eq!(answer.chunks, 4, "{answer:?}");
    assert!(answer.first_chunk_us.unwrap() + 50_000 < streamed.latency_us, "{answer:?}");
    let echoed =
        once(HttpTarget { method: "POST".into(), body: Some("as it is".into()), ..server.url("/echo") })
            .await;
    assert_eq!(http(&echoed).body, "as it is");
    let headers = once(server.url("/headers?x-test=1")).await;
    assert_eq!(http(&headers).header("x-test"), Some("1"));
    let failure = once(server.url("/abort")).await.failure().cloned().unwrap();
    assert_eq!((failure.class, failure.phase), (FailureClass::Reset, Phase::Read), "{failure}");
}

#[tokio::test]
async fn readiness_is_set_from_outside() {
    let server = Server::start(&["--not-ready"]).await;
    assert_eq!(http(&once(server.url("/ready")).await).status, 503);
    once(HttpTarget { method: "POST".into(), ..server.url("/ready?set=true") }).await;
    assert_eq!(http(&once(server.url("/ready")).await).status, 200);
}

#[tokio::test]
async fn the_same_request_in_every_protocol() {
    let server = Server::start(&[]).await;
    let h2c = HttpTarget {
        url: format!("http://{}/", at(HTTP2)),
        version: HttpVersion::Http2,
        ..HttpTarget::default()
    };
    assert_eq!(once(h2c.clone()).await.fields().unwrap()["protocol"], "HTTP/2");
    // The HTTP port takes both.
    let both = HttpTarget { version: HttpVersion::Http2, ..server.url("/") };
    assert_eq!(once(both).await.fields().unwrap()["protocol"], "HTTP/2");

    let grpc = HttpTarget {
        url: format!("grpc://{}", at(HTTP2)),
        asked: Asked::Grpc { message: "hi".into() },
        ..HttpTarget::default()
    };
    let outcome = once(grpc).await;
    assert_eq!(http(&outcome).grpc_status, Some(0), "{outcome:?}");
    assert_eq!(outcome.fields().unwrap()["message"], "hi");
    assert_eq!(outcome.pod().as_deref(), Some("web-0"));

    let socket = HttpTarget {
        asked: Asked::WebSocket { messages: vec!["a".into(), "b".into()] },
        ..server.url("/ws")
    };
    let outcome = once(socket).await;
    assert_eq!(http(&outcome).messages, ["a", "b"], "{outcome:?}");
    assert_eq!(outcome.pod().as_deref(), Some("web-0"));
    assert_eq!(http(&once(server.url("/ws")).await).status, 426);
}

#[tokio::test]
async fn tls_shows_its_certificate_and_the_name_that_was_asked() {
    let _server = Server::start(&[]).await;
    let target = HttpTarget {
        url: format!("https://{}/", at(TLS)),
        tls: TlsTrust { insecure: true, server_name: Some("shop.example".into()), ..TlsTrust::default() },
        ..HttpTarget::default()
    };
    let outcome = once(target.clone()).await;
    let answer = http(&outcome);
    let secured = answer.tls.as_ref().unwrap();
    assert_eq!(secured.alpn.as_deref(), Some("h2"));
    assert_eq!(secured.certificate_names, ["web-0", "localhost"]);
    assert_eq!(outcome.fields().unwrap()["sni"], "shop.example");
    let one = once(HttpTarget { version: HttpVersion::Http1, ..target.clone() }).await;
    assert_eq!(http(&one).version, "HTTP/1.1");
    let distrusted = once(HttpTarget { tls: TlsTrust::default(), ..target }).await;
    assert_eq!(distrusted.failure().map(|failure| failure.class), Some(FailureClass::Tls), "{distrusted:?}");
}

#[tokio::test]
async fn tcp_greets_and_echoes_and_udp_answers() {
    let _server = Server::start(&[]).await;
    let tcp = RawTarget {
        address: at(TCP).to_string(),
        send: Some("ping".into()),
        read_bytes_max: 100,
        expect_greeting: true,
    };
    let outcome = plan_once(Target::Tcp(tcp)).await;
    assert_eq!(outcome.pod().as_deref(), Some("web-0"), "{outcome:?}");
    assert!(matches!(&outcome.result, Answered::Raw(answer) if answer.received == "ping"), "{outcome:?}");
    let udp = RawTarget { address: at(UDP).to_string(), send: Some("ping".into()), ..RawTarget::default() };
    let outcome = plan_once(Target::Udp(udp)).await;
    assert_eq!(outcome.fields().unwrap()["received"], "ping");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let server = Server::start(&[]).await;
    let refused = at(NOBODY).to_string();
    let url = HttpTarget { url: format!("http://{refused}/"), ..HttpTarget::default() };
    let failure = once(url).await.failure().cloned().unwrap();
    assert_eq!((failure.class, failure.phase), (FailureClass::Refused, Phase::Connect), "{failure}");

    let late = Plan { timeout_ms: 50, ..Plan::once(Target::Http(server.url("/delay/5s"))) };
    let failure = outcomes(late).await.pop().unwrap().failure().cloned().unwrap();
    assert_eq!((failure.class, failure.phase), (FailureClass::TimedOut, Phase::Request), "{failure}");

    let udp = RawTarget { address: refused, ..RawTarget::default() };
    let failure = plan_once(Target::Udp(udp)).await.failure().cloned().unwrap();
    assert_eq!(failure.class, FailureClass::Refused, "{failure}");

    // A server that speaks something else.
    let wrong = HttpTarget { url: format!("http://{}/", at(TCP)), ..HttpTarget::default() };
    let failure = once(wrong).await.failure().cloned().unwrap();
    assert_eq!(failure.class, FailureClass::Protocol, "{failure}");
}

#[tokio::test]
async fn an_even_pace_spreads_requests_over_time() {
    let server = Server::start(&[]).await;
    let pace = Pace { count: Some(11), rate_per_second: Some(100), concurrency: 4, ..Pace::default() };
    let begin = Instant::now();
    let found = outcomes(Plan { pace, ..Plan::once(Target::Http(server.url("/"))) }).await;
    assert_eq!(found.len(), 11);
    assert!(begin.elapsed() >= Duration::from_millis(100));
    let mut sequences: Vec<_> = found.iter().map(|outcome| outcome.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (0..11).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_connection_is_used_again_only_when_asked() {
    let server = Server::start(&[]).await;
    for (reuse_connection, want) in [(false, 5), (true, 1)] {
        let target = HttpTarget { reuse_connection, ..server.url("/") };
        let pace = Pace { count: Some(5), ..Pace::default() };
        let found = outcomes(Plan { pace, ..Plan::once(Target::Http(target)) }).await;
        let clients: std::collections::BTreeSet<_> =
            found.iter().map(|outcome| outcome.fields().unwrap()["client"].to_string()).collect();
        assert_eq!(clients.len(), want, "{clients:?}");
    }
}

#[tokio::test]
async fn sigterm_finishes_what_is_under_way() {
    let mut server = Server::start(&["--drain", "100ms"]).await;
    let slow = tokio::spawn(once(server.url("/delay/400ms")));
    // The request is on its way when a second one, sent later, was answered.
    while once(server.url("/")).await.failure().is_some() {}
    server.terminate();
    // Draining: not ready, yet new requests are answered.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let ready = once(server.url("/ready")).await;
        match &ready.result {
            Answered::Http(answer) if answer.status == 503 => break,
            _ => assert!(Instant::now() < deadline, "{ready:?}"),
        }
    }
    assert_eq!(http(&slow.await.unwrap()).status, 200);
    let status = tokio::task::spawn_blocking(move || server.child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn exit_ends_the_process_with_the_code() {
    let mut server = Server::start(&[]).await;
    assert_eq!(http(&once(server.url("/exit?code=7")).await).status, 200);
    let status = tokio::task::spawn_blocking(move || server.child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(7));
}

#[tokio::test]
async fn a_plan_on_standard_input_runs_until_it_is_closed() {
    let server = Server::start(&[]).await;
    let pace = Pace { count: None, rate_per_second: Some(200), ..Pace::default() };
    let plan = Plan { pace, ..Plan::once(Target::Http(server.url("/"))) };
    let mut child = Command::new(env!("CARGO_BIN_EXE_toolbox"))
        .arg("probe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", serde_json::json!(plan)).unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let lines = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        let mut input = Some(input);
        for line in std::io::BufRead::lines(output) {
            lines.push(serde_json::from_str::<Outcome>(&line.unwrap()).unwrap());
            if lines.len() == 5 {
                input = None;
            }
        }
        drop(input);
        lines
    });
    let lines = lines.await.unwrap();
    assert!(lines.len() >= 5 && lines.iter().all(|outcome| outcome.pod().as_deref() == Some("web-0")));
    assert!(child.wait().unwrap().success());
}
