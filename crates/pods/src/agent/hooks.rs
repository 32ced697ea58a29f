//! postStart and preStop.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};

use super::probing::{ask_http, run};
use crate::probe::{ProbeKind, ProbePlan, Question};

/// Runs a hook to its end; the caller limits its time.
pub(super) async fn run_hook(
    hook: &LifecycleHandler,
    container: &Container,
    ip: IpAddr,
    socket: &Path,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.try_into().unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(exec) = &hook.exec {
        return run(socket, &container.name, exec.command.as_deref().unwrap_or_default()).await;
    }
    let Some(http) = &hook.http_get else { return Ok(()) };
    // A hook's request is a probe's request; only its answer counts less.
    let probe = Probe { http_get: Some(http.clone()), ..Probe::default() };
    let plan =
        ProbePlan::new(ProbeKind::Liveness, &probe, container, ip).map_err(|error| error.to_string())?;
    let Question::Http(question) = plan.question else { return Ok(()) };
    // Whatever the answer is: that it came is all that is asked for.
    ask_http(&question).await.map(drop)
}
