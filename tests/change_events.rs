//! Change events of databases: the table here is the table there, and what can't be read is kept.

use serde_json::{Value, json};

use crate::support::{Place, http};

fn pipeline(decode: &str, rest: &str) -> String {
    format!(
        "pipeline: shop\nsources:\n  shop:\n    type: file\n    path: ./events.jsonl\n    decode: {decode}\n    \
         schema: {{ id: int, state: string, total: float? }}\n    key: [id]\n    partitions: 2\n{rest}"
    )
}

fn lines(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

/// The row after an insert, update or snapshot; the row before a delete.
fn debezium(op: &str, row: &Value) -> Value {
    let (before, after) = if op == "d" { (row.clone(), Value::Null) } else { (Value::Null, row.clone()) };
    json!({
        "schema": null,
        "payload": {
            "op": op, "before": before, "after": after,
            "source": { "connector": "postgresql", "db": "shop", "schema": "public", "table": "orders" }
        }
    })
}

fn order(id: i64, state: &str) -> Value {
    json!({ "id": id, "state": state, "total": id as f64 / 2.0 })
}

#[test]
fn a_table_follows_inserts_updates_deletes_and_snapshots_by_itself() {
    let place = Place::new(&pipeline(
        "{ format: json, envelope: debezium, table: orders }",
        "tables:\n  orders: { from: shop, key: [id] }\n",
    ));
    place.write(
        "events.jsonl",
        lines(&[
            debezium("r", &order(1, "old")),
            debezium("r", &order(2, "old")),
            debezium("c", &order(3, "new")),
            debezium("u", &order(2, "paid")),
            debezium("d", &json!({ "id": 1 })),
            Value::Null,
            debezium("c", &order(4, "new")),
            debezium("d", &order(4, "new")),
            Value::Null,
            debezium("c", &order(4, "back")),
        ]),
    );
    place.run();
    let found = place.query("SELECT id, state, total FROM orders ORDER BY id");
    assert_eq!(found, [order(2, "paid"), order(3, "new"), order(4, "back")]);
    assert_eq!(place.dead_letters(), [] as [Value; 0]);
    // Of one key in their order.
    let changes = place.query("SELECT op FROM \"orders.changes\" WHERE key.id = 4 ORDER BY _offset");
    assert_eq!(changes, [json!({"op": "insert"}), json!({"op": "delete"}), json!({"op": "insert"})]);
}

#[test]
fn what_is_no_event_is_a_dead_letter_with_its_bytes_and_its_neighbours_go_through() {
    let place = Place::new(&pipeline(
        "{ format: json, envelope: canal }",
        "transforms:\n  loud: { sql: \"SELECT id, upper(state) AS state, _op FROM shop\" }\n\
         tables:\n  orders: { from: loud, key: [id] }\n",
    ));
    let canal = |kind: &str, data: Value, old: Value| json!({ "database": "shop", "table": "orders", "type": kind, "isDdl": false, "pkNames": ["id"], "data": data, "old": old });
    let row = |id: &str, state: &str| json!({ "id": id, "state": state, "total": "1.5" });
    let broken = canal("INSERT", json!([row("5", "good"), row("six", "bad")]), Value::Null);
    place.write(
        "events.jsonl",
        lines(&[
            canal("INSERT", json!([row("1", "new"), row("2", "new"), row("3", "new")]), Value::Null),
            broken.clone(),
            canal("UPDATE", json!([row("1", "paid"), row("9", "new")]), json!([{ "state": "new" }, { "id": "2" }])),
            canal("DELETE", json!([row("3", "new")]), Value::Null),
        ]),
    );
    place.run();
    let found = place.query("SELECT id, state FROM orders ORDER BY id");
    assert_eq!(found, [json!({ "id": 1, "state": "PAID" }), json!({ "id": 9, "state": "NEW" })]);
    let letters = place.dead_letters();
    assert_eq!(letters.len(), 1, "a statement passes or fails as a whole: {letters:?}");
    let raw: Value = serde_json::from_slice(&place.raw(letters[0]["id"].as_str().unwrap())).unwrap();
    assert_eq!(raw, broken);
}

#[test]
fn a_transform_that_drops_the_operation_is_warned_about() {
    let decode = "{ format: json, envelope: dms }";
    let transform = |sql: &str| {
        let rest =
            format!("transforms:\n  some: {{ sql: \"{sql}\" }}\ntables:\n  orders: {{ from: some, key: [id] }}\n");
        let output = Place::new(&pipeline(decode, &rest)).output(&["validate", "pipeline.yaml"]);
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let warned = transform("SELECT id, state FROM shop");
    assert!(warned.contains("rows that were deleted in the database stay here"), "{warned}");
    for sql in ["SELECT id, state, _op FROM shop", "SELECT id FROM shop WHERE _op <> 'delete'", "SELECT * FROM shop"] {
        let said = transform(sql);
        assert!(!said.contains("deleted in the database"), "{sql}: {said}");
    }
}

#[test]
fn events_are_taken_over_http_too() {
    let place = Place::new(
        "pipeline: shop\nsources:\n  shop:\n    type: http\n    decode: { format: json, envelope: maxwell }\n    \
         schema: { id: int, state: string }\n    key: [id]\ntables:\n  orders: { from: shop, key: [id] }\n",
    );
    let mut server = place.start(&[]);
    let event = |kind: &str, id: i64, state: &str| json!({ "database": "shop", "table": "orders", "type": kind, "ts": 1, "data": { "id": id, "state": state } });
    let url = format!("{}/streams/shop/records", server.url());
    let none = json!({ "type": "table-create", "database": "shop", "table": "orders", "def": {} });
    let answer = http::post(&url, none.to_string());
    assert_eq!(answer.status, 200, "no row came of it: {}", answer.text);
    let body = json!([event("insert", 1, "new"), event("insert", 2, "new"), event("delete", 1, "new")]);
    let answer = http::post(&url, body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text);
    server.terminate();
    assert!(server.wait().success());
    assert_eq!(place.query("SELECT id, state, _op FROM orders"), [json!({ "id": 2, "state": "new", "_op": "insert" })]);
}
