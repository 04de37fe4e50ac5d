//! The listener over sockets, as impatient as a test can be.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::api::connections::{PIECE_BYTES, ReadByHand};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(600);
const PATIENT: Patience = Patience { head: LONG, idle: LONG, piece: LONG, answer: LONG, piece_by_hand: LONG };
const PACE: Pace = Pace { span: LONG, bytes: 1, whole: LONG };
/// More than the buffers of a connection hold.
const LARGE: usize = 64 << 20;

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<()>>,
}

async fn served(limits: Limits) -> Served {
    async fn length(body: std::result::Result<Bytes, axum::extract::rejection::BytesRejection>) -> Response {
        match body {
            Ok(body) => body.len().to_string().into_response(),
            Err(e) if crate::api::paced::TooSlow::is_cause_of(&e) => StatusCode::REQUEST_TIMEOUT.into_response(),
            Err(e) => e.into_response(),
        }
    }
    async fn by_hand() -> Response {
        let mut answer = vec![b'x'; LARGE].into_response();
        answer.extensions_mut().insert(ReadByHand);
        answer
    }
    let app = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/length", post(length))
        .route("/large", get(|| async { vec![b'x'; LARGE] }))
        .route("/by-hand", get(by_hand));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let ended = tokio::spawn(serve(listener, Plain, app, limits, stop.clone()));
    Served { address, stop, ended }
}

fn limits(connections: usize, patience: Patience) -> Limits {
    Limits { connections, patience, pace: PACE }
}

async fn connect(served: &Served) -> TcpStream {
    TcpStream::connect(served.address).await.unwrap()
}

/// Sends a request and reads the answer's status line.
async fn ask(socket: &mut TcpStream, request: &str) -> String {
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = socket.read(&mut answer).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
}

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Reads until the other side hangs up.
async fn hung_up(socket: &mut TcpStream) {
    let mut rest = vec![0; 1 << 20];
    while !matches!(socket.read(&mut rest).await, Ok(0) | Err(_)) {}
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_hung_up_on() {
    let served = served(limits(10, Patience { head: SHORT, ..PATIENT })).await;
    for beginning in ["", "GET / HT", "PRI * HTTP/2.0\r\n"] {
        let mut socket = connect(&served).await;
        socket.write_all(beginning.as_bytes()).await.unwrap();
        hung_up(&mut socket).await;
    }
    // The second head of a connection, too.
    let mut socket = connect(&served).await;
    assert_eq!(ask(&mut socket, GET).await, "HTTP/1.1 200 OK");
    tokio::time::sleep(3 * SHORT).await;
    assert_eq!(ask(&mut socket, GET).await, "HTTP/1.1 200 OK", "between two requests it may be quiet");
    socket.write_all(b"G").await.unwrap();
    hung_up(&mut socket).await;
}

#[tokio::test]
async fn a_quiet_connection_is_closed() {
    let served = served(limits(10, Patience { idle: SHORT, ..PATIENT })).await;
    let mut socket = connect(&served).await;
    assert_eq!(ask(&mut socket, GET).await, "HTTP/1.1 200 OK");
    hung_up(&mut socket).await;
}

#[tokio::test]
async fn idle_connections_make_room_for_one_more() {
    let served = served(limits(4, PATIENT)).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(connect(&served).await);
    }
    let mut socket = connect(&served).await;
    assert_eq!(ask(&mut socket, GET).await, "HTTP/1.1 200 OK");
    hung_up(&mut idle[0]).await;
}

