//! Feeds over real connections: what is read once, what again, and what a failing server or document does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use millstream_core::{
    ByteSize, Cursor, FailureKind, HumanDuration, RowFailure, Secret, Source, SourceBatch, SourceRead,
};
use tokio::time::Instant;

use super::{FeedSource, FeedSourceConfig};
use crate::context::{SourceContext, SourceStatus};
use crate::format::Framing;
use crate::test_server::{Part, answer, install_tls, serve};

#[derive(Default)]
struct Stored {
    cursor: Cursor,
    /// The id and title of each entry.
    entries: Vec<(String, String)>,
    refused: Vec<RowFailure>,
}

impl Stored {
    fn store(&mut self, batch: SourceBatch) {
        for (key, value) in batch.cursor {
            match value {
                Some(value) => self.cursor.insert(key, value),
                None => self.cursor.remove(&key),
            };
        }
        for i in 0..batch.raw.len() {
            if batch.raw.refused.iter().any(|r| r.row as usize == i) {
                continue;
            }
            let entry: serde_json::Value = serde_json::from_slice(batch.raw.record(i)).unwrap();
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(text("feed_title"), "News");
            self.entries.push((text("id"), text("title")));
        }
        self.refused.extend(batch.raw.refused);
    }

    async fn drain(&mut self, source: &mut FeedSource) {
        while let SourceRead::Batch(batch) = source.next().await.unwrap() {
            self.store(batch);
        }
    }

    fn titles(&self) -> Vec<&str> {
        self.entries.iter().map(|(_, title)| title.as_str()).collect()
    }
}

/// An RSS document, newest entry first as feeds have it: (id, title).
fn rss(entries: &[(&str, &str)]) -> String {
    let items: String =
        entries.iter().map(|(id, title)| format!("<item><guid>{id}</guid><title>{title}</title></item>")).collect();
    format!(
        "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>News</title><link>http://n.example/</link>{items}</channel></rss>"
    )
}

#[tokio::test]
async fn a_feed_that_moved_gets_no_secret_and_its_entries_keep_no_token() {
    let (url, seen) = serve(|_, request| match request.contains("/moved") {
        true => answer("200 OK", &[], rss(&[("1", "a")])),
        false => answer("301 Moved Permanently", &[("location", "/moved")], ""),
    })
    .await;
    let (elsewhere, at_elsewhere) =
        serve(|_, _| answer("200 OK", &[], "<rss><channel><item><guid>1</guid></item></channel></rss>")).await;
    let (away, _) = serve(move |_, _| answer("302 Found", &[("location", &elsewhere)], "")).await;
    for (url, allow_hosts, wanted) in [
        (&url, vec![], Some("http://n.example/")),
        (&away, vec![], None),
        (&away, vec!["127.0.0.1".to_owned()], Some("http://127.0.0.1:")),
    ] {
        let headers = BTreeMap::from([("X-Api-Key".to_owned(), Secret::new("hush"))]);
        let config = FeedSourceConfig { allow_hosts, headers, ..config(&format!("{url}/hush?token=hush")) };
        let mut source = open(&config, &Cursor::new());
        let SourceRead::Batch(batch) = source.next().await.unwrap() else {
            assert_eq!(wanted, None);
            continue;
        };
        let entry = String::from_utf8(batch.raw.record(0).to_vec()).unwrap();
        assert!(wanted.is_some_and(|wanted| entry.contains(wanted)) && !entry.contains("hush"), "{entry}");
        assert!(!batch.raw.origin.contains("hush"));
    }
    assert!(seen.lock()[1].contains("x-api-key: hush"), "its own host");
    assert!(!at_elsewhere.lock().concat().contains("hush") && at_elsewhere.lock().len() == 1);
}

fn config(url: &str) -> FeedSourceConfig {
    FeedSourceConfig { interval: HumanDuration(Duration::from_millis(3)), ..FeedSourceConfig::new(url) }
}

fn open(config: &FeedSourceConfig, cursor: &Cursor) -> FeedSource {
    install_tls();
    let context = SourceContext { cursor: cursor.clone(), ..SourceContext::new("wire", Framing::Lines) };
    FeedSource::new(&config.checked().unwrap(), context).unwrap()
}

