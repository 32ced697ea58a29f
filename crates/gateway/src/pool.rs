//! The endpoints of a backend and the choice among them.
//!
//! A [`Pool`] is immutable; a change of endpoints replaces it in its [`PoolCell`] and touches nothing else. Counters are per worker, each
//! on a cache line of its own: workers never write to each other's lines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::{ArcSwap, Guard};

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU32);

fn per_worker(workers: usize) -> Box<[Padded]> {
    (0..workers).map(|_| Padded::default()).collect()
}

/// One address that takes requests. The same address in several pools is one `Endpoint`, so its load is known to all of them.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    left: AtomicBool,
    active: Box<[Padded]>,
}

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, workers: usize) -> Self {
        Self { address, left: AtomicBool::new(false), active: per_worker(workers) }
    }

    /// Says that no pool has it any more: its idle connections are closed and nothing new is sent to it.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Whether [`Endpoint::leave`] was called.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Requests of this worker that it is working on.
    fn active(&self, worker: usize) -> u32 {
        self.active.get(worker).map_or(0, |count| count.0.load(Ordering::Relaxed))
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>, worker: usize) -> Active {
        if let Some(count) = self.active.get(worker) {
            count.0.fetch_add(1, Ordering::Relaxed);
        }
        Active { endpoint: self.clone(), worker }
    }
}

/// A request that an endpoint is working on.
#[derive(Debug)]
pub(crate) struct Active {
    endpoint: Arc<Endpoint>,
    worker: usize,
}

impl Active {
    /// Of the endpoint.
    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.address
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if let Some(count) = self.endpoint.active.get(self.worker) {
            count.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What the endpoints of a pool speak unless the request decides otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum UpstreamProtocol {
    /// HTTP/1.1; gRPC requests go as HTTP/2 all the same.
    #[default]
    Http1,
    /// HTTP/2 without TLS and without negotiation.
    Http2,
}

impl UpstreamProtocol {
    /// From `appProtocol` (KEP-3726 and the names in use before it).
    pub(crate) fn of(app_protocol: Option<&str>) -> Self {
        match app_protocol {
            Some("kubernetes.io/h2c" | "h2c" | "grpc" | "http2") => Self::Http2,
            Some(_) | None => Self::Http1,
        }
    }
}

/// The endpoints of one backend at one moment.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoints: Box<[Arc<Endpoint>]>,
    /// What they speak.
    pub(crate) protocol: UpstreamProtocol,
    turns: Box<[Padded]>,
}

impl Pool {
    pub(crate) fn new(endpoints: Vec<Arc<Endpoint>>, protocol: UpstreamProtocol, workers: usize) -> Self {
        Self { endpoints: endpoints.into(), protocol, turns: per_worker(workers) }
    }

    /// An endpoint that is not in `tried`. `random` spreads; see [`pick`].
    pub(crate) fn choose(&self, worker: usize, random: u32, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        // A second try takes nobody's turn: with one dead endpoint of two, every request would meet it first.
        let step = u32::from(tried.is_empty());
        let turn = self.turns.get(worker).map_or(0, |turn| turn.0.fetch_add(step, Ordering::Relaxed));
        let load = |index: usize| {
            let endpoint = self.endpoints.get(index)?;
            (!tried.contains(&endpoint.address)).then(|| endpoint.active(worker))
        };
        // Workers start at different places, or a quiet site would only ever use the first endpoint.
        let start = (turn as usize).wrapping_add(worker);
        pick(self.endpoints.len(), start, random as usize, load).and_then(|index| self.endpoints.get(index))
    }

    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }
}

/// Round robin, but a random other one gets the request when it has less to do: even shares at rest, no pile-up behind a slow one.
/// `load` is `None` for those that must not be chosen.
fn pick(count: usize, turn: usize, random: usize, load: impl Fn(usize) -> Option<u32>) -> Option<usize> {
    if count == 0 {
        return None;
    }
    let usable_from =
        |start: usize| (0..count).map(|step| (start + step) % count).find(|&at| load(at).is_some());
    let next = usable_from(turn % count)?;
    let other = usable_from(random % count)?;
    if load(other) < load(next) { Some(other) } else { Some(next) }
}

/// Where a pool is found and replaced.
#[derive(Debug)]
pub(crate) struct PoolCell(ArcSwap<Pool>);

impl PoolCell {
    pub(crate) fn new(pool: Pool) -> Self {
        Self(ArcSwap::from_pointee(pool))
    }

    pub(crate) fn load(&self) -> Guard<Arc<Pool>> {
        self.0.load()
    }

    pub(crate) fn replace(&self, pool: Pool) {
        self.0.store(Arc::new(pool));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_rest_every_endpoint_gets_its_turn() {
        let chosen: Vec<_> = (0..6).map(|turn| pick(3, turn, turn * 7, |_| Some(0)).unwrap()).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn the_less_busy_of_two_wins_and_the_tried_never_do() {
        struct Case {
            name: &'static str,
            loads: &'static [Option<u32>],
            turn: usize,
            random: usize,
            want: Option<usize>,
        }
        let cases = [
            Case { name: "none", loads: &[], turn: 0, random: 0, want: None },
            Case { name: "all tried", loads: &[None, None], turn: 0, random: 1, want: None },
            Case { name: "busy turn", loads: &[Some(9), Some(1)], turn: 0, random: 1, want: Some(1) },
            Case {
                name: "equal keeps the turn",
                loads: &[Some(1), Some(1)],
                turn: 0,
                random: 1,
                want: Some(0),
            },
            Case { name: "tried turn", loads: &[None, Some(5), Some(5)], turn: 0, random: 0, want: Some(1) },
            Case {
                name: "large turn",
                loads: &[Some(0), Some(0)],
                turn: usize::MAX,
                random: 0,
                want: Some(1),
            },
        ];
        for case in cases {
            let got = pick(case.loads.len(), case.turn, case.random, |at| case.loads[at]);
            assert_eq!(got, case.want, "{}", case.name);
        }
    }

    #[test]
    fn active_requests_are_counted_per_worker() {
        let endpoint = Arc::new(Endpoint::new("10.0.0.1:80".parse().unwrap(), 2));
        let (one, two) = (endpoint.begin(0), endpoint.begin(0));
        assert_eq!((endpoint.active(0), endpoint.active(1)), (2, 0));
        drop((one, two));
        assert_eq!(endpoint.active(0), 0);
    }
}
