//! The verbs over any resource of the registry. Nothing here knows a kind, except where Kubernetes itself has a special case; those stand
//! in [`admit`](crate::admit) and in the modules of subresources.

mod agent;
pub(crate) mod answer;
mod apply;
mod bind;
mod create;
mod delete;
mod present;
mod proxy;
mod read;
mod relay;
mod review;
mod selection;
mod stream;
mod token;
mod update;
pub(crate) mod watch;

use std::sync::Arc;

use bytes::Bytes;
use fairway_objects::convert;
use fairway_objects::decode::{self, Decoded, FieldValidation};
use fairway_objects::document::Document;
use fairway_objects::field::{FieldError, Path};
use fairway_objects::patch::PatchType;
use fairway_objects::registry::{ObjectType, Resource, Verb};
use fairway_objects::status::{Qualified, Status};
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::admit::{self, Attributes, Operation, Warnings};
use crate::auth::User;
use crate::http::body::{self, Body};
use crate::http::negotiate::{self, Form};
use crate::http::query::Query;
use crate::http::route::Target;
use crate::server::Api;
use crate::store::{Collection, CommitError, Keep, Key};

/// Tries of a write that others keep getting in before.
const TRIES_MAX: usize = 5;

/// One request for a resource.
pub(crate) struct Call<'a> {
    pub(crate) api: &'a Arc<Api>,
    pub(crate) user: &'a User,
    /// What is stored.
    pub(crate) resource: Arc<Resource>,
    /// What the client reads and writes: the same, but for events.k8s.io.
    pub(crate) served: Arc<Resource>,
    pub(crate) target: &'a Target,
    pub(crate) query: &'a Query,
    pub(crate) collection: Collection,
    pub(crate) headers: HeaderMap,
    /// Ends the connection of the request.
    pub(crate) hang_up: CancellationToken,
}

/// What a write may be told beside its object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteOptions {
    pub(crate) keep: Keep,
    pub(crate) validation: FieldValidation,
}

/// The verb of a request as authorization and metrics name it.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    let reads = method == Method::GET || method == Method::HEAD;
    match (method.as_str(), &target.name) {
        (_, _) if reads && target.watch => "watch",
        (_, None) if reads && query.flag("watch") => "watch",
        (_, None) if reads => "list",
        (_, Some(_)) if reads => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", None) => "deletecollection",
        ("DELETE", Some(_)) => "delete",
        _ => "",
    }
}

/// Answers one request for a resource, already allowed.
pub(crate) async fn handle(
    api: &Arc<Api>,
    user: &User,
    target: &Target,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let catalog = api.catalog.load_full();
    let resource = catalog.registry.resource(&target.group, &target.version, &target.resource);
    let resource = Arc::clone(resource.ok_or_else(Status::resource_not_found)?);
    if !target.namespace.is_empty() && !resource.is_namespaced() {
        return Err(Status::resource_not_found());
    }
    let (served, resource) = (Arc::clone(&resource), catalog.registry.storage(&resource));
    let collection = Collection::new(resource.group(), &resource.plural);
    let headers = request.headers().clone();
    let hang_up = request.extensions().get::<CancellationToken>().cloned().unwrap_or_default();
    let call = Call { api, user, resource, served, target, query, collection, headers, hang_up };
    match (&target.name, &target.subresource) {
        (Some(name), Some(subresource)) => call.subresource(name, subresource, request).await,
        (Some(name), None) => call.one(name, request).await,
        (None, _) => call.all(request).await,
    }
}

