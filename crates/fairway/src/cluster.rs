//! `fairway up`, `down` and `status`: calls `local` and prints what it says.

use std::process::ExitCode;

use fairway_kit::logging;
use fairway_local::{
    ClusterName, Directories, Error, Event, EventKind, Flags, Reporter, Roots, Settings, State, Status,
    Summary, UpRequest, down as take_down, status as ask_status, up as bring_up, up_detached,
};

use crate::cli::{ClusterArgs, DownArgs, Output, StatusArgs, UpArgs};
use crate::outcome;

fn roots(arguments: &ClusterArgs) -> Roots {
    Roots { state: arguments.state.clone(), run: arguments.run.clone() }
}

/// The saved settings of a cluster that exists.
pub(crate) fn settings_of(arguments: &ClusterArgs) -> anyhow::Result<Settings> {
    let name = ClusterName::parse(&arguments.name)?;
    let file = Directories::new(&roots(arguments), &name).settings_file();
    match Settings::load_if_any(&file)? {
        Some(settings) => Ok(settings),
        None => anyhow::bail!(
            "there is no cluster {name} ({} does not exist): start it first (fairway up --name {name})",
            file.display()
        ),
    }
}

/// Starts a cluster.
pub(crate) fn up(arguments: &UpArgs) -> ExitCode {
    logging::init("warn");
    let request = match request(arguments) {
        Ok(request) => request,
        Err(error) => return outcome::failed(error),
    };
    if arguments.progress_json {
        return supervise(&request);
    }
    let reporter = Reporter::new(|event| print_event(&event));
    let result = if arguments.detach { detach(&request, &reporter) } else { bring_up(&request, &reporter) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_problems(&error);
            ExitCode::from(outcome::FAILED)
        }
    }
}

/// The supervisor of a detached cluster: its standard output is the way back to the command that waits.
fn supervise(request: &UpRequest) -> ExitCode {
    let reporter = Reporter::json_lines();
    match bring_up(request, &reporter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            reporter.failed(&error);
            ExitCode::from(outcome::FAILED)
        }
    }
}

/// Starts this same command again as the supervisor, with the arguments of this call.
fn detach(request: &UpRequest, reporter: &Reporter) -> Result<(), Error> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let arguments: Vec<_> = arguments.chain(["--progress-json".into()]).collect();
    up_detached(&request.executable, &arguments, &Directories::new(&request.roots, &request.name), reporter)
}

fn request(arguments: &UpArgs) -> anyhow::Result<UpRequest> {
    Ok(UpRequest {
        name: ClusterName::parse(&arguments.cluster.name)?,
        roots: roots(&arguments.cluster),
        flags: Flags {
            nodes: arguments.nodes,
            underlay: arguments.underlay,
            load_balancers: arguments.load_balancers,
            pods: arguments.pods,
            services: arguments.services,
            api_port: arguments.api_port,
            domain: arguments.cluster_domain.clone(),
        },
        executable: std::env::current_exe()?,
    })
}

fn print_problems(error: &Error) {
    match error {
        Error::Preflight(problems) => {
            eprintln!("fairway: nothing was started:");
            for problem in problems {
                eprintln!("  - {problem}");
            }
        }
        other => eprintln!("fairway: {other}"),
    }
}

fn print_event(event: &Event) {
    let at = format!("{:>7.2}s", f64::from(u32::try_from(event.at_ms).unwrap_or(u32::MAX)) / 1000.0);
    match &event.kind {
        EventKind::Done { step } => println!("{at}  {step}"),
        EventKind::Cleaned { what } => println!("{at}  removed a leftover: {what}"),
        EventKind::Restarted { role, reason, after_ms } => {
            println!("{at}  {role} {reason}; started again after {after_ms} ms")
        }
        EventKind::Ready(summary) => print_summary(&at, summary),
        EventKind::Warning { text } => println!("{at}  warning: {text}"),
        EventKind::Stopping => println!("{at}  stopping"),
        EventKind::Stopped => println!("{at}  stopped; nothing is left but the state directory"),
        EventKind::Failed { problems } => {
            for problem in problems {
                eprintln!("fairway: {problem}");
            }
        }
    }
}

