//! Requests from outside, one connection each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cluster::eventually;
use crate::shop::HOST;

const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// A stream of requests ends by itself after this many.
const REQUESTS_MAX: usize = 20_000;
const PAUSE: Duration = Duration::from_millis(3);

/// A GET of `/` that a pod has to answer with 200; the pod's name.
pub(crate) fn request(address: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().unwrap();
    let failed = |doing: &'static str| move |error: std::io::Error| format!("{doing} {address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, REQUEST_LIMIT).map_err(failed("connect to"))?;
    stream.set_read_timeout(Some(REQUEST_LIMIT)).unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(failed("write to"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed("read from"))?;
    let status = answer.lines().next().unwrap_or_default();
    let pod = answer.lines().find_map(|line| line.strip_prefix("x-pod: "));
    match pod {
        Some(pod) if status.starts_with("HTTP/1.1 200") => Ok(pod.to_owned()),
        _ => Err(format!("{address} answered {status:?}")),
    }
}

/// Waits until every address answers.
pub(crate) fn answered(addresses: &[&str]) {
    for address in addresses {
        eventually("no answer", Duration::from_secs(20), || request(address));
    }
}

/// Requests to all addresses in turn until told to stop; how many, and what failed.
pub(crate) fn stream(addresses: &[&str], stop: &AtomicBool) -> (usize, Vec<String>) {
    let mut failures = Vec::new();
    let mut sent = 0;
    for address in addresses.iter().cycle().take(REQUESTS_MAX) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sent += 1;
        failures.extend(request(address).err());
        std::thread::sleep(PAUSE);
    }
    (sent, failures)
}
