//! WebSockets over real connections: what is received, and what a server that closes, stalls or misbehaves does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt};
use millstream_core::{ByteSize, FailureKind, HumanDuration, RawBatch, Secret, SecretValue, Source, SourceRead};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::{WebsocketSource, WebsocketSourceConfig};
use crate::context::{SourceContext, SourceStatus};
use crate::format::Framing;
use crate::test_server::{Part, answer, serve};

type Client = WebSocketStream<TcpStream>;

/// Starts a server that gives connection number `n` (from 0) to `talk`.
async fn server<F>(talk: impl Fn(usize, Client) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/stream", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for n in 0.. {
            let Ok((socket, _)) = listener.accept().await else { return };
            let Ok(client) = accept_async(socket).await else { continue };
            tokio::spawn(talk(n, client));
        }
    });
    url
}

fn config(url: &str) -> WebsocketSourceConfig {
    let mut config = WebsocketSourceConfig::new(url);
    config.backoff.initial = HumanDuration(Duration::from_millis(2));
    config
}

fn open(config: WebsocketSourceConfig) -> (WebsocketSource, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = said.clone();
    let context = SourceContext {
        status: Arc::new(move |status: SourceStatus<'_>| heard.lock().push(format!("{status:?}"))),
        ..SourceContext::new("ticks", Framing::Lines)
    };
    (WebsocketSource::new(&config.checked().unwrap(), context), said)
}

async fn read(source: &mut WebsocketSource, records: usize) -> (Vec<Vec<u8>>, Vec<RawBatch>) {
    let (mut found, mut batches) = (Vec::new(), Vec::new());
    while found.len() < records {
        let SourceRead::Batch(batch) = source.next().await.unwrap() else { panic!("a WebSocket has no end") };
        found.extend((0..batch.raw.len()).map(|i| batch.raw.record(i).to_vec()));
        batches.push(batch.raw);
    }
    (found, batches)
}

#[tokio::test]
async fn it_subscribes_after_each_connect_and_reads_every_message() {
    let url = server(|n, mut client| async move {
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("hello"));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text(r#"{"op":"subscribe"}"#));
        client.send(Message::text(format!("text {n}"))).await.unwrap();
        client.send(Message::Ping(Default::default())).await.unwrap();
        client.send(Message::binary(vec![n as u8, 0xff])).await.unwrap();
        if n % 2 == 0 {
            client.close(None).await.unwrap();
        } // Else it just goes away.
    })
    .await;
    let subscribe = vec![SecretValue::new("hello"), SecretValue::new(serde_json::json!({"op": "subscribe"}))];
    let (mut source, said) = open(WebsocketSourceConfig { subscribe, ..config(&url) });
    let (records, batches) = read(&mut source, 8).await;
    assert_eq!(records[..4], [b"text 0".to_vec(), vec![0, 0xff], b"text 1".to_vec(), vec![1, 0xff]]);
    assert!(batches[0].origin.starts_with("ws://127.0.0.1"));
    assert!(said.lock().iter().any(|text| text.contains("closed")), "{:?}", said.lock());
}

#[tokio::test]
async fn a_silent_server_is_connected_to_again_and_a_quiet_one_that_answers_pings_is_not() {
    let url = server(|n, mut client| async move {
        if n == 0 {
            // Reads nothing, so it answers no ping.
            std::future::pending().await
        }
        for _ in 0..20 {
            assert!(client.next().await.unwrap().unwrap().is_ping(), "answered by the library");
        }
        client.send(Message::text(n.to_string())).await.unwrap();
        client.next().await;
    })
    .await;
    let stall_timeout = HumanDuration(Duration::from_millis(200));
    let ping_interval = HumanDuration(Duration::from_millis(20));
    let (mut source, said) = open(WebsocketSourceConfig { stall_timeout, ping_interval, ..config(&url) });
    assert_eq!(read(&mut source, 1).await.0, [b"1"]);
    assert!(said.lock().iter().any(|text| text.contains("nothing came")), "{:?}", said.lock());
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_next_connection_goes_on() {
    let url = server(|n, mut client| async move {
        client.send(Message::text("small")).await.unwrap();
        let _ = client.send(Message::binary(vec![n as u8; 200_000])).await;
        client.next().await;
    })
    .await;
    let (mut source, _) = open(WebsocketSourceConfig { max_record: ByteSize(1000), ..config(&url) });
    let (records, batches) = read(&mut source, 4).await;
    assert_eq!(records, [b"small".to_vec(), vec![], b"small".to_vec(), vec![]]);
    let refused: Vec<_> = batches.iter().flat_map(|batch| &batch.refused).collect();
    assert_eq!(refused.len(), 2);
    assert_eq!(refused[0].failure.kind, FailureKind::TooLarge);
    assert!(refused[0].failure.message.contains("200000"), "{}", refused[0].failure.message);
}

#[tokio::test]
async fn batches_are_bounded_and_a_slow_reader_holds_the_server_up() {
    let sent = Arc::new(Mutex::new(0));
    let counter = sent.clone();
    let url = server(move |_, mut client| {
        let counter = counter.clone();
        async move {
            while *counter.lock() < 2_000 {
                client.send(Message::binary(vec![7; 100_000])).await.unwrap();
                *counter.lock() += 1;
            }
            client.next().await;
        }
    })
    .await;
    let (mut source, _) = open(config(&url));
    let (records, batches) = read(&mut source, 1).await;
    assert!(batches.iter().all(|batch| batch.data.len() <= 1_200_000));
    // Wait until the server sends no more; 200 MB do not fit into the buffers of two sockets.
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = *sent.lock();
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before < 2_000, "{before} messages were taken, {} of them asked for", records.len());
    let rest = 2_000 - records.len();
    assert_eq!(read(&mut source, rest).await.0.len(), rest, "and nothing is lost");
}

#[tokio::test]
async fn a_dropped_call_loses_no_message() {
    let url = server(|_, mut client| async move {
        for i in 0..5_000 {
            client.send(Message::text(i.to_string())).await.unwrap();
        }
        client.next().await;
    })
    .await;
    let (mut source, _) = open(config(&url));
    let mut found = 0;
    while found < 5_000 {
        match source.next().now_or_never() {
            Some(Ok(SourceRead::Batch(batch))) => {
                for i in 0..batch.raw.len() {
                    assert_eq!(batch.raw.record(i), found.to_string().as_bytes());
                    found += 1;
                }
            }
            Some(other) => panic!("{other:?}"),
            None => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn headers_and_token_are_sent_and_a_refusal_is_told_without_them() {
    let (url, requests) = serve(|_, _| -> Vec<Part> { answer("401 Unauthorized", &[], "") }).await;
    let url = format!("{}/?key=hush", url.replace("http", "ws"));
    let headers = BTreeMap::from([("X-Key".into(), Secret::new("hush"))]);
    let (mut source, said) =
        open(WebsocketSourceConfig { headers, bearer_token: Some(Secret::new("hush2")), ..config(&url) });
    while said.lock().len() < 3 {
        let _ = tokio::time::timeout(Duration::from_millis(10), source.next()).await;
    }
    let request = requests.lock()[0].to_ascii_lowercase();
    assert!(request.contains("authorization: bearer hush2") && request.contains("x-key: hush"), "{request}");
    let said = said.lock().join("\n");
    assert!(said.contains("401") && !said.contains("hush"), "{said}");
}

#[tokio::test]
async fn a_text_that_is_no_utf_8_is_a_record_with_its_bytes_and_the_connection_goes_on() {
    let url = server(|n, mut client| async move {
        use tokio_tungstenite::tungstenite::protocol::frame::Frame;
        use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
        let broken = Frame::message(vec![b'a', 0xff, b'b'], OpCode::Data(Data::Text), true);
        client.send(Message::Frame(broken)).await.unwrap();
        client.send(Message::text(format!("behind {n}"))).await.unwrap();
        client.next().await;
    })
    .await;
    let (mut source, _) = open(config(&url));
    assert_eq!(read(&mut source, 2).await.0, [b"a\xffb".to_vec(), b"behind 0".to_vec()]);
}

#[tokio::test]
async fn heartbeats_are_sent_and_those_of_the_server_are_no_records() {
    let url = server(|_, mut client| async move {
        for _ in 0..3 {
            client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), Message::text(r#"{"op":"pong"}"#));
        }
        client.send(Message::text("a record with ping in it")).await.unwrap();
        client.next().await;
    })
    .await;
    let heartbeat = super::config::Heartbeat {
        send: SecretValue::new(serde_json::json!({"op": "pong"})),
        every: HumanDuration(Duration::from_millis(5)),
    };
    let ignore = vec![r#"^\{"type":"ping""#.into()];
    let (mut source, _) = open(WebsocketSourceConfig { ignore, heartbeat: Some(heartbeat), ..config(&url) });
    assert_eq!(read(&mut source, 1).await.0, [b"a record with ping in it"]);
}
