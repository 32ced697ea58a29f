//! Admission webhooks: whom to ask, in which order, and what their answers do to a write.
//!
//! Mutating webhooks are asked one after the other, by the name of their configuration and then as they stand in it; each sees what the
//! ones before it made. When a later one changed the object, those that want to (`reinvocationPolicy: IfNeeded`) are asked once more.
//! Validating webhooks are asked at the same time. The time of every question is limited.

mod client;
pub(super) mod review;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fairway_objects::decode::{self, FieldValidation};
use fairway_objects::document::{self, Document};
use fairway_objects::status::Status;
use fairway_objects::{defaults, patch};
use futures::future::join_all;
use serde_json::Value;

pub(crate) use self::client::Connections;
use self::client::{CallError, ClientConfiguration};
use self::review::Verdict;
use super::condition::{Conditions, Met, Variables};
use super::matching::{Matching, in_version};
use super::{Attributes, Request, Warnings, builtin};
use crate::metrics;
use crate::server::Api;

/// The longest time that a webhook may ask for, and that of one that asks for none.
const TIMEOUT_SECONDS: (u64, u64) = (30, 10);

/// One entry of `webhooks`.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    name: String,
    matching: Matching,
    conditions: Conditions,
    /// Whether no answer counts as a refusal.
    fails_closed: bool,
    timeout_seconds: u64,
    /// Whether it may be asked about what will not be stored.
    answers_dry_runs: bool,
    /// Whether it wants to see changes that others make after it.
    reinvoked: bool,
    client: ClientConfiguration,
}

impl Webhook {
    /// Reads all webhooks of a configuration.
    pub(super) fn read_all(configuration: &Value) -> impl Iterator<Item = Self> {
        configuration.list(&["webhooks"]).iter().map(|webhook| {
            let (timeout_max, timeout_default) = TIMEOUT_SECONDS;
            let timeout = webhook.int(&["timeoutSeconds"]).and_then(|seconds| u64::try_from(seconds).ok());
            let fails_closed = webhook.text(&["failurePolicy"]) != "Ignore";
            Self {
                name: webhook.text(&["name"]).to_owned(),
                matching: Matching::read(webhook, "rules"),
                conditions: Conditions::read(webhook, fails_closed),
                fails_closed,
                timeout_seconds: timeout.unwrap_or(timeout_default).clamp(1, timeout_max),
                answers_dry_runs: matches!(webhook.text(&["sideEffects"]), "None" | "NoneOnDryRun"),
                reinvoked: webhook.text(&["reinvocationPolicy"]) == "IfNeeded",
                client: ClientConfiguration::read(webhook.at(&["clientConfig"])),
            }
        })
    }

    /// The version to ask about; none when it is not about this request.
    fn concerns(&self, request: &Request<'_>, object: &Value) -> Result<Option<String>, Status> {
        let attributes = request.attributes;
        let Some(version) = self.matching.version(attributes, &request.registry) else { return Ok(None) };
        if self.matching.needs_namespace() && request.namespace.is_none() && !attributes.is_in_no_namespace()
        {
            return Err(request.namespace_not_found());
        }
        if !self.matching.selects(attributes, request.namespace.as_ref(), object, request.old) {
            return Ok(None);
        }
        if self.conditions.is_empty() {
            return Ok(Some(version));
        }
        let asked = review::request(attributes, &version, "", object, request.old);
        match self.conditions.met(&Variables::new(&asked)) {
            Met::Yes => Ok(Some(version)),
            Met::No => Ok(None),
            Met::Failed(reason) => {
                let why = format!("failed evaluating match conditions of webhook {:?}: {reason}", self.name);
                Err(Status::internal(why))
            }
        }
    }

    /// Asks. None: it did not answer, and that counts for nothing.
    async fn ask(
        &self,
        api: &Api,
        request: &Request<'_>,
        version: &str,
        object: &Value,
        mutating: bool,
    ) -> Result<Option<Verdict>, Status> {
        if request.attributes.dry_run && !self.answers_dry_runs {
            let why = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(Status::bad_request(why));
        }
        let started = Instant::now();
        let uid = crate::random_uid().to_string();
        let asked = review::request(request.attributes, version, &uid, object, request.old);
        let question = review::question(&asked);
        let limit = Duration::from_secs(self.timeout_seconds);
        let call = api.webhooks.ask(&self.client, &request.state, self.timeout_seconds, &question);
        let answer = tokio::time::timeout(limit, call).await;
        let verdict = self.read(answer, &uid, mutating);
        let counted = match &verdict {
            Ok(Verdict { denied: None, .. }) => metrics::Verdict::Allowed,
            Ok(_) => metrics::Verdict::Denied,
            Err(_) if self.fails_closed => metrics::Verdict::Failed,
            Err(_) => metrics::Verdict::Ignored,
        };
        api.metrics.admitted(&self.name, counted, started.elapsed());
        match verdict {
            Ok(verdict) => Ok(Some(verdict)),
            Err(reason) if self.fails_closed => {
                Err(Status::internal(format!("failed calling webhook {:?}: {reason}", self.name)))
            }
            Err(reason) => {
                tracing::warn!(
                    webhook = self.name,
                    reason,
                    "a webhook did not answer; its failurePolicy is Ignore"
                );
                Ok(None)
            }
        }
    }

