//! Events as the programs write them, and what becomes of them.

use millstream_core::json::to_string;
use millstream_core::{FailureKind, RowFailure};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{DecodeConfig, build, effective_schema};
use super::*;

/// A decoder of `decode:` and declared fields.
fn decoder(decode: &str, declared: &[(&str, &str)]) -> Arc<dyn Decoder> {
    let decode: DecodeConfig = serde_json::from_str(decode).unwrap();
    let field = |(name, kind): &(&str, &str)| {
        let (kind, optional) = FieldType::parse(kind).unwrap();
        Field { name: (*name).into(), kind, optional }
    };
    let declared = StreamSchema { fields: declared.iter().map(field).collect() };
    let schema = effective_schema(&decode, Some(&declared)).unwrap();
    build(&decode, &schema).unwrap()
}

fn decode(decoder: &Arc<dyn Decoder>, records: &[String]) -> Decoded {
    let mut raw = RawBatch::default();
    let mut data = Vec::new();
    for record in records {
        raw.spans.push(data.len()..data.len() + record.len());
        data.extend_from_slice(record.as_bytes());
    }
    raw.data = data.into();
    decoder.decode(&raw)
}

/// The rows, or the failure of the only record.
fn rows(decoder: &Arc<dyn Decoder>, records: &[Value]) -> Result<Vec<Value>, (FailureKind, String)> {
    let decoded = decode(decoder, &records.iter().map(Value::to_string).collect::<Vec<_>>());
    assert_eq!(decoded.batch.num_rows(), decoded.record.len());
    if let Some(RowFailure { failure, .. }) = decoded.failures.into_iter().next() {
        return Err((failure.kind, failure.message));
    }
    let row = |row| serde_json::from_str(&to_string(&decoded.batch, row)).unwrap();
    Ok((0..decoded.batch.num_rows()).map(row).collect())
}

fn orders(envelope: &str) -> Arc<dyn Decoder> {
    let decode = json!({ "format": "json", "envelope": envelope, "table": "orders" }).to_string();
    decoder(&decode, &[("id", "int"), ("state", "string"), ("total", "float?")])
}

/// An event of Debezium's PostgreSQL connector, as its documentation has them.
fn debezium(op: &str, before: Value, after: Value) -> Value {
    json!({
        "before": before,
        "after": after,
        "source": {
            "version": "3.6.1.Final", "connector": "postgresql", "name": "shop", "ts_ms": 1_559_033_904_863_i64,
            "snapshot": op == "r", "db": "shop", "schema": "public", "table": "orders", "txId": 556, "lsn": 24_023_128
        },
        "op": op,
        "ts_ms": 1_559_033_904_961_i64,
        "transaction": null
    })
}

#[test]
fn debezium_gives_the_row_after_and_of_a_delete_the_row_before() {
    let row =
        |id: i64, state: &str| json!({ "id": id, "state": state, "total": 9.5, "not_declared": [1, { "a": null }] });
    let found = rows(
        &orders("debezium"),
        &[
            debezium("r", Value::Null, row(1, "old")),
            debezium("c", Value::Null, row(2, "new")),
            debezium("u", row(2, "new"), row(2, "paid")),
            // Only the key, as with PostgreSQL's default replica identity.
            debezium("d", json!({ "id": 2 }), Value::Null),
            debezium("d", json!({ "id": 1, "state": null, "total": null }), Value::Null),
        ],
    );
    let wanted = json!([
        { "id": 1, "state": "old", "total": 9.5, "_op": "insert" },
        { "id": 2, "state": "new", "total": 9.5, "_op": "insert" },
        { "id": 2, "state": "paid", "total": 9.5, "_op": "update" },
        { "id": 2, "state": null, "total": null, "_op": "delete" },
        { "id": 1, "state": null, "total": null, "_op": "delete" },
    ]);
    assert_eq!(Value::from(found.unwrap()), wanted);
}

