//! Endless answers over real connections: records across chunks, and what a server that ends, stalls or breaks does.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use millstream_core::{
    ByteSize, Cursor, FailureKind, HumanDuration, Secret, SecretValue, Source, SourceBatch, SourceRead,
};
use parking_lot::Mutex;

use super::{HttpStreamSource, HttpStreamSourceConfig, StreamFormat};
use crate::context::{SourceContext, SourceStatus};
use crate::format::Framing;
use crate::test_server::{Part, answer, chunked, install_tls, serve};

fn config(url: &str, format: StreamFormat) -> HttpStreamSourceConfig {
    let mut config = HttpStreamSourceConfig { format, ..HttpStreamSourceConfig::new(url) };
    config.backoff.initial = HumanDuration(Duration::from_millis(2));
    config
}

fn open(config: HttpStreamSourceConfig, cursor: &Cursor) -> (HttpStreamSource, Arc<Mutex<Vec<String>>>) {
    install_tls();
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = said.clone();
    let context = SourceContext {
        status: Arc::new(move |status: SourceStatus<'_>| heard.lock().push(format!("{status:?}"))),
        cursor: cursor.clone(),
        ..SourceContext::new("posts", Framing::Lines)
    };
    (HttpStreamSource::new(&config.checked().unwrap(), context).unwrap(), said)
}

async fn read(source: &mut HttpStreamSource, records: usize) -> (Vec<String>, Vec<SourceBatch>) {
    let (mut found, mut batches) = (Vec::new(), Vec::new());
    while found.len() < records {
        let SourceRead::Batch(batch) = source.next().await.unwrap() else { panic!("it has no end") };
        found.extend((0..batch.raw.len()).map(|i| String::from_utf8(batch.raw.record(i).to_vec()).unwrap()));
        batches.push(batch);
    }
    (found, batches)
}

#[tokio::test]
async fn lines_are_put_together_across_chunks_and_heartbeats_are_no_records() {
    let (url, requests) = serve(|n, _| match n {
        0 => chunked(
            &[b"{\"a\":", b" 1}\r", b"\n\r\n\r\n{\"b\"", b":2}\n{\"c\":3}\n{\"whole, for the answer has ended\"}"],
            true,
        ),
        1 => chunked(&[b"d\nbroken o"], false),
        _ => chunked(&[b"e\n"], true),
    })
    .await;
    let body = Some(SecretValue::new(serde_json::json!({"rules": ["cat"]})));
    let config = HttpStreamSourceConfig {
        method: "POST".into(),
        body,
        bearer_token: Some(Secret::new("hush")),
        ..config(&url, StreamFormat::Lines)
    };
    let (mut source, said) = open(config, &Cursor::new());
    let (records, batches) = read(&mut source, 6).await;
    let whole = "{\"whole, for the answer has ended\"}";
    assert_eq!(records, [r#"{"a": 1}"#, r#"{"b":2}"#, r#"{"c":3}"#, whole, "d", "e"]);
    assert_eq!(batches[0].raw.len(), 1, "what is there is handed out at once");
    let request = requests.lock()[2].clone();
    assert!(request.starts_with("POST / ") && request.contains("authorization: Bearer hush\r\n"), "{request}");
    assert!(
        request.contains("content-type: application/json\r\n") && request.ends_with(r#"{"rules":["cat"]}"#),
        "{request}"
    );
    assert!(said.lock().iter().any(|text| text.contains("ended")), "{:?}", said.lock());
}

#[tokio::test]
async fn events_go_on_behind_the_last_id_after_a_break_and_after_a_restart() {
    let (url, requests) = serve(|n, _| match n {
        0 => chunked(&[b": hi\n\nid: 1\nda", b"ta: one\ndata: and more\r", b"\n\r\nid: 2\ndata: never fin"], false),
        1 => chunked(&[b"retry: 1\nid: 2\rdata:two\r\rid: 3\ndata: three\n\n"], true),
        _ => [chunked(&[b"data: four\n\n"], false), vec![Part::Silence]].into_iter().flatten().collect(),
    })
    .await;
    let (mut source, _) = open(config(&url, StreamFormat::Sse), &Cursor::new());
    let (records, batches) = read(&mut source, 3).await;
    assert_eq!(records, ["one\nand more", "two", "three"]);
    assert!(requests.lock()[0].contains("accept: text/event-stream"));
    assert!(!requests.lock()[0].contains("last-event-id"));
    assert!(requests.lock()[1].contains("last-event-id: 1\r\n"), "{}", requests.lock()[1]);
    drop(source);

    let cursor = batches.into_iter().flat_map(|batch| batch.cursor).map(|(key, value)| (key, value.unwrap())).collect();
    let (mut source, _) = open(config(&url, StreamFormat::Sse), &cursor);
    assert_eq!(read(&mut source, 1).await.0, ["four"]);
    assert!(requests.lock()[2].contains("last-event-id: 3\r\n"), "{}", requests.lock()[2]);
}

#[tokio::test]
async fn a_stalled_answer_is_asked_for_again() {
    let (url, _) = serve(|n, _| match n {
        0 => vec![Part::Silence],
        1 => chunked(&[b"1\n"], false).into_iter().chain([Part::Silence]).collect(),
        _ => chunked(&[b"2\n"], false).into_iter().chain([Part::Silence]).collect(),
    })
    .await;
    let stall_timeout = HumanDuration(Duration::from_millis(100));
    let (mut source, said) =
        open(HttpStreamSourceConfig { stall_timeout, ..config(&url, StreamFormat::Lines) }, &Cursor::new());
    assert_eq!(read(&mut source, 2).await.0, ["1", "2"]);
    let said = said.lock().join("\n");
    assert!(said.contains("no answer within 100ms") && said.contains("nothing came for 100ms"), "{said}");
}

#[tokio::test]
async fn a_record_over_the_limit_is_refused_and_its_neighbours_pass() {
    for (format, text) in [
        (StreamFormat::Lines, format!("a\n{}\nb\n", "x".repeat(300_000))),
        (StreamFormat::Sse, format!("data: a\n\ndata: {}\n\ndata: b\n\n", "x".repeat(300_000))),
    ] {
        let (url, _) = serve(move |_, _| chunked(&[text.as_bytes()], true)).await;
        let config = HttpStreamSourceConfig { max_record: ByteSize(1000), ..config(&url, format) };
        let (mut source, _) = open(config, &Cursor::new());
        let (records, batches) = read(&mut source, 3).await;
        assert_eq!((records[0].as_str(), records[1].len(), records[2].as_str()), ("a", 300_000, "b"));
        let refused: Vec<_> = batches.iter().flat_map(|batch| &batch.raw.refused).collect();
        assert_eq!(refused.iter().map(|r| r.failure.kind).collect::<Vec<_>>(), [FailureKind::TooLarge]);
    }
}

#[tokio::test]
async fn a_refusal_is_told_without_secrets_and_tried_again() {
    let (url, _) = serve(|n, _| match n {
        0 => answer("401 Unauthorized", &[], ""),
        _ => chunked(&[b"1\n"], true),
    })
    .await;
    let (mut source, said) = open(config(&format!("{url}/?token=hush"), StreamFormat::Lines), &Cursor::new());
    let (records, batches) = read(&mut source, 1).await;
    assert_eq!(records, ["1"]);
    assert!(!batches[0].raw.origin.contains("hush"));
    let said = said.lock().join("\n");
    assert!(said.contains("401") && !said.contains("hush"), "{said}");
}

#[tokio::test]
async fn a_dropped_call_loses_no_record_and_batches_are_bounded() {
    let text: String = (0..50_000).map(|i| format!("{i}\n")).collect();
    let (url, requests) = serve(move |_, _| chunked(&text.as_bytes().chunks(100_001).collect::<Vec<_>>(), true)).await;
    let (mut source, _) = open(config(&url, StreamFormat::Lines), &Cursor::new());
    let mut found = 0;
    while found < 50_000 {
        match source.next().now_or_never() {
            Some(Ok(SourceRead::Batch(batch))) => {
                assert!(batch.raw.len() <= 8192);
                for i in 0..batch.raw.len() {
                    assert_eq!(batch.raw.record(i), found.to_string().as_bytes());
                    found += 1;
                }
            }
            Some(other) => panic!("{other:?}"),
            None => tokio::time::sleep(Duration::from_micros(50)).await,
        }
    }
    assert_eq!(requests.lock().len(), 1);
}

#[tokio::test]
async fn events_behind_a_byte_order_mark_are_read_and_chosen_by_their_type() {
    let text = b"\xef\xbb\xbfevent: add\ndata: 1\n\nevent: gone\nid: x\ndata: 2\n\ndata: 3\n\n";
    let (url, _) = serve(move |_, _| chunked(&[&text[..2], &text[2..]], true)).await;
    let events = vec!["add".into(), "message".into()];
    let (mut source, _) = open(HttpStreamSourceConfig { events, ..config(&url, StreamFormat::Sse) }, &Cursor::new());
    let (records, batches) = read(&mut source, 2).await;
    assert_eq!(records[..2], ["1", "3"]);
    let kinds: Vec<&str> = batches.iter().flat_map(|batch| &batch.raw.events).map(|kind| &**kind).collect();
    assert_eq!(kinds[..2], ["add", "message"]);
    // The last id that was said is that of an event.
    let keys: Vec<_> = batches.iter().flat_map(|batch| batch.raw.keys.clone()).collect();
    assert_eq!(keys[..2], [None, Some("x".into())]);
}
