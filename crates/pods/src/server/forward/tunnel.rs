//! Port-forward over SPDY. For each connection the client opens an error stream and a data stream that carry the same `requestid` and
//! `port`. The connection begins with the data stream; the error stream gets a sentence if it fails, and both end with it: kubectl waits
//! for the end of the error stream.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fairway_netns::Netns;
use futures::StreamExt;
use futures::stream::SplitStream;
use tokio::io::ReadHalf;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::tungstenite::Message;

use super::super::upgrade::{self, Raw, WebSocket};
use super::super::windows::Windows;
use super::{QUEUE_MAX, carry};
use crate::spdy::{self, Event, StreamId};

/// Connections of one client at the same time, and error streams that wait for their data stream.
const CONNECTIONS_MAX: usize = 200;
const _: () = assert!(2 * CONNECTIONS_MAX < spdy::STREAMS_MAX, "a connection is two streams");

/// What carries the client's frames.
pub(super) enum Source {
    Messages(SplitStream<WebSocket>),
    Connection(ReadHalf<Raw>),
}

impl Source {
    /// More bytes; none when the client is gone. Nothing is lost when it is given up half-way.
    async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Messages(source) => loop {
                if let Message::Binary(bytes) = source.next().await?.ok()? {
                    return Some(bytes);
                }
            },
            Self::Connection(half) => {
                let mut buffer = BytesMut::new();
                upgrade::read(half, &mut buffer).await?;
                Some(buffer.freeze())
            }
        }
    }
}

/// One client.
pub(super) struct Session {
    pod: String,
    netns: Option<Arc<Netns>>,
    out: mpsc::Sender<Bytes>,
    spdy: spdy::Connection,
    windows: Windows,
    /// Error streams by their `requestid`, until the data stream comes.
    waiting: HashMap<String, StreamId>,
    connections: HashMap<StreamId, Connection>,
    tasks: JoinSet<StreamId>,
}

/// What is known of a connection by its data stream.
struct Connection {
    /// None when the client sends no more.
    input: Option<mpsc::Sender<Bytes>>,
    error: StreamId,
    task: AbortHandle,
}

/// The client left, or sent what cannot be understood.
struct Over;

impl Session {
    pub(super) fn new(pod: String, netns: Option<Arc<Netns>>, out: mpsc::Sender<Bytes>) -> Self {
        Self {
            pod,
            netns,
            out,
            spdy: spdy::Connection::default(),
            windows: Windows::default(),
            waiting: HashMap::new(),
            connections: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Until the client goes.
    pub(super) async fn run(mut self, mut source: Source) {
        loop {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    // A task that was aborted is not there any more.
                    if let Ok(stream) = ended { self.forget(stream); }
                }
                bytes = source.next() => {
                    let Some(bytes) = bytes else { return };
                    self.spdy.feed(&bytes);
                    if self.events().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn forget(&mut self, stream: StreamId) -> Option<Connection> {
        let connection = self.connections.remove(&stream)?;
        for stream in [stream, connection.error] {
            self.windows.close(stream);
            self.spdy.close(stream);
        }
        Some(connection)
    }

    async fn events(&mut self) -> Result<(), Over> {
        loop {
            let event = self.spdy.next_event();
            let output = self.spdy.take_output();
            if !output.is_empty() {
                self.send(output).await?;
            }
            match event {
                Ok(Some(event)) => self.event(event).await?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::info!(%error, pod = self.pod, "port-forward ended: the client does not speak SPDY/3.1");
                    return Err(Over);
                }
            }
        }
    }

    async fn event(&mut self, event: Event) -> Result<(), Over> {
        match event {
            Event::Opened { stream, headers } => self.open(stream, &headers),
            Event::Data { stream, bytes } => {
                let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                if let Some(input) = self.connections.get(&stream).and_then(|known| known.input.as_ref()) {
                    // A connection that is closed gets no more; the client learns it from the end of the stream.
                    let _ = input.send(bytes).await;
                }
                self.spdy.consumed(stream, count);
                Ok(())
            }
            Event::Ended { stream } => {
                if let Some(connection) = self.connections.get_mut(&stream) {
                    connection.input = None;
                }
                Ok(())
            }
            Event::Reset { stream } => {
                let Some(connection) = self.forget(stream) else { return Ok(()) };
                connection.task.abort();
                self.send(spdy::data(connection.error, &[], true)).await
            }
            Event::Window { stream, bytes } => {
                self.windows.grow(stream, bytes);
                Ok(())
            }
            Event::InitialWindow { bytes } => {
                self.windows.initial(bytes);
                Ok(())
            }
            Event::GoAway => Err(Over),
        }
    }

    fn open(&mut self, stream: StreamId, headers: &[(String, String)]) -> Result<(), Over> {
        let header = |wanted: &str| {
            headers
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.as_str())
                .unwrap_or_default()
        };
        if self.waiting.len() >= CONNECTIONS_MAX || self.connections.len() >= CONNECTIONS_MAX {
            tracing::warn!(
                pod = self.pod,
                "port-forward ended: more than {CONNECTIONS_MAX} connections at the same time"
            );
            return Err(Over);
        }
        let request = header("requestid").to_owned();
        match header("streamtype") {
            "error" => {
                self.waiting.insert(request, stream);
                Ok(())
            }
            "data" => {
                let error = self.waiting.remove(&request).ok_or(Over)?;
                let port: u16 = header("port").parse().map_err(|_| Over)?;
                self.connect(stream, error, port);
                Ok(())
            }
            other => {
                tracing::info!(
                    kind = other,
                    pod = self.pod,
                    "port-forward ended: a stream of an unknown kind"
                );
                Err(Over)
            }
        }
    }

    fn connect(&mut self, data: StreamId, error: StreamId, port: u16) {
        let (input, receiver) = mpsc::channel(QUEUE_MAX);
        let (out, netns, pod) = (self.out.clone(), self.netns.clone(), self.pod.clone());
        let (credit, _) = (self.windows.open(data), self.windows.open(error));
        let task = self.tasks.spawn(async move {
            let wrap = |bytes: &[u8]| spdy::data(data, bytes, false);
            let message = match carry(netns, port, receiver, &out, Some(&credit), wrap).await {
                Ok(()) => String::new(),
                Err(why) => format!("error forwarding port {port} to pod {pod}: {why}"),
            };
            for end in [spdy::data(data, &[], true), spdy::data(error, message.as_bytes(), true)] {
                let _ = out.send(end).await;
            }
            data
        });
        self.connections.insert(data, Connection { input: Some(input), error, task });
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Over> {
        self.out.send(bytes).await.map_err(|_| Over)
    }
}
