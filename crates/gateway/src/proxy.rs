//! The life of a request: identify → decide → connect and send, again elsewhere if need be → hand the answer back.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::body::{RequestBody, RequestSource, ResponseBody, SourceState};
use crate::connection::ClientConnection;
use crate::exchange::Exchange;
use crate::failure::{Failure, Replay};
use crate::head::{self, Forwarded, Identified};
use crate::pool::{Active, Endpoint, UpstreamProtocol};
use crate::table::{Plan, Route};
use crate::tunnel;
use crate::upstream::{Http1, Lease};
use crate::worker::Worker;

/// Answers one request.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    connection: Rc<ClientConnection>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let version = request.version();
    connection.speaks(version);
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, incoming) = request.into_parts();
    let mut exchange = Exchange::begin(&worker, &connection, &parts);
    let asked = match head::identify(&parts, connection.client()) {
        Ok(asked) => asked,
        Err(bad) => return closing(refuse(Failure::BadHead(bad), exchange), version),
    };
    let plan = worker.shared.table.load().decide(&asked, &parts.uri, connection.client());
    let response = match plan {
        Plan::Forward(route) => {
            exchange.routed(&route.metrics);
            let upgrade = asked.upgrade.is_some().then_some(upgrade).flatten();
            let incoming = (parts, incoming);
            Forwarding { worker: &worker, connection: &connection, route: &route, asked: &asked, exchange }
                .run(incoming, upgrade)
                .await
        }
        Plan::Redirect(route, location) => {
            exchange.routed(&route.metrics);
            redirect(location, exchange)
        }
        Plan::Refuse(failure) => refuse(failure, exchange),
    };
    if worker.is_leaving() { closing(response, version) } else { response }
}

/// Asks an HTTP/1 client not to use the connection again.
fn closing(mut response: Response<ResponseBody>, version: Version) -> Response<ResponseBody> {
    if version < Version::HTTP_2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn refuse(failure: Failure, mut exchange: Exchange) -> Response<ResponseBody> {
    let status = failure.status();
    exchange.answered(status, Some(failure.label()));
    let body = ResponseBody::own(Bytes::from_static(failure.text().as_bytes()), exchange);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

fn redirect(location: HeaderValue, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.answered(StatusCode::PERMANENT_REDIRECT, None);
    let mut response = Response::new(ResponseBody::own(Bytes::new(), exchange));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// A request on its way to an endpoint.
struct Forwarding<'a> {
    worker: &'a Rc<Worker>,
    connection: &'a ClientConnection,
    route: &'a Route,
    asked: &'a Identified,
    exchange: Exchange,
}

/// What came back, and over what.
type Answer = (Response<Incoming>, Lease, Active);

/// A failed try, with the request unless it was sent.
struct Failed {
    failure: Failure,
    unsent: Option<Request<RequestBody>>,
    /// The connection had served before: its endpoint may well be fine.
    stale: bool,
}

impl Forwarding<'_> {
    async fn run(
        mut self,
        (mut parts, incoming): (Parts, Incoming),
        upgrade: Option<OnUpgrade>,
    ) -> Response<ResponseBody> {
        let limits = &self.worker.shared.limits;
        let has_body = !incoming.is_end_stream();
        if limits.request_body_bytes_max.is_some_and(|max| incoming.size_hint().lower() > max) {
            return refuse(Failure::BodyTooLarge, self.exchange);
        }
        let version = parts.version;
        let protocol = self.route.pool.load().protocol;
        let http2 = upgrade.is_none() && (self.asked.grpc || protocol == UpstreamProtocol::Http2);
        let chunked = has_body && !parts.headers.contains_key(header::CONTENT_LENGTH);
        let replay = Replay::of(&parts.method, has_body);
        let how = Forwarded { http2, chunked, request_id: self.worker.random() };
        head::forward(&mut parts, self.asked, self.connection.client(), how);
        parts.extensions.clear();
        let source = Rc::new(RequestSource::new(incoming, limits.request_body_bytes_max));
        self.exchange.reads(&source);
        let request = Request::from_parts(parts, RequestBody(source.clone()));
        match self.send(request, replay, http2, &source).await {
            Ok(answer) => self.hand_back(answer, version, upgrade),
            Err(failure) => {
                let response = refuse(failure, self.exchange);
                // The rest of a broken body cannot be told from a next request.
                if source.state() == SourceState::Flowing { response } else { closing(response, version) }
            }
        }
    }

    /// Tries endpoints until one answers, none is left, or the request must not be sent again.
    async fn send(
        &self,
        request: Request<RequestBody>,
        replay: Replay,
        http2: bool,
        source: &Rc<RequestSource>,
    ) -> Result<Answer, Failure> {
        let worker = self.worker;
        let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
        let mut last = Failure::NoEndpoint;
        let mut next = Some(request);
        let mut stale_tries = 0;
        while let Some(request) = next.take() {
            let endpoint =
                self.route.pool.load().choose(worker.index, worker.random(), &tried).cloned().ok_or(last)?;
            let spare = (replay == Replay::UntilResponse).then(|| request.clone());
            let active = endpoint.begin(worker.index);
            let attempt = Attempt { worker, endpoint: &endpoint, source, replay };
            let sent = if http2 { attempt.http2(request).await } else { attempt.http1(request).await };
            let failed = match sent {
                Ok((response, lease)) => return Ok((response, lease, active)),
                Err(failed) => failed,
            };
            last = failed.failure;
            if failed.stale && stale_tries < worker.shared.limits.tries_max {
                stale_tries += 1;
            } else {
                tried.push(endpoint.address);
            }
            if !failed.failure.may_retry(replay) || tried.len() >= worker.shared.limits.tries_max {
                return Err(failed.failure);
            }
            worker.metrics().retries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            next = failed.unsent.or(spare);
        }
        Err(last)
    }

    fn hand_back(
        mut self,
        (mut response, lease, active): Answer,
        version: Version,
        upgrade: Option<OnUpgrade>,
    ) -> Response<ResponseBody> {
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.exchange.served_by(lease, active);
            return match upgrade {
                Some(client) => self.switch(response, client),
                None => refuse(Failure::BadResponse, self.exchange),
            };
        }
        head::clean_response(response.headers_mut());
        response.extensions_mut().clear();
        *response.version_mut() = version;
        self.exchange.answered(status, None);
        self.exchange.served_by(lease, active);
        let timeout = self.worker.shared.limits.upstream_timeout;
        response.map(|incoming| ResponseBody::streamed(incoming, self.exchange, timeout))
    }

    fn switch(mut self, mut response: Response<Incoming>, client: OnUpgrade) -> Response<ResponseBody> {
        let endpoint = hyper::upgrade::on(&mut response);
        let protocol = response.headers().get(header::UPGRADE).cloned();
        self.exchange.answered(StatusCode::SWITCHING_PROTOCOLS, None);
        let (mut parts, _) = response.into_parts();
        head::clean_response(&mut parts.headers);
        parts.extensions.clear();
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            parts.headers.insert(header::UPGRADE, protocol);
        }
        tunnel::spawn(self.exchange, client, endpoint, self.worker.shared.limits.upstream_timeout);
        Response::from_parts(parts, ResponseBody::none())
    }
}

