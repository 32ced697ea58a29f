//! Port-forward, in the two forms that clients speak. Connections are made inside the pod's namespace to its loopback address, so that a
//! program that listens only there is reached, too.
//!
//! - Channels: for the i-th port of the request, channel 2i carries data and channel 2i+1 an error; each begins with the port number.
//! - SPDY, in WebSocket messages or on the bare connection (kubectl, new and old): for each connection the client opens a pair of streams
//!   ([`tunnel`]).

mod tunnel;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fairway_netns::Netns;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::remote::{self, CLOSE};
use super::upgrade::{self, Agreed, WebSocket};
use super::windows::Credit;
use super::{Body, Refused};
use crate::agent::LivePod;
use crate::sandbox::Control;

/// SPDY frames in binary messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Over WebSocket, best first.
const OVER_WEBSOCKET: &[&str] = &[TUNNEL, "v5.channel.k8s.io", "v4.channel.k8s.io"];
/// On the bare connection.
const OVER_SPDY: &[&str] = &["portforward.k8s.io"];
/// Ports of one request.
const PORTS_MAX: usize = 64;
/// Messages that wait for the client or a connection.
const QUEUE_MAX: usize = 16;
const CHUNK_BYTES: usize = 32 << 10;

/// `/portForward/…?ports=80&ports=443`; over SPDY the streams name the ports.
pub(super) fn forward(
    request: Request<Incoming>,
    pod: &LivePod,
    parameters: &[(String, String)],
) -> Result<Response<Body>, Refused> {
    let (answer, agreed) = upgrade::accept(request, OVER_WEBSOCKET, OVER_SPDY)?;
    let (socket, name) = (pod.paths.socket.clone(), pod.id.to_string());
    match agreed {
        Agreed::WebSocket(TUNNEL, upgrade) => {
            tokio::spawn(over_messages(upgrade, name, socket));
        }
        Agreed::WebSocket(_, upgrade) => {
            tokio::spawn(over_channels(upgrade, ports(parameters)?, socket));
        }
        Agreed::Spdy(_, upgrade) => {
            tokio::spawn(over_connection(upgrade, name, socket));
        }
    }
    Ok(answer)
}

/// SPDY in messages.
async fn over_messages(upgrade: OnUpgrade, pod: String, socket: PathBuf) {
    let Some(connection) = upgrade::websocket(upgrade).await else { return };
    let (sink, source) = connection.split();
    let (out, frames) = mpsc::channel::<Bytes>(QUEUE_MAX);
    // On its own: a pod that sends must not wait until it has read what the client sends, nor the other way round.
    let writer = tokio::spawn(write(sink, frames, Frame::Binary));
    tunnel::Session::new(pod, namespace(&socket).await, out).run(tunnel::Source::Messages(source)).await;
    let _ = writer.await;
}

/// SPDY as it is.
async fn over_connection(upgrade: OnUpgrade, pod: String, socket: PathBuf) {
    let Some((half, sink)) = upgrade::raw(upgrade).await else { return };
    let (out, frames) = mpsc::channel::<Bytes>(QUEUE_MAX);
    let writer = tokio::spawn(upgrade::write(sink, frames));
    tunnel::Session::new(pod, namespace(&socket).await, out).run(tunnel::Source::Connection(half)).await;
    let _ = writer.await;
}

fn ports(parameters: &[(String, String)]) -> Result<Vec<u16>, Refused> {
    let asked = parameters.iter().filter(|(name, _)| name == "ports").flat_map(|(_, value)| value.split(','));
    let ports: Result<Vec<u16>, _> = asked.map(str::parse).collect();
    let ports = ports.ok().filter(|ports| (1..=PORTS_MAX).contains(&ports.len()) && !ports.contains(&0));
    ports.ok_or_else(|| {
        Refused::new(StatusCode::BAD_REQUEST, "ports: 1 to 64 numbers from 1 to 65535 are needed")
    })
}

/// Sends until nobody has anything to send any more, then ends the connection.
async fn write<T>(
    mut sink: SplitSink<WebSocket, Frame>,
    mut frames: mpsc::Receiver<T>,
    message: impl Fn(T) -> Frame,
) {
    while let Some(frame) = frames.recv().await {
        if sink.send(message(frame)).await.is_err() {
            return;
        }
    }
    let _ = sink.send(remote::normal_end()).await;
    let _ = sink.close().await;
}

