//! Canal's flat messages: the rows of one statement.
//!
//! ```json
//! {"database": "shop", "table": "orders", "type": "UPDATE", "pkNames": ["id"], "data": [{…}], "old": [{…}], …}
//! ```
//!
//! Every value is a string or null. Format: `FlatMessage` of <https://github.com/alibaba/canal>; examples in
//! <https://nightlies.apache.org/flink/flink-docs-stable/docs/connectors/table/formats/canal/>.

use super::event::{Change, Event, Op, Record, Span, lacks, truncated};
use crate::format::columns::{Built, Fault};

/// Events that change no row.
const OTHERS: [&str; 11] =
    ["CREATE", "ALTER", "ERASE", "QUERY", "RENAME", "CINDEX", "DINDEX", "GTID", "XACOMMIT", "XAROLLBACK", "MHEARTBEAT"];

/// Reads one event.
pub(super) fn read(record: &mut Record<'_>, whole: &Span) -> Built<Event> {
    let names = ["database", "table", "type", "isDdl", "data", "old", "pkNames"];
    let [database, table, kind, is_ddl, data, old, key] = record.members(whole, names)?;
    let Some(kind) = record.text(kind.as_ref()).map(|kind| kind.to_ascii_uppercase()) else {
        return Err(lacks("type", "an event"));
    };
    let mut event = Event { table: record.path([database.as_ref(), table.as_ref()]), ..Event::default() };
    let op = match kind.as_str() {
        "INSERT" => Op::Insert,
        "UPDATE" => Op::Update,
        "DELETE" => Op::Delete,
        "TRUNCATE" => {
            event.refused = Some(truncated(&event.table));
            return Ok(event);
        }
        _ if record.is_true(is_ddl.as_ref()) => return Ok(Event::default()),
        other if OTHERS.contains(&other) => return Ok(Event::default()),
        other => return Err(Fault::malformed(format!("the event's type `{other}` is not known"))),
    };
    let Some(data) = data else {
        event.refused = Some(lacks("data", "an event of rows"));
        return Ok(event);
    };
    let key = record.texts(key.as_ref());
    let old = if let Some(old) = old { record.items(&old)? } else { Vec::new() };
    for (index, row) in record.items(&data)?.into_iter().enumerate() {
        match op {
            Op::Update => {
                let old = old.get(index).filter(|old| !record.is_nothing(old)).cloned();
                event.changes.extend(record.update(row, old, &key)?);
            }
            op => event.changes.push(Change::new(op, row)),
        }
    }
    Ok(event)
}