#[test]
fn what_is_no_change_of_the_table_is_no_row() {
    let mut other = debezium("c", Value::Null, json!({ "id": 1 }));
    other["source"]["table"] = "old_orders".into();
    let mut truncated = other.clone();
    truncated["op"] = "t".into();
    let events = [
        other,
        truncated,
        // A tombstone, in both ways, a heartbeat, a change of the schema, the border of a transaction, a message.
        Value::Null,
        json!({ "schema": null, "payload": null }),
        json!({ "ts_ms": 1_559_033_904_961_i64 }),
        json!({ "schema": {}, "payload": { "ts_ms": 1_559_033_904_961_i64 } }),
        json!({ "source": { "db": "shop" }, "databaseName": "shop", "ddl": "ALTER TABLE orders …", "tableChanges": [] }),
        json!({ "status": "BEGIN", "id": "556:24023128", "event_count": null }),
        json!({ "op": "m", "source": { "db": "shop", "schema": "", "table": "" }, "message": { "prefix": "p" } }),
    ];
    assert_eq!(rows(&orders("debezium"), &events), Ok(Vec::new()));
    assert_eq!(decode(&orders("debezium"), &[String::new(), " ".into()]).failures, Vec::new());
    let events = [
        json!({ "database": "shop", "table": "orders", "type": "bootstrap-start", "data": {} }),
        json!({ "type": "table-alter", "database": "shop", "table": "orders", "sql": "alter table …" }),
        json!({ "database": "shop", "table": "customers", "type": "insert", "data": { "id": 1 } }),
    ];
    assert_eq!(rows(&orders("maxwell"), &events), Ok(Vec::new()));
    let events = [
        json!({ "database": "shop", "table": "orders", "type": "ALTER", "isDdl": true, "data": null, "sql": "ALTER …" }),
        json!({ "database": "shop", "table": "", "type": "QUERY", "isDdl": false, "data": null }),
    ];
    assert_eq!(rows(&orders("canal"), &events), Ok(Vec::new()));
    let event = json!({
        "control": { "table-def": { "columns": { "id": { "type": "INT32", "nullable": false } } } },
        "metadata": { "record-type": "control", "operation": "create-table", "schema-name": "public", "table-name": "orders" }
    });
    assert_eq!(rows(&orders("dms"), &[event]), Ok(Vec::new()));
}

#[test]
fn a_table_is_found_by_its_name_and_those_in_front_of_it() {
    let event = debezium("c", Value::Null, json!({ "id": 1 }));
    for (wanted, is_found) in [
        ("orders", true),
        ("public.orders", true),
        ("shop.public.orders", true),
        ("rders", false),
        ("shop.orders", false),
        ("other.shop.public.orders", false),
    ] {
        let decode = json!({ "format": "json", "envelope": "debezium", "table": wanted }).to_string();
        let found = rows(&decoder(&decode, &[("id", "int")]), std::slice::from_ref(&event)).unwrap();
        assert_eq!(found.len(), usize::from(is_found), "{wanted}");
    }
}

/// The event with Kafka Connect's schema: the columns' types by name, and parameters.
fn with_schema(types: &[(&str, &str, Value)], after: Value) -> Value {
    let fields: Vec<Value> = types
        .iter()
        .map(|(column, name, parameters)| {
            json!({ "type": "int64", "optional": true, "name": name, "version": 1, "field": column, "parameters": parameters })
        })
        .collect();
    let image = |name: &str| json!({ "type": "struct", "optional": true, "field": name, "fields": fields });
    json!({
        "schema": {
            "type": "struct", "name": "shop.public.orders.Envelope", "version": 2,
            "fields": [image("before"), image("after"), { "type": "string", "optional": false, "field": "op" }]
        },
        "payload": debezium("c", Value::Null, after)
    })
}