    fn read(
        &self,
        answer: Result<Result<Bytes, CallError>, tokio::time::error::Elapsed>,
        uid: &str,
        mutating: bool,
    ) -> Result<Verdict, String> {
        let answer = match answer {
            Ok(answer) => answer.map_err(|error| format!("failed to call webhook: {error}"))?,
            Err(_) => {
                let seconds = self.timeout_seconds;
                return Err(format!("failed to call webhook: context deadline exceeded after {seconds}s"));
            }
        };
        review::verdict(&self.name, uid, &answer, mutating)
            .map_err(|reason| format!("received invalid webhook response: {reason}"))
    }
}

/// Asks the mutating webhooks; `object` is then what they made of it.
pub(super) async fn mutate(
    api: &Arc<Api>,
    request: &Request<'_>,
    webhooks: &[Webhook],
    object: &mut Value,
) -> Result<Warnings, Status> {
    let mut warnings = Warnings::new();
    // What each saw when it was asked, of those who want to see more.
    let mut seen: Vec<(&Webhook, Value)> = Vec::new();
    let mut changed = false;
    for webhook in webhooks {
        let Some(version) = webhook.concerns(request, object)? else { continue };
        changed |= mutate_one(api, request, webhook, &version, object, &mut warnings).await?;
        if webhook.reinvoked {
            seen.push((webhook, object.clone()));
        }
    }
    if changed {
        complete_again(api, request.attributes, object)?;
        for (webhook, last) in seen {
            if last != *object
                && let Some(version) = webhook.concerns(request, object)?
            {
                mutate_one(api, request, webhook, &version, object, &mut warnings).await?;
            }
        }
    }
    Ok(warnings)
}

/// Built-in admission of what webhooks made of a new object.
fn complete_again(api: &Api, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
    if attributes.is_new_object() {
        builtin::create(api, attributes.resource, object, rand::random())?;
        defaults::apply(attributes.resource, object);
    }
    Ok(())
}

/// Whether it changed anything.
async fn mutate_one(
    api: &Arc<Api>,
    request: &Request<'_>,
    webhook: &Webhook,
    version: &str,
    object: &mut Value,
    warnings: &mut Warnings,
) -> Result<bool, Status> {
    let Some(verdict) = webhook.ask(api, request, version, object, true).await? else { return Ok(false) };
    warnings.extend(verdict.warnings);
    if let Some(status) = verdict.denied {
        return Err(status);
    }
    let Some(changes) = verdict.patch.filter(|_| !object.is_null()) else { return Ok(false) };
    let attributes = request.attributes;
    let resource = attributes.resource;
    let shown = if version == resource.version() {
        object.clone()
    } else {
        in_version(object, resource.group(), version)
    };
    let patched = patch::json(&shown, &changes).map_err(|error| Status::internal(error.message))?;
    let patched = if version == resource.version() {
        patched
    } else {
        in_version(&patched, resource.group(), resource.version())
    };
    let mut decoded = decode::normalize(attributes.object_type, patched, FieldValidation::Ignore)?.object;
    if attributes.is_write_of_object() {
        defaults::apply(resource, &mut decoded);
    }
    if document::name(&decoded) != document::name(object) || document::uid(&decoded) != document::uid(object)
    {
        let why =
            format!("admission webhook {:?} attempted to change the name or uid of the object", webhook.name);
        return Err(Status::internal(why));
    }
    let changed = decoded != *object;
    *object = decoded;
    Ok(changed)
}

/// Asks the validating webhooks, all at once; of several refusals the first by name counts.
pub(super) async fn validate(
    api: &Arc<Api>,
    request: &Request<'_>,
    webhooks: &[Webhook],
    object: &Value,
) -> Result<Warnings, Status> {
    let mut questions = Vec::new();
    for webhook in webhooks {
        if let Some(version) = webhook.concerns(request, object)? {
            questions.push(async move { webhook.ask(api, request, &version, object, false).await });
        }
    }
    let mut warnings = Warnings::new();
    let mut refusal = None;
    for answer in join_all(questions).await {
        match answer {
            Ok(Some(verdict)) => {
                warnings.extend(verdict.warnings);
                refusal = refusal.or(verdict.denied);
            }
            Ok(None) => {}
            Err(status) => refusal = refusal.or(Some(status)),
        }
    }
    refusal.map_or(Ok(warnings), Err)
}
