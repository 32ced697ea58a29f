//! `fairway why`: lists what decides, explains, prints.

use std::process::ExitCode;

use fairway_dns::name::Name;
use fairway_dns::zone::{PodRecords, Settings as ZoneSettings};
use fairway_kit::watch::list_once;
use fairway_kit::{ClientSource, connect};
use fairway_local::Settings;
use fairway_model::{Cluster, ServiceKey};
use fairway_why::{Objects, Question, Setting, World, explain};
use kube::Api;

use crate::cli::{Output, WhyArgs};
use crate::cluster::settings_of;
use crate::outcome;

/// Explains one request.
pub(crate) fn run(arguments: &WhyArgs) -> ExitCode {
    let question = match Question::parse(&arguments.from, &arguments.to, &arguments.namespace) {
        Ok(question) => question,
        Err(error) => {
            eprintln!("fairway: {error}");
            return ExitCode::from(outcome::USAGE);
        }
    };
    let world = settings_of(&arguments.cluster).and_then(|settings| read_world(&settings));
    let explanation = match world {
        Ok(world) => explain(&world, &question),
        Err(error) => return outcome::failed(outcome::words(&error)),
    };
    let printed = match arguments.output {
        Output::Text => Ok(explanation.to_string()),
        Output::Json => serde_json::to_string_pretty(&explanation).map_err(|error| error.to_string()),
        Output::Yaml => serde_saphyr::to_string(&explanation).map_err(|error| error.to_string()),
    };
    match printed {
        Ok(text) => println!("{text}"),
        Err(error) => return outcome::failed(error),
    }
    if explanation.reaches { ExitCode::SUCCESS } else { ExitCode::from(outcome::FINDINGS) }
}

fn read_world(settings: &Settings) -> anyhow::Result<World> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let objects = runtime.block_on(list(ClientSource::Kubeconfig(settings.directories.kubeconfig())))?;
    Ok(World::new(&objects, setting(settings)?))
}

async fn list(source: ClientSource) -> anyhow::Result<Objects> {
    let client = connect(&source, "fairway-why").await?;
    let (services, slices, nodes) =
        (Api::all(client.clone()), Api::all(client.clone()), Api::all(client.clone()));
    let (pods, namespaces) = (Api::all(client.clone()), Api::all(client.clone()));
    let (ingresses, classes) = (Api::all(client.clone()), Api::all(client));
    let (services, slices, nodes, pods, namespaces, ingresses, ingress_classes) = tokio::try_join!(
        list_once(&services),
        list_once(&slices),
        list_once(&nodes),
        list_once(&pods),
        list_once(&namespaces),
        list_once(&ingresses),
        list_once(&classes),
    )?;
    Ok(Objects { services, slices, nodes, pods, namespaces, ingresses, ingress_classes })
}

fn setting(settings: &Settings) -> anyhow::Result<Setting> {
    let networks = &settings.networks;
    Ok(Setting {
        cluster: Cluster {
            pod_ranges: vec![networks.pods().into()],
            service_ranges: vec![networks.services().into()],
            node_ranges: vec![networks.underlay().into()],
            domain: settings.domain.as_str().into(),
        },
        zone: ZoneSettings {
            origin: Name::from_text(&settings.domain)?,
            ttl_s: 5,
            negative_ttl_s: 5,
            pods: PodRecords::Insecure,
            reverse_ranges: vec![networks.services().into(), networks.pods().into()],
            server: Some(settings.dns_address().into()),
        },
        gateway: ServiceKey::new("fairway-system", "fairway-gateway"),
        outside: settings.host_address().into(),
    })
}
