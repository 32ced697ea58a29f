//! The client of exec and attach, whichever way it came: channels over WebSocket or streams over SPDY.
//!
//! A channel is a number before every message, and a stream is opened by the client with a header that names it; either way there are
//! standard input, output and errors, one for how it ended and one for the size of the terminal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::ReadHalf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::upgrade::{self, Agreed, Raw, WebSocket};
use super::windows::{Credit, Windows};
use crate::protocol::How;
use crate::spdy::{self, Connection, StreamId};

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const RESIZE: u8 = 4;
/// v5: the channel in the next byte gets no more.
pub(super) const CLOSE: u8 = 255;

/// The channel protocol, best first. From v4 on the end is a Status object, before a sentence; v5 has half-close.
pub(super) const CHANNELS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
/// The same over SPDY, where closing one direction of a stream is part of SPDY. The size of a terminal came with v3.
pub(super) const STREAMS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// Messages that wait for the client.
const QUEUE_MAX: usize = 16;
/// How long a SPDY client may take to open its streams.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// How long the client may take to read the end and go. Closing before would take what is under way from it.
const LEAVE_MAX: Duration = Duration::from_secs(10);
/// Bytes of one message to the client.
const MESSAGE_BYTES: usize = 32 << 10;

/// What the client wants to be connected with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// What came from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Input(Bytes),
    InputEnd,
    Resize { columns: u16, rows: u16 },
}

/// The client left.
#[derive(Debug)]
pub(super) struct Gone;

/// Both directions, once the connection is there and, over SPDY, the client opened the streams that it wants.
pub(super) async fn connect(agreed: Agreed, wanted: Wanted) -> Option<(Reader, Writer)> {
    match agreed {
        Agreed::WebSocket(protocol, upgrade) => {
            let (sink, source) = upgrade::websocket(upgrade).await?.split();
            let (queue, messages) = mpsc::channel(QUEUE_MAX);
            let task = tokio::spawn(write_messages(sink, messages));
            let writer = Writer { protocol, wire: Wire::Channels(queue), task: Arc::new(task) };
            Some((Reader::Channels(source), writer))
        }
        Agreed::Spdy(protocol, upgrade) => {
            let (half, sink) = upgrade::raw(upgrade).await?;
            let (queue, frames) = mpsc::channel(QUEUE_MAX);
            let task = tokio::spawn(upgrade::write(sink, frames));
            let mut streams = Streams::new(half, queue.clone());
            let opening = streams.opened(protocol, wanted);
            let lanes = match tokio::time::timeout(OPEN_MAX, opening).await {
                Ok(lanes) => lanes?,
                Err(_) => {
                    tracing::info!(
                        "a client was left: it did not open the streams that it asked for in {OPEN_MAX:?}"
                    );
                    return None;
                }
            };
            let wire = Wire::Streams { queue, lanes: Arc::new(lanes) };
            Some((Reader::Streams(Box::new(streams)), Writer { protocol, wire, task: Arc::new(task) }))
        }
    }
}

async fn write_messages(mut sink: SplitSink<WebSocket, Message>, mut queue: mpsc::Receiver<Message>) {
    while let Some(message) = queue.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
    // An end without a code is a failure to kubectl (it reports "close 1005").
    let _ = sink.send(normal_end()).await;
    let _ = sink.flush().await;
}

/// The frame that ends a connection as it should.
pub(super) fn normal_end() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// A message for a channel.
pub(super) fn frame(channel: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.into())
}

/// What comes from the client.
pub(super) enum Reader {
    Channels(SplitStream<WebSocket>),
    Streams(Box<Streams>),
}

