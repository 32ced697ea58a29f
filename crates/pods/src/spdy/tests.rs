//! Frames and connections, byte by byte.

use flate2::{Compress, Compression, FlushCompress};

use super::*;

/// Header blocks as a client makes them.
struct Client {
    deflate: Compress,
}

impl Client {
    fn new() -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&dictionary::bytes()).unwrap();
        Self { deflate }
    }

    fn open(&mut self, stream: StreamId, headers: &[(&str, &str)]) -> Bytes {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut compressed = Vec::with_capacity(1024);
        self.deflate.compress_vec(&plain, &mut compressed, FlushCompress::Sync).unwrap();
        let mut payload = BytesMut::new();
        payload.put_u32(stream);
        payload.put_slice(&[0; 6]);
        payload.put_slice(&compressed);
        control(SYN_STREAM, &payload)
    }
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn frames_come_whole_however_the_bytes_are_cut() {
    let mut client = Client::new();
    let first = [("streamtype", "error"), ("port", "8080"), ("requestid", "0")];
    let second = [("streamtype", "data"), ("port", "8080"), ("requestid", "0")];
    let mut bytes = BytesMut::new();
    bytes.put(client.open(1, &first));
    bytes.put(data(1, &[], true));
    bytes.put(client.open(3, &second));
    bytes.put(data(3, b"GET /", false));
    bytes.put(control(SETTINGS, &[0; 4]));
    bytes.put(control(SETTINGS, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 9]));
    bytes.put(window(3, 5));
    bytes.put(control(8, &[0, 0, 0, 3]));
    bytes.put(ping(7));
    bytes.put(control(RST_STREAM, &[0, 0, 0, 3, 0, 0, 0, 5]));
    bytes.put(control(GOAWAY, &[0; 8]));
    let want = [
        Frame::Open { stream: 1, headers: owned(&first), last: false },
        Frame::Data { stream: 1, bytes: Bytes::new(), last: true },
        Frame::Open { stream: 3, headers: owned(&second), last: false },
        Frame::Data { stream: 3, bytes: Bytes::from_static(b"GET /"), last: false },
        Frame::InitialWindow { bytes: 9 },
        Frame::Window { stream: 3, bytes: 5 },
        Frame::Ping { id: 7 },
        Frame::Reset { stream: 3 },
        Frame::GoAway,
    ];
    for piece in [1, 3, 7, bytes.len()] {
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        for part in bytes.chunks(piece) {
            decoder.feed(part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                got.push(frame);
            }
        }
        assert_eq!(got, want, "pieces of {piece}");
    }
}

#[test]
fn what_is_not_spdy_is_refused() {
    struct Case {
        name: &'static str,
        given: Vec<u8>,
        want: Broken,
    }
    let open_with =
        |block: &[u8]| control(SYN_STREAM, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], block].concat()).to_vec();
    let cases = [
        Case { name: "another version", given: vec![0x80, 2, 0, 1, 0, 0, 0, 0], want: Broken::Version(2) },
        Case {
            name: "a frame that would take all memory",
            given: vec![0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
            want: Broken::TooLong(0xff_ffff),
        },
        Case { name: "a ping without a number", given: control(PING, &[1]).to_vec(), want: Broken::Short },
        Case {
            name: "headers that are not compressed",
            given: open_with(b"streamtype"),
            want: Broken::Headers,
        },
        Case {
            name: "headers that say they are longer than they are",
            given: open_with(&[0x78, 0x01, 0, 8, 0, !8, !0, 0, 0, 0, 1, 0, 0, 0, 9]),
            want: Broken::Headers,
        },
    ];
    for case in cases {
        let mut decoder = Decoder::default();
        decoder.feed(&case.given);
        assert_eq!(decoder.next_frame(), Err(case.want), "{}", case.name);
    }
}

#[test]
fn a_header_block_that_grows_without_end_is_refused() {
    let long = "x".repeat(HEADERS_BYTES_MAX * 4);
    let mut decoder = Decoder::default();
    decoder.feed(&Client::new().open(1, &[("a", &long)]));
    assert_eq!(decoder.next_frame(), Err(Broken::Headers));
}

#[test]
fn replies_are_one_zlib_stream_of_empty_blocks() {
    let mut encoder = Encoder::default();
    let mut inflate = Decompress::new(true);
    for stream in [1, 3, 5] {
        let reply = encoder.reply(stream);
        assert_eq!(reply[..4], [0x80, 3, 0, 2]);
        assert_eq!(reply[8..12], stream.to_be_bytes());
        let mut plain = Vec::with_capacity(64);
        inflate.decompress_vec(&reply[12..], &mut plain, FlushDecompress::Sync).unwrap();
        assert_eq!(plain, [0; 4]);
        assert!(reply.ends_with(&[0, 0, 0, 0xff, 0xff]), "kubectl waits for a flush");
    }
}

