//! Settings and flags → each role's configuration.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use fairway_dns::name::Name;
use fairway_dns::search::ResolvConf;
use fairway_dns::zone::{PodRecords, Settings as ZoneSettings};
use fairway_kit::watch::ObjectKey;
use fairway_kit::{ClientSource, Shutdown, logging, shutdown};
use fairway_local::Settings;
use fairway_local::pki::Pki;

use crate::cli::{DnsArgs, GatewayArgs, NodeArgs, RoleArgs};
use crate::outcome;

/// The Service through which Ingresses are reached.
const GATEWAY: (&str, &str) = ("fairway-system", "fairway-gateway");
/// The node's end of its link to the bridge.
const NODE_LINK: &str = "eth0";
/// kube-proxy's port for health and metrics.
const NODE_ADMIN_PORT: u16 = 10_256;
/// Threads of the API server's runtime; its writer has its own.
const API_SERVER_THREADS: usize = 2;
/// Cluster records live this long in caches: what CoreDNS gives them.
const TTL_S: u32 = 5;

/// Runs a role on a runtime of one thread until a signal. Roles that serve traffic start their own threads.
fn run<F, Fut>(role: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    run_on(&mut tokio::runtime::Builder::new_current_thread(), role)
}

fn run_on<F, Fut>(runtime: &mut tokio::runtime::Builder, role: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    logging::init("info");
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return outcome::failed(error),
    };
    let result = runtime.block_on(async { role(shutdown::on_signals()?).await });
    outcome::of(result.map_err(|error| outcome::words(&error)))
}

fn load(path: &Path) -> anyhow::Result<(Settings, Pki)> {
    let settings = Settings::load(path)?;
    let files = Pki::of(&settings);
    Ok((settings, files))
}

/// `fairway apiserver`. TLS and JSON of many connections need more than one core.
pub(crate) fn api_server(arguments: &RoleArgs) -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(API_SERVER_THREADS);
    run_on(&mut runtime, async |shutdown| {
        let (settings, files) = load(&arguments.settings)?;
        let pair = files.apiserver();
        let config = fairway_apiserver::Config {
            state_dir: settings.directories.state.join("store"),
            run_dir: settings.directories.run.clone(),
            listen: vec![settings.api_address()],
            advertise: settings.api_address(),
            service_range: settings.networks.services(),
            node_port_range: 30_000..=32_767,
            tls: fairway_apiserver::TlsFiles {
                certificate: pair.certificate,
                key: pair.key,
                client_authority: files.ca().certificate,
            },
            service_account_key: files.service_account_key(),
            definitions: fairway_apiserver::gateway_api::definitions(
                fairway_apiserver::gateway_api::Channel::Standard,
            ),
        };
        Ok(fairway_apiserver::run(config, shutdown.requested()).await?)
    })
}

/// `fairway controller`.
pub(crate) fn controller(arguments: &RoleArgs) -> ExitCode {
    run(async |shutdown| {
        let (settings, files) = load(&arguments.settings)?;
        let config = fairway_controllers::Config {
            client: ClientSource::Kubeconfig(files.kubeconfig("controller")),
            settings: fairway_controllers::Settings {
                duties: fairway_controllers::Duties::WholeCluster,
                load_balancer_pool: Some(settings.networks.load_balancers()),
                gateway_service: ObjectKey::new(GATEWAY.0, GATEWAY.1),
            },
            readiness: Default::default(),
        };
        Ok(fairway_controllers::run(config, shutdown).await?)
    })
}

/// `fairway dns`.
pub(crate) fn dns(arguments: DnsArgs) -> ExitCode {
    run(async |shutdown| {
        let origin = Name::from_text(&arguments.cluster_domain).context("--cluster-domain")?;
        let upstreams = if arguments.upstream.is_empty() {
            ResolvConf::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()).servers
        } else {
            arguments.upstream
        };
        let config = fairway_dns::Config {
            client: source(arguments.kubeconfig),
            zone: ZoneSettings {
                origin,
                ttl_s: TTL_S,
                negative_ttl_s: TTL_S,
                pods: PodRecords::Insecure,
                reverse_ranges: arguments.reverse,
                server: arguments.service_address,
            },
            listen: arguments.listen,
            upstreams: upstreams.into_iter().map(|server| SocketAddr::new(server, 53)).collect(),
            workers: arguments.workers,
            admin: arguments.admin,
            lame_duck: seconds(arguments.lame_duck),
        };
        Ok(fairway_dns::run(config, shutdown).await?)
    })
}

/// `fairway gateway`.
pub(crate) fn gateway(arguments: GatewayArgs) -> ExitCode {
    run(async |shutdown| {
        let mut config = fairway_gateway::Config::new(source(arguments.kubeconfig));
        config.http = arguments.http;
        config.https = arguments.https;
        config.admin = arguments.admin;
        config.workers = arguments.workers.unwrap_or(config.workers);
        config.lame_duck = seconds(arguments.lame_duck);
        config.drain = seconds(arguments.drain);
        config.access_log = arguments.access_log;
        Ok(fairway_gateway::run(config, shutdown).await?)
    })
}

fn source(kubeconfig: Option<std::path::PathBuf>) -> ClientSource {
    kubeconfig.map_or(ClientSource::InCluster, ClientSource::Kubeconfig)
}

/// A duration from the command line; what is no time is none.
fn seconds(given: f64) -> Duration {
    Duration::try_from_secs_f64(given).unwrap_or_default()
}

/// `fairway node`: the agent of the Services and, beside it, that of the pods.
pub(crate) fn node(arguments: &NodeArgs) -> ExitCode {
    run(async |shutdown| {
        let (settings, files) = load(&arguments.settings)?;
        let node = settings
            .find_node(&arguments.name)
            .with_context(|| format!("the cluster has no node {}", arguments.name))?;
        let client = ClientSource::Kubeconfig(files.kubeconfig(&node.name));
        let networks = &settings.networks;
        let services = fairway_node::Config {
            node_name: node.name.clone(),
            client: client.clone(),
            cluster: fairway_model::Cluster {
                pod_ranges: vec![networks.pods().into()],
                service_ranges: vec![networks.services().into()],
                node_ranges: vec![networks.underlay().into()],
                domain: settings.domain.as_str().into(),
            },
            netns: fairway_netns::Netns::host()?,
            load_balancer: fairway_node::LoadBalancer {
                ranges: vec![networks.load_balancers().into()],
                interface: NODE_LINK.to_owned(),
            },
            admin: Some(SocketAddr::new(node.address.into(), NODE_ADMIN_PORT)),
        };
        let pods = fairway_pods::Config {
            cluster: settings.name.to_string(),
            node_name: node.name.clone(),
            state_dir: settings.directories.state.clone(),
            run_dir: settings.directories.run.clone(),
            client,
            node_ip: node.address.into(),
            pod_range: node.pods,
            cluster_dns: vec![settings.dns_address().into()],
            cluster_domain: settings.domain.clone(),
            executable: std::env::current_exe()?,
            zone: None,
            // The supervisor stops an agent with SIGTERM only to stop the node; a crashed agent's pods run on.
            stop_pods_on_shutdown: true,
        };
        let services =
            async { fairway_node::run(services, shutdown.clone()).await.map_err(anyhow::Error::from) };
        let pods = async { fairway_pods::run(pods, shutdown.clone()).await.map_err(anyhow::Error::from) };
        tokio::try_join!(services, pods)?;
        Ok(())
    })
}