impl Reader {
    /// The next event; none when the client is gone. Nothing is lost when it is given up half-way.
    pub(super) async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Streams(streams) => loop {
                if let Some(event) = streams.next().await?.into_event() {
                    return Some(event);
                }
            },
            Self::Channels(source) => loop {
                let bytes = match source.next().await {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Text(text))) => Bytes::copy_from_slice(text.as_bytes()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                };
                if let Some(event) = parse_message(&bytes) {
                    return Some(event);
                }
            },
        }
    }

    /// Reads on until the client has left: what it says does not matter any more, but one that is stuck in sending reads nothing, and
    /// closing on it would take from it what is under way.
    async fn left(self) {
        let gone = async {
            match self {
                Self::Channels(mut source) => {
                    while source.next().await.is_some_and(|message| message.is_ok()) {}
                }
                Self::Streams(streams) => {
                    let Streams { mut half, mut buffer, queue, .. } = *streams;
                    // The connection is closed for writing when nobody can write any more.
                    drop(queue);
                    while upgrade::read(&mut half, &mut buffer).await.is_some() {
                        buffer.clear();
                    }
                }
            }
        };
        let _ = tokio::time::timeout(LEAVE_MAX, gone).await;
    }
}

fn parse_message(bytes: &Bytes) -> Option<Event> {
    match bytes.split_first()? {
        (&STDIN, data) if !data.is_empty() => Some(Event::Input(bytes.slice_ref(data))),
        (&RESIZE, data) => parse_size(data),
        (&CLOSE, [STDIN]) => Some(Event::InputEnd),
        _ => None,
    }
}

fn parse_size(data: &[u8]) -> Option<Event> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let size = serde_json::from_slice::<Size>(data).ok()?;
    Some(Event::Resize { columns: size.width, rows: size.height })
}

/// The streams of a SPDY client.
pub(super) struct Streams {
    half: ReadHalf<Raw>,
    buffer: BytesMut,
    connection: Connection,
    windows: Windows,
    queue: mpsc::Sender<Bytes>,
    kinds: BTreeMap<StreamId, u8>,
}

/// What came on one of them.
enum Came {
    Opened,
    Event(Event),
    Nothing,
}

impl Came {
    fn into_event(self) -> Option<Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Opened | Self::Nothing => None,
        }
    }
}

/// Where output goes on SPDY, by channel.
type Lanes = BTreeMap<u8, (StreamId, Credit)>;

impl Streams {
    fn new(half: ReadHalf<Raw>, queue: mpsc::Sender<Bytes>) -> Self {
        let (connection, windows) = (Connection::default(), Windows::default());
        Self { half, buffer: BytesMut::new(), connection, windows, queue, kinds: BTreeMap::new() }
    }

    /// Waits until the client opened all that it asked for.
    async fn opened(&mut self, protocol: &str, wanted: Wanted) -> Option<Lanes> {
        let expected = expected(protocol, wanted);
        let mut lanes = Lanes::new();
        while !expected.iter().all(|kind| self.kinds.values().any(|known| known == kind)) {
            if let Came::Opened = self.next().await? {
                let Some((&stream, &kind)) = self.kinds.last_key_value() else { continue };
                lanes.insert(kind, (stream, self.windows.open(stream)));
            }
        }
        Some(lanes)
    }

    async fn next(&mut self) -> Option<Came> {
        loop {
            let event = self.connection.next_event();
            if let Err(error) = &event {
                tracing::info!(%error, "a client was left: it does not speak SPDY/3.1");
            }
            let event = event.ok()?;
            self.answer().await?;
            if let Some(event) = event {
                return self.take(event);
            }
            upgrade::read(&mut self.half, &mut self.buffer).await?;
            self.connection.feed(&self.buffer.split());
        }
    }

    /// Sends what the protocol itself has to answer.
    async fn answer(&mut self) -> Option<()> {
        let output = self.connection.take_output();
        if output.is_empty() { Some(()) } else { self.queue.send(output).await.ok() }
    }

