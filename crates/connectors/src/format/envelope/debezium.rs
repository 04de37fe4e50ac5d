//! Debezium's change events.
//!
//! ```json
//! {"schema": …, "payload": {"op": "u", "before": {…}, "after": {…}, "source": {"db": …, "schema": …, "table": …}}}
//! ```
//!
//! `schema` and `payload` are Kafka Connect's, and left out with `schemas.enable=false`. Format: "Data change events"
//! in <https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events>.

use super::event::{Change, Event, Op, Record, Span, lacks, truncated};
use crate::format::columns::{Built, Fault};

/// Reads one event.
pub(super) fn read(record: &mut Record<'_>, whole: &Span) -> Built<Event> {
    let [schema, payload, op] = record.members(whole, ["schema", "payload", "op"])?;
    let body = match (&op, payload) {
        (None, Some(payload)) => payload,
        // `{"schema": null, "payload": null}` is how Kafka Connect writes a tombstone.
        (None, None) if is_empty_pair(record, whole)? => return Ok(Event::default()),
        _ => whole.clone(),
    };
    let [op, before, after, source] = record.members(&body, ["op", "before", "after", "source"])?;
    let Some(op) = record.text(op.as_ref()) else {
        return if is_no_change(record, &body, before.is_some() || after.is_some())? {
            Ok(Event::default())
        } else {
            Err(lacks("op", "an event"))
        };
    };
    let table = match source {
        Some(source) => {
            let [db, schema, table] = record.members(&source, ["db", "schema", "table"])?;
            record.path([db.as_ref(), schema.as_ref(), table.as_ref()])
        }
        None => Vec::new(),
    };
    let mut event = Event { table, schema, ..Event::default() };
    let (op, image, name) = match op.as_str() {
        // `r` is a row of a snapshot.
        "c" | "r" => (Op::Insert, after, "after"),
        "u" => (Op::Update, after, "after"),
        "d" => (Op::Delete, before, "before"),
        "t" => {
            event.refused = Some(truncated(&event.table));
            return Ok(event);
        }
        // A message that somebody wrote into the database's log.
        "m" => return Ok(Event::default()),
        other => return Err(Fault::malformed(format!("`op` is `{other}`, which is none of c, r, u, d, t, m"))),
    };
    match image {
        Some(image) => event.changes.push(Change::new(op, image)),
        None => event.refused = Some(lacks(name, op.article())),
    }
    Ok(event)
}

impl Op {
    fn article(self) -> &'static str {
        match self {
            Self::Insert => "an insert",
            Self::Update => "an update",
            Self::Delete => "a delete",
        }
    }
}

/// True where there are a schema and a payload, both null.
fn is_empty_pair(record: &mut Record<'_>, whole: &Span) -> Built<bool> {
    Ok(record.names(whole)?.iter().any(|name| name == "payload"))
}

/// Heartbeats (a time and nothing else), changes of the schema, and borders of transactions: no row changes.
fn is_no_change(record: &mut Record<'_>, body: &Span, has_image: bool) -> Built<bool> {
    if has_image {
        return Ok(false);
    }
    let names = record.names(body)?;
    let has = |name: &str| names.iter().any(|n| n == name);
    let is_heartbeat = has("ts_ms") && names.iter().all(|name| name.starts_with("ts_"));
    Ok(is_heartbeat || has("ddl") || has("tableChanges") || (has("status") && has("id")))
}
