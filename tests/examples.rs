//! The examples, as they ship, each run the way its first comment says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::process::eventually;
use crate::support::{Place, json_lines};

/// A folder with a copy of an example.
fn example(name: &str) -> Place {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    let place = Place::new(&std::fs::read_to_string(folder.join("pipeline.yaml")).unwrap());
    for sub in ["sample", "articles"] {
        let Ok(entries) = std::fs::read_dir(folder.join(sub)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let file = path.file_name().unwrap().to_str().unwrap();
            place.write(&format!("{sub}/{file}"), std::fs::read(&path).unwrap());
        }
    }
    place
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {row}"))
}

#[test]
fn the_archive_keeps_originals_and_failures_and_runs_again_for_what_is_new_or_mended() {
    let place = example("news-archive");
    place.run();
    let rows = place.sink_rows("out");
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let original =
            std::fs::read_to_string(place.path(&format!("articles/{}", file_name(text(row, "file"))))).unwrap();
        assert_eq!(text(row, "original"), original, "the original is kept beside the converted article");
    }
    let kinds: Vec<String> = place.dead_letters().iter().map(|l| text(l, "kind").to_owned()).collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(kinds.contains(&"malformed".to_owned()) && kinds.contains(&"missing_field".to_owned()), "{kinds:?}");

    // Run again: nothing is new, so nothing is written.
    place.run();
    assert_eq!(place.sink_rows("out").len(), 4);

    // A new article, and rules that no longer ask for a headline.
    let article = std::fs::read_to_string(place.path("articles/port-strike.xml")).unwrap();
    place.write("articles/second-strike.xml", article.replace("port-strike", "second-strike"));
    let rules = std::fs::read_to_string(place.path("pipeline.yaml")).unwrap();
    place.write("pipeline.yaml", rules.replace("headline: string\n", "headline: string?\n"));
    let said = place.redrive();
    assert!(said.contains("1 redriven") && said.contains("1 failed again"), "{said}");
    place.run();
    let guids: Vec<String> = place.sink_rows("out").iter().map(|row| text(row, "guid").to_owned()).collect();
    assert_eq!(guids.len(), 6, "{guids:?}");
    assert_eq!(guids.iter().filter(|g| g.ends_with("no-headline") || g.ends_with("second-strike")).count(), 2);
    assert_eq!(place.dead_letters().len(), 1, "the article that was cut off stays");
    let names: Vec<_> = std::fs::read_dir(place.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_str().unwrap().starts_with("articles-20")), "dated names: {names:?}");
}

fn file_name(path: &str) -> &str {
    Path::new(path).file_name().unwrap().to_str().unwrap()
}

/// Posts as server-sent events; hangs up after every seven, and goes on behind `Last-Event-ID`.
fn feed(posts: Vec<Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/stream", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            // A client that goes away in the middle comes again.
            let _ = answer(connection, &posts);
        }
    });
    url
}

fn answer(mut connection: TcpStream, posts: &[Value]) -> std::io::Result<()> {
    let mut first = 0;
    let mut authorized = false;
    for line in BufReader::new(connection.try_clone()?).lines() {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(id) = line.strip_prefix("last-event-id:") {
            first = id.trim().parse::<usize>().unwrap() + 1;
        }
        authorized |= line == "authorization: bearer demo";
    }
    if !authorized {
        return connection.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    }
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
    for (number, post) in posts.iter().enumerate().skip(first).take(7) {
        connection.write_all(format!("id: {number}\ndata: {post}\n\n").as_bytes())?;
    }
    Ok(())
}

#[test]
fn every_post_is_matched_and_counted_once_over_a_connection_that_breaks() {
    let texts = [
        ("my cat sleeps", "cats"),
        ("a puppy!", "dogs"),
        ("cats and dogs", "both"),
        ("rain", ""),
        ("the category of rain", ""),
        ("KITTENS", "cats"),
    ];
    let post = |n: usize| json!({ "id": format!("p{n}"), "text": texts[n % 6].0, "user": { "name": "ann" }, "created_at": "2026-11-20T08:00:00Z" });
    let posts: Vec<Value> = (0..60).map(post).collect();
    let place = example("cats-vs-dogs").with_env("POSTS_URL", &feed(posts));
    let mut server = place.start(&[]);
    let url = server.url();
    let counted = || {
        let sql = "SELECT category, count(*) AS posts FROM posts_by_category GROUP BY category";
        let rows = json_lines(&place.stdout(&["query", sql, "--url", &url, "--format", "jsonl"]));
        let counts: BTreeMap<String, i64> =
            rows.iter().map(|row| (text(row, "category").to_owned(), row["posts"].as_i64().unwrap())).collect();
        (counts.values().sum::<i64>() == 40).then_some(counts)
    };
    let counts = eventually("40 matched posts", counted);
    assert_eq!(counts, BTreeMap::from([("both".into(), 10), ("cats".into(), 20), ("dogs".into(), 10)]));
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    assert_eq!(place.query("SELECT count(*) AS n FROM posts")[0]["n"], 60, "every post is in the log once");
    assert_eq!(server.printed().lines().count(), 40, "{}", server.printed());
}

#[test]
#[ignore = "needs RabbitMQ: run scripts/test"]
fn rabbitmq_gets_every_scored_headline_of_the_news_example() {
    let place = example("news");
    // As its comment says: without the `#`.
    let pipeline = std::fs::read_to_string(place.path("pipeline.yaml")).unwrap();
    let (before, queue) = pipeline.split_once("  # queue:").unwrap();
    let pipeline = format!("{before}  queue:{}", queue.replace("\n  # ", "\n  "));
    let unique = format!("test-{}", std::process::id());
    // Names of its own, so that the test does not meet what a user of the example has there.
    place.write(
        "pipeline.yaml",
        pipeline.replace("news.", &format!("{unique}.")).replace(&format!("{unique}.changes"), "news.changes"),
    );
    let place = match std::env::var("MILLSTREAM_TEST_AMQP_URL") {
        Ok(url) => place.with_env("AMQP_URL", &url),
        Err(_) => place,
    };
    place.run();
    assert_eq!(
        place.query("SELECT count(*) AS n FROM news")[0]["n"],
        37,
        "the headlines in English, or of no stated language"
    );
    let labels = place.query("SELECT sentiment.label AS label, count(*) AS n FROM news GROUP BY 1");
    assert_eq!(labels.len(), 3, "{labels:?}");
    let changes = place.tap("news.changes");
    assert_eq!(changes.len(), 37);
    // The sink has been told by the broker that each message is stored: its offsets are at the end.
    assert!(place.dead_letters().is_empty(), "a message that no queue took would be a dead letter");
}