/// What a connection says to its owner, in words.
fn events(connection: &mut Connection, bytes: &[u8]) -> Result<Vec<String>, Broken> {
    connection.feed(bytes);
    let mut all = Vec::new();
    while let Some(event) = connection.next_event()? {
        all.push(match event {
            Event::Opened { stream, headers } => {
                let kind = headers.iter().find(|(name, _)| name == "streamtype").unwrap();
                format!("{stream} is {}", kind.1)
            }
            Event::Data { stream, bytes } => format!("{stream}: {}", String::from_utf8_lossy(&bytes)),
            Event::Ended { stream } => format!("{stream} ended"),
            Event::Reset { stream } => format!("{stream} reset"),
            Event::Window { stream, bytes } => format!("{stream} +{bytes}"),
            Event::InitialWindow { bytes } => format!("windows of {bytes}"),
            Event::GoAway => "gone".to_owned(),
        });
    }
    Ok(all)
}

#[test]
fn a_connection_tells_what_happened_and_answers_by_itself() {
    let (mut client, mut connection) = (Client::new(), Connection::default());
    let input = client.open(1, &[("streamtype", "stdin")]);
    assert_eq!(events(&mut connection, &input).unwrap(), ["1 is stdin"]);
    assert_eq!(connection.take_output()[..4], [0x80, 3, 0, 2], "a reply");
    let input = [data(1, b"abc", false), ping(5), window(1, 10), window(0, 20)].concat();
    assert_eq!(events(&mut connection, &input).unwrap(), ["1: abc", "1 +10", "0 +20"]);
    assert_eq!(connection.take_output(), ping(5));
    let input = [data(1, b"", true), data(1, b"more", false)].concat();
    assert_eq!(events(&mut connection, &input).unwrap(), ["1 ended"]);
    assert_eq!(connection.take_output(), reset(1, ResetReason::InvalidStream), "nothing comes after the end");
    let input = data(7, b"x", false);
    assert_eq!(events(&mut connection, &input).unwrap(), [""; 0]);
    assert_eq!(connection.take_output(), reset(7, ResetReason::InvalidStream));
    let input = [client.open(3, &[("streamtype", "error")]), control(GOAWAY, &[0; 8])].concat();
    assert_eq!(events(&mut connection, &input).unwrap(), ["3 is error", "gone"]);
    assert_eq!(connection.newest(), 3);
}

#[test]
fn streams_are_numbered_and_counted() {
    for (first, second) in [(2, 4), (3, 3), (5, 1), (0, 1)] {
        let (mut client, mut connection) = (Client::new(), Connection::default());
        let input = [client.open(first, &[("streamtype", "a")]), client.open(second, &[("streamtype", "b")])];
        let wrong = if first % 2 == 0 { first } else { second };
        assert_eq!(events(&mut connection, &input.concat()), Err(Broken::Stream(wrong)), "{first} {second}");
    }
    let (mut client, mut connection) = (Client::new(), Connection::default());
    for index in 0..STREAMS_MAX as u32 {
        let input = client.open(index * 2 + 1, &[("streamtype", "a")]);
        assert_eq!(events(&mut connection, &input).unwrap().len(), 1);
    }
    connection.take_output();
    let one_more = STREAMS_MAX as u32 * 2 + 1;
    let input = client.open(one_more, &[("streamtype", "a")]);
    assert_eq!(events(&mut connection, &input).unwrap().len(), 0);
    assert_eq!(connection.take_output(), reset(one_more, ResetReason::RefusedStream));
    connection.close(1);
    let input = client.open(one_more + 2, &[("streamtype", "a")]);
    assert_eq!(events(&mut connection, &input).unwrap().len(), 1, "a stream that ended makes room");
}

#[test]
fn windows_open_again_as_data_is_used() {
    let (mut client, mut connection) = (Client::new(), Connection::default());
    events(&mut connection, &client.open(1, &[("streamtype", "stdin")])).unwrap();
    connection.take_output();
    connection.consumed(1, WINDOW_BYTES / 4);
    assert_eq!(connection.take_output(), "", "not for every piece");
    connection.consumed(1, WINDOW_BYTES / 4);
    let half = WINDOW_BYTES / 2;
    assert_eq!(connection.take_output(), [window(1, half), window(0, half)].concat());
    connection.close(1);
    connection.consumed(1, half);
    assert_eq!(connection.take_output(), window(0, half), "a stream that ended needs no room");
}
