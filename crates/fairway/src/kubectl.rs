//! `fairway kubectl`: the user's kubectl with the cluster's kubeconfig.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::cli::KubectlArgs;
use crate::outcome;

/// Becomes kubectl. The cluster is the one of `FAIRWAY_NAME` (all arguments are kubectl's own).
pub(crate) fn run(arguments: KubectlArgs) -> ExitCode {
    let from = |variable: &str, default: &str| std::env::var_os(variable).unwrap_or_else(|| default.into());
    let kubeconfig = std::path::Path::new(&from("FAIRWAY_STATE", "/var/lib/fairway"))
        .join(from("FAIRWAY_NAME", "fairway"))
        .join("kubeconfig");
    if !kubeconfig.exists() {
        return outcome::failed(format_args!(
            "{} does not exist: start the cluster first (fairway up), or name another (FAIRWAY_NAME=… fairway kubectl …)",
            kubeconfig.display()
        ));
    }
    let error = Command::new("kubectl").env("KUBECONFIG", kubeconfig).args(arguments.arguments).exec();
    outcome::failed(format_args!("kubectl cannot be run ({error}): install it (Debian package kubectl)"))
}
