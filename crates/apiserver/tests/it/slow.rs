//! Clients that do not read: they cost a bounded amount, disturb nobody, and are hung up on.

use std::time::Duration;

use serde_json::json;

use crate::server::{PATIENCE, Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// One watcher reads nothing while more is written than is kept. The others see every change; it is hung up on, and nothing is left out
/// of what it got before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_hung_up_on() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let path = format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let mut slow = server.client().await.watch(&path).await;
    let mut fast = server.client().await.watch(&path).await;
    let mark = |n: usize| format!("{n:08}");
    let big = |n: usize| config_map("big", &mark(n).repeat(64 << 10));
    assert_eq!(client.post(MAPS, &big(0)).await.code, 201);
    let changes = 90;
    let reader = tokio::spawn(async move {
        for n in 0..=changes {
            let event = fast.next().await.unwrap();
            assert!(event["object"]["data"]["k"].as_str().unwrap().starts_with(&mark(n)), "{n}");
        }
    });
    for n in 1..=changes {
        assert_eq!(client.put(&format!("{MAPS}/big"), &big(n)).await.code, 200);
    }
    reader.await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !client.get("/metrics").await.text.contains("fairway_watches_dropped_total 1\n") {
        assert!(tokio::time::Instant::now() < deadline, "the slow watcher is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What was in the sockets arrives whole and in order; then the connection breaks instead of going on with a gap.
    let mut expected = 0;
    while let Some(event) = slow.next_or_broken().await {
        assert!(event["object"]["data"]["k"].as_str().unwrap().starts_with(&mark(expected)), "{expected}");
        expected += 1;
    }
    assert!(expected < changes, "{expected} events arrived");
    let text = client.get("/metrics").await.text;
    let held = text
        .lines()
        .find_map(|line| line.strip_prefix("fairway_store_log_held_bytes{resource=\"configmaps\"} "));
    let held: usize = held.unwrap().parse().unwrap();
    assert!(held <= 33 << 20, "{held}");
}

/// A thousand watchers of one resource see the same changes in the same order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_see_the_same_order() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let path = format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let mut watches = Vec::new();
    for _ in 0..1000 {
        watches.push(server.client().await.watch(&path).await);
    }
    client.post(MAPS, &config_map("m", "0")).await;
    for n in 1..20 {
        client.merge(&format!("{MAPS}/m"), &json!({"data": {"k": n.to_string()}})).await;
    }
    for mut watch in watches {
        for n in 0..20 {
            let event = watch.next().await.unwrap();
            assert_eq!(event["object"]["data"]["k"], n.to_string());
        }
    }
}
