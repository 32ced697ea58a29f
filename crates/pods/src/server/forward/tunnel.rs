//! Port-forward over SPDY. For each connection the client opens an error stream and a data stream that carry the same `requestid` and
//! `port`. The connection begins with the data stream; the error stream gets a sentence if it fails, and both end with it: kubectl waits
//! for the end of the error stream.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fairway_netns::Netns;
use futures::StreamExt;
use futures::stream::SplitStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::tungstenite::Message;

use super::super::channels::Channels;
use super::super::spdy::{self, Decoder, Encoder, Frame, StreamId};
use super::{QUEUE_MAX, carry};

/// Connections of one client at the same time, and error streams that wait for their data stream.
const CONNECTIONS_MAX: usize = 256;

/// One client.
pub(super) struct Session {
    pod: String,
    netns: Option<Arc<Netns>>,
    out: mpsc::Sender<Message>,
    encoder: Encoder,
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
    pub(super) fn new(pod: String, netns: Option<Arc<Netns>>, out: mpsc::Sender<Message>) -> Self {
        let (encoder, waiting, connections) = Default::default();
        Self { pod, netns, out, encoder, waiting, connections, tasks: JoinSet::new() }
    }

    /// Until the client goes.
    pub(super) async fn run(mut self, mut source: SplitStream<Channels>) {
        let mut decoder = Decoder::default();
        loop {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    // A task that was aborted is not there any more.
                    if let Ok(stream) = ended { self.connections.remove(&stream); }
                }
                message = source.next() => {
                    let Some(Ok(message)) = message else { return };
                    let Message::Binary(bytes) = message else { continue };
                    decoder.feed(&bytes);
                    if self.frames(&mut decoder).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn frames(&mut self, decoder: &mut Decoder) -> Result<(), Over> {
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => self.frame(frame).await?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::info!(%error, pod = self.pod, "port-forward ended: the client does not speak SPDY/3.1");
                    return Err(Over);
                }
            }
        }
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), Over> {
        match frame {
            Frame::Open { stream, headers } => self.open(stream, &headers).await,
            Frame::Data { stream, bytes, last } => {
                let Some(connection) = self.connections.get_mut(&stream) else { return Ok(()) };
                if let (Some(input), false) = (&connection.input, bytes.is_empty()) {
                    // A connection that is closed gets no more; the client learns it from the end of the stream.
                    let _ = input.send(bytes).await;
                }
                if last {
                    connection.input = None;
                }
                Ok(())
            }
            Frame::Reset { stream } => {
                let Some(connection) = self.connections.remove(&stream) else { return Ok(()) };
                connection.task.abort();
                self.send(spdy::data(connection.error, &[], true)).await
            }
            Frame::Ping { id } => self.send(spdy::ping(id)).await,
            Frame::GoAway => Err(Over),
        }
    }

    async fn open(&mut self, stream: StreamId, headers: &[(String, String)]) -> Result<(), Over> {
        let header = |wanted: &str| {
            headers
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.as_str())
                .unwrap_or_default()
        };
        let reply = self.encoder.reply(stream);
        self.send(reply).await?;
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
        let task = self.tasks.spawn(async move {
            let wrap = |bytes: &[u8]| Message::Binary(spdy::data(data, bytes, false));
            let message = match carry(netns, port, receiver, &out, wrap).await {
                Ok(()) => String::new(),
                Err(why) => format!("error forwarding port {port} to pod {pod}: {why}"),
            };
            for end in [spdy::data(data, &[], true), spdy::data(error, message.as_bytes(), true)] {
                let _ = out.send(Message::Binary(end)).await;
            }
            data
        });
        self.connections.insert(data, Connection { input: Some(input), error, task });
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Over> {
        self.out.send(Message::Binary(bytes)).await.map_err(|_| Over)
    }
}
