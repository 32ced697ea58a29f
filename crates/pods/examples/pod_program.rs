//! The program that this crate's tests run as `fairway`: PID 1 of pods (`pod`), and inside the built-in image a small HTTP server
//! (`serve PORT`) whose readiness is the file /tmp/ready when that was asked for (`serve PORT gated`) and which redirects `/to/X` to X, or a
//! gRPC server (`grpc PORT`) that is healthy until there is a file /tmp/sick.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_ref().and_then(|word| word.to_str()) {
        Some("pod") => fairway_pods::pod_main(args),
        Some(kind @ ("serve" | "grpc")) => {
            let port = args.next().and_then(|port| port.to_str()?.parse().ok()).unwrap_or(8080);
            let served = if kind == "grpc" { serve_grpc(port) } else { serve(port, args.next().is_some()) };
            if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        _ => ExitCode::from(2),
    }
}

fn serve(port: u16, gated: bool) -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default();
        let status = match path.strip_prefix("/to/") {
            Some("") => "302 Found\r\nlocation: /".to_owned(),
            Some(to) if to.contains("://") => format!("302 Found\r\nlocation: {to}"),
            Some(to) => format!("302 Found\r\nlocation: /{to}"),
            None if path == "/missing" => "404 Not Found".to_owned(),
            None if gated && !Path::new("/tmp/ready").exists() => "503 Not Yet".to_owned(),
            None => "200 OK".to_owned(),
        };
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    }
    Ok(())
}

/// `grpc.health.v1.Health/Check`, whatever was asked.
#[tokio::main(flavor = "current_thread")]
async fn serve_grpc(port: u16) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|_| async { Ok::<_, Infallible>(health()) });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn health() -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>> {
    let status = if Path::new("/tmp/sick").exists() { 2 } else { 1 };
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