/// Reads until `n` requests have been answered, and what came with them.
async fn read_until(stored: &mut Stored, source: &mut FeedSource, requests: &crate::test_server::Requests, n: usize) {
    while requests.lock().len() <= n {
        match tokio::time::timeout(Duration::from_millis(50), source.next()).await {
            Ok(Ok(SourceRead::Batch(batch))) => stored.store(batch),
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(e)) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn an_entry_is_read_once_oldest_first_and_again_when_it_changes() {
    let (url, requests) = serve(|n, request| match n {
        0 => answer(
            "200 OK",
            &[("etag", "\"v1\""), ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")],
            rss(&[("b", "B"), ("a", "A")]),
        ),
        1 => {
            assert!(request.contains("if-none-match: \"v1\"\r\n"), "{request}");
            assert!(request.contains("if-modified-since: Mon, 01 Jan 2024 00:00:00 GMT\r\n"), "{request}");
            assert!(request.contains("x-key: k\r\n"), "{request}");
            answer("304 Not Modified", &[], "")
        }
        _ => answer("200 OK", &[], rss(&[("c", "C"), ("b", "B, corrected"), ("a", "A")])),
    })
    .await;
    let config = FeedSourceConfig { headers: BTreeMap::from([("X-Key".into(), Secret::new("k"))]), ..config(&url) };
    let mut stored = Stored::default();
    let mut source = open(&config, &Cursor::new());
    stored.drain(&mut source).await;
    assert_eq!(stored.titles(), ["A", "B"]);
    read_until(&mut stored, &mut source, &requests, 5).await;
    assert_eq!(stored.titles(), ["A", "B", "B, corrected", "C"]);
}

#[tokio::test]
async fn a_restart_reads_nothing_again_and_asks_with_the_last_etag() {
    let (url, requests) = serve(|_, _| answer("200 OK", &[("etag", "\"v1\"")], rss(&[("a", "A")]))).await;
    let mut stored = Stored::default();
    stored.drain(&mut open(&config(&url), &Cursor::new())).await;
    stored.drain(&mut open(&config(&url), &stored.cursor.clone())).await;
    assert_eq!(stored.titles(), ["A"]);
    assert!(!requests.lock()[0].contains("if-none-match"));
    assert!(requests.lock()[1].contains("if-none-match: \"v1\""));
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_document_loses_and_repeats_nothing() {
    let ids: Vec<String> = (0..5_000).map(|i| format!("id{i:05}")).collect();
    let entries: Vec<(&str, &str)> = ids.iter().rev().map(|id| (id.as_str(), id.as_str())).collect();
    let document = rss(&entries);
    let (url, requests) = serve(move |_, request| {
        let etag = if request.contains("if-none-match") { "304 Not Modified" } else { "200 OK" };
        answer(etag, &[("etag", "\"v1\"")], &document)
    })
    .await;
    let config = FeedSourceConfig { remember: 100_000, ..config(&url) };
    let mut stored = Stored::default();
    let mut restarts = 0;
    while let SourceRead::Batch(batch) = open(&config, &stored.cursor.clone()).next().await.unwrap() {
        assert!(batch.raw.len() <= 8192);
        stored.store(batch);
        restarts += 1;
    }
    assert!(restarts > 1, "the document is more than one batch");
    assert!(stored.titles() == ids);
    assert!(!requests.lock()[1].contains("if-none-match"), "the document had not been handed out");
    assert!(requests.lock().last().unwrap().contains("if-none-match"));
}

#[tokio::test]
async fn entries_that_the_feed_still_holds_are_never_forgotten_and_old_ones_are() {
    let (url, requests) = serve(|n, _| match n {
        0..3 => answer("200 OK", &[], rss(&[("c", "C"), ("b", "B"), ("a", "A")])),
        _ => answer("200 OK", &[], rss(&[("e", "E"), ("d", "D")])),
    })
    .await;
    let mut stored = Stored::default();
    let mut source = open(&FeedSourceConfig { remember: 1, ..config(&url) }, &Cursor::new());
    read_until(&mut stored, &mut source, &requests, 5).await;
    assert_eq!(stored.titles(), ["A", "B", "C", "D", "E"]);
    assert_eq!(stored.cursor.len(), 2, "{:?}", stored.cursor.keys());
}

#[tokio::test]
async fn entries_with_one_id_are_told_apart_and_each_is_read_once() {
    let (url, requests) = serve(|n, _| match n {
        0 => answer("200 OK", &[], rss(&[("x", "1")])),
        1 | 2 => answer("200 OK", &[], rss(&[("x", "3"), ("x", "2"), ("x", "1"), ("x", "2")])),
        _ => answer("200 OK", &[], rss(&[("x", "4"), ("x", "3"), ("x", "2")])),
    })
    .await;
    let mut stored = Stored::default();
    let mut source = open(&config(&url), &Cursor::new());
    read_until(&mut stored, &mut source, &requests, 5).await;
    assert_eq!(stored.titles(), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_document_that_is_no_feed_is_refused_once_and_the_poller_goes_on() {
    let (url, requests) = serve(|n, _| match n {
        0..3 => answer("200 OK", &[], "<html><body>Be right back"),
        3 => answer("200 OK", &[], rss(&[("a", &"A".repeat(5000))])),
        _ => answer("200 OK", &[], rss(&[("a", "A")])),
    })
    .await;
    let mut stored = Stored::default();
    let mut source = open(&FeedSourceConfig { max_body: ByteSize(4000), ..config(&url) }, &Cursor::new());
    read_until(&mut stored, &mut source, &requests, 5).await;
    let kinds: Vec<FailureKind> = stored.refused.iter().map(|r| r.failure.kind).collect();
    assert_eq!(kinds, [FailureKind::Malformed, FailureKind::TooLarge]);
    assert_eq!(stored.titles(), ["A"]);
}

#[tokio::test]
async fn a_failing_server_is_left_alone_for_as_long_as_it_says_and_then_asked_again() {
    let (url, requests) = serve(|n, _| match n {
        0 => answer("503 Service Unavailable", &[], ""),
        1 => vec![Part::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n<rss".to_vec())],
        2 => answer("200 OK", &[], rss(&[("a", "A")])),
        _ => answer("429 Too Many Requests", &[("retry-after", "500")], ""),
    })
    .await;
    let mut stored = Stored::default();
    let mut source = open(&config(&url), &Cursor::new());
    read_until(&mut stored, &mut source, &requests, 3).await;
    assert_eq!(stored.titles(), ["A"]);
    while source.feeds[0].polling {
        assert!(matches!(
            tokio::time::timeout(Duration::from_millis(20), source.next()).await,
            Err(_) | Ok(Ok(SourceRead::Idle))
        ));
    }
    assert!(source.feeds[0].next_poll > Instant::now() + Duration::from_secs(400));
}

#[tokio::test]
async fn a_compressed_document_is_unpacked_and_a_slow_feed_does_not_hold_up_the_others() {
    let (slow, _) = serve(|_, _| vec![Part::Silence]).await;
    let (url, _) = serve(|_, request| {
        assert!(request.contains("accept-encoding: gzip"), "{request}");
        answer("200 OK", &[("content-encoding", "gzip")], gzip(rss(&[("a", "A")]).as_bytes()))
    })
    .await;
    let config = FeedSourceConfig { url: None, urls: vec![Secret::new(slow), Secret::new(url)], ..config("") };
    let mut stored = Stored::default();
    let mut source = open(&config, &Cursor::new());
    while stored.entries.is_empty() {
        if let SourceRead::Batch(batch) = source.next().await.unwrap() {
            stored.store(batch);
        }
    }
    assert_eq!(stored.titles(), ["A"]);
}

#[tokio::test]
async fn a_dropped_call_does_not_start_the_poll_over() {
    let (url, requests) = serve(|_, _| answer("200 OK", &[], rss(&[("a", "A")]))).await;
    let config = FeedSourceConfig { interval: HumanDuration(Duration::from_secs(3600)), ..config(&url) };
    let mut stored = Stored::default();
    let mut source = open(&config, &Cursor::new());
    while stored.entries.is_empty() {
        match source.next().now_or_never() {
            Some(Ok(SourceRead::Batch(batch))) => stored.store(batch),
            Some(other) => panic!("{other:?}"),
            None => tokio::time::sleep(Duration::from_micros(100)).await,
        }
    }
    assert_eq!(requests.lock().len(), 1);
}

#[tokio::test]
async fn the_status_says_why_a_feed_is_not_read_and_tells_no_secret() {
    let said = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = said.clone();
    let (url, _) = serve(|_, _| answer("404 Not Found", &[], "")).await;
    let context = SourceContext {
        status: Arc::new(move |status: SourceStatus<'_>| heard.lock().push(format!("{status:?}"))),
        ..SourceContext::new("wire", Framing::Lines)
    };
    install_tls();
    let mut source = FeedSource::new(&config(&format!("{url}/feed?token=hush")).checked().unwrap(), context).unwrap();
    assert!(matches!(source.next().await.unwrap(), SourceRead::Idle));
    let said = said.lock().join("\n");
    assert!(said.contains("404") && said.contains("/***") && !said.contains("hush"), "{said}");
}

/// Bytes as a gzip file that compresses nothing (RFC 1951, section 3.2.4; RFC 1952).
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let len = u16::try_from(bytes.len()).unwrap();
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    [&head[..], &len.to_le_bytes(), &(!len).to_le_bytes(), bytes, &(!crc).to_le_bytes(), &u32::from(len).to_le_bytes()]
        .concat()
}
