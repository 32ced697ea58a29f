//! The command line: `toolbox serve`, `request`, `connect`, `resolve`, `sleep`, `hold`, and the hidden `probe`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_util::sync::CancellationToken;

use crate::duration;
use crate::probe::{
    self, Asked, HttpTarget, HttpVersion, Outcome, Pace, Plan, RawTarget, ResolveTarget, ResolverFiles,
    Result as Answered, Target, TlsTrust,
};
use crate::serve::{Settings, serve};

/// The longest plan on standard input.
const PLAN_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Parser)]
#[command(name = "toolbox", version, about = "Echo servers, a client and DNS lookups for network tests", long_about = None)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer and say who answers; without a port: HTTP on 8080
    ///
    /// Example: toolbox serve --http 8080 --tcp 9000 --udp 9001
    Serve(ServeArgs),
    /// Send HTTP requests (also gRPC and WebSocket) and show what came
    ///
    /// Example: toolbox request http://web/ --count 10
    Request(Box<RequestArgs>),
    /// Open a TCP connection or send a datagram
    ///
    /// Example: toolbox connect tcp db:5432
    Connect(ConnectArgs),
    /// Look up a name as the C library would
    ///
    /// Example: toolbox resolve web SRV
    Resolve(ResolveArgs),
    /// Do nothing for a while: `sleep 5s`
    Sleep {
        /// How long
        #[arg(value_parser = duration::parse)]
        time: Duration,
    },
    /// Do nothing until SIGTERM
    Hold,
    /// One plan in JSON on standard input, outcomes in JSON on standard output
    #[command(hide = true)]
    Probe,
}

#[derive(Debug, Default, Args)]
struct ServeArgs {
    /// HTTP/1.1 and HTTP/2, WebSocket on /ws, gRPC by content type
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "8080")]
    http: Vec<u16>,
    /// The same as --http, for manifests that say what they mean
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "8080")]
    ws: Vec<u16>,
    /// HTTP/2 with prior knowledge only
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "8081")]
    h2c: Vec<u16>,
    /// gRPC: echo and health check (HTTP/2 with prior knowledge only)
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "50051")]
    grpc: Vec<u16>,
    /// HTTP inside TLS
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "8443")]
    tls: Vec<u16>,
    /// TCP echo after a line that says who answers
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "9000")]
    tcp: Vec<u16>,
    /// UDP: one answer to every datagram
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "9001")]
    udp: Vec<u16>,
    /// Listen on this address only
    #[arg(long)]
    address: Option<std::net::IpAddr>,
    /// Certificate chain in PEM (default: self-signed)
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// Its key in PEM
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// After SIGTERM answer "not ready" but go on accepting for so long
    #[arg(long, default_value = "0s", value_parser = duration::parse)]
    drain: Option<Duration>,
    /// Then finish requests for at most so long
    #[arg(long, default_value = "25s", value_parser = duration::parse)]
    grace: Option<Duration>,
    /// Start with /ready answering 503 (POST /ready?set=true changes it)
    #[arg(long)]
    not_ready: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// How many
    #[arg(long, short = 'n', default_value_t = 1)]
    count: u64,
    /// How many at the same time
    #[arg(long, short = 'c', default_value_t = 1)]
    concurrency: u32,
    /// How many a second
    #[arg(long)]
    rate: Option<u32>,
    /// How long one may take
    #[arg(long, default_value = "5s", value_parser = duration::parse)]
    timeout: Duration,
    /// Resolve names by this file
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// How to show what came
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
struct RequestArgs {
    /// http://, https://, ws://, wss://, grpc:// or grpcs://
    url: String,
    /// Speak HTTP/1.1
    #[arg(long, conflicts_with = "http2")]
    http1: bool,
    /// Speak HTTP/2 (in clear text: with prior knowledge)
    #[arg(long)]
    http2: bool,
    /// The method
    #[arg(long, short = 'X', default_value = "")]
    method: String,
    /// "name: value"
    #[arg(long, short = 'H')]
    header: Vec<String>,
    /// The request's body (gRPC: the message; WebSocket: a message)
    #[arg(long, short = 'd')]
    data: Option<String>,
    /// Connect to this address (with or without port) whatever the URL says
    #[arg(long)]
    resolve: Option<String>,
    /// Trust the certificates in this PEM file
    #[arg(long)]
    cacert: Option<PathBuf>,
    /// Trust anybody
    #[arg(long, short = 'k')]
    insecure: bool,
    /// Ask for (and verify) this name in TLS
    #[arg(long)]
    sni: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ConnectArgs {
    /// tcp or udp
    #[arg(value_enum)]
    protocol: Protocol,
    /// host:port
    address: String,
    /// Send this text
    #[arg(long, short = 'd')]
    data: Option<String>,
    /// TCP: read the first line that the peer says
    #[arg(long)]
    greeting: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, Args)]
