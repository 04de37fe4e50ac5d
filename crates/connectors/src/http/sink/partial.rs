//! What a web service says of each row of a request that it took only in part.
//!
//! | who answers so | the answer | which rows |
//! |---|---|---|
//! | Elasticsearch, OpenSearch | `{"errors": true, "items": [{"index": {"status": 400, "error": {…}}}]}` | by place |
//! | Kinesis, Firehose, EventBridge | `{"FailedRecordCount": 1, "Records": [{"ErrorCode": "…"}]}` and the like | by place |
//! | any service with 207 Multi-Status | `[{"status": 400, …}]`, or an object with such a list | by place |
//! | Millstream, BigQuery | `{"rejected": [{"index": 0, …}]}`, `{"insertErrors": [{"index": 0, …}]}` | by `index` |
//!
//! An answer of another form, or with another number of rows than were sent, is none of these.

use millstream_core::{Failure, FailureKind, Hidden};
use reqwest::StatusCode;
use serde_json::{Map, Value};

/// How much of a reason goes into a message, in characters.
const REASON_MAX: usize = 300;
/// How much of one is looked at, in characters: cut before secrets are hidden, half of one would be shown.
const LOOKED_AT_MAX: usize = 8 << 10;

/// What became of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Stored,
    /// It says nothing about the row: try it again.
    Again(String),
    /// For good.
    Refused(Failure),
}

impl Item {
    /// The same without what a reason must not show, and not longer than a message may be.
    pub(super) fn without(self, hidden: &Hidden) -> Self {
        let shown = |text: String| -> String { hidden.hide(&text).chars().take(REASON_MAX).collect() };
        match self {
            Self::Stored => Self::Stored,
            Self::Again(why) => Self::Again(shown(why)),
            Self::Refused(failure) => Self::Refused(Failure { message: shown(failure.message), ..failure }),
        }
    }
}

/// What became of each of the `rows` rows of a request that was answered with `status` (2xx) and `body`. `None`: the
/// answer does not speak of single rows.
pub(super) fn read(status: StatusCode, body: &[u8], rows: usize) -> Option<Vec<Item>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let items = match &answer {
        Value::Object(object) => of_object(object, status, rows)?,
        Value::Array(list) if status == StatusCode::MULTI_STATUS => by_place(list, rows, by_status)?,
        _ => return None,
    };
    items.iter().any(|item| *item != Item::Stored).then_some(items)
}

fn of_object(answer: &Map<String, Value>, status: StatusCode, rows: usize) -> Option<Vec<Item>> {
    let list = |name: &str| answer.get(name).and_then(Value::as_array);
    if answer.get("errors") == Some(&Value::Bool(true))
        && let Some(items) = list("items")
    {
        // `{"index": {…}}`: what was done, and how it went.
        return by_place(items, rows, |item| by_status(item.as_object()?.values().next()?));
    }
    for (count, name) in
        [("FailedRecordCount", "Records"), ("FailedPutCount", "RequestResponses"), ("FailedEntryCount", "Entries")]
    {
        if answer.get(count).and_then(Value::as_u64).is_some_and(|failed| failed > 0)
            && let Some(items) = list(name)
        {
            return by_place(items, rows, |item| Some(by_error_code(item)));
        }
    }
    for name in ["rejected", "insertErrors"] {
        if let Some(refused) = list(name) {
            return by_index(refused, rows);
        }
    }
    if status != StatusCode::MULTI_STATUS {
        return None;
    }
    answer.values().filter_map(Value::as_array).find_map(|items| by_place(items, rows, by_status))
}

fn by_place(list: &[Value], rows: usize, one: impl Fn(&Value) -> Option<Item>) -> Option<Vec<Item>> {
    if list.len() != rows {
        return None;
    }
    list.iter().map(one).collect()
}

fn by_index(refused: &[Value], rows: usize) -> Option<Vec<Item>> {
    let mut items = vec![Item::Stored; rows];
    for item in refused {
        let index = usize::try_from(item.get("index")?.as_u64()?).ok()?;
        *items.get_mut(index)? = Item::Refused(failure(reason(item)));
    }
    Some(items)
}

/// `{"status": 400}`, `{"status": "HTTP/1.1 400 Bad Request"}`, `{"statusCode": "400"}`, `{"code": 400}`
fn by_status(item: &Value) -> Option<Item> {
    let code = ["status", "statusCode", "status_code", "code"].iter().find_map(|name| code(item.get(name)?))?;
    Some(match code {
        200..=299 => Item::Stored,
        401 | 403 | 408 | 425 | 429 | 500..=599 => Item::Again(format!("{code} {}", reason(item)).trim_end().into()),
        _ => Item::Refused(failure(format!("{code} {}", reason(item)))),
    })
}

fn code(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.split_whitespace().find_map(|word| word.parse().ok()),
        _ => None,
    }
}

