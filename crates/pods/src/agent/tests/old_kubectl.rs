//! exec, attach and port-forward as a kubectl without WebSocket does them: SPDY frames on the bare connection.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::forward::{data, open_with};
use super::is_ready;
use super::world::{PATIENCE, World};

/// The head of the answer, and the connection behind it.
async fn post(world: &World, path: &str, protocols: &str) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: node\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n{protocols}content-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

/// Sends frames and reads until the server ends the connection: what came on each stream, and which streams ended.
async fn talk(mut stream: UnixStream, frames: &[u8]) -> (BTreeMap<u32, String>, Vec<u32>) {
    stream.write_all(frames).await.unwrap();
    let (mut streams, mut ended) = (BTreeMap::<u32, Vec<u8>>::new(), Vec::new());
    let reading = async {
        while let Ok(first) = stream.read_u32().await {
            let flags_and_length = stream.read_u32().await.unwrap();
            let mut payload = vec![0; (flags_and_length & 0x00ff_ffff) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if first & 0x8000_0000 == 0 {
                streams.entry(first).or_default().extend(payload);
                if flags_and_length >> 24 == 1 {
                    ended.push(first);
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an end in time");
    ended.sort_unstable();
    (streams.into_iter().map(|(stream, bytes)| (stream, String::from_utf8(bytes).unwrap())).collect(), ended)
}

fn opened(kinds: &[&str]) -> Vec<u8> {
    let numbered = (1..).step_by(2).zip(kinds);
    numbered.flat_map(|(stream, kind)| open_with(stream, &[("streamtype", kind)])).collect()
}

const V4: &str =
    "x-stream-protocol-version: v4.channel.k8s.io\r\nx-stream-protocol-version: channel.k8s.io\r\n";

#[tokio::test]
async fn exec_and_attach_run_over_spdy() {
    let mut world = World::new().await;
    let reader = json!({"name": "main", "image": "fairway.dev/toolbox", "stdin": true, "stdinOnce": true,
        "command": ["sh", "-c", "echo early; cat; echo late >&2; exit 6"]});
    let pod = world.create("talk", json!({"restartPolicy": "Never", "containers": [reader]}));
    world.status(&pod, is_ready).await;

    let path = "/exec/ns/talk/main?command=sh&command=-c&command=cat%3B+echo+e+%3E%262%3B+exit+7&input=1&output=1&error=1";
    let (head, stream) = post(&world, path, V4).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io\r\n"), "{head}");
    let long = "x".repeat(300_000);
    let mut frames = opened(&["error", "stdin", "stdout", "stderr"]);
    for piece in long.as_bytes().chunks(30_000) {
        frames.extend(data(3, piece));
    }
    // The end of standard input.
    frames.extend([0, 0, 0, 3, 1, 0, 0, 0]);
    let (streams, ended) = talk(stream, &frames).await;
    assert_eq!(streams[&5].len(), long.len());
    assert_eq!(streams[&7], "e\n");
    let status: serde_json::Value = serde_json::from_str(&streams[&1]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7");
    assert_eq!(ended, [1, 5, 7]);

    let (_, stream) =
        post(&world, "/exec/ns/talk/main?command=sh&command=-c&command=exit+3&output=1", "").await;
    let (streams, _) = talk(stream, &opened(&["error", "stdout"])).await;
    assert_eq!(
        streams[&1], "command terminated with non-zero exit code: exit status 3",
        "as it was before v4"
    );

    let (head, _) = post(&world, path, "x-stream-protocol-version: v9\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(
        head.contains("x-accepted-stream-protocol-versions: v5.channel.k8s.io,v4.channel.k8s.io,"),
        "{head}"
    );

    // Who attaches to a container that was started for its input gets the output from before, too, and the container gets an end.
    let (_, stream) = post(&world, "/attach/ns/talk/main?input=1&output=1&error=1", V4).await;
    let mut frames = opened(&["error", "stdin", "stdout", "stderr"]);
    frames.extend(data(3, b"typed\n"));
    frames.extend([0, 0, 0, 3, 1, 0, 0, 0]);
    let (streams, ended) = talk(stream, &frames).await;
    assert_eq!((streams[&5].as_str(), streams[&7].as_str()), ("early\ntyped\n", "late\n"));
    assert_eq!(ended, [1, 5, 7]);
    let (_, stream) = post(&world, "/attach/ns/talk/main?input=1&output=1&error=1", V4).await;
    let (streams, _) = talk(stream, &opened(&["error", "stdin", "stdout", "stderr"])).await;
    assert_eq!(streams[&7], "late\n", "also when it is over");
    world.close().await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let mut world = World::new().await;
    let pod = world.create(
        "web",
        json!({"containers": [
        {"name": "main", "image": "fairway.dev/fairway", "args": ["serve", "8080"],
         "readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}]}),
    );
    world.status(&pod, is_ready).await;
    let (head, mut stream) =
        post(&world, "/portForward/ns/web", "x-stream-protocol-version: portforward.k8s.io\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let headers = |kind| [("streamtype", kind), ("port", "8080"), ("requestid", "0")];
    let frames =
        [open_with(1, &headers("error")), open_with(3, &headers("data")), data(3, b"GET / HTTP/1.0\r\n\r\n")];
    stream.write_all(&frames.concat()).await.unwrap();
    let mut seen = Vec::new();
    let answered = async {
        while !String::from_utf8_lossy(&seen).contains("HTTP/1.") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "{seen:?}");
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("an answer in time");
    world.close().await;
}
