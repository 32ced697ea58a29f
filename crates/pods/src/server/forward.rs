//! Port-forward, in the two forms that clients speak. Connections are made inside the pod's namespace to its loopback address, so that a
//! program that listens only there is reached, too.
//!
//! - Channels: for the i-th port of the request, channel 2i carries data and channel 2i+1 an error; each begins with the port number.
//! - SPDY in WebSocket messages (kubectl): for each connection the client opens a pair of streams ([`tunnel`]).

mod tunnel;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fairway_netns::Netns;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::channels::{self, CLOSE, Channels};
use super::{Body, Refused};
use crate::agent::LivePod;
use crate::sandbox::Control;

/// SPDY frames in binary messages.
const SPDY: &str = "SPDY/3.1+portforward.k8s.io";
/// Ports of one request.
const PORTS_MAX: usize = 64;
/// Messages that wait for the client or a connection.
const QUEUE_MAX: usize = 16;
const CHUNK_BYTES: usize = 32 << 10;

/// `GET /portForward/…?ports=80&ports=443`; over SPDY the streams name the ports.
pub(super) fn forward(
    request: Request<Incoming>,
    pod: &LivePod,
    parameters: &[(String, String)],
) -> Result<Response<Body>, Refused> {
    let spoken: Vec<&'static str> = [SPDY].iter().chain(channels::CHANNELS).copied().collect();
    let (response, protocol, connection) = channels::accept(request, &spoken)?;
    let ports = if protocol == SPDY { Vec::new() } else { ports(parameters)? };
    let (socket, name) = (pod.paths.socket.clone(), pod.id.to_string());
    tokio::spawn(async move {
        let Some(connection) = connection.await else { return };
        let netns = namespace(&socket).await.map(Arc::new);
        let (sink, source) = connection.split();
        let (out, frames) = mpsc::channel::<Frame>(QUEUE_MAX);
        // On its own: a pod that sends must not wait until it has read what the client sends, nor the other way round.
        let writer = tokio::spawn(write(sink, frames));
        if protocol == SPDY {
            tunnel::Session::new(name, netns, out).run(source).await;
        } else {
            over_channels(ports, netns, source, out).await;
        }
        let _ = writer.await;
    });
    Ok(response)
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
async fn write(mut sink: SplitSink<Channels, Frame>, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        if sink.send(frame).await.is_err() {
            return;
        }
    }
    let _ = sink.send(channels::normal_end()).await;
    let _ = sink.close().await;
}

/// Until every connection ended or the client went.
async fn over_channels(
    ports: Vec<u16>,
    netns: Option<Arc<Netns>>,
    mut source: SplitStream<Channels>,
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
                if out.send(channels::frame(channel, &port.to_le_bytes())).await.is_err() {
                    return;
                }
            }
            let wrap = |bytes: &[u8]| channels::frame(data, bytes);
            if let Err(message) = carry(netns, port, receiver, &out, wrap).await {
                let _ = out.send(channels::frame(error, message.as_bytes())).await;
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

async fn namespace(socket: &Path) -> Option<Netns> {
    let control = Control::connect(socket).await.ok()?;
    Netns::of_pid(u32::try_from(control.pid()?).ok()?).ok()
}

/// One connection to a port of the pod, until the pod has sent all; an error is for the client to read.
async fn carry(
    netns: Option<Arc<Netns>>,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    out: &mpsc::Sender<Frame>,
    wrap: impl Fn(&[u8]) -> Frame,
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
                    if out.send(wrap(chunk.get(..count).unwrap_or_default())).await.is_err() {
                        return Ok(());
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
