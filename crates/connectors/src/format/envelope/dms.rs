//! Events of the AWS Database Migration Service, as it writes them into Kinesis and Kafka.
//!
//! ```json
//! {"data": {…}, "metadata": {"operation": "update", "schema-name": "public", "table-name": "orders", …}}
//! ```
//!
//! Columns that are null or empty are left out, unless `IncludeNullAndEmpty` is set. Format:
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.Kinesis.html>.

use super::event::{Change, Event, Op, Record, Span, lacks, truncated};
use crate::format::columns::{Built, Fault};

/// Reads one event.
pub(super) fn read(record: &mut Record<'_>, whole: &Span) -> Built<Event> {
    let [data, before, metadata] = record.members(whole, ["data", "before-image", "metadata"])?;
    let Some(metadata) = metadata else { return Err(lacks("metadata", "an event")) };
    let names = ["record-type", "operation", "schema-name", "table-name"];
    let [kind, operation, schema, table] = record.members(&metadata, names)?;
    let Some(operation) = record.text(operation.as_ref()) else {
        return Err(lacks("operation", "an event's metadata"));
    };
    let mut event = Event { table: record.path([schema.as_ref(), table.as_ref()]), ..Event::default() };
    if record.text(kind.as_ref()).as_deref() == Some("control") {
        if operation.starts_with("truncate") {
            event.refused = Some(truncated(&event.table));
        }
        return Ok(event);
    }
    let op = match operation.as_str() {
        "load" | "insert" => Op::Insert,
        "update" => Op::Update,
        "delete" => Op::Delete,
        other => return Err(Fault::malformed(format!("the operation `{other}` is not known"))),
    };
    match (op, data, before) {
        (Op::Delete, None, Some(row)) | (_, Some(row), _) => event.changes.push(Change::new(op, row)),
        _ => event.refused = Some(lacks("data", "an event of a row")),
    }
    Ok(event)
}
