//! Commands in pods, container logs, the real kubectl, and scripts.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, LogParams};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::StepError;
use crate::document::step::{Exec, Logs};
use crate::expect::CommandResult;
use crate::run::cluster::{Cluster, output};
use crate::run::objects::retried;

/// The most of an output that is kept.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// The most of a log that is looked at.
const LOG_LINES_MAX: i64 = 10_000;
/// kubectl and scripts have so long; `kubectl wait --timeout` fits in.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs a command in a container through the API, as `kubectl exec` does.
pub(super) async fn exec(cluster: &Cluster, exec: &Exec, home: &str) -> Result<CommandResult, StepError> {
    let pod = cluster.pod_of(&exec.pod, home).await?;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &pod.namespace);
    let mut params = AttachParams::default().stdin(exec.stdin.is_some()).stdout(true).stderr(true);
    params.container.clone_from(&exec.container);
    let failed = |detail: String| StepError::Command { what: "exec", detail };
    let run = async {
        let mut process = api
            .exec(&pod.name, exec.command.iter().map(String::as_str), &params)
            .await
            .map_err(|error| failed(format!("in pod {}/{}: {error}", pod.namespace, pod.name)))?;
        let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
        if let (Some(text), Some(mut stdin)) = (&exec.stdin, process.stdin()) {
            stdin.write_all(text.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
            stdin.shutdown().await.map_err(|error| failed(error.to_string()))?;
        }
        let status = async {
            match status {
                Some(status) => status.await,
                None => None,
            }
        };
        let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), status);
        let exit = exit_code(status.as_ref()).map_err(failed)?;
        Ok(CommandResult { exit, stdout, stderr })
    };
    let late =
        || failed(format!("it did not end within {}", fairway_toolbox::duration::render(exec.timeout)));
    tokio::time::timeout(exec.timeout, run).await.map_err(|_| late())?
}

/// What comes until the end or the limit. A stream that breaks off has said what it has said.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await;
        // The rest is read, too: the process must not wait for us.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Success is 0; a failure names its code as the cause `ExitCode` (remotecommand protocol, `NonZeroExitCode`).
fn exit_code(status: Option<&Status>) -> Result<i32, String> {
    let status = status.ok_or("the connection ended without a status")?;
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_deref()?.parse().ok());
    code.ok_or_else(|| status.message.clone().unwrap_or_default())
}

/// What a container wrote.
pub(super) async fn logs(cluster: &Cluster, logs: &Logs, home: &str) -> Result<String, StepError> {
    let pod = cluster.pod_of(&logs.pod, home).await?;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &pod.namespace);
    let params = LogParams {
        container: logs.container.clone(),
        previous: logs.previous,
        tail_lines: Some(LOG_LINES_MAX),
        ..LogParams::default()
    };
    Ok(retried(|| api.logs(&pod.name, &params)).await?)
}

/// Runs kubectl with the cluster's kubeconfig and the scenario's namespace, in the scenario's folder.
pub(super) async fn kubectl(
    cluster: &Cluster,
    args: &[String],
    folder: &Path,
    home: &str,
) -> Result<CommandResult, StepError> {
    let mut command = Command::new(&cluster.kubectl);
    command.arg("--kubeconfig").arg(&cluster.kubeconfig).arg("--namespace").arg(home).args(args);
    run(command, "kubectl", cluster, folder, home).await
}

/// Runs a script in the scenario's folder. What it started in the background ends with it.
pub(super) async fn shell(
    cluster: &Cluster,
    script: &str,
    folder: &Path,
    home: &str,
) -> Result<CommandResult, StepError> {
    let mut command = Command::new("bash");
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}");
    command.args(["-eu", "-o", "pipefail", "-c", &script]);
    command.env("KUBECONFIG", &cluster.kubeconfig).env("NAMESPACE", home);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let own = cluster.kubectl.parent().filter(|own| own.is_absolute()).map(Path::to_path_buf);
    if let Ok(path) = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&folders))) {
        command.env("PATH", path);
    }
    run(command, "shell", cluster, folder, home).await
}

async fn run(
    mut command: Command,
    what: &'static str,
    cluster: &Cluster,
    folder: &Path,
    home: &str,
) -> Result<CommandResult, StepError> {
    // A cache of the scenario's own: it begins cold, and what a scenario defines does not show in another.
    command.env("KUBECACHEDIR", cluster.kubectl_cache(home));
    command.stdin(Stdio::null());
    if folder.is_dir() {
        command.current_dir(folder);
    }
    output(command, COMMAND_TIMEOUT).await.map_err(|error| {
        let detail = match error.kind() {
            std::io::ErrorKind::NotFound if what == "kubectl" => {
                "it is not installed; this step needs the real kubectl in PATH, or --kubectl".to_owned()
            }
            std::io::ErrorKind::TimedOut => format!("it did not end within {} s", COMMAND_TIMEOUT.as_secs()),
            _ => error.to_string(),
        };
        StepError::Command { what, detail }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_a_cause() {
        let status = |text: &str| serde_json::from_str::<Status>(text).unwrap();
        assert_eq!(exit_code(Some(&status(r#"{"status":"Success"}"#))), Ok(0));
        let failed = status(
            r#"{"status":"Failure","reason":"NonZeroExitCode","message":"exit 7","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#,
        );
        assert_eq!(exit_code(Some(&failed)), Ok(7));
        let broken = status(r#"{"status":"Failure","message":"no such container"}"#);
        assert_eq!(exit_code(Some(&broken)), Err("no such container".into()));
        assert!(exit_code(None).is_err());
    }
}
