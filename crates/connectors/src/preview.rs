//! What a sink would send, without opening it: for `millstream try`.

use arrow::array::RecordBatch;
use millstream_core::Result;
use serde::Serialize;

use crate::payload::Body;

/// One row as a sink would send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Where to, in words. Of a URL only scheme, host, and what columns are filled into: the rest may be a secret.
    pub to: String,
    /// The body, the message or the line.
    pub body: String,
}

/// What is sent of each row of `batch`: the record, and `to` for its row. Where one of the two can't be made, why.
pub(crate) fn each(
    batch: &RecordBatch,
    body: &Body,
    to: impl Fn(usize) -> Result<String, String>,
) -> Result<Vec<Preview>> {
    let encoded = body.encode(batch)?;
    let nowhere = |why: &str| format!("nowhere: {why}");
    let sent = encoded.rows.iter().enumerate().map(|(i, &row)| {
        let body = String::from_utf8_lossy(encoded.record(i)).into_owned();
        (row, Preview { to: to(row as usize).unwrap_or_else(|why| nowhere(&why)), body })
    });
    let failed = encoded
        .failures
        .iter()
        .map(|failed| (failed.row, Preview { to: nowhere(&failed.failure.message), body: String::new() }));
    let mut all: Vec<(u32, Preview)> = sent.chain(failed).collect();
    all.sort_by_key(|(row, _)| *row);
    Ok(all.into_iter().map(|(_, preview)| preview).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;
    use crate::registry::SinkConfig;

    fn rows() -> RecordBatch {
        let ids = Arc::new(Int64Array::from(vec![7, 8])) as _;
        let names = Arc::new(StringArray::from(vec!["ann", "bo"])) as _;
        RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap()
    }

    fn of(yaml: serde_json::Value) -> Vec<Preview> {
        let config: SinkConfig = serde_json::from_value(yaml).unwrap();
        let rows = rows();
        config.settings().check(Path::new(""), &rows.schema()).unwrap().preview(&rows).unwrap()
    }

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        let url = "https://me:pw@host.example/token/x/{id}";
        let sent = of(serde_json::json!({ "type": "http", "url": url, "method": "PUT" }));
        assert_eq!(sent[1].to, "PUT https://host.example/***8");
        assert_eq!(sent[1].body, r#"{"id":8,"name":"bo"}"#);
        let sent = of(serde_json::json!({ "type": "http", "url": "https://host.example/{id}?key=secret" }));
        assert_eq!(sent[0].to, "POST https://host.example/***7***");
        let sent = of(serde_json::json!({ "type": "http", "url": "https://host.example/hook?key=secret" }));
        assert_eq!(sent[0].to, "POST https://host.example/***");
    }

    #[test]
    fn routing_keys_and_lines_are_rendered() {
        let amqp = serde_json::json!({ "type": "amqp", "url": "amqp://h", "exchange": "e", "routing_key": "a.{name}" });
        let sent = of(amqp);
        assert_eq!(sent[0].to, "exchange `e`, routing key `a.ann`");
        let sent =
            of(serde_json::json!({ "type": "stdout", "encode": { "format": "text", "template": "{id}: {name}" } }));
        assert_eq!(sent.iter().map(|s| s.body.as_str()).collect::<Vec<_>>(), ["7: ann", "8: bo"]);
        let sent = of(serde_json::json!({ "type": "file", "folder": "out", "encode": { "format": "csv" } }));
        assert_eq!(sent[1], Preview { to: "a file in out".into(), body: "8,bo".into() });
        let sent = of(serde_json::json!({ "type": "file", "folder": "out", "encode": "parquet" }));
        assert_eq!(sent[1].body, r#"{"id":8,"name":"bo"}"#);
    }
}
