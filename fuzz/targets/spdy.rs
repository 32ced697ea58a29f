//! Bytes of a SPDY client, cut anywhere: no panic, no memory without bound, and the same events however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pods::spdy::{Broken, Connection, Event};

// The module alone: its crate brings all kinds of Kubernetes and an HTTP stack, minutes of a build with coverage.
#[allow(dead_code, unused_imports)]
#[path = "../../crates/pods/src"]
mod pods {
    pub mod spdy;
}

fn events(pieces: impl Iterator<Item = Vec<u8>>) -> (Vec<Event>, Option<Broken>) {
    let (mut connection, mut all) = (Connection::default(), Vec::new());
    for piece in pieces {
        connection.feed(&piece);
        loop {
            match connection.next_event() {
                Ok(Some(event)) => {
                    if let Event::Data { stream, bytes } = &event {
                        connection.consumed(*stream, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                    }
                    all.push(event);
                }
                Ok(None) => break,
                Err(broken) => return (all, Some(broken)),
            }
        }
        connection.take_output();
    }
    (all, None)
}

fuzz_target!(|input: &[u8]| {
    let Some((&length, bytes)) = input.split_first() else { return };
    let whole = events(std::iter::once(bytes.to_vec()));
    let cut = events(bytes.chunks(usize::from(length).max(1)).map(<[u8]>::to_vec));
    assert_eq!(whole, cut);
});