struct ResolveArgs {
    /// The name; search domains apply unless it ends with a dot
    name: String,
    /// A, AAAA, SRV, CNAME, PTR, TXT, …
    #[arg(default_value = "A")]
    record_type: String,
    /// Ask this server
    #[arg(long)]
    server: Option<std::net::IpAddr>,
    #[command(flatten)]
    common: Common,
}

/// Runs the toolbox with these arguments (the first is the program's name). 0: fine; 1: something did not answer; 2: usage; 3: could
/// not run.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nowhere to say it when even the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(run(cli))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("toolbox: {error}");
            ExitCode::from(3)
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, String> {
    match cli.command.unwrap_or_else(|| Command::Serve(ServeArgs::default())) {
        Command::Serve(args) => serve(args.settings()).await.map_err(|error| error.to_string()),
        Command::Request(args) => {
            let common = args.common.pace();
            let output = args.common.output;
            Ok(show(common.plan(Target::Http(args.target()?)), output).await)
        }
        Command::Connect(args) => {
            let target = RawTarget {
                address: args.address,
                send: args.data,
                read_bytes_max: 1 << 16,
                expect_greeting: args.greeting,
            };
            let target = match args.protocol {
                // Without anything to say the peer would wait for us, and we for it.
                Protocol::Tcp if target.send.is_none() => {
                    Target::Tcp(RawTarget { read_bytes_max: 0, ..target })
                }
                Protocol::Tcp => Target::Tcp(target),
                Protocol::Udp => Target::Udp(target),
            };
            Ok(show(args.common.pace().plan(target), args.common.output).await)
        }
        Command::Resolve(args) => {
            let target =
                ResolveTarget { name: args.name, record_type: args.record_type, server: args.server };
            Ok(show(args.common.pace().plan(Target::Resolve(target)), args.common.output).await)
        }
        Command::Sleep { time } => {
            tokio::time::sleep(time).await;
            Ok(ExitCode::SUCCESS)
        }
        Command::Hold => {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            Ok(ExitCode::SUCCESS)
        }
        Command::Probe => probe_stdin().await,
    }
}

impl ServeArgs {
    fn settings(self) -> Settings {
        let mut settings = Settings {
            http: [self.http, self.ws].concat(),
            http2: [self.h2c, self.grpc].concat(),
            tls: self.tls,
            tcp: self.tcp,
            udp: self.udp,
            address: self.address,
            certificate: self.cert.zip(self.key),
            drain: self.drain.unwrap_or_default(),
            grace: self.grace.unwrap_or(Duration::from_secs(25)),
            ready: !self.not_ready,
        };
        let ports = [&settings.http, &settings.http2, &settings.tls, &settings.tcp, &settings.udp];
        if ports.iter().all(|ports| ports.is_empty()) {
            settings.http.push(8080);
        }
        settings
    }
}

/// Pace, time limit and files of the clients.
struct Paced {
    pace: Pace,
    timeout_ms: u64,
    resolver: ResolverFiles,
}

impl Common {
    fn pace(&self) -> Paced {
        Paced {
            pace: Pace {
                count: Some(self.count),
                duration_ms: None,
                concurrency: self.concurrency,
                rate_per_second: self.rate,
            },
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            resolver: ResolverFiles { resolv_conf: self.resolv_conf.clone(), ..ResolverFiles::default() },
        }
    }
}

