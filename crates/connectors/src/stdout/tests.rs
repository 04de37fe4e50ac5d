//! What is printed.

use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::sink::tests::{changes, context};

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(Io::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn print(config: serde_json::Value) -> String {
    let (page, batch) = (Page::default(), changes());
    let config = serde_json::from_value(config).unwrap();
    let mut sink =
        StdoutSink::onto(Box::new(page.clone()), Place::Text, config, &context(batch.batch.schema())).unwrap();
    assert_eq!(sink.deliver(&batch).await.unwrap(), []);
    let text = page.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn rows_are_printed_as_lines_or_indented_or_as_text() {
    let lines = print(serde_json::json!({})).await;
    let ops: Vec<_> = lines
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["op"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ops, ["insert", "update", "delete"]);
    let text = print(serde_json::json!({"format": "text", "template": "{op}: {sentiment.label}"})).await;
    assert_eq!(text, "insert: positive\nupdate: negative\ndelete: neutral\n");
    let new = print(serde_json::json!({"format": "text", "template": "{op}: {sentiment.label}", "image": "new"})).await;
    assert_eq!(new, "insert: positive\nupdate: negative\n");
    let pretty = print(serde_json::json!({"format": "json_pretty", "image": "new"})).await;
    assert!(pretty.starts_with("{\n  \"id\": 1,\n  \"headline\": \"\\\"1\\\", ü\",\n"), "{pretty}");
    let values = serde_json::Deserializer::from_str(&pretty).into_iter::<serde_json::Value>();
    assert_eq!(values.map(|v| v.unwrap()["sentiment"]["label"].clone()).collect::<Vec<_>>(), ["positive", "negative"]);
}

#[test]
fn indenting_changes_blanks_only() {
    let compact = br#"{"a":[],"b":{},"c":[1,{"d":"x\\\",{[\\"}],"e":123456789012345678901234567890.10}"#;
    let mut out = Vec::new();
    indent(compact, &mut out);
    let text = String::from_utf8(out.clone()).unwrap();
    assert_eq!(text.lines().nth(1), Some(r#"  "a": [],"#));
    assert!(text.ends_with("\n  \"e\": 123456789012345678901234567890.10\n}"), "{text}");
    let mut again = Vec::new();
    indent(&out, &mut again);
    assert_eq!(again.len(), out.len());
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value, serde_json::from_slice::<serde_json::Value>(compact).unwrap());
}

#[tokio::test]
async fn a_closed_pipe_stops_the_sink_with_advice() {
    let batch = changes();
    let mut sink =
        StdoutSink::onto(Box::new(Closed), Place::Text, StdoutSinkConfig::default(), &context(batch.batch.schema()))
            .unwrap();
    let error = sink.deliver(&batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
    assert!(error.to_string().contains("closed by its reader"), "{error}");
}
