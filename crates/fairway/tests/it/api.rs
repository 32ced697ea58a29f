//! The API server as a client sees it: documents at paths, blocking.

use std::path::Path;
use std::time::Duration;

use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

const REQUEST_LIMIT: Duration = Duration::from_secs(3);

/// A client with a connection of its own.
pub(crate) struct Api {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Api {
    /// Fails when the credentials are not there yet.
    pub(crate) fn open(kubeconfig: &Path) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(kubeconfig).map_err(|error| error.to_string())?;
            let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|error| error.to_string())?;
            config.connect_timeout = Some(Duration::from_millis(500));
            config.read_timeout = Some(REQUEST_LIMIT);
            kube::Client::try_from(config).map_err(|error| error.to_string())
        })?;
        Ok(Self { runtime, client })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, kube::Error> {
        self.send(Method::GET, path, None)
    }

    pub(crate) fn create(&self, path: &str, object: &Value) -> Result<Value, kube::Error> {
        self.send(Method::POST, path, Some(object))
    }

    pub(crate) fn replace(&self, path: &str, object: &Value) -> Result<Value, kube::Error> {
        self.send(Method::PUT, path, Some(object))
    }

    pub(crate) fn merge(&self, path: &str, patch: &Value) -> Result<Value, kube::Error> {
        self.send(Method::PATCH, path, Some(patch))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, kube::Error> {
        self.send(Method::DELETE, path, None)
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, kube::Error> {
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(|value| serde_json::to_vec(value).unwrap()).unwrap_or_default();
        let request =
            Request::builder().method(method).uri(path).header("content-type", media).body(body).unwrap();
        self.runtime.block_on(self.client.request(request))
    }
}

/// An object's revision, as a number.
pub(crate) fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}
