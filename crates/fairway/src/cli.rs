//! What can be typed.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;

use crate::{cluster, image, kubectl, roles, scenarios, why};

#[derive(Debug, Parser)]
#[command(
    name = "fairway",
    version,
    about = "The service-networking layer of Kubernetes in one binary",
    max_term_width = 100
)]
#[command(after_help = "Exit codes: 0 fine, 1 findings or failed assertions, 2 usage, 3 could not run.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a local cluster; Ctrl-C stops it and removes everything but its state
    #[command(after_help = "Example: fairway up --nodes 3 --detach")]
    Up(UpArgs),
    /// Stop a local cluster and remove what is left of it
    #[command(after_help = "Example: fairway down --purge")]
    Down(DownArgs),
    /// Show a local cluster: processes, nodes, system pods, addresses
    #[command(after_help = "Example: fairway status -o json")]
    Status(StatusArgs),
    /// Network tests as code: start a cluster, apply, assert, report (docs/test.md)
    #[command(after_help = "Example: fairway test scenarios/basics")]
    Test(TestArgs),
    /// Explain one request hop by hop: DNS, Service, endpoints, Ingress rule, node
    #[command(after_help = "Example: fairway why pod/shop/web-0 http://cart/items")]
    Why(WhyArgs),
    /// Images that pods can use besides the built-in ones
    #[command(subcommand)]
    Image(ImageCommand),
    /// kubectl with the cluster's kubeconfig
    #[command(after_help = "Example: fairway kubectl get pods -A")]
    #[command(disable_help_flag = true)]
    Kubectl(KubectlArgs),
    /// The built-in image's tools: echo servers, a client, DNS lookups
    #[command(after_help = "Example: fairway toolbox request http://10.200.0.128/")]
    #[command(disable_help_flag = true)]
    Toolbox {
        /// What toolbox is to do
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Role: the API server of a local cluster
    #[command(name = "apiserver")]
    ApiServer(RoleArgs),
    /// Role: the controllers
    Controller(RoleArgs),
    /// Role: the agent of one node (Services, and in a local cluster its pods)
    Node(NodeArgs),
    /// Role: cluster DNS
    Dns(DnsArgs),
    /// Role: the gateway that serves Ingress
    Gateway(GatewayArgs),
    /// The first process of a local pod
    #[command(hide = true)]
    Pod {
        /// What the node agent passes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Which local cluster, and where it keeps its files.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which cluster")]
pub(crate) struct ClusterArgs {
    /// The cluster's name
    #[arg(long, default_value = "fairway", env = "FAIRWAY_NAME", hide_env_values = true)]
    pub name: String,
    /// Where clusters keep their state
    #[arg(
        long,
        default_value = "/var/lib/fairway",
        env = "FAIRWAY_STATE",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub state: PathBuf,
    /// Where clusters keep sockets and logs while they run
    #[arg(
        long,
        default_value = "/run/fairway",
        env = "FAIRWAY_RUN",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub run: PathBuf,
}

/// `fairway up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Number of nodes [default: 2]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=i64::from(fairway_local::NODES_MAX)))]
    pub nodes: Option<u8>,
    /// Return when the cluster is ready and leave it running
    #[arg(long)]
    pub detach: bool,
    /// Report progress as JSON, one event a line: what --detach starts
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub progress_json: bool,
    /// Range of node addresses [default: 10.200.0.0/24]
    #[arg(long, value_name = "CIDR")]
    pub underlay: Option<Ipv4Net>,
    /// Range of load-balancer addresses, within the underlay [default: 10.200.0.128/25]
    #[arg(long, value_name = "CIDR")]
    pub load_balancers: Option<Ipv4Net>,
    /// Range of pod addresses [default: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub pods: Option<Ipv4Net>,
    /// Range of Service addresses [default: 10.96.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub services: Option<Ipv4Net>,
    /// Port of the API server [default: 6443]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Domain of cluster DNS [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `fairway down`.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Also forget its objects, certificates and images
    #[arg(long)]
    pub purge: bool,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
    Yaml,
}

/// `fairway status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `fairway test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Scenario files, or folders of them
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Use this running cluster instead of starting one
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The kubectl that steps run
    #[arg(long, default_value = "kubectl", value_name = "PATH")]
    pub kubectl: PathBuf,
    /// Where clusters keep their state
    #[arg(
        long,
        default_value = "/var/lib/fairway",
        env = "FAIRWAY_STATE",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub state: PathBuf,
    /// Where clusters keep sockets and logs while they run
    #[arg(
        long,
        default_value = "/run/fairway",
        env = "FAIRWAY_RUN",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub run: PathBuf,
    /// How to print: a line a scenario, or one document at the end
    #[arg(short, long, value_enum, default_value_t = TestOutput::Text)]
    pub output: TestOutput,
    /// Also write JUnit XML here
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Also write JSON here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Keep what failed scenarios made, and the cluster, for a look
    #[arg(long)]
    pub keep: bool,
    /// Stop at the first failure
    #[arg(long)]
    pub fail_fast: bool,
}