/// What AWS says of one record: nothing of one that is stored.
fn by_error_code(item: &Value) -> Item {
    let Some(code) = item.get("ErrorCode").and_then(Value::as_str).filter(|code| !code.is_empty()) else {
        return Item::Stored;
    };
    let passes = ["Throughput", "Throttl", "Internal", "Unavailable", "Timeout", "LimitExceeded"];
    let text = format!("{code} {}", item.get("ErrorMessage").and_then(Value::as_str).unwrap_or_default());
    match passes.iter().any(|word| code.contains(word)) {
        true => Item::Again(shortened(text.trim_end())),
        false => Item::Refused(failure(text)),
    }
}

fn failure(reason: String) -> Failure {
    let text = reason.trim();
    let text = if text.is_empty() { "without a reason".into() } else { shortened(text) };
    Failure::new(FailureKind::Rejected, format!("the service took the request but not this row: {text}"))
}

/// The reason in the item, under the names that services use.
fn reason(item: &Value) -> String {
    let names = ["reason", "message", "detail", "title", "description"];
    let found = |value: &Value| names.iter().find_map(|name| value.get(name)?.as_str().map(str::to_owned));
    let first = |name: &str| item.get(name).and_then(|errors| errors.as_array()?.first());
    let text = item
        .get("error")
        .and_then(|error| error.as_str().map(str::to_owned).or_else(|| found(error)))
        .or_else(|| found(item))
        .or_else(|| first("errors").and_then(found))
        .unwrap_or_default();
    shortened(&text)
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LOOKED_AT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_json(status: u16, body: Value, rows: usize) -> Option<Vec<&'static str>> {
        let items = read(StatusCode::from_u16(status).unwrap(), body.to_string().as_bytes(), rows)?;
        Some(
            items
                .iter()
                .map(|item| match item {
                    Item::Stored => "stored",
                    Item::Again(_) => "again",
                    Item::Refused(_) => "refused",
                })
                .collect(),
        )
    }

    #[test]
    fn each_known_form_of_a_partial_failure_is_read() {
        let three = Some(vec!["stored", "refused", "again"]);
        let bulk = json!({"errors": true, "items": [
            {"index": {"status": 201}},
            {"index": {"status": 400, "error": {"type": "mapper_parsing_exception", "reason": "failed to parse"}}},
            {"index": {"status": 429, "error": {"type": "es_rejected_execution_exception"}}},
        ]});
        assert_eq!(read_json(200, bulk, 3), three);
        let records = json!([
            {"SequenceNumber": "1", "ShardId": "0"},
            {"ErrorCode": "ValidationException", "ErrorMessage": "no"},
            {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow down"},
        ]);
        assert_eq!(read_json(200, json!({"FailedRecordCount": 2, "Records": records}), 3), three);
        assert_eq!(read_json(200, json!({"FailedPutCount": 2, "RequestResponses": records}), 3), three);
        assert_eq!(read_json(200, json!({"FailedEntryCount": 2, "Entries": records}), 3), three);
        let statuses = json!([{"status": 200}, {"status": "HTTP/1.1 422 Unprocessable"}, {"status": "503"}]);
        assert_eq!(read_json(207, statuses.clone(), 3), three);
        assert_eq!(read_json(207, json!({"results": statuses}), 3), three);
        let ours = json!({"accepted": 1, "rejected": [{"index": 1, "kind": "type_mismatch", "message": "n"}]});
        assert_eq!(read_json(200, ours, 2), Some(vec!["stored", "refused"]));
        let google = json!({"insertErrors": [{"index": 0, "errors": [{"reason": "invalid"}]}]});
        assert_eq!(read_json(200, google, 2), Some(vec!["refused", "stored"]));
    }

    #[test]
    fn an_answer_that_speaks_of_no_single_row_is_left_alone() {
        for (status, body, rows) in [
            (200, json!({"errors": false, "items": [{"index": {"status": 201}}]}), 1),
            (200, json!({"errors": true, "items": []}), 2),
            (200, json!([{"status": 400}]), 1),
            (200, json!({"status": 400}), 1),
            (200, json!({"accepted": 2, "rejected": []}), 2),
            (207, json!([{"status": 200}, {"status": 201}]), 2),
            (207, json!([{"status": 400}]), 2),
            (200, json!({"rejected": [{"index": 9}]}), 2),
        ] {
            assert_eq!(read_json(status, body.clone(), rows), None, "{status} {body}");
        }
        assert_eq!(read(StatusCode::MULTI_STATUS, b"<multistatus/>", 1), None);
    }

    #[test]
    fn a_refusal_says_the_services_reason() {
        let body = json!({"errors": true, "items": [{"create": {"status": 400, "error": {"reason": "no\nnumber"}}}]});
        let items = read(StatusCode::OK, body.to_string().as_bytes(), 1).unwrap();
        let Item::Refused(failure) = &items[0] else { panic!("{items:?}") };
        assert_eq!(failure.message, "the service took the request but not this row: 400 no number");
    }
}