#[tokio::test]
async fn where_all_are_busy_one_more_is_told_so() {
    let served = served(limits(2, PATIENT)).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut socket = connect(&served).await;
        socket
            .write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
            .await
            .unwrap();
        let mut continues = [0; 25];
        socket.read_exact(&mut continues).await.unwrap();
        busy.push(socket);
    }
    let mut socket = connect(&served).await;
    assert_eq!(ask(&mut socket, "").await, "HTTP/1.1 503 Service Unavailable");
    // Who is busy is not disturbed.
    assert_eq!(ask(&mut busy[0], "12345").await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn who_sends_no_body_makes_room_for_one_more() {
    let served = served(limits(4, PATIENT)).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut socket = connect(&served).await;
        let head = b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n1";
        socket.write_all(head).await.unwrap();
        silent.push(socket);
    }
    // Others are told that all are busy, for as long as these may be about to go on.
    loop {
        let mut socket = connect(&served).await;
        match &*ask(&mut socket, GET).await {
            "HTTP/1.1 200 OK" => break,
            "HTTP/1.1 503 Service Unavailable" | "" => tokio::time::sleep(SHORT).await,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let pace = Pace { span: SHORT, bytes: 1000, whole: LONG };
    let served = served(Limits { connections: 10, patience: PATIENT, pace }).await;
    let post = "POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000\r\n\r\n";
    for beginning in ["", "some"] {
        let mut socket = connect(&served).await;
        assert_eq!(ask(&mut socket, &format!("{post}{beginning}")).await, "HTTP/1.1 408 Request Timeout");
        hung_up(&mut socket).await;
    }
    // A byte now and then is not enough.
    let mut socket = connect(&served).await;
    socket.write_all(post.as_bytes()).await.unwrap();
    while socket.write_all(b"x").await.is_ok() {
        tokio::time::sleep(SHORT / 5).await;
    }
    // What comes in time is read.
    let mut socket = connect(&served).await;
    assert_eq!(ask(&mut socket, &format!("{post}{}", "x".repeat(3000))).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_body_has_a_deadline_however_steadily_it_comes() {
    let pace = Pace { span: LONG, bytes: 1, whole: SHORT };
    let served = served(Limits { connections: 10, patience: PATIENT, pace }).await;
    let mut socket = connect(&served).await;
    socket.write_all(b"POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000\r\n\r\n").await.unwrap();
    while socket.write_all(b"x").await.is_ok() {
        tokio::time::sleep(SHORT / 10).await;
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_broken_off() {
    for patience in [Patience { piece: SHORT, ..PATIENT }, Patience { answer: SHORT, ..PATIENT }] {
        let served = served(limits(10, patience)).await;
        let mut socket = connect(&served).await;
        socket.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        tokio::time::sleep(5 * SHORT).await;
        let (mut read, mut piece) = (0, vec![0; 1 << 20]);
        while let Ok(bytes @ 1..) = socket.read(&mut piece).await {
            read += bytes;
        }
        assert!(read < LARGE, "{read}");
    }
    let served = served(limits(10, Patience { piece: SHORT, ..PATIENT })).await;
    // Whoever reads gets all of it, and so does a person who reads slowly.
    for path in ["large", "by-hand"] {
        let mut socket = connect(&served).await;
        let request = format!("GET /{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        if path == "by-hand" {
            tokio::time::sleep(5 * SHORT).await;
        }
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        assert!(all.len() > LARGE, "{path}: {}", all.len());
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_is_under_way_and_for_nobody_else() {
    let served = served(limits(10, PATIENT)).await;
    let mut quiet = connect(&served).await;
    assert_eq!(ask(&mut quiet, GET).await, "HTTP/1.1 200 OK");
    let mut silent = connect(&served).await;
    let mut busy = connect(&served).await;
    busy.write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    let mut continues = [0; 25];
    busy.read_exact(&mut continues).await.unwrap();
    served.stop.cancel();
    hung_up(&mut quiet).await;
    hung_up(&mut silent).await;
    assert!(!served.ended.is_finished());
    assert_eq!(ask(&mut busy, "12345").await, "HTTP/1.1 200 OK");
    served.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_answer_is_handed_over_in_pieces_and_whole() {
    let served = served(limits(10, PATIENT)).await;
    let mut socket = connect(&served).await;
    socket.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await.unwrap();
    let head = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(all.len() - head, LARGE);
    assert!(String::from_utf8_lossy(&all[..head]).contains(&format!("content-length: {LARGE}")));
    const { assert!(LARGE > PIECE_BYTES) };
}
