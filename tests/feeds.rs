//! Feeds from a server that does as servers do: wrong content types, a charset that only HTTP knows, failures, damage.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::support::process::eventually;
use crate::support::{Place, http};

const PIPELINE: &str = "
pipeline: feeds
sources:
  wire:
    type: feed
    urls: [\"${URL}/latin\", \"${URL}/flaky\", \"${URL}/none\"]
    interval: 20ms
    event_time: published
tables:
  entries: { from: wire, key: [id] }
";

/// A feed in Latin-1 that is called HTML; one that fails, is no feed, and then is damaged; an empty one.
fn server() -> String {
    let polls = Arc::new(AtomicUsize::new(0));
    let latin = || async {
        let item = "<item><guid>https://n.example/1</guid><title>Caf\u{e9} & Co</title>\
         <pubDate>Tue, 02 Jan 2024 11:00:00 CET</pubDate>\
            <author>News Desk\u{a0} desk@n.example</author></item>";
        let document = format!(
            "<rss xmlns='http://backend.userland.com/rss2'><channel><title>Wire</title>{item}\
         </channel></rss>"
        );
        let bytes: Vec<u8> = document.chars().map(|c| c as u32 as u8).collect();
        ([(header::CONTENT_TYPE, "text/html; charset=ISO-8859-1")], bytes)
    };
    let flaky = move || {
        let poll = polls.fetch_add(1, Ordering::Relaxed);
        async move {
            match poll {
                0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                1 => "<html><body>Be right back".into_response(),
                _ => "<feed xmlns='http://purl.org/atom/ns#'><entry><id>2</id><title>Two</title><issued>2024-01-02\
                 </issued>"
                    .into_response(),
            }
        }
    };
    let app = axum::Router::new()
        .route("/latin", get(latin))
        .route("/flaky", get(flaky))
        .route("/none", get(|| async { "<rss><channel><title>Nothing yet</title></channel></rss>" }));
    format!("http://{}", http::serve(app))
}

#[test]
fn a_feed_needs_neither_schema_nor_decode_and_what_is_odd_about_it_costs_nothing() {
    let place = Place::new(PIPELINE).with_env("URL", &server());
    let mut server = place.start(&[]);
    let url = server.url();
    let sql = "SELECT id, title, link, author, published, feed_title FROM entries ORDER BY title";
    let rows = eventually("both entries", || {
        let rows = crate::support::json_lines(&place.stdout(&["query", sql, "--url", &url, "--format", "jsonl"]));
        (rows.len() == 2).then_some(rows)
    });
    assert_eq!(rows[0]["title"], "Caf\u{e9} & Co");
    assert_eq!((&rows[0]["link"], &rows[0]["author"]), (&"https://n.example/1".into(), &"News Desk".into()));
    assert_eq!((&rows[0]["published"], &rows[0]["feed_title"]), (&"2024-01-02T10:00:00Z".into(), &"Wire".into()));
    assert_eq!((&rows[1]["id"], &rows[1]["published"]), (&"2".into(), &"2024-01-02T00:00:00Z".into()));
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    assert!(!server.log().contains("panicked"), "{}", server.log());
    let letters = place.dead_letters();
    assert_eq!(letters.len(), 1, "the page that is no feed, and not the feed without entries: {letters:?}");
    assert_eq!(place.raw(letters[0]["id"].as_str().unwrap()), b"<html><body>Be right back");
}
