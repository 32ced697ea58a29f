//! Waiting for a state of objects by watching them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};

use super::StepError;
use crate::document::step::{ObjectRef, State};
use crate::expect::Mismatch;
use crate::run::cluster::Cluster;
use crate::run::conditions::{self, Met};
use crate::run::objects::ApiError;

/// A watch that breaks off is begun again after this.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Returns when the state is met; else, when the time is over, says what was still missing.
pub(super) async fn wait(
    cluster: &Cluster,
    state: &State,
    within: Duration,
    home: &str,
) -> Result<(), StepError> {
    let missing = Mutex::new(String::from("the API server has not answered"));
    let met = async {
        match state {
            State::Rollout(object) => {
                watch_object(cluster, object, home, &missing, conditions::rolled_out).await
            }
            State::Deleted(object) => {
                watch_object(cluster, object, home, &missing, conditions::deleted).await
            }
            State::Condition { object, condition, status } => {
                let check = |found: Option<&Value>| conditions::has_condition(found, condition, status);
                watch_object(cluster, object, home, &missing, check).await
            }
            State::Field { object, path, is } => {
                let check = |found: Option<&Value>| conditions::has_field(found, path, is);
                watch_object(cluster, object, home, &missing, check).await
            }
            State::Endpoints { service, ready } => {
                watch_slices(cluster, service, *ready, home, &missing).await
            }
        }
    };
    match tokio::time::timeout(within, met).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => {
            let limit = fairway_toolbox::duration::render(within);
            let found = missing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Err(StepError::Mismatches(vec![Mismatch::new(
                format!("{} within {limit}", describe(state)),
                found,
            )]))
        }
    }
}

fn describe(state: &State) -> String {
    match state {
        State::Rollout(object) => format!("{object} rolled out"),
        State::Deleted(object) => format!("{object} gone"),
        State::Condition { object, condition, status } => format!("{condition} of {object} to be {status}"),
        State::Field { object, path, is } => format!("{path} of {object} to be {is}"),
        State::Endpoints { service, ready: Some(ready) } => format!("{ready} ready endpoints of {service}"),
        State::Endpoints { service, ready: None } => format!("a ready endpoint of {service}"),
    }
}

fn note(missing: &Mutex<String>, met: Met) -> bool {
    match met {
        Ok(()) => true,
        Err(why) => {
            *missing.lock().unwrap_or_else(PoisonError::into_inner) = why;
            false
        }
    }
}

async fn watch_object(
    cluster: &Cluster,
    object: &ObjectRef,
    home: &str,
    missing: &Mutex<String>,
    check: impl Fn(Option<&Value>) -> Met + Send + Sync,
) -> Result<(), ApiError> {
    let api = cluster.api_of(object, home).await?;
    loop {
        let condition = |found: Option<&kube::api::DynamicObject>| {
            let found = found.map(|found| json!(found));
            note(missing, check(found.as_ref()))
        };
        match await_condition(api.clone(), &object.name, condition).await {
            Ok(_) => return Ok(()),
            // The server may be restarting: the time limit is the caller's.
            Err(error) => note(missing, Err(error.to_string())),
        };
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn watch_slices(
    cluster: &Cluster,
    service: &ObjectRef,
    ready: Option<u32>,
    home: &str,
    missing: &Mutex<String>,
) -> Result<(), ApiError> {
    let namespace = service.namespace.as_deref().unwrap_or(home);
    let api = cluster.api(&cluster.kind(|kinds| kinds.find("endpointslice")).await?, namespace);
    let selector = format!("kubernetes.io/service-name={}", service.name);
    loop {
        let events = watcher::watcher(api.clone(), watcher::Config::default().labels(&selector));
        pin_mut!(events);
        let mut slices = std::collections::BTreeMap::new();
        let mut complete = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => slices.clear(),
                Ok(Event::InitDone) => complete = true,
                Ok(Event::Apply(slice) | Event::InitApply(slice)) => {
                    slices.insert(slice.metadata.name.clone(), json!(slice));
                }
                Ok(Event::Delete(slice)) => {
                    slices.remove(&slice.metadata.name);
                }
                Err(error) => {
                    note(missing, Err(error.to_string()));
                    break;
                }
            }
            let all: Vec<Value> = slices.values().cloned().collect();
            if complete && note(missing, conditions::has_endpoints(&all, ready)) {
                return Ok(());
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