impl Paced {
    fn plan(self, target: Target) -> Plan {
        Plan { target, pace: self.pace, timeout_ms: self.timeout_ms, resolver: self.resolver }
    }
}

impl RequestArgs {
    fn target(self) -> Result<HttpTarget, String> {
        let asked = match self.url.split("://").next() {
            Some("grpc" | "grpcs") => Asked::Grpc { message: self.data.clone().unwrap_or_default() },
            Some("ws" | "wss") => Asked::WebSocket { messages: self.data.clone().into_iter().collect() },
            _ => Asked::Plain,
        };
        let authorities_pem = match &self.cacert {
            Some(path) => {
                Some(std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?)
            }
            None => None,
        };
        let header = |line: &String| {
            let parts =
                line.split_once(':').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
            parts.ok_or_else(|| format!("\"{line}\" is not \"name: value\""))
        };
        Ok(HttpTarget {
            version: match (self.http1, self.http2) {
                (true, _) => HttpVersion::Http1,
                (false, true) => HttpVersion::Http2,
                (false, false) => HttpVersion::Auto,
            },
            method: self.method,
            headers: self.header.iter().map(header).collect::<Result<_, _>>()?,
            body: if asked == Asked::Plain { self.data } else { None },
            connect_to: self.resolve,
            tls: TlsTrust { authorities_pem, insecure: self.insecure, server_name: self.sni },
            url: self.url,
            asked,
            reuse_connection: false,
        })
    }
}

/// Does a plan and shows what comes; 1 when anything failed.
async fn show(plan: Plan, output: Output) -> ExitCode {
    let mut outcomes = probe::run(plan, CancellationToken::new());
    let mut code = ExitCode::SUCCESS;
    while let Some(outcome) = outcomes.recv().await {
        match output {
            Output::Json => println!("{}", serde_json::json!(outcome)),
            Output::Text => println!("{}", describe(&outcome)),
        }
        if outcome.failure().is_some() {
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// One outcome for people.
fn describe(outcome: &Outcome) -> String {
    let took = duration::render(Duration::from_micros(outcome.latency_us));
    let address = outcome.address.map(|address| format!(" from {address}")).unwrap_or_default();
    match &outcome.result {
        Answered::Http(answer) => {
            let messages: String = answer.messages.iter().map(|message| format!("\n{message}")).collect();
            let body = answer.body.trim_end();
            format!("{} {}{address} in {took}\n{body}{messages}", answer.version, answer.status)
        }
        Answered::Raw(answer) => {
            format!("connected{address} in {took}\n{}{}", answer.greeting, answer.received)
                .trim_end()
                .to_owned()
        }
        Answered::Dns(answer) => {
            let asked = format!(";; asked {} in {took}", answer.asked.join(", "));
            let records = answer.records.iter().map(|record| {
                format!("\n{}. {} IN {} {}", record.name, record.ttl_seconds, record.record_type, record.data)
            });
            records.fold(asked, |text, record| text + &record)
        }
        Answered::Failed(failure) => format!("failed{address} in {took}: {failure}"),
    }
}

/// The contract with callers in another namespace: the first line is the plan; the end of standard input ends an open-ended plan.
async fn probe_stdin() -> Result<ExitCode, String> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    (&mut input)
        .take(PLAN_BYTES_MAX)
        .read_line(&mut line)
        .await
        .map_err(|error| format!("standard input: {error}"))?;
    let plan: Plan = serde_json::from_str(&line).map_err(|error| format!("the plan: {error}"))?;
    let stop = CancellationToken::new();
    if plan.pace.count.is_none() {
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut rest = [0; 64];
            while matches!(input.read(&mut rest).await, Ok(length) if length > 0) {}
            stop.cancel();
        });
    }
    let mut outcomes = probe::run(plan, stop);
    let mut output = tokio::io::stdout();
    while let Some(outcome) = outcomes.recv().await {
        let line = format!("{}\n", serde_json::json!(outcome));
        let written = output.write_all(line.as_bytes()).await;
        if written.is_err() || output.flush().await.is_err() {
            // Whoever asked is gone.
            break;
        }
    }
    // Not by return: the runtime would wait for the read of standard input.
    std::process::exit(0)
}