impl Call<'_> {
    async fn one(&self, name: &str, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        if self.resource.is_namespaced() && self.target.namespace.is_empty() && !self.target.watch {
            return Err(Status::resource_not_found());
        }
        match request.method().as_str() {
            "GET" | "HEAD" if self.target.watch => self.watch(Some(name)).await,
            "GET" | "HEAD" => {
                self.allowed(Verb::Get)?;
                self.get(name).await
            }
            "PUT" => self.update_from(name, "", request).await,
            "PATCH" => self.patch_from(name, "", request).await,
            "DELETE" => {
                self.allowed(Verb::Delete)?;
                let options = self.delete_options(&body::read(request.into_body()).await?)?;
                self.delete(name, options).await
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    async fn all(&self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        match request.method().as_str() {
            "GET" | "HEAD" if self.target.watch || self.query.flag("watch") => self.watch(None).await,
            "GET" | "HEAD" => {
                self.allowed(Verb::List)?;
                self.list().await
            }
            "POST" => {
                self.allowed(Verb::Create)?;
                self.create_from(&body::read(request.into_body()).await?).await
            }
            "DELETE" => {
                self.allowed(Verb::DeleteCollection)?;
                let options = self.delete_options(&body::read(request.into_body()).await?)?;
                self.delete_collection(options).await
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    async fn subresource(
        &self,
        name: &str,
        subresource: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let known = self.resource.subresource(subresource).ok_or_else(Status::resource_not_found)?;
        if self.resource.is_namespaced() && self.target.namespace.is_empty() {
            return Err(Status::resource_not_found());
        }
        let method = request.method().clone();
        match (subresource, method.as_str()) {
            ("status" | "scale" | "ephemeralcontainers" | "resize", "GET" | "HEAD") => {
                self.get_part(name, subresource).await
            }
            ("status" | "scale" | "ephemeralcontainers" | "resize" | "finalize", "PUT") => {
                self.update_from(name, subresource, request).await
            }
            ("status" | "scale" | "ephemeralcontainers" | "resize", "PATCH") => {
                self.patch_from(name, subresource, request).await
            }
            ("binding" | "eviction" | "token", "POST") => {
                let decoded = self.decode(&known.object, &body::read(request.into_body()).await?)?;
                let (object, warnings) = self.admit_question(name, subresource, decoded).await?;
                let mut response = match subresource {
                    "binding" => self.bind(name, &object).await,
                    "eviction" => self.evict(name, &object).await,
                    _ => self.token(name, object),
                }?;
                answer::warn(&mut response, &warnings);
                Ok(response)
            }
            ("proxy", _) => self.proxy(name, request).await,
            ("log", "GET") => self.log(name).await,
            ("exec" | "attach" | "portforward", "GET" | "POST") => {
                self.admit_stream(name, subresource, &known.object).await?;
                self.tunnel(name, subresource, request).await
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// The stages of what is posted to a subresource and is not stored itself.
    async fn admit_question(
        &self,
        name: &str,
        subresource: &str,
        decoded: Decoded,
    ) -> Result<(Value, Warnings), Status> {
        let (mut object, mut warnings) = (decoded.object, decoded.warnings);
        let options = self.write_options("CreateOptions")?;
        let attributes = self.attributes(Operation::Create, subresource, name, options);
        warnings.extend(admit::mutate(self.api, &attributes, &mut object, None).await?);
        warnings.extend(admit::validate(self.api, &attributes, &object, None).await?);
        Ok((object, warnings))
    }

    /// Admission of a stream: the object is what the query asks for.
    async fn admit_stream(&self, name: &str, subresource: &str, kind: &ObjectType) -> Result<(), Status> {
        let mut asked = json!({"apiVersion": kind.api_version(), "kind": &*kind.kind});
        for flag in ["stdin", "stdout", "stderr", "tty"].iter().filter(|flag| self.query.has(flag)) {
            asked.put(&[*flag], self.query.flag(flag));
        }
        if self.query.has("container") {
            asked.put(&["container"], self.query.text("container"));
        }
        let words = |name| self.query.all(name).collect::<Vec<_>>();
        match subresource {
            "exec" => asked.put(&["command"], words("command")),
            "portforward" => {
                let ports = words("ports").into_iter().filter_map(|port| port.parse::<u16>().ok());
                asked.put(&["ports"], ports.collect::<Vec<_>>());
            }
            _ => {}
        }
        let options = WriteOptions { keep: Keep::Yes, validation: FieldValidation::Ignore };
        let attributes = self.attributes(Operation::Connect, subresource, name, options);
        admit::mutate(self.api, &attributes, &mut asked, None).await?;
        admit::validate(self.api, &attributes, &asked, None).await.map(drop)
    }

    async fn update_from(
        &self,
        name: &str,
        part: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        if part.is_empty() {
            self.allowed(Verb::Update)?;
        }
        let body = body::read(request.into_body()).await?;
        self.update(name, part, &body).await
    }

    async fn patch_from(
        &self,
        name: &str,
        part: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        if part.is_empty() {
            self.allowed(Verb::Patch)?;
        }
        let patch_type = PatchType::of(&self.resource, self.content_type())?;
        let body = body::read(request.into_body()).await?;
        match patch_type {
            PatchType::Apply => self.apply(name, part, &body).await,
            patch_type => self.patch(name, part, patch_type, &body).await,
        }
    }

    fn allowed(&self, verb: Verb) -> Result<(), Status> {
        if self.resource.allows(verb) { Ok(()) } else { Err(Status::method_not_allowed()) }
    }

    /// The form that the client wants its answer in.
    pub(crate) fn form(&self) -> Result<Form, Status> {
        let accept = self.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        negotiate::object(accept, self.resource.builtin.is_none())
    }

    fn content_type(&self) -> &str {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.filter(|value| !value.is_empty()).unwrap_or("application/json")
    }

    pub(crate) fn decode(&self, object_type: &ObjectType, body: &Bytes) -> Result<Decoded, Status> {
        decode::decode(
            object_type,
            self.content_type(),
            body,
            self.write_options("CreateOptions")?.validation,
        )
    }

    /// Decodes what is written to the resource or a part of it, into the form that is stored.
    pub(crate) fn decode_written(
        &self,
        part: &str,
        body: &Bytes,
        validation: FieldValidation,
    ) -> Result<Decoded, Status> {
        let object_type = self.served.subresource(part).map_or(&self.served.object, |part| &part.object);
        let decoded = decode::decode(object_type, self.content_type(), body, validation)?;
        Ok(Decoded { object: convert::stored(&self.served, decoded.object), ..decoded })
    }

    pub(crate) fn key(&self, name: &str) -> Key {
        Key::new(&self.target.namespace, name)
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.resource.qualified(), name)
    }

    /// `dryRun`, `fieldValidation`, `fieldManager`; `kind` names the options in messages.
    pub(crate) fn write_options(&self, kind: &str) -> Result<WriteOptions, Status> {
        let invalid =
            |error| Status::invalid_kind(Qualified { group: "meta.k8s.io", name: kind }, "", &[error]);
        let mut keep = Keep::Yes;
        for value in self.query.all("dryRun") {
            if value != "All" {
                return Err(invalid(FieldError::not_supported(&Path::new("dryRun"), value, &["All"])));
            }
            keep = Keep::DryRun;
        }
        let text = self.query.text("fieldValidation");
        let validation = FieldValidation::parse(text).ok_or_else(|| {
            let path = Path::new("fieldValidation");
            invalid(FieldError::not_supported(&path, text, &["", "Ignore", "Strict", "Warn"]))
        })?;
        let errors = apply::check_manager(self.query.text("fieldManager"));
        if !errors.is_empty() {
            return Err(Status::invalid_kind(Qualified { group: "meta.k8s.io", name: kind }, "", &errors));
        }
        Ok(WriteOptions { keep, validation })
    }

    /// What admission is told about a write.
    pub(crate) fn attributes<'b>(
        &'b self,
        operation: Operation,
        subresource: &'b str,
        name: &'b str,
        options: WriteOptions,
    ) -> Attributes<'b> {
        let part = self.resource.subresource(subresource);
        Attributes {
            user: self.user,
            operation,
            resource: &self.resource,
            subresource,
            object_type: part.map_or(&self.resource.object, |part| &part.object),
            name,
            namespace: &self.target.namespace,
            dry_run: options.keep == Keep::DryRun,
            query: self.query,
            options: None,
        }
    }

    /// A Status as the answer.
    pub(crate) fn answer_status(&self, status: &Status) -> Response<Body> {
        answer::status(self.headers.get(header::ACCEPT), status)
    }

    /// The answer of one stored object.
    pub(crate) fn answer(
        &self,
        code: u16,
        object: &crate::store::Object,
        warnings: &[String],
    ) -> Result<Response<Body>, Status> {
        let shown = present::present(&self.resource, object);
        let object = shown.as_ref().unwrap_or(object);
        let mut response =
            answer::object(code, self.form()?, &self.served, object, self.query, &self.headers)?;
        answer::warn(&mut response, warnings);
        Ok(response)
    }

    /// The answer of a document that is not exactly a stored object.
    pub(crate) fn answer_value(
        &self,
        code: u16,
        value: &Value,
        warnings: &[String],
    ) -> Result<Response<Body>, Status> {
        let mut response = answer::value(code, self.form()?, &self.served, value, self.query)?;
        answer::warn(&mut response, warnings);
        Ok(response)
    }
}

/// Why a transaction said no: for good, or because the object changed since it was read.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The answer for the client.
    Final(Status),
    /// Read again and decide again.
    Stale,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Final(status)
    }
}

/// The answer when the disk says no.
pub(crate) fn not_stored(error: &crate::store::WriteError) -> Status {
    use crate::store::WriteError;
    match error {
        WriteError::Full(_) => Status::new(507, fairway_objects::Reason::InternalError, error.to_string()),
        WriteError::Io(_) => Status::internal(error),
        WriteError::Closed => Status::unavailable(error.to_string()),
    }
}

impl From<CommitError<Refusal>> for Refusal {
    fn from(error: CommitError<Refusal>) -> Self {
        match error {
            CommitError::Refused(refusal) => refusal,
            CommitError::NotStored(error) => Self::Final(not_stored(&error)),
        }
    }
}