#[test]
fn types_are_those_of_the_schema_in_the_event() {
    let types = [
        ("day", "io.debezium.time.Date", Value::Null),
        ("day_text", "org.apache.kafka.connect.data.Date", Value::Null),
        ("ms", "io.debezium.time.Timestamp", Value::Null),
        ("us", "io.debezium.time.MicroTimestamp", Value::Null),
        ("ns", "io.debezium.time.NanoTimestamp", Value::Null),
        ("zoned", "io.debezium.time.ZonedTimestamp", Value::Null),
        ("clock", "io.debezium.time.MicroTime", Value::Null),
        ("long", "io.debezium.time.Time", Value::Null),
        ("clock_us", "io.debezium.time.MicroTime", Value::Null),
        ("price", "org.apache.kafka.connect.data.Decimal", json!({ "scale": "2", "connect.decimal.precision": "10" })),
        ("price_text", "org.apache.kafka.connect.data.Decimal", json!({ "scale": "2" })),
        ("count", "org.apache.kafka.connect.data.Decimal", json!({ "scale": "0" })),
        ("any", "io.debezium.data.VariableScaleDecimal", Value::Null),
        ("kind", "io.debezium.data.Enum", json!({ "allowed": "a,b" })),
        ("doc", "io.debezium.data.Json", Value::Null),
    ];
    let declared = [
        ("day", "timestamp"),
        ("day_text", "string"),
        ("ms", "timestamp"),
        ("us", "timestamp"),
        ("ns", "timestamp"),
        ("zoned", "timestamp"),
        ("clock", "string"),
        ("long", "string"),
        ("clock_us", "int"),
        ("price", "float"),
        ("price_text", "string"),
        ("count", "int"),
        ("any", "string"),
        ("kind", "string"),
        ("doc", "json"),
        ("missing", "string?"),
    ];
    let decoder = decoder(r#"{"format":"json","envelope":"debezium"}"#, &declared);
    let event = with_schema(
        &types,
        json!({
            "day": 19_844, "day_text": -1, "ms": 1_714_566_600_123_i64, "us": 1_714_566_600_123_456_i64,
            "ns": 1_714_566_600_123_456_789_i64, "zoned": "2024-05-01T12:30:00.5Z", "clock": 45_000_500_000_i64,
            "long": -3_020_399_000_i64, "clock_us": 7, "price": "AMU3", "price_text": "/zrJ", "count": "e1s=",
            "any": { "scale": 3, "value": "AeJA" }, "kind": "a", "doc": "{\"a\": 1}"
        }),
    );
    let row = rows(&decoder, &[event]).unwrap().remove(0);
    let wanted = json!({
        "day": "2024-05-01T00:00:00Z", "day_text": "1969-12-31", "ms": "2024-05-01T12:30:00.123Z",
        "us": "2024-05-01T12:30:00.123456Z", "ns": "2024-05-01T12:30:00.123456Z", "zoned": "2024-05-01T12:30:00.500Z",
        "clock": "12:30:00.5", "long": "-838:59:59", "clock_us": 7, "price": 504.87, "price_text": "-504.87",
        "count": 31_579, "any": "123.456", "kind": "a", "doc": { "a": 1 }, "missing": null, "_op": "insert"
    });
    assert_eq!(row, wanted);
}

#[test]
fn without_a_schema_units_say_what_numbers_count() {
    let decode = r#"{"format":"json","envelope":"debezium","units":{"day":"days","us":"micros"}}"#;
    let known = decoder(decode, &[("day", "timestamp"), ("us", "timestamp"), ("ms", "timestamp")]);
    // Of 13 digits: milliseconds, as everywhere.
    let row = json!({ "day": 19_844, "us": 86_400_000_000_i64, "ms": 1_714_566_600_123_i64 });
    let found = rows(&known, &[debezium("c", Value::Null, row.clone())]).unwrap();
    let wanted = json!({
        "day": "2024-05-01T00:00:00Z", "us": "1970-01-02T00:00:00Z", "ms": "2024-05-01T12:30:00.123Z", "_op": "insert"
    });
    assert_eq!(found, [wanted]);
    let unknown = decoder(r#"{"format":"json","envelope":"debezium"}"#, &[("day", "timestamp")]);
    let (kind, message) = rows(&unknown, &[debezium("c", Value::Null, row)]).unwrap_err();
    assert_eq!(kind, FailureKind::TypeMismatch);
    assert!(message.contains("field `day`: 19844 may count days or seconds"), "{message}");
}

#[test]
fn maxwell_events_are_rows_and_one_that_moved_to_another_key_is_two() {
    let event = |kind: &str, data: Value, old: Value| {
        json!({
            "database": "shop", "table": "orders", "type": kind, "ts": 1_449_786_310, "xid": 940_752, "commit": true,
            "primary_key_columns": ["id"], "data": data, "old": old
        })
    };
    let found = rows(
        &orders("maxwell"),
        &[
            event("bootstrap-insert", json!({ "id": 1, "state": "old", "total": null }), Value::Null),
            event("insert", json!({ "id": 2, "state": "new", "total": 1.5 }), Value::Null),
            event("update", json!({ "id": 2, "state": "paid", "total": 1.5 }), json!({ "state": "new" })),
            event("update", json!({ "id": 3, "state": "paid", "total": 1.5 }), json!({ "id": 2 })),
            event("delete", json!({ "id": 3, "state": "paid", "total": 1.5 }), Value::Null),
        ],
    );
    let wanted = json!([
        { "id": 1, "state": "old", "total": null, "_op": "insert" },
        { "id": 2, "state": "new", "total": 1.5, "_op": "insert" },
        { "id": 2, "state": "paid", "total": 1.5, "_op": "update" },
        { "id": 2, "state": "paid", "total": 1.5, "_op": "delete" },
        { "id": 3, "state": "paid", "total": 1.5, "_op": "insert" },
        { "id": 3, "state": "paid", "total": 1.5, "_op": "delete" },
    ]);
    assert_eq!(Value::from(found.unwrap()), wanted);
}

#[test]
fn canal_gives_each_row_of_a_statement_and_reads_texts() {
    let event = |kind: &str, data: Value, old: Value| {
        json!({
            "data": data, "database": "shop", "es": 1_589_373_560_000_i64, "id": 9, "isDdl": false,
            "mysqlType": { "id": "INTEGER", "state": "VARCHAR(255)", "total": "FLOAT" }, "old": old, "pkNames": ["id"],
            "sql": "", "sqlType": { "id": 4, "state": 12, "total": 7 }, "table": "orders", "ts": 1_589_373_560_798_i64,
            "type": kind
        })
    };
    let row = |id: &str, state: &str| json!({ "id": id, "state": state, "total": "5.18" });
    let found = rows(
        &orders("canal"),
        &[
            event("INSERT", json!([row("1", "new"), row("2", "new")]), Value::Null),
            event("UPDATE", json!([row("1", "paid"), row("7", "new")]), json!([{ "state": "new" }, { "id": "2" }])),
            event("DELETE", json!([row("1", "paid")]), Value::Null),
        ],
    );
    let wanted = json!([
        { "id": 1, "state": "new", "total": 5.18, "_op": "insert" },
        { "id": 2, "state": "new", "total": 5.18, "_op": "insert" },
        { "id": 1, "state": "paid", "total": 5.18, "_op": "update" },
        { "id": 2, "state": "new", "total": 5.18, "_op": "delete" },
        { "id": 7, "state": "new", "total": 5.18, "_op": "insert" },
        { "id": 1, "state": "paid", "total": 5.18, "_op": "delete" },
    ]);
    assert_eq!(Value::from(found.unwrap()), wanted);
}

#[test]
fn dms_events_are_rows_of_which_nulls_are_left_out() {
    let event = |operation: &str, data: Value| {
        json!({
            "data": data,
            "metadata": {
                "timestamp": "2025-06-10T11:28:47.326434Z", "record-type": "data", "operation": operation,
                "partition-key-type": "primary-key", "partition-key-value": "public.orders.393",
                "schema-name": "public", "table-name": "orders"
            }
        })
    };
    let mut key_only = event("delete", Value::Null);
    key_only["before-image"] = json!({ "id": 1 });
    let found = rows(
        &orders("dms"),
        &[
            event("load", json!({ "id": 1, "state": "old" })),
            event("insert", json!({ "id": 2, "state": "new", "total": 3 })),
            event("update", json!({ "id": 2, "state": "paid", "total": 3 })),
            event("delete", json!({ "id": 2 })),
            key_only,
        ],
    );
    let wanted = json!([
        { "id": 1, "state": "old", "total": null, "_op": "insert" },
        { "id": 2, "state": "new", "total": 3.0, "_op": "insert" },
        { "id": 2, "state": "paid", "total": 3.0, "_op": "update" },
        { "id": 2, "state": null, "total": null, "_op": "delete" },
        { "id": 1, "state": null, "total": null, "_op": "delete" },
    ]);
    assert_eq!(Value::from(found.unwrap()), wanted);
}

#[test]
fn what_is_no_event_is_a_failure_that_says_why() {
    let row = || json!({ "id": 1, "state": "new" });
    let unsent = json!({ "id": 1, "state": "__debezium_unavailable_value" });
    let mut canal = json!({ "database": "shop", "table": "orders", "type": "TRUNCATE", "isDdl": true });
    for (envelope, event, kind, message) in [
        ("debezium", json!([1]), FailureKind::Malformed, "[1] is no object"),
        ("debezium", json!({ "id": 1, "state": "new" }), FailureKind::Malformed, "an event without `op`"),
        ("debezium", debezium("x", Value::Null, row()), FailureKind::Malformed, "`op` is `x`"),
        ("debezium", debezium("c", row(), Value::Null), FailureKind::Malformed, "an insert without `after`"),
        ("debezium", debezium("d", Value::Null, row()), FailureKind::Malformed, "a delete without `before`"),
        ("debezium", debezium("c", Value::Null, json!([])), FailureKind::Malformed, "the image of a row is no object"),
        ("debezium", debezium("c", Value::Null, json!({ "id": 1 })), FailureKind::MissingField, "field `state`"),
        (
            "debezium",
            debezium("c", Value::Null, json!({ "id": "a" })),
            FailureKind::TypeMismatch,
            "field `id`: `a` is no int",
        ),
        ("debezium", debezium("d", json!({ "id": "a" }), Value::Null), FailureKind::TypeMismatch, "field `id`"),
        (
            "debezium",
            debezium("t", Value::Null, Value::Null),
            FailureKind::Malformed,
            "`shop.public.orders` was truncated",
        ),
        ("debezium", debezium("u", Value::Null, unsent), FailureKind::MissingField, "REPLICA IDENTITY"),
        ("debezium", json!({ "op": "c", "after": row() }), FailureKind::Malformed, "does not say of which table it is"),
        ("maxwell", json!({ "table": "orders" }), FailureKind::Malformed, "an event without `type`"),
        (
            "maxwell",
            json!({ "table": "orders", "type": "upsert" }),
            FailureKind::Malformed,
            "the event's type `upsert`",
        ),
        ("maxwell", json!({ "table": "orders", "type": "insert" }), FailureKind::Malformed, "without `data`"),
        ("canal", canal.take(), FailureKind::Malformed, "`shop.orders` was truncated"),
        ("canal", json!({ "table": "orders", "type": "INSERT" }), FailureKind::Malformed, "without `data`"),
        ("canal", json!({ "table": "orders", "type": "INSERT", "data": {} }), FailureKind::Malformed, "is no list"),
        ("dms", json!({ "data": {} }), FailureKind::Malformed, "an event without `metadata`"),
        ("dms", json!({ "metadata": { "operation": "merge" } }), FailureKind::Malformed, "the operation `merge`"),
    ] {
        let (found_kind, found) = rows(&orders(envelope), std::slice::from_ref(&event)).unwrap_err();
        assert_eq!(found_kind, kind, "{event}: {found}");
        assert!(found.contains(message), "{event}: {found}");
    }
    let (_, found) = rows(
        &orders("canal"),
        &[json!({ "table": "orders", "type": "INSERT", "data": [{ "id": "1", "state": "a" }, 2] })],
    )
    .unwrap_err();
    assert!(found.contains("the image of a row is no object"), "{found}");
    let failed = decode(&orders("debezium"), &[debezium("c", Value::Null, row()).to_string() + "}", "{".into()]);
    assert_eq!(failed.failures.len(), 2);
}

#[test]
fn a_row_that_names_the_column_of_operations_does_not_set_it() {
    let event = debezium("c", Value::Null, json!({ "id": 1, "state": "new", "_op": "delete" }));
    assert_eq!(rows(&orders("debezium"), &[event]).unwrap()[0]["_op"], "insert");
    let decode: DecodeConfig = serde_json::from_str(r#"{"format":"json","envelope":"dms"}"#).unwrap();
    let field = |name: &str, kind| Field { name: name.into(), kind, optional: false };
    let declared = StreamSchema { fields: vec![field("_op", FieldType::String)] };
    assert!(effective_schema(&decode, Some(&declared)).unwrap_err().contains("leave it out of the schema"));
    let decode: DecodeConfig =
        serde_json::from_str(r#"{"format":"json","envelope":"dms","units":{"id":"days"}}"#).unwrap();
    let declared = StreamSchema { fields: vec![field("id", FieldType::Int)] };
    assert!(effective_schema(&decode, Some(&declared)).unwrap_err().contains("`units` names `id`"));
}

#[test]
fn a_field_that_stands_twice_fails_unless_the_last_counts() {
    let text = r#"{"op":"c","source":{"table":"orders"},"after":{"id":1,"state":"a","state":"b"}}"#;
    let strict = decode(&orders("debezium"), &[text.into()]);
    assert!(strict.failures[0].failure.message.contains("appears twice"));
    let decode_last = r#"{"format":"json","envelope":"debezium","duplicate_keys":"last"}"#;
    let last = decode(&decoder(decode_last, &[("state", "string")]), &[text.into()]);
    assert_eq!(to_string(&last.batch, 0), r#"{"state":"b","_op":"insert"}"#);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_are_both_rows_and_a_failure(
        envelope in 0..4_usize,
        at in 0..600_usize,
        with in prop::collection::vec(prop::sample::select(b"{}[]\",:0-e null\\".to_vec()), 0..4),
        cut in 0..3_usize,
    ) {
        let row = json!({ "id": 1, "state": "new", "total": { "scale": 1, "value": "AQ==" } });
        let (name, event) = match envelope {
            0 => ("debezium", with_schema(&[("id", "io.debezium.time.Date", Value::Null)], row)),
            1 => ("maxwell", json!({ "type": "update", "table": "orders", "data": row, "old": { "id": 2 }, "primary_key_columns": ["id"] })),
            2 => ("canal", json!({ "type": "UPDATE", "table": "orders", "data": [row], "old": [{ "id": "2" }], "pkNames": ["id"] })),
            _ => ("dms", json!({ "data": row, "metadata": { "operation": "load", "table-name": "orders" } })),
        };
        let mut bytes = event.to_string().into_bytes();
        let at = at.min(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with);
        let decoded = decode(&orders(name), &[String::from_utf8(bytes).unwrap_or_default()]);
        prop_assert!(decoded.failures.is_empty() || decoded.batch.num_rows() == 0);
        prop_assert_eq!(decoded.batch.num_rows(), decoded.record.len());
    }
}
