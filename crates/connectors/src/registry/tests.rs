//! What every connector keeps to: its name, its settings as they are published, and what is said of wrong ones.

use std::path::Path;

use arrow::datatypes::SchemaRef;
use millstream_core::{Metadata, StreamSchema};
use serde_json::{Value, json};

use super::*;
use crate::check::Problem;
use crate::format::{self, DecodeConfig};
use crate::payload::tests::{change_schema, context, row_schema};
use crate::{Carries, Intake};

fn source(json: Value) -> SourceConfig {
    serde_json::from_value(json).unwrap()
}

fn sink(json: Value) -> SinkConfig {
    serde_json::from_value(json).unwrap()
}

fn source_problems(json: Value) -> Vec<Problem> {
    source(json).settings().check(Path::new("")).unwrap_err()
}

fn sink_problems(json: Value, schema: &SchemaRef) -> Vec<Problem> {
    sink(json).settings().check(Path::new(""), schema).unwrap_err()
}

fn fields(problems: Vec<Problem>) -> Vec<String> {
    problems.into_iter().map(|problem| problem.field).collect()
}

/// The least that can be written of each source.
fn sources() -> [Value; 5] {
    [
        json!({"type": "file", "path": "./x"}),
        json!({"type": "http"}),
        json!({"type": "feed", "url": "https://a.example/feed"}),
        json!({"type": "websocket", "url": "wss://a.example/", "subscribe": ["hello", {"op": "subscribe"}]}),
        json!({"type": "http_stream", "url": "https://a.example/", "format": "sse"}),
    ]
}

/// The least that can be written of each sink.
fn sinks() -> [Value; 4] {
    [
        json!({"type": "amqp", "url": "amqp://guest:guest@127.0.0.1:5672/%2f", "exchange": "news", "routing_key": "{sentiment.label}"}),
        json!({"type": "http", "url": "https://a.example/{id}"}),
        json!({"type": "file", "folder": "./out"}),
        json!({"type": "stdout"}),
    ]
}

#[test]
fn a_source_answers_to_its_type_passes_with_defaults_and_knows_no_other_key() {
    for json in sources() {
        let config = source(json.clone());
        assert!(config.settings().check(Path::new("")).is_ok(), "{json}");
        assert_eq!(config.settings().kind(), json["type"]);
        let mut wrong = json;
        wrong["no_such_key"] = 1.into();
        assert!(serde_json::from_value::<SourceConfig>(wrong).is_err());
    }
}

#[test]
fn a_sink_answers_to_its_type_opens_with_defaults_and_knows_no_other_key() {
    for json in sinks() {
        let config = sink(json.clone());
        for schema in [row_schema(), change_schema()] {
            let checked = config.settings().check(Path::new(""), &schema);
            assert!(checked.unwrap().open(context()).is_ok(), "{json}");
        }
        assert_eq!(config.settings().kind(), json["type"]);
        let mut wrong = json;
        wrong["no_such_key"] = 1.into();
        assert!(serde_json::from_value::<SinkConfig>(wrong).is_err());
    }
}

#[test]
fn a_source_says_how_its_records_come_in() {
    let intake = |json| {
        let connector = source(json).settings().check(Path::new("")).unwrap();
        match connector.intake() {
            Intake::Pull(pull) if pull.is_bounded() => "bounded",
            Intake::Pull(_) => "unbounded",
            Intake::Push(_) => "pushed",
        }
    };
    let found: Vec<_> = sources().into_iter().map(intake).collect();
    assert_eq!(found, ["bounded", "pushed", "unbounded", "unbounded", "unbounded"]);
    assert_eq!(intake(json!({"type": "file", "path": "x", "follow": true})), "unbounded");
}

