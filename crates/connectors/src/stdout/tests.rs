//! What is printed.

use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::payload::tests::changes;

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
    let config: StdoutSinkConfig = serde_json::from_value(config).unwrap();
    let spec = config.checked(&batch.batch.schema()).unwrap();
    let mut sink = StdoutSink::onto(Box::new(page.clone()), spec.body);
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
    let text = print(serde_json::json!({"encode": {"format": "text", "template": "{op}: {sentiment.label}"}})).await;
    assert_eq!(text, "insert: positive\nupdate: negative\ndelete: neutral\n");
    let line = serde_json::json!({"format": "text", "template": "{op}: {sentiment.label}"});
    let new = print(serde_json::json!({"encode": line, "image": "new"})).await;
    assert_eq!(new, "insert: positive\nupdate: negative\n");
    let pretty = print(serde_json::json!({"encode": {"format": "json", "pretty": true}, "image": "new"})).await;
    assert!(pretty.starts_with("{\n  \"id\": 1,\n  \"headline\": \"\\\"1\\\", ü\",\n"), "{pretty}");
    let values = serde_json::Deserializer::from_str(&pretty).into_iter::<serde_json::Value>();
    assert_eq!(values.map(|v| v.unwrap()["sentiment"]["label"].clone()).collect::<Vec<_>>(), ["positive", "negative"]);
}

#[tokio::test]
async fn a_closed_pipe_stops_the_sink_with_advice() {
    let batch = changes();
    let spec = StdoutSinkConfig::default().checked(&batch.batch.schema()).unwrap();
    let mut sink = StdoutSink::onto(Box::new(Closed), spec.body);
    let error = sink.deliver(&batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
    assert!(error.to_string().contains("closed by its reader"), "{error}");
}

#[tokio::test]
async fn the_columns_are_named_once() {
    let (page, batch) = (Page::default(), changes());
    let config: StdoutSinkConfig =
        serde_json::from_value(serde_json::json!({"encode": "csv", "image": "new"})).unwrap();
    let spec = config.checked(&batch.batch.schema()).unwrap();
    let mut sink = StdoutSink::onto(Box::new(page.clone()), spec.body);
    sink.deliver(&batch).await.unwrap();
    sink.deliver(&batch).await.unwrap();
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(lines[0], "id,headline,at,sentiment");
    assert!(lines[1].starts_with("1,"), "{text}");
}