/// One try at one endpoint.
struct Attempt<'a> {
    worker: &'a Worker,
    endpoint: &'a Arc<Endpoint>,
    source: &'a RequestSource,
    replay: Replay,
}

impl Attempt<'_> {
    async fn http1(&self, request: Request<RequestBody>) -> Result<(Response<Incoming>, Lease), Failed> {
        let upstreams = &self.worker.upstreams;
        // A request that cannot be sent twice gets a connection that was just looked at.
        let idle = upstreams.idle(self.endpoint, self.replay == Replay::UntilSent);
        let mut connection: Http1 = match idle {
            Some(connection) => connection,
            None => match upstreams.connect_http1(self.endpoint, &self.worker.changed).await {
                Ok(connection) => connection,
                Err(failure) => return Err(Failed { failure, unsent: Some(request), stale: false }),
            },
        };
        self.count_connect(connection.reused);
        let sent = self.until_head(connection.sender.try_send_request(request)).await;
        match sent {
            Ok(Ok(response)) => Ok((response, Lease::Http1(connection))),
            Ok(Err(mut error)) => {
                let unsent = error.take_message();
                Err(self.failed(error.into_error(), unsent, connection.reused))
            }
            Err(failure) => Err(Failed { failure, unsent: None, stale: false }),
        }
    }

    async fn http2(&self, request: Request<RequestBody>) -> Result<(Response<Incoming>, Lease), Failed> {
        let upstreams = &self.worker.upstreams;
        let shared = upstreams.http2(self.endpoint);
        let reused = shared.is_some();
        let mut sender = match shared {
            Some(sender) => sender,
            None => match upstreams.connect_http2(self.endpoint, &self.worker.changed).await {
                Ok(sender) => sender,
                Err(failure) => return Err(Failed { failure, unsent: Some(request), stale: false }),
            },
        };
        self.count_connect(reused);
        let sent = self.until_head(sender.try_send_request(request)).await;
        match sent {
            Ok(Ok(response)) => Ok((response, Lease::Http2(sender))),
            Ok(Err(mut error)) => {
                let unsent = error.take_message();
                Err(self.failed(error.into_error(), unsent, reused))
            }
            Err(failure) => Err(Failed { failure, unsent: None, stale: false }),
        }
    }

    fn count_connect(&self, reused: bool) {
        if !reused {
            let connects = &self.worker.metrics().upstream_connects;
            connects.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn failed(&self, error: hyper::Error, unsent: Option<Request<RequestBody>>, reused: bool) -> Failed {
        if reused {
            self.worker.upstreams.forget(self.endpoint);
        }
        let failure = match self.source.state() {
            SourceState::Broken => Failure::ClientBody,
            SourceState::TooLarge => Failure::BodyTooLarge,
            SourceState::Flowing | SourceState::WaitingForClient if unsent.is_some() => Failure::Unsent,
            SourceState::Flowing | SourceState::WaitingForClient if error.is_parse() => Failure::BadResponse,
            SourceState::Flowing | SourceState::WaitingForClient => Failure::Lost,
        };
        let stale = reused && matches!(failure, Failure::Unsent | Failure::Lost);
        Failed { failure, unsent, stale }
    }

    /// Waits for the head of a response as long as the request body moves; then the silence is the endpoint's, or the client's when
    /// it owes us body bytes.
    async fn until_head<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let timeout = self.worker.shared.limits.upstream_timeout;
        let began = Instant::now();
        let timer = tokio::time::sleep_until(began + timeout);
        tokio::pin!(work, timer);
        loop {
            tokio::select! {
                biased;
                done = work.as_mut() => return Ok(done),
                () = timer.as_mut() => {
                    let deadline = self.source.progressed_at().max(began) + timeout;
                    if deadline > Instant::now() {
                        timer.as_mut().reset(deadline);
                    } else if self.source.state() == SourceState::WaitingForClient {
                        return Err(Failure::ClientTimeout);
                    } else {
                        return Err(Failure::UpstreamTimeout);
                    }
                }
            }
        }
    }
}