    /// None when the client says that it goes.
    fn take(&mut self, event: spdy::Event) -> Option<Came> {
        Some(match event {
            spdy::Event::Opened { stream, headers } => {
                let kind =
                    headers.iter().find(|(name, _)| name == "streamtype").and_then(|(_, kind)| number(kind));
                match kind {
                    Some(kind) => {
                        self.kinds.insert(stream, kind);
                        Came::Opened
                    }
                    None => Came::Nothing,
                }
            }
            spdy::Event::Data { stream, bytes } => {
                self.connection.consumed(stream, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                match self.kinds.get(&stream) {
                    Some(&STDIN) => Came::Event(Event::Input(bytes)),
                    Some(&RESIZE) => parse_size(&bytes).map_or(Came::Nothing, Came::Event),
                    _ => Came::Nothing,
                }
            }
            spdy::Event::Ended { stream } => self.input_end(stream),
            spdy::Event::Reset { stream } => {
                self.windows.close(stream);
                self.input_end(stream)
            }
            spdy::Event::Window { stream, bytes } => {
                self.windows.grow(stream, bytes);
                Came::Nothing
            }
            spdy::Event::InitialWindow { bytes } => {
                self.windows.initial(bytes);
                Came::Nothing
            }
            spdy::Event::GoAway => return None,
        })
    }

    fn input_end(&self, stream: StreamId) -> Came {
        if self.kinds.get(&stream) == Some(&STDIN) { Came::Event(Event::InputEnd) } else { Came::Nothing }
    }
}

/// The channel that a stream type names.
fn number(kind: &str) -> Option<u8> {
    Some(match kind {
        "stdin" => STDIN,
        "stdout" => STDOUT,
        "stderr" => STDERR,
        "error" => ERROR,
        "resize" => RESIZE,
        _ => return None,
    })
}

/// The streams that a client opens which asks for these over this protocol.
fn expected(protocol: &str, wanted: Wanted) -> Vec<u8> {
    let resizes = wanted.tty && !matches!(protocol, "v2.channel.k8s.io" | "channel.k8s.io");
    let all = [
        (ERROR, true),
        (STDIN, wanted.stdin),
        (STDOUT, wanted.stdout),
        (STDERR, wanted.stderr && !wanted.tty),
        (RESIZE, resizes),
    ];
    all.into_iter().filter(|(_, wanted)| *wanted).map(|(kind, _)| kind).collect()
}

/// What goes to the client; clones share the connection, which ends with the last of them.
#[derive(Clone)]
pub(super) struct Writer {
    protocol: &'static str,
    wire: Wire,
    task: Arc<JoinHandle<()>>,
}

#[derive(Clone)]
enum Wire {
    Channels(mpsc::Sender<Message>),
    Streams { queue: mpsc::Sender<Bytes>, lanes: Arc<Lanes> },
}

impl Writer {
    /// Tells the client that all is open: an empty message, as the API server of Kubernetes sends it.
    pub(super) async fn greet(&self) -> Result<(), Gone> {
        match &self.wire {
            Wire::Channels(queue) => queue.send(frame(STDOUT, b"")).await.map_err(|_| Gone),
            Wire::Streams { .. } => Ok(()),
        }
    }

