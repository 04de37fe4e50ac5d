//! Input that is not right, through the real binary: each record of it is in the dead letter queue with its bytes and a
//! reason, and its neighbours go through.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::memory::peak_mib;
use crate::support::Place;
use crate::support::process::eventually;

const STRICT: &str = r#"
pipeline: strict
sources:
  wire:
    type: file
    path: ./in.jsonl
    schema: { id: string, n: int?, x: float?, at: timestamp?, "tags?": [string], extra: json? }
    key: [id]
    partitions: 2
tables:
  items: { from: wire, key: [id] }
"#;

/// The ids in the table.
fn ids(place: &Place) -> Vec<String> {
    place.query("SELECT id FROM items ORDER BY id").iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// What is in the queue: kind by bytes.
fn queue(place: &Place) -> BTreeMap<Vec<u8>, String> {
    let letters = place.dead_letters();
    let entry = |letter: &Value| {
        assert!(!letter["message"].as_str().unwrap().is_empty(), "{letter}");
        (place.raw(letter["id"].as_str().unwrap()), letter["kind"].as_str().unwrap().to_owned())
    };
    let queue: BTreeMap<_, _> = letters.iter().map(entry).collect();
    assert_eq!(queue.len(), letters.len(), "each is there once");
    queue
}

#[test]
fn json_that_is_not_right_is_put_aside_with_its_bytes_and_its_neighbours_go_through() {
    let deep = format!("{{\"id\":\"b\",\"extra\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let bad: Vec<(&[u8], &str)> = vec![
        (b"{\"id\":\"b\",\"n\":", "malformed"),
        (b"{\"id\":\"b\"} trailing", "malformed"),
        (b"{\"id\":\"b\",}", "malformed"),
        (b"not json at all", "malformed"),
        (b"{\"id\":\"b\",\"extra\":\"\\ud800\"}", "malformed"),
        (b"{\"id\":\"b\x00\"}", "malformed"),
        (b"{\"id\":\"b\",\"id\":\"c\"}", "malformed"),
        (deep.as_bytes(), "malformed"),
        (b"{\"id\":\"b\xff\xfe\"}", "encoding"),
        (b"{\"id\":\"b\xed\xa0\x80\"}", "encoding"),
        (b"{\"n\":1}", "missing_field"),
        (b"{\"id\":null}", "missing_field"),
        (b"{\"id\":[\"b\"]}", "type_mismatch"),
        (b"{\"id\":\"b\",\"n\":\"many\"}", "type_mismatch"),
        (b"{\"id\":\"b\",\"n\":1.5}", "type_mismatch"),
        (b"{\"id\":\"b\",\"tags\":\"one\"}", "type_mismatch"),
        (b"{\"id\":\"b\",\"at\":\"yesterday\"}", "type_mismatch"),
        (b"{\"id\":\"b\",\"n\":9223372036854775808}", "out_of_range"),
        (b"{\"id\":\"b\",\"n\":1e30}", "out_of_range"),
        (b"{\"id\":\"b\",\"x\":1e999}", "out_of_range"),
        (b"{\"id\":\"b\",\"at\":\"2024-02-30T00:00:00Z\"}", "out_of_range"),
        (b"{\"id\":\"b\",\"at\":\"99999-01-01T00:00:00Z\"}", "out_of_range"),
        (b"{\"id\":\"b\",\"at\":-99999999999}", "out_of_range"),
    ];
    let place = Place::new(STRICT);
    let mut input = Vec::new();
    for (number, (bytes, _)) in bad.iter().enumerate() {
        input.extend_from_slice(format!("{{\"id\":\"good {number:03}\",\"n\":{}}}\n", i64::MAX).as_bytes());
        input.extend_from_slice(bytes);
        input.push(b'\n');
    }
    place.write("in.jsonl", &input);
    place.run();
    let expected: BTreeMap<_, _> = bad.iter().map(|(bytes, kind)| (bytes.to_vec(), (*kind).to_owned())).collect();
    let found = queue(&place);
    for (bytes, kind) in &expected {
        assert_eq!(found.get(bytes), Some(kind), "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(found.len(), expected.len());
    assert_eq!(ids(&place), (0..bad.len()).map(|n| format!("good {n:03}")).collect::<Vec<_>>());
    assert_eq!(place.query("SELECT count(*) AS n FROM items WHERE n = 9223372036854775807")[0]["n"], bad.len());
}

#[test]
fn an_empty_file_is_no_record() {
    for content in ["", "\n", "\n\r\n\n", "\u{feff}"] {
        let place = Place::new(STRICT);
        place.write("in.jsonl", content);
        place.run();
        assert_eq!(ids(&place), Vec::<String>::new());
        assert_eq!(place.dead_letters(), Vec::<Value>::new(), "{content:?}");
    }
}

#[test]
fn a_line_of_sixty_megabytes_takes_no_memory_and_its_neighbours_go_through() {
    let place = Place::new(&STRICT.replace("path: ./in.jsonl", "path: ./in.jsonl\n    follow: true"));
    let mut input = b"{\"id\":\"before\"}\n".to_vec();
    let begin = input.len();
    input.extend_from_slice(b"{\"id\":\"huge\",\"extra\":\"");
    input.resize(begin + 60_000_000, b'x');
    input.extend_from_slice(b"\"}\n{\"id\":\"after\"}\n");
    place.write("in.jsonl", &input);
    let server = place.start(&[]);
    let url = server.url();
    let rows = || place.stdout(&["query", "SELECT id FROM items ORDER BY id", "--url", &url, "--format", "csv"]);
    eventually("the record behind the line", || (rows() == "id\nafter\nbefore\n").then_some(()));
    match peak_mib(&server) {
        Some(peak) => assert!(peak < 300, "{peak} MiB"),
        None => eprintln!("skipped: this system has no /proc"),
    }
    drop(server);
    let letters = place.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0]["kind"], &letters[0]["position"]), (&json!("too_large"), &json!(begin)));
    // Of such a record its first MiB is kept.
    assert!(place.raw("wire/0") == input[begin..begin + (1 << 20)], "the first MiB");
}

