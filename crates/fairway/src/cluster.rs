//! `fairway up`, `down` and `status`: calls `local` and prints what it says.

mod text;

use std::io::Write;
use std::process::ExitCode;

use fairway_kit::logging;
use fairway_local::{
    ClusterName, Directories, Error, Flags, Reporter, Roots, Settings, State, UpRequest, down as take_down,
    status as ask_status, up as bring_up, up_detached,
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
    // Whoever read the lines may be gone; the cluster goes on.
    let reporter = Reporter::new(|event| drop(writeln!(std::io::stdout(), "{}", text::event(&event))));
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
    match error.problems().as_slice() {
        [problem] => eprintln!("fairway: {problem}"),
        problems => {
            eprintln!("fairway: {} things are in the way:", problems.len());
            for problem in problems {
                eprintln!("  - {problem}");
            }
        }
    }
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
            print!("{}", text::status(&status));
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
