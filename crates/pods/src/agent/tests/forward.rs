//! Port-forward as kubectl does it: SPDY frames, written down byte by byte, in WebSocket messages.

use std::collections::BTreeMap;

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::is_ready;
use super::world::World;

fn control(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x80, 3, 0, kind, 0], &(payload.len() as u32).to_be_bytes()[1..], payload].concat()
}

/// SYN_STREAM. The zlib stream begins with the first, and nothing in it is compressed.
pub(super) fn open_with(stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend((text.len() as u32).to_be_bytes());
        block.extend(text.as_bytes());
    }
    let length = (block.len() as u16).to_le_bytes();
    let stored = [&[0], &length[..], &length.map(|byte| !byte), &block].concat();
    let head: &[u8] = if stream == 1 { &[0x78, 0x01] } else { &[] };
    control(1, &[&stream.to_be_bytes()[..], &[0; 6], head, &stored].concat())
}

fn open(stream: u32, kind: &str, port: &str) -> Vec<u8> {
    open_with(stream, &[("streamtype", kind), ("port", port), ("requestid", port)])
}

pub(super) fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    [&stream.to_be_bytes(), &(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

#[tokio::test]
async fn kubectl_forwards_a_port_and_learns_of_one_that_is_closed() {
    let mut world = World::new().await;
    let pod = world.create(
        "web",
        json!({"containers": [
        {"name": "main", "image": "fairway.dev/fairway", "args": ["serve", "8080"],
         "readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}]}),
    );
    world.status(&pod, is_ready).await;
    let mut socket = world.upgrade("/portForward/ns/web", "SPDY/3.1+portforward.k8s.io").await.unwrap();
    let frames = [
        open(1, "error", "8080"),
        open(3, "data", "8080"),
        data(3, b"GET / HTTP/1.0\r\n\r\n"),
        open(5, "error", "9"),
        open(7, "data", "9"),
        control(6, &[0, 0, 0, 11]),
    ]
    .concat();
    // In pieces that know nothing of frames, as kubectl writes them.
    for piece in frames.chunks(7) {
        socket.send(Message::Binary(piece.to_vec().into())).await.unwrap();
    }
    let mut streams: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let (mut ended, mut replies, mut pongs) = (Vec::new(), 0, 0);
    while ended.len() < 4 || pongs == 0 {
        let message = tokio::time::timeout(std::time::Duration::from_secs(10), socket.next()).await;
        let Message::Binary(frame) = message.expect("an end in time").unwrap().unwrap() else { continue };
        match frame[..4] {
            [0x80, 3, 0, 2] => replies += 1,
            [0x80, 3, 0, 6] => pongs += 1,
            [0, 0, 0, stream] => {
                streams.entry(stream.into()).or_default().extend_from_slice(&frame[8..]);
                if frame[4] == 1 {
                    ended.push(stream);
                }
            }
            _ => panic!("{frame:?}"),
        }
    }
    ended.sort_unstable();
    assert_eq!((ended, replies, pongs), (vec![1, 3, 5, 7], 4, 1));
    let text = |stream| String::from_utf8_lossy(&streams[&stream]).into_owned();
    assert!(text(3).starts_with("HTTP/1."), "{}", text(3));
    assert_eq!(text(1), "");
    assert_eq!(text(7), "");
    assert_eq!(
        text(5),
        "error forwarding port 9 to pod ns/web: connect to port 9 of the pod: Connection refused (os error 111)"
    );
    world.close().await;
}
