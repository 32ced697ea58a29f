//! The program that this crate's tests run as `fairway`: PID 1 of pods (`pod`), and inside the built-in image a small HTTP server
//! (`serve PORT`) whose readiness is the file /tmp/ready when that was asked for (`serve PORT gated`).

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_ref().and_then(|word| word.to_str()) {
        Some("pod") => fairway_pods::pod_main(args),
        Some("serve") => {
            let port = args.next().and_then(|port| port.to_str()?.parse().ok()).unwrap_or(8080);
            match serve(port, args.next().is_some()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
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
        let status =
            if gated && !std::path::Path::new("/tmp/ready").exists() { "503 Not Yet" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    }
    Ok(())
}