#[test]
fn a_record_of_ten_megabytes_is_a_record() {
    let place = Place::new(STRICT);
    let extra = "ü".repeat(5_000_000);
    let line = |id: &str, extra: &str| format!("{}\n", json!({ "id": id, "extra": extra }));
    place.write("in.jsonl", line("a", "") + &line("b", &extra) + &line("c", ""));
    place.run();
    assert_eq!(ids(&place), ["a", "b", "c"]);
    // The JSON text of the string, with its quotes.
    let length = place.query("SELECT octet_length(extra) AS n FROM items WHERE id = 'b'");
    assert_eq!(length[0]["n"], 10_000_002);
}

#[test]
fn csv_rows_of_the_wrong_shape_are_put_aside_with_their_bytes() {
    let place = Place::new(
        &STRICT.replace("in.jsonl", "in.csv\n    decode: csv").replace(", \"tags?\": [string], extra: json?", ""),
    );
    let bad: [&[u8]; 6] = [b"b", b"b,1,2,3,4", b"\"b\"x,1,2,", b"b\xff,1,2,", b"b,one,2,", b"b,1,2,\"2024-13-01\""];
    let mut input = b"id,n,x,at\n".to_vec();
    for (number, row) in bad.iter().enumerate() {
        input.extend_from_slice(format!("good {number},{number},,\n").as_bytes());
        input.extend_from_slice(row);
        input.extend_from_slice(b"\r\n");
    }
    input.extend_from_slice(b"\"never closed,1,2,\n");
    place.write("in.csv", &input);
    place.run();
    assert_eq!(ids(&place), (0..6).map(|n| format!("good {n}")).collect::<Vec<_>>());
    let found = queue(&place);
    for row in bad {
        assert!(found.contains_key(row), "{}", String::from_utf8_lossy(row));
    }
    assert_eq!(found.len(), 7, "{found:?}");
}

#[test]
fn xml_that_could_harm_is_put_aside_and_nothing_in_it_is_expanded() {
    let secret = Place::new("");
    secret.write("secret.txt", "TOP SECRET");
    let external = format!(
        "<!DOCTYPE a [<!ENTITY e SYSTEM \"file://{}\">]><a id=\"x\"><t>&e;</t></a>",
        secret.path("secret.txt").display()
    );
    let mut bomb = "<!DOCTYPE a [<!ENTITY l0 \"lol\">".to_owned();
    for level in 1..20 {
        bomb.push_str(&format!("<!ENTITY l{level} \"{}\">", format!("&l{};", level - 1).repeat(10)));
    }
    bomb.push_str("]><a id=\"x\"><t>&l19;</t></a>");
    let deep = format!("<a id=\"x\"><t>{}{}</t></a>", "<b>".repeat(100_000), "</b>".repeat(100_000));
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (external.into_bytes(), "malformed"),
        (bomb.into_bytes(), "malformed"),
        (deep.into_bytes(), "malformed"),
        (b"<a id=\"x\"><t>&undeclared;</t></a>".to_vec(), "malformed"),
        (b"<a id=\"x\"><t>cut off".to_vec(), "malformed"),
        (b"<?xml version=\"1.0\" encoding=\"klingon-8\"?><a id=\"x\"><t>x</t></a>".to_vec(), "encoding"),
        (b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><a id=\"x\"><t>\xff</t></a>".to_vec(), "encoding"),
        (b"<a><t>without an id</t></a>".to_vec(), "missing_field"),
        (b"no xml".to_vec(), "malformed"),
    ];
    let place = Place::new(
        "
pipeline: xml
sources:
  articles:
    type: file
    path: ./in
    decode: { format: xml, fields: { id: \"@id\", t: t } }
tables:
  items: { from: articles, key: [id] }
",
    );
    for (number, (document, _)) in bad.iter().enumerate() {
        place.write(&format!("in/{number:03}.xml"), document);
        place.write(
            &format!("in/{number:03}-good.xml"),
            format!("<a id=\"good {number:03}\"><t>x &amp; &#228;</t></a>"),
        );
    }
    place.write("in/empty.xml", "");
    place.run();
    assert_eq!(ids(&place), (0..bad.len()).map(|n| format!("good {n:03}")).collect::<Vec<_>>());
    let mut found = queue(&place);
    for (document, kind) in &bad {
        let start = String::from_utf8_lossy(&document[..document.len().min(80)]).into_owned();
        assert_eq!(found.remove(document).as_deref(), Some(*kind), "{start}");
    }
    // An empty file is either nothing or a document that is not right.
    assert!(found.is_empty() || (found.len() == 1 && found.contains_key(&b""[..])), "{found:?}");
    let text = place.query("SELECT DISTINCT t FROM items");
    assert_eq!(text, [json!({ "t": "x & ä" })]);
    let secrets = place.stdout(&["dlq", "list", "--data-dir", "data", "--format", "json"]);
    assert!(!secrets.contains("TOP SECRET"));
}