fn print_summary(at: &str, summary: &Summary) {
    println!("{at}  ready\n");
    let mut table = table();
    let mut row = |what: &str, how: String| {
        table.add_row([what.to_owned(), how]);
    };
    row("kubectl", format!("export KUBECONFIG={}", summary.kubeconfig));
    row("API server", summary.api.clone());
    for (name, address) in &summary.nodes {
        row(name, address.clone());
    }
    row("cluster DNS", summary.dns.clone());
    row("gateway (Ingress)", summary.gateway.clone().unwrap_or_else(|| "no address yet".into()));
    println!("{table}\n");
    let named = if summary.name == "fairway" { String::new() } else { format!(" --name {}", summary.name) };
    println!(
        "Try:\n  kubectl apply -f examples/shop\n  fairway why{named} outside http://shop.example.test/cart\n  fairway status{named}\n"
    );
}

fn table() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
}

/// Stops a cluster.
pub(crate) fn down(arguments: &DownArgs) -> ExitCode {
    logging::init("warn");
    let name = match ClusterName::parse(&arguments.cluster.name) {
        Ok(name) => name,
        Err(error) => return outcome::failed(error),
    };
    let state = if arguments.purge { State::Purge } else { State::Keep };
    match take_down(&name, &roots(&arguments.cluster), state) {
        Ok(stopped) => {
            match stopped.supervisor {
                Some(pid) => println!("stopped cluster {name} (process {pid})"),
                None => println!("cluster {name} was not running"),
            }
            if !stopped.leftovers.is_empty() {
                println!("removed leftovers: {}", stopped.leftovers.summary());
            }
            if stopped.purged {
                println!("forgot its state");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_problems(&error);
            ExitCode::from(outcome::FAILED)
        }
    }
}

/// Shows a cluster.
pub(crate) fn status(arguments: &StatusArgs) -> ExitCode {
    logging::init("error");
    let name = match ClusterName::parse(&arguments.cluster.name) {
        Ok(name) => name,
        Err(error) => return outcome::failed(error),
    };
    let status = match ask_status(&name, &roots(&arguments.cluster)) {
        Ok(status) => status,
        Err(error) => return outcome::failed(error),
    };
    let printed = match arguments.output {
        Output::Text => {
            print_status(&status);
            Ok(())
        }
        Output::Json => serde_json::to_string_pretty(&status)
            .map(|text| println!("{text}"))
            .map_err(|error| error.to_string()),
        Output::Yaml => {
            serde_saphyr::to_string(&status).map(|text| println!("{text}")).map_err(|error| error.to_string())
        }
    };
    match printed {
        Ok(()) if status.objects.is_some() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(outcome::FINDINGS),
        Err(error) => outcome::failed(error),
    }
}

fn print_status(status: &Status) {
    match (&status.supervisor, status.saved) {
        (Some(pid), _) => println!("cluster {} runs (process {pid})", status.name),
        (None, true) => {
            println!("cluster {} does not run; its state is kept (fairway up --name {0})", status.name)
        }
        (None, false) => println!("there is no cluster {} (fairway up --name {0})", status.name),
    }
    let mut table = table();
    for process in &status.processes {
        let label = [process.role.role.as_str(), process.role.name.as_str()].join(" ");
        let alive = if process.alive { "running" } else { "gone" };
        table.add_row([label.trim().to_owned(), alive.to_owned(), format!("process {}", process.role.pid)]);
    }
    if let Some(objects) = &status.objects {
        let ready = |ready: bool| if ready { "ready" } else { "not ready" }.to_owned();
        for node in &objects.nodes {
            table.add_row([format!("node {}", node.name), ready(node.ready), node.address.clone()]);
        }
        for pod in &objects.system_pods {
            table.add_row([format!("pod {}", pod.name), ready(pod.ready), pod.node.clone()]);
        }
        let gateway = objects.gateway.clone().unwrap_or_else(|| "no address yet".into());
        table.add_row(["gateway".to_owned(), gateway, String::new()]);
    } else if status.supervisor.is_some() {
        println!("its API server does not answer");
    }
    if let Some(addresses) = &status.addresses {
        table.add_row(["API server".to_owned(), addresses.api.clone(), String::new()]);
        table.add_row(["kubeconfig".to_owned(), addresses.kubeconfig.clone(), String::new()]);
    }
    println!("{table}");
}