/// Channels, until every connection ended or the client went.
async fn over_channels(upgrade: OnUpgrade, ports: Vec<u16>, socket: PathBuf) {
    let Some(connection) = upgrade::websocket(upgrade).await else { return };
    let netns = namespace(&socket).await;
    let (sink, source) = connection.split();
    let (out, frames) = mpsc::channel::<Frame>(QUEUE_MAX);
    let writer = tokio::spawn(write(sink, frames, |frame| frame));
    serve_channels(ports, netns, source, out).await;
    let _ = writer.await;
}

async fn serve_channels(
    ports: Vec<u16>,
    netns: Option<Arc<Netns>>,
    mut source: SplitStream<WebSocket>,
    out: mpsc::Sender<Frame>,
) {
    let mut inputs: HashMap<u8, mpsc::Sender<Bytes>> = HashMap::new();
    let mut tasks = JoinSet::new();
    for (index, port) in (0_u8..).zip(ports) {
        let (data, error) = (index * 2, index * 2 + 1);
        let (input, receiver) = mpsc::channel(QUEUE_MAX);
        inputs.insert(data, input);
        let (out, netns) = (out.clone(), netns.clone());
        tasks.spawn(async move {
            for channel in [data, error] {
                if out.send(remote::frame(channel, &port.to_le_bytes())).await.is_err() {
                    return;
                }
            }
            let wrap = |bytes: &[u8]| remote::frame(data, bytes);
            if let Err(message) = carry(netns, port, receiver, &out, None, wrap).await {
                let _ = out.send(remote::frame(error, message.as_bytes())).await;
            }
        });
    }
    drop(out);
    loop {
        tokio::select! {
            ended = tasks.join_next() => if ended.is_none() { return },
            message = source.next() => {
                let Some(Ok(message)) = message else { return };
                let Frame::Binary(bytes) = message else { continue };
                match bytes.split_first() {
                    Some((&CLOSE, [channel])) => drop(inputs.remove(channel)),
                    Some((channel, data)) if !data.is_empty() => {
                        if let Some(input) = inputs.get(channel) {
                            // A connection that is closed gets no more; the client learns it from the close of the data.
                            let _ = input.send(bytes.slice_ref(data)).await;
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

async fn namespace(socket: &Path) -> Option<Arc<Netns>> {
    let control = Control::connect(socket).await.ok()?;
    Netns::of_pid(u32::try_from(control.pid()?).ok()?).ok().map(Arc::new)
}

/// One connection to a port of the pod, until the pod has sent all; an error is for the client to read. `credit`: how much the client
/// takes, when it counts.
async fn carry<T>(
    netns: Option<Arc<Netns>>,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    out: &mpsc::Sender<T>,
    credit: Option<&Credit>,
    wrap: impl Fn(&[u8]) -> T,
) -> Result<(), String> {
    let netns = netns.ok_or_else(|| "the pod is not running".to_owned())?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connected =
        tokio::task::spawn_blocking(move || netns.run(|| std::net::TcpStream::connect(address))).await;
    let stream = connected
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("connect to port {port} of the pod: {error}"))?;
    stream.set_nonblocking(true).map_err(|error| error.to_string())?;
    let (mut read, mut write) = TcpStream::from_std(stream).map_err(|error| error.to_string())?.into_split();
    let upward = async {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
    };
    let downward = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match read.read(&mut chunk).await {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let mut bytes = chunk.get(..count).unwrap_or_default();
                    while !bytes.is_empty() {
                        let granted = match credit {
                            Some(credit) => credit.take(bytes.len()).await,
                            None => bytes.len(),
                        };
                        let (now, later) = bytes.split_at_checked(granted).unwrap_or((bytes, &[]));
                        if now.is_empty() || out.send(wrap(now)).await.is_err() {
                            return Ok(());
                        }
                        bytes = later;
                    }
                }
                Err(error) => return Err(format!("port {port} of the pod: {error}")),
            }
        }
    };
    // The end of what the pod sends ends the session, as kubelet has it.
    tokio::pin!(upward);
    tokio::select! {
        result = downward => result,
        () = async { (&mut upward).await; std::future::pending::<()>().await } => Ok(()),
    }
}
