//! A small HTTP server in this process that plays a model server, healthy or sick.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub head: String,
    pub raw: String,
    /// Null where it is no JSON.
    pub body: Value,
}

/// What it answers: status, further headers, body. A status of [`NOTHING`], [`HALF`] or [`BROKEN`] is no
/// whole answer.
pub type Reply = (u16, &'static str, String);

/// No answer at all, for ever.
pub const NOTHING: u16 = 0;
/// Half of an answer, and then silence.
pub const HALF: u16 = 1;
/// Half of an answer, and then the connection is closed.
pub const BROKEN: u16 = 2;

pub struct Server {
    pub url: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    pub busiest: Arc<AtomicUsize>,
}

/// Answers every request with what `reply` makes of it, on as many connections as there come.
pub async fn serve(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, busiest, busy) = (Arc::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let server = Server { url, asked: Arc::clone(&asked), busiest: busiest.clone() };
    let reply = Arc::new(reply);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (asked, reply, busy, busiest) = (asked.clone(), reply.clone(), busy.clone(), busiest.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(request) = read_request(&mut stream).await {
                    busiest.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    asked.lock().push(request.clone());
                    tokio::task::yield_now().await;
                    let (status, headers, body) = reply(&request);
                    if matches!(status, HALF | BROKEN) {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n[[0.5").await.unwrap();
                    }
                    if status == BROKEN {
                        return;
                    }
                    if matches!(status, NOTHING | HALF) {
                        std::future::pending::<()>().await;
                    }
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
                    busy.fetch_sub(1, Ordering::SeqCst);
                    stream.write_all((head + &body).as_bytes()).await.unwrap();
                }
            });
        }
    });
    server
}

impl Asked {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let body_json = serde_json::from_slice(&body).unwrap_or_default();
    Some(Asked { head, raw: String::from_utf8(body).unwrap(), body: body_json })
}
