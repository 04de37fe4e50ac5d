//! An HTTP/1.1 server for tests, which can answer in pieces, fall silent, or break off.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One part of an answer.
pub(crate) enum Part {
    /// These bytes, as they are.
    Bytes(Vec<u8>),
    /// A while in which what was sent before arrives by itself.
    Pause,
    /// Nothing more, but the connection stays.
    Silence,
}

/// The requests that have come, heads and bodies as text.
pub(crate) type Requests = Arc<Mutex<Vec<String>>>;

/// Starts a server that answers request number `n` (from 0) with `answer(n, request)`, then closes the connection.
/// Returns its address, with `http://`, and the requests.
pub(crate) async fn serve(answer: impl Fn(usize, &str) -> Vec<Part> + Send + Sync + 'static) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, answer) = (Requests::default(), Arc::new(answer));
    let seen = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (seen, answer) = (seen.clone(), answer.clone());
            tokio::spawn(async move {
                let Some(request) = read_request(&mut socket).await else { return };
                let n = {
                    let mut seen = seen.lock();
                    seen.push(request.clone());
                    seen.len() - 1
                };
                for part in answer(n, &request) {
                    match part {
                        Part::Bytes(bytes) if socket.write_all(&bytes).await.is_err() => return,
                        Part::Bytes(_) => {}
                        Part::Pause => tokio::time::sleep(Duration::from_millis(5)).await,
                        Part::Silence => std::future::pending().await,
                    }
                }
            });
        }
    });
    (url, requests)
}

/// A whole answer.
pub(crate) fn answer(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<Part> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !status.starts_with("304") {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.as_ref().len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.as_ref());
    vec![Part::Bytes(bytes)]
}

/// An answer in chunks, each of which arrives by itself, with its end or without.
pub(crate) fn chunked(chunks: &[&[u8]], ended: bool) -> Vec<Part> {
    let mut parts = vec![Part::Bytes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec())];
    for chunk in chunks {
        let mut bytes = format!("{:x}\r\n", chunk.len()).into_bytes();
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        parts.extend([Part::Bytes(bytes), Part::Pause]);
    }
    if ended {
        parts.push(Part::Bytes(b"0\r\n\r\n".to_vec()));
    }
    parts
}

/// Makes TLS available to clients, as the program does when it starts.
pub(crate) fn install_tls() {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return Some(text);
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
