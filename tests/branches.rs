//! Branches of one stream, tables that follow tables, and records that a step or a table can't take: each goes the way
//! that it went the first time, and stops nobody else.

use serde_json::{Value, json};

use crate::support::Place;

const SOURCE: &str = "pipeline: p
sources:
  s: { type: file, path: ./in.jsonl, schema: { id: int, n: int, op: string }, key: [id] }
";

fn place(rest: &str, rows: &[(i64, i64, &str)]) -> Place {
    let place = Place::new(&format!("{SOURCE}{rest}"));
    add(&place, "in.jsonl", rows);
    place
}

fn add(place: &Place, file: &str, rows: &[(i64, i64, &str)]) {
    let line = |(id, n, op): &(i64, i64, &str)| format!("{}\n", json!({ "id": id, "n": n, "op": op }));
    place.write(file, rows.iter().map(line).collect::<String>());
}

fn ns(rows: &[Value]) -> Vec<i64> {
    let mut ns: Vec<i64> = rows.iter().map(|row| row["n"].as_i64().unwrap()).collect();
    ns.sort_unstable();
    ns
}

#[test]
fn a_redriven_record_goes_back_into_the_branch_that_failed() {
    let union = |b: &str| {
        format!(
            "transforms:
  a: {{ sql: SELECT * FROM s }}
  b: {{ sql: SELECT * FROM s }}
  u: {{ sql: \"SELECT 'a' AS way, id, n, 10 / n AS share FROM a UNION ALL SELECT 'b', id, n, 10 / ({b}) FROM b\" }}
tables:
  t: {{ from: u, key: [way, id] }}
"
        )
    };
    // The row with n = 1 fails in branch b alone.
    let place = place(&union("n - 1"), &[(1, 1, "x"), (2, 2, "x")]);
    place.run();
    let letters = place.dead_letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((&letters[0]["component"], &letters[0]["input"]), (&json!("u"), &json!("b")));
    assert_eq!(place.query("SELECT * FROM t").len(), 3);

    // By the first parent it would go through, as a second row of a.
    place.redrive();
    place.run();
    let letters = place.dead_letters();
    assert_eq!((letters.len(), &letters[0]["attempts"], &letters[0]["input"]), (1, &json!(2), &json!("b")));

    place.write("pipeline.yaml", format!("{SOURCE}{}", union("n + 1")));
    place.redrive();
    place.run();
    assert_eq!(place.dead_letters().len(), 0);
    let rows = place.query("SELECT way, share FROM t WHERE id = 1 ORDER BY way");
    assert_eq!(rows, [json!({ "way": "a", "share": 10 }), json!({ "way": "b", "share": 5 })]);
}

#[test]
fn a_row_on_which_delete_when_fails_is_a_dead_letter_and_its_neighbours_go_through() {
    let rows = [(1, 1, "0"), (2, 2, "x"), (3, 3, "1"), (4, 4, "0"), (5, 5, "?")];
    let table = "tables:\n  t: { from: s, key: [id], delete_when: \"CAST(op AS INT) = 1\" }\n";
    let at = place(table, &rows);
    at.run();
    // And at the next start, where it would be read again if it had ended the run.
    at.run();
    assert_eq!(ns(&at.query("SELECT n FROM t")), [1, 4]);
    let letters = at.dead_letters();
    assert_eq!(letters.len(), 2, "{letters:?}");
    for letter in &letters {
        assert_eq!((&letter["component"], &letter["kind"]), (&json!("t"), &json!("expression")));
        assert_eq!(letter["message"], letters[0]["message"], "messages of one kind are the same");
    }

    // The table alone, from the same records: what failed is not put aside a second time.
    at.stdout(&["replay", "pipeline.yaml", "--table", "t", "--data-dir", "data"]);
    assert_eq!((ns(&at.query("SELECT n FROM t")), at.dead_letters().len()), (vec![1, 4], 2));

    // Redriven under a condition that can be told, they are kept.
    at.write("pipeline.yaml", format!("{SOURCE}tables:\n  t: {{ from: s, key: [id], delete_when: \"op = '1'\" }}\n"));
    at.redrive();
    at.run();
    assert_eq!((ns(&at.query("SELECT n FROM t")), at.dead_letters().len()), (vec![1, 2, 4, 5], 0));

    let skips = place(&table.replace(" }\n", ", on_error: skip }\n"), &rows);
    skips.run();
    assert_eq!((ns(&skips.query("SELECT n FROM t")), skips.dead_letters().len()), (vec![1, 4], 0));

    let fails = place(&table.replace(" }\n", ", on_error: fail }\n"), &rows);
    let said = fails.fails(1, &["run", "pipeline.yaml", "--data-dir", "data", "--exit-when-idle"]);
    assert!(said.contains("t failed on the record at partition 0 offset 1 of s"), "{said}");
}

#[test]
fn a_stored_record_that_does_not_fit_a_new_schema_is_a_dead_letter() {
    let table = "tables:\n  t: { from: s, key: [id] }\n";
    let place = place(table, &[(1, 1, "7"), (2, 2, "seven"), (3, 3, "9")]);
    place.run();
    // Another type for a column, and a table that is filled with what is stored.
    let changed = SOURCE.replace("op: string", "op: int");
    let more = "tables:\n  t2: { from: s, key: [id], start: earliest }\n";
    place.write("pipeline.yaml", format!("{changed}{more}"));
    place.run();
    assert_eq!(ns(&place.query("SELECT n FROM t2")), [1, 3]);
    let letters = place.dead_letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((&letters[0]["component"], &letters[0]["kind"]), (&json!("s"), &json!("type_mismatch")));
    assert_eq!(letters[0]["offset"], json!(1));
}

#[test]
fn the_changes_of_a_table_are_read_by_transforms_and_by_other_tables() {
    let chain = "transforms:
  # How often a key was written, and what it is now.
  latest: { sql: \"SELECT key.id AS id, new.n AS n, op FROM t.changes WHERE op <> 'delete'\" }
  by_parity: { sql: \"SELECT n % 2 AS parity, id, n FROM latest\" }
tables:
  t: { from: s, key: [id], delete_when: \"op = 'gone'\" }
  all_changes: { from: t.changes, key: [ts, key] }
  parities: { from: by_parity, key: [parity, id], partitions: 2 }
sinks:
  out: { type: file, from: latest, folder: ./out }
";
    let chain = chain.replace("  all_changes: { from: t.changes, key: [ts, key] }\n", "");
    let at = place(&chain, &[(1, 1, "x"), (2, 2, "x"), (1, 3, "x"), (2, 2, "gone"), (1, 4, "x")]);
    at.run();
    let out = at.sink_rows("out");
    let seen: Vec<(&Value, &Value, &Value)> = out.iter().map(|row| (&row["id"], &row["n"], &row["op"])).collect();
    let (one, two) = (json!(1), json!(2));
    let of = |id: &Value| {
        let of_id = seen.iter().filter(|(seen, ..)| *seen == id);
        of_id.map(|(_, n, op)| (n.as_i64().unwrap(), op.as_str().unwrap().to_owned())).collect::<Vec<_>>()
    };
    let change = |n, op: &str| (n, op.to_owned());
    assert_eq!(of(&one), [change(1, "insert"), change(3, "update"), change(4, "update")]);
    assert_eq!(of(&two), [change(2, "insert")]);
    assert_eq!(
        at.query("SELECT parity, id, n FROM parities ORDER BY parity, id"),
        [
            json!({ "parity": 0, "id": 1, "n": 4 }),
            json!({ "parity": 0, "id": 2, "n": 2 }),
            json!({ "parity": 1, "id": 1, "n": 3 }),
        ]
    );

    // A table that comes later is filled from the change stream.
    at.write(
        "pipeline.yaml",
        format!(
            "{SOURCE}{}",
            chain.replace("  parities:", "  late: { from: latest, key: [id], start: earliest }\n  parities:",)
        ),
    );
    at.run();
    assert_eq!(
        at.query("SELECT id, n FROM late ORDER BY id"),
        [json!({ "id": 1, "n": 4 }), json!({ "id": 2, "n": 2 })]
    );
}

#[test]
fn a_replay_repeats_nothing_to_the_sinks_of_transforms() {
    let rest = "transforms:
  x: { sql: \"SELECT id, n FROM s\" }
tables:
  t: { from: s, key: [id], delete_when: \"op = 'gone'\" }
sinks:
  out: { type: file, from: x, folder: ./out }
";
    let place = place(rest, &[(1, 1, "x"), (2, 2, "x")]);
    place.run();
    let replay = ["replay", "pipeline.yaml", "--from", "earliest", "--data-dir", "data"];
    place.stdout(&replay);
    assert_eq!(ns(&place.sink_rows("out")), [1, 2], "sent once");
    // What comes later is sent, also by the run behind a replay.
    place.write("pipeline.yaml", format!("{SOURCE}{rest}").replace("n FROM s", "n + 10 AS n FROM s"));
    place.stdout(&replay);
    let more: String = [(1, 1, "x"), (2, 2, "x"), (3, 3, "x")]
        .iter()
        .map(|(id, n, op)| format!("{}\n", json!({ "id": id, "n": n, "op": op })))
        .collect();
    place.write("in.jsonl", more);
    place.run();
    assert_eq!(ns(&place.sink_rows("out")), [1, 2, 13]);
}

#[test]
fn a_table_of_changes_is_replayed_from_the_changes_alone() {
    let rest = "tables:
  t: { from: s, key: [id] }
  u: { from: t.changes, key: [key] }
";
    let rest = rest.replace("from: t.changes, key: [key]", "from: latest, key: [id]");
    let rest = format!("transforms:\n  latest: {{ sql: \"SELECT key.id AS id, new.n AS n FROM t.changes\" }}\n{rest}");
    let place = place(&rest, &[(1, 1, "x"), (2, 2, "x"), (1, 3, "x")]);
    place.run();
    let before = place.tap("t.changes").len();
    place.stdout(&["replay", "pipeline.yaml", "--table", "u", "--into", "v", "--data-dir", "data"]);
    let rows = |table: &str| place.query(&format!("SELECT id, n FROM {table} ORDER BY id"));
    assert_eq!((rows("v").len(), rows("v")), (2, rows("u")));
    place.stdout(&["replay", "pipeline.yaml", "--table", "u", "--data-dir", "data"]);
    assert_eq!((rows("u").len(), place.tap("t.changes").len()), (2, before));
}

/// Pushes until it is refused: what reads the exchange behind it has come to a halt.
#[test]
fn a_source_is_held_back_by_a_stage_behind_an_exchange() {
    // The stage behind the exchange waits for a model that is away; the one before it does not.
    let pipeline = "pipeline: p
settings: { max_backlog: 64KiB }
sources:
  s: { type: http, schema: { id: int, text: string }, key: [id] }
models:
  far: { task: text-classification, source: \"http://127.0.0.1:9/score\", labels: [a, b] }
transforms:
  of_changes: { sql: \"SELECT new.id AS id, new.text AS text FROM t.changes\" }
  scored: { from: of_changes, predict: { model: far, input: text, output: far } }
tables:
  t: { from: s, key: [text] }
sinks:
  out: { type: file, from: scored, folder: ./out }
";
    let place = Place::new(pipeline);
    let server = place.start(&[]);
    let mut refused = 0;
    for push in 0..4000 {
        let records: String = (0..50)
            .map(|i| {
                let id = push * 50 + i;
                format!("{{\"id\":{id},\"text\":\"{id:0>100}\"}}\n")
            })
            .collect();
        let answer = crate::support::http::post(&format!("{}/streams/s/records", server.url()), records.as_bytes());
        if answer.status == 429 || answer.status == 503 {
            refused += 1;
            break;
        }
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    assert_eq!(refused, 1, "20 MB were taken in, of which the last stage has read nothing");
}

#[test]
fn a_trickle_is_committed_together_where_an_interval_is_set_and_a_lone_record_at_once() {
    let pipeline = |interval: &str| {
        format!(
            "pipeline: p
settings: {{ commit: {{ interval: {interval} }} }}
sources:
  s: {{ type: http, schema: {{ id: int }}, key: [id] }}
tables:
  t: {{ from: s, key: [id] }}
"
        )
    };
    let commits = |interval: &str| {
        let place = Place::new(&pipeline(interval));
        let mut server = place.start(&[]);
        let push = |id: usize| {
            let url = format!("{}/streams/s/records", server.url());
            assert_eq!(crate::support::http::post(&url, format!("{{\"id\":{id}}}")).status, 200);
        };
        push(0);
        let count = || place_rows(&server.url());
        crate::support::process::eventually("the first record", || (count() == 1).then_some(()));
        (1..40).for_each(push);
        server.terminate();
        assert!(server.wait().success());
        place.run();
        // Each commit is one append to the change stream, and one chunk of it a moment of its own.
        let moments: std::collections::BTreeSet<String> =
            place.query("SELECT _ingested_at FROM t.changes").iter().map(|row| row.to_string()).collect();
        assert_eq!(place.query("SELECT * FROM t").len(), 40);
        moments.len()
    };
    // The first record did not wait for an hour; the others did, until the stop.
    assert!(commits("1h") <= 3);
}

fn place_rows(url: &str) -> i64 {
    let body = json!({ "sql": "SELECT count(*) AS n FROM t" }).to_string();
    let answer = crate::support::http::post(&format!("{url}/api/v1/query"), body);
    answer.text.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()?["n"].as_i64()).unwrap_or(-1)
}