/// How `fairway test` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TestOutput {
    Text,
    Json,
}

/// `fairway why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Who asks: pod/NAME, pod/NAMESPACE/NAME, node/NAME, outside
    pub from: String,
    /// For what: a URL, NAME:PORT, ADDRESS:PORT
    pub to: String,
    /// Namespace of pods that are named without one
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `fairway image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load an OCI or Docker archive (a file that `docker save` or `skopeo copy` writes)
    #[command(after_help = "Example: fairway image load echo.tar")]
    Load {
        /// The archive
        file: PathBuf,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// List loaded images
    List {
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

/// `fairway kubectl`.
#[derive(Debug, Args)]
pub(crate) struct KubectlArgs {
    /// What kubectl is to do
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// A role of a local cluster.
#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// The cluster's settings (`cluster.json`)
    #[arg(long, value_name = "FILE")]
    pub settings: PathBuf,
}

/// `fairway node`.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The cluster's settings (`cluster.json`)
    #[arg(long, value_name = "FILE")]
    pub settings: PathBuf,
    /// The node's name
    #[arg(long)]
    pub name: String,
}

/// `fairway dns`.
#[derive(Debug, Args)]
pub(crate) struct DnsArgs {
    /// Credentials; without it the pod's service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The cluster domain
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Where queries come in
    #[arg(long, default_value = "0.0.0.0:53", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Servers for other names [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS")]
    pub upstream: Vec<IpAddr>,
    /// Address of the DNS Service, for the records at the top of the zone
    #[arg(long, value_name = "ADDRESS")]
    pub service_address: Option<IpAddr>,
    /// Reverse names in these ranges are answered here
    #[arg(long, value_name = "CIDR")]
    pub reverse: Vec<ipnet::IpNet>,
    /// Threads that answer
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Where health and metrics are served
    #[arg(long, default_values = ["0.0.0.0:9153", "0.0.0.0:8080", "0.0.0.0:8181"], value_name = "ADDRESS")]
    pub admin: Vec<SocketAddr>,
    /// Seconds of answering after SIGTERM
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub lame_duck: f64,
}

/// `fairway gateway`.
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// Credentials; without it the pod's service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where plain HTTP comes in
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub http: SocketAddr,
    /// Where TLS comes in
    #[arg(long, default_value = "0.0.0.0:8443", value_name = "ADDRESS")]
    pub https: SocketAddr,
    /// Where health and metrics are served
    #[arg(long, default_value = "0.0.0.0:10254", value_name = "ADDRESS")]
    pub admin: SocketAddr,
    /// Threads that serve [default: one a core]
    #[arg(long)]
    pub workers: Option<std::num::NonZeroUsize>,
    /// Seconds of accepting after SIGTERM
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub lame_duck: f64,
    /// Seconds that requests under way may then take
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub drain: f64,
    /// Log every request on standard output
    #[arg(long)]
    pub access_log: bool,
}

/// Does what was typed.
pub(crate) fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Up(arguments) => cluster::up(&arguments),
        Command::Down(arguments) => cluster::down(&arguments),
        Command::Status(arguments) => cluster::status(&arguments),
        Command::Test(arguments) => scenarios::run(arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::Image(command) => image::run(&command),
        Command::Kubectl(arguments) => kubectl::run(arguments),
        Command::Toolbox { arguments } => {
            fairway_toolbox::main(std::iter::once(OsString::from("toolbox")).chain(arguments))
        }
        Command::ApiServer(arguments) => roles::api_server(&arguments),
        Command::Controller(arguments) => roles::controller(&arguments),
        Command::Node(arguments) => roles::node(&arguments),
        Command::Dns(arguments) => roles::dns(arguments),
        Command::Gateway(arguments) => roles::gateway(arguments),
        Command::Pod { arguments } => fairway_pods::pod_main(arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_explains_itself() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
        }
    }
}