    /// Bytes for one channel. Those for a channel that the client did not open are dropped.
    pub(super) async fn send(&self, channel: u8, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let wanted = bytes.len().min(MESSAGE_BYTES);
            let sent = match &self.wire {
                Wire::Channels(queue) => {
                    let message = frame(channel, bytes.get(..wanted).unwrap_or_default());
                    queue.send(message).await.map_err(|_| Gone)?;
                    wanted
                }
                Wire::Streams { queue, lanes } => {
                    let Some((stream, credit)) = lanes.get(&channel) else { return Ok(()) };
                    let granted = credit.take(wanted).await;
                    if granted == 0 {
                        return Err(Gone);
                    }
                    let frame = spdy::data(*stream, bytes.get(..granted).unwrap_or_default(), false);
                    queue.send(frame).await.map_err(|_| Gone)?;
                    granted
                }
            };
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// A channel gets no more.
    async fn end(&self, channel: u8) -> Result<(), Gone> {
        let Wire::Streams { queue, lanes } = &self.wire else { return Ok(()) };
        let Some((stream, _)) = lanes.get(&channel) else { return Ok(()) };
        queue.send(spdy::data(*stream, b"", true)).await.map_err(|_| Gone)
    }

    /// Says how it ended, and waits until the client has read that and left.
    pub(super) async fn finish(self, how: &How, mut reader: Reader) {
        tokio::select! {
            _ = self.say_how(how) => {}
            // A client that counts makes room while it listens.
            () = async { while reader.next().await.is_some() {} } => {}
        }
        let Self { wire, task, .. } = self;
        drop(wire);
        let written = async {
            if let Ok(task) = Arc::try_unwrap(task) {
                let _ = task.await;
            }
        };
        let ((), ()) = tokio::join!(written, reader.left());
    }

    async fn say_how(&self, how: &How) -> Result<(), Gone> {
        for channel in [STDOUT, STDERR] {
            self.end(channel).await?;
        }
        self.send(ERROR, &status_of(how, self.protocol)).await?;
        self.end(ERROR).await
    }
}

/// What ends a session on the error channel: a Status object, or nothing or a sentence for those before v4.
fn status_of(how: &How, protocol: &str) -> Vec<u8> {
    let message = match how {
        How::Code(0) => String::new(),
        How::Code(_) | How::Signal(_) => {
            format!("command terminated with non-zero exit code: exit status {}", how.exit_code())
        }
        How::NotStarted { message } => format!("Internal error occurred: {message}"),
    };
    if matches!(protocol, "v3.channel.k8s.io" | "v2.channel.k8s.io" | "channel.k8s.io") {
        return message.into_bytes();
    }
    let status = match how {
        How::Code(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
        How::Code(_) | How::Signal(_) => serde_json::json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
            "details": {"causes": [{"reason": "ExitCode", "message": how.exit_code().to_string()}]}
        }),
        How::NotStarted { message: cause } => serde_json::json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": message, "details": {"causes": [{"message": cause}]}
        }),
    };
    status.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_opens_what_it_asks_for() {
        struct Case {
            name: &'static str,
            protocol: &'static str,
            given: Wanted,
            want: &'static [u8],
        }
        let all = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        let cases = [
            Case {
                name: "all",
                protocol: "v4.channel.k8s.io",
                given: all,
                want: &[ERROR, STDIN, STDOUT, STDERR],
            },
            Case {
                name: "a terminal has no errors of its own, but a size",
                protocol: "v4.channel.k8s.io",
                given: Wanted { tty: true, ..all },
                want: &[ERROR, STDIN, STDOUT, RESIZE],
            },
            Case {
                name: "the size came with v3",
                protocol: "v2.channel.k8s.io",
                given: Wanted { tty: true, stdin: false, ..all },
                want: &[ERROR, STDOUT],
            },
        ];
        for case in cases {
            assert_eq!(expected(case.protocol, case.given), case.want, "{}", case.name);
        }
    }

    #[test]
    fn messages_of_channels_are_read() {
        struct Case {
            given: &'static [u8],
            want: Option<Event>,
        }
        let cases = [
            Case { given: b"\x00ab", want: Some(Event::Input(Bytes::from_static(b"ab"))) },
            Case { given: b"\x00", want: None },
            Case { given: b"\xff\x00", want: Some(Event::InputEnd) },
            Case { given: b"\xff\x01", want: None },
            Case { given: br#"{"Width":80,"Height":24}"#, want: None },
            Case {
                given: b"\x04{\"Width\":80,\"Height\":24}",
                want: Some(Event::Resize { columns: 80, rows: 24 }),
            },
            Case { given: b"\x04{}", want: None },
            Case { given: b"", want: None },
        ];
        for case in cases {
            assert_eq!(parse_message(&Bytes::from_static(case.given)), case.want, "{:?}", case.given);
        }
    }

    #[test]
    fn the_end_is_told_as_the_protocol_has_it() {
        let text = |how: &How, protocol| String::from_utf8(status_of(how, protocol)).unwrap();
        assert_eq!(text(&How::Code(0), "channel.k8s.io"), "");
        assert_eq!(
            text(&How::Code(3), "v2.channel.k8s.io"),
            "command terminated with non-zero exit code: exit status 3"
        );
        assert!(text(&How::Code(0), "v4.channel.k8s.io").contains(r#""status":"Success""#));
        assert!(text(&How::Signal(9), "v5.channel.k8s.io").contains(r#""message":"137""#));
    }
}
