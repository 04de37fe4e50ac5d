//! Maxwell's events.
//!
//! ```json
//! {"database": "shop", "table": "orders", "type": "update", "data": {…}, "old": {…}}
//! ```
//!
//! Format: <https://maxwells-daemon.io/dataformat/>, and <https://maxwells-daemon.io/bootstrapping/> for snapshots.

use super::event::{Change, Event, Op, Record, Span, lacks};
use crate::format::columns::{Built, Fault};

/// Reads one event.
pub(super) fn read(record: &mut Record<'_>, whole: &Span) -> Built<Event> {
    let names = ["database", "table", "type", "data", "old", "primary_key_columns"];
    let [database, table, kind, data, old, key] = record.members(whole, names)?;
    let Some(kind) = record.text(kind.as_ref()) else { return Err(lacks("type", "an event")) };
    let op = match kind.as_str() {
        "insert" | "bootstrap-insert" => Op::Insert,
        "update" => Op::Update,
        "delete" => Op::Delete,
        // The borders of a snapshot, and changes of definitions.
        "bootstrap-start" | "bootstrap-complete" => return Ok(Event::default()),
        other if other.starts_with("table-") || other.starts_with("database-") => return Ok(Event::default()),
        other => return Err(Fault::malformed(format!("the event's type `{other}` is not known"))),
    };
    let mut event = Event { table: record.path([database.as_ref(), table.as_ref()]), ..Event::default() };
    match data {
        None => event.refused = Some(lacks("data", "an event of a row")),
        Some(row) if op == Op::Update => {
            let key = record.texts(key.as_ref());
            event.changes = record.update(row, old, &key)?;
        }
        Some(row) => event.changes.push(Change::new(op, row)),
    }
    Ok(event)
}