/// | source | json | csv | text | raw | xml |
/// |---|---|---|---|---|---|
/// | `file` | lines | rows | lines | whole files | whole files |
/// | `http` | bodies are split | bodies are split | lines | whole bodies | whole bodies |
/// | `feed` | yes: an entry is a JSON object | no | the object's text | its bytes | no |
/// | `websocket` | yes | without a header | yes | yes | yes |
/// | `http_stream` | yes | without a header | yes | yes | yes |
#[test]
fn every_combination_of_a_source_and_a_format_works_or_is_refused() {
    let formats = [
        (r#""json""#, &[][..]),
        (r#"{"format":"json","envelope":"debezium"}"#, &["feed"]),
        (r#""csv""#, &["feed", "websocket", "http_stream"]),
        (r#"{"format":"csv","header":false}"#, &["feed"]),
        (r#""text""#, &[]),
        (r#"{"format":"text","encoding":"utf-16"}"#, &["http_stream"]),
        (r#""raw""#, &[]),
        (r#"{"format":"xml","preset":"feed"}"#, &["feed"]),
        (r#"{"format":"xml","preset":"newsml-g2"}"#, &["feed"]),
        (r#"{"format":"xml","fields":{"a":"b"}}"#, &["feed"]),
    ];
    for (decode, wanted) in formats {
        let config: DecodeConfig = serde_json::from_str(decode).unwrap();
        let refusing = sources().map(source).into_iter().filter(|s| s.settings().unfit(&config).is_some());
        let found: Vec<_> = refusing.map(|s| s.settings().kind()).collect();
        assert_eq!(found, wanted, "{decode}");
    }
}

#[test]
fn a_feed_has_its_fields_by_itself_and_a_schema_chooses_among_them() {
    let json = DecodeConfig::default();
    let feed = source(json!({"type": "feed", "url": "https://a.example/feed"}));
    let all = feed.settings().fields(&json, None).unwrap();
    assert_eq!(all, format::feed::entry_schema());
    let chosen = StreamSchema { fields: vec![all.field("title").unwrap().clone()] };
    assert_eq!(feed.settings().fields(&json, Some(&chosen)), Ok(chosen.clone()));
    let mut unknown = chosen.clone();
    unknown.fields[0].name = "titel".into();
    assert!(feed.settings().fields(&json, Some(&unknown)).unwrap_err().contains("no field `titel`"));
    assert!(source(json!({"type": "http"})).settings().fields(&json, None).is_err());
}

#[test]
fn a_source_says_what_it_knows_of_a_record() {
    let known = |json: Value| -> Vec<&'static str> {
        let source = source(json);
        let carries = |metadata: &Metadata| source.settings().carries(*metadata) == Carries::Yes;
        Metadata::ALL.into_iter().filter(carries).map(Metadata::as_str).collect()
    };
    let of_each: Vec<_> = sources().into_iter().map(known).collect();
    assert_eq!(of_each, [&["position"][..], &[], &[], &[], &["event", "key"]]);
    assert_eq!(known(json!({"type": "http", "headers": ["X-Trace"]})), ["headers"]);
    let lines = source(json!({"type": "http_stream", "url": "https://a.example/"}));
    assert!(matches!(lines.settings().carries(Metadata::Key), Carries::With(what) if what.contains("format: sse")));
}

#[test]
fn paths_start_from_the_folder_of_the_pipeline_file() {
    let of_source = |path: &str| {
        format!("{:?}", source(json!({"type": "file", "path": path})).settings().check(Path::new("base")).unwrap())
    };
    assert!(of_source("./a/b.jsonl").contains(r#"path: "base/a/b.jsonl""#), "{}", of_source("./a/b.jsonl"));
    assert!(of_source("/a/b.jsonl").contains(r#"path: "/a/b.jsonl""#));
    let sink = sink(json!({"type": "file", "folder": "out"})).settings().check(Path::new("base"), &row_schema());
    let shown = format!("{:?}", sink.unwrap());
    assert!(shown.contains(r#"folder: "base/out""#), "{shown}");
}

#[test]
fn every_problem_of_a_source_is_named_with_its_field() {
    let of = |json| fields(source_problems(json));
    let headers = json!(["X-A", "authorization", "a b", "Cookie", "x-a"]);
    assert_eq!(
        of(json!({"type": "http", "max_body": 0, "headers": headers})),
        ["max_body", "headers[1]", "headers[2]", "headers[3]", "headers[4]"]
    );
    assert_eq!(
        of(
            json!({"type": "feed", "urls": ["https://a.example/", "ftp://b.example/"], "interval": "0s", "remember": 0})
        ),
        ["urls[1]", "interval", "remember"]
    );
    assert_eq!(of(json!({"type": "feed"})), ["url"]);
    assert_eq!(
        of(json!({"type": "websocket", "url": "https://a.example", "ping_interval": "30s",
            "bearer_token": "x", "headers": {"authorization": "y", "bad name": "z"}, "backoff": {"max": "1ms"}})),
        ["url", "headers.bad name", "bearer_token", "ping_interval", "backoff.max"]
    );
    assert_eq!(
        of(json!({"type": "file", "path": "a/***", "ignore": ["[", "*.gz"], "start": "end", "max_record": 0})),
        ["path", "ignore[0]", "max_record", "start"]
    );
    assert_eq!(of(json!({"type": "http_stream", "url": "no url", "method": "G T"})), ["url", "method"]);
}

#[test]
fn every_problem_of_a_sink_is_named_with_its_field() {
    let of = |json| fields(sink_problems(json, &row_schema()));
    assert_eq!(
        of(json!({"type": "amqp", "url": "http://u:secret@a", "exchange": "x", "routing_key": "{sentiment.lable}",
            "headers": {"x-offset": "1", "h": "{"}, "queues": [{"name": "", "routing_keys": []}], "max_in_flight": 0,
            "confirm_timeout": "0s", "image": "new"})),
        [
            "url",
            "routing_key",
            "headers.h",
            "headers.x-offset",
            "queues[0].name",
            "queues[0].routing_keys",
            "max_in_flight",
            "confirm_timeout",
            "image"
        ]
    );
    assert_eq!(
        of(json!({"type": "amqp", "url": "amqp://a", "exchange": "x", "declare": false, "queues": [{"name": "q"}]})),
        ["queues"]
    );
    assert_eq!(
        of(
            json!({"type": "http", "url": "ftp://a/{id}", "headers": {"bad name": "x", "Authorization": "y"}, "bearer_token": "z",
            "batch": {"max": 0}, "timeout": "0s"})
        ),
        ["url", "headers.bad name", "bearer_token", "batch.max", "timeout"]
    );
    assert_eq!(
        of(json!({"type": "file", "folder": " ", "name": "a-%Q", "roll": {"size": 0, "interval": "0s"}})),
        ["folder", "name", "roll.size", "roll.interval"]
    );
    for name in ["../a", "/a", "a/", "", ".a", "a/../b", "a/.b"] {
        assert_eq!(of(json!({"type": "file", "folder": "x", "name": name})), ["name"], "{name}");
    }
    assert_eq!(of(json!({"type": "stdout", "encode": {"format": "text", "template": "{no}"}})), ["encode"]);
    assert_eq!(of(json!({"type": "stdout", "encode": "parquet"})), ["encode"]);
    assert_eq!(of(json!({"type": "stdout", "encode": {"format": "raw", "column": "id"}})), ["encode"]);
    assert_eq!(of(json!({"type": "file", "folder": "x", "encode": {"format": "json", "pretty": true}})), ["encode"]);
    assert_eq!(of(json!({"type": "http", "url": "http://a", "encode": "csv", "framing": "array"})), ["framing"]);
    let raw = json!({"format": "raw", "column": "headline"});
    assert_eq!(of(json!({"type": "http", "url": "http://a", "encode": raw, "framing": "lines"})), ["framing"]);
    assert_eq!(of(json!({"type": "amqp", "url": "amqp://a", "exchange": "x", "encode": "csv"})), ["encode"]);
}

#[test]
fn the_published_schema_knows_the_type_and_refuses_unknown_keys() {
    let schemas =
        [(schemars::schema_for!(SourceConfig), sources().len()), (schemars::schema_for!(SinkConfig), sinks().len())];
    for (schema, count) in schemas {
        let schema = serde_json::to_value(schema).unwrap();
        let variants = schema["oneOf"].as_array().unwrap();
        assert_eq!(variants.len(), count);
        for variant in variants {
            assert!(variant["properties"]["type"]["const"].is_string(), "{variant:#}");
            assert!(variant["required"].as_array().unwrap().contains(&"type".into()), "{variant:#}");
            // A reference would bring the refusal of unknown keys, `type` among them, with it.
            assert!(variant.get("$ref").is_none(), "{variant:#}");
            let closed = [&variant["additionalProperties"], &variant["unevaluatedProperties"]];
            assert!(closed.contains(&&Value::Bool(false)), "{variant:#}");
        }
    }
}

#[test]
fn secrets_are_not_shown() {
    for json in [
        json!({"type": "websocket", "url": "wss://me:hush@a.example/hush", "bearer_token": "hush", "headers": {"X-Key": "hush"}}),
        json!({"type": "http_stream", "url": "https://me:hush@a.example/?hush", "bearer_token": "hush"}),
        json!({"type": "feed", "url": "https://me:hush@a.example/?hush", "headers": {"X-Key": "hush"}}),
    ] {
        let config = source(json);
        let checked = config.settings().check(Path::new("")).unwrap();
        let shown = format!("{config:?}{checked:?}{}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("hush"), "{shown}");
    }
    for json in [
        json!({"type": "amqp", "url": "amqp://hush:hush@h/", "exchange": "x"}),
        json!({"type": "http", "url": "https://me:hush@h/hush?hush", "bearer_token": "hush", "headers": {"X-Key": "hush"}}),
    ] {
        let config = sink(json);
        let checked = config.settings().check(Path::new(""), &row_schema()).unwrap();
        let shown = format!("{config:?}{checked:?}{}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("hush"), "{shown}");
    }
    for json in [
        json!({"type": "amqp", "url": "amqp://hush:hush@h:99999/", "exchange": "x"}),
        json!({"type": "http", "url": "https://hush@h:99999/hush?hush", "bearer_token": "hush\n", "headers": {"X-Key": "hush\n"}}),
    ] {
        let problems = sink_problems(json, &row_schema());
        assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
    }
}
