//! The one way to get a client: every role is given a [`ClientSource`] by the command line.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};

/// Where the address and the credentials of the API server come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientSource {
    /// A kubeconfig file; its current context is used.
    Kubeconfig(PathBuf),
    /// The service-account files and `KUBERNETES_SERVICE_HOST` of the pod that this process runs in.
    InCluster,
}

/// Why there is no client. Reaching the API server is not part of it: that is retried by the watches.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig file is missing or is not one.
    #[error("kubeconfig {path}: {source}; give another with --kubeconfig")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What kube-rs says of it.
        source: kube::config::KubeconfigError,
    },
    /// No kubeconfig was given and this is not a pod with a service account.
    #[error("not in a pod with a service account ({source}); outside a cluster give --kubeconfig")]
    InCluster {
        /// What is missing.
        source: kube::config::InClusterError,
    },
    /// The configuration cannot be turned into a TLS client (bad certificate or key).
    #[error("the API client cannot be built: {}", crate::reason(source.as_ref()))]
    Build {
        /// What rustls or kube-rs says.
        source: Box<kube::Error>,
    },
}

/// Builds a client. Time-outs suit a control loop: connecting gives up after 5 s, a silent watch is noticed by kube-rs.
pub async fn connect(source: &ClientSource, user_agent: &'static str) -> Result<kube::Client, ClientError> {
    let mut config = match source {
        ClientSource::Kubeconfig(path) => {
            let failed = |source| ClientError::Kubeconfig { path: path.clone(), source };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        ClientSource::InCluster => {
            kube::Config::incluster().map_err(|source| ClientError::InCluster { source })?
        }
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(user_agent)));
    kube::Client::try_from(config).map_err(|source| ClientError::Build { source: Box::new(source) })
}
