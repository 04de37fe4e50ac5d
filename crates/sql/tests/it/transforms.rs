//! Stateless transforms.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use millstream_core::schema::{is_json, timestamp_type};
use millstream_core::{FailureKind, Rows};
use millstream_sql::{Predicate, SqlTransform};
use proptest::prelude::*;
use serde_json::{Value, json as j};

use crate::support::*;

#[test]
fn a_filter_keeps_the_columns_as_they_are_and_the_way_back() {
    let transform = plan("SELECT * FROM wire WHERE language = 'en' OR language IS NULL");
    assert_eq!(transform.schema(), wire_schema());
    assert_eq!(transform.inputs(), ["wire"]);
    let (rows, failures) = run("SELECT * FROM wire WHERE language = 'en' OR language IS NULL");
    assert_eq!(&*rows.origin, [0, 2, 3]);
    assert!(failures.is_empty());
    assert_eq!(rows.batch, wire_rows().take_rows(&[0, 2, 3]));
}

trait TakeRows {
    fn take_rows(&self, rows: &[u32]) -> RecordBatch;
}

impl TakeRows for RecordBatch {
    fn take_rows(&self, rows: &[u32]) -> RecordBatch {
        Rows::all(self.clone()).take(rows).unwrap().batch
    }
}

#[test]
fn the_origin_leads_through_earlier_steps_to_the_first_batch() {
    let mut step = plan("SELECT id FROM wire WHERE words >= 0").step().unwrap();
    let rows = Rows { batch: wire_rows().take_rows(&[1, 2, 3]), origin: Arc::from([10, 10, 12]) };
    let (out, _) = step.run("wire", &rows).unwrap();
    assert_eq!(&*out.origin, [10, 10]);
}

#[test]
fn string_functions_and_case() {
    assert_eq!(values("upper(substr(headline, 1, 6))")[0], j!("SHARES"));
    assert_eq!(values("split_part(headline, ' ', 2)")[0], j!("rally"));
    assert_eq!(values("regexp_like(headline, '(?i)profit|loss')"), [j!(false), j!(false), j!(false), j!(true)]);
    assert_eq!(values("char_length(headline)")[1], j!(15));
    assert_eq!(values("coalesce(language, 'und')")[2], j!("und"));
    assert_eq!(values("id || ':' || language")[2], Value::Null);
    assert_eq!(values("replace(trim('  x '), 'x', 'y')")[0], j!("y"));
    assert_eq!(values("headline LIKE '%fäll%'")[1], j!(true));
    assert_eq!(values("headline ILIKE 'PROFIT%'")[3], j!(true));
    assert_eq!(values("md5(id)")[0], j!("8a8bb7cd343aa2ad99b7d762030857a2"));
    let case =
        "CASE WHEN score > 0.5 THEN 'up' WHEN score < 0 THEN 'down' WHEN score IS NULL THEN 'unknown' ELSE 'flat' END";
    assert_eq!(values(case), [j!("up"), j!("flat"), j!("unknown"), j!("down")]);
}

#[test]
fn date_functions_yield_stored_types() {
    assert_eq!(values(r#"date_part('hour', "publishedAt")"#)[0], j!(8));
    assert_eq!(values("EXTRACT(YEAR FROM publishedAt)")[0], j!(2024));
    assert_eq!(values("date_trunc('day', publishedAt)")[2], j!("2024-05-02T00:00:00Z"));
    assert_eq!(values("to_char(publishedAt, '%Y-%m-%d')")[0], j!("2024-05-01"));
    assert_eq!(values("CAST(publishedAt AS DATE)")[2], j!("2024-05-02"));
    assert_eq!(values("to_timestamp('2024-01-02T03:04:05Z')")[0], j!("2024-01-02T03:04:05Z"));
    assert_eq!(values("publishedAt + INTERVAL '1 hour'")[0], j!("2024-05-01T09:30:00Z"));
    assert_eq!(values("publishedAt > '2024-05-01T08:45:00Z'"), [j!(false), j!(true), j!(true), Value::Null]);
    let kind = |expr: &str| plan(&format!("SELECT {expr} AS x FROM wire")).schema().field(0).data_type().clone();
    assert_eq!(kind("to_timestamp('2024-01-02T03:04:05Z')"), timestamp_type());
    assert_eq!(kind("CAST(publishedAt AS DATE)"), DataType::Utf8);
    assert_eq!(kind("EXTRACT(YEAR FROM publishedAt)"), DataType::Int64);
}

#[test]
fn what_flink_writes_otherwise_means_the_same() {
    let moment = |text: &str| format!("TIMESTAMP '{text}'");
    for (expr, first) in [
        ("TO_TIMESTAMP('01.05.2024 12:30', 'dd.MM.yyyy HH:mm')", j!("2024-05-01T12:30:00Z")),
        (
            "TO_TIMESTAMP('2024-05-01T12:30:00.250+02:00', 'yyyy-MM-dd''T''HH:mm:ss.SSSXXX')",
            j!("2024-05-01T10:30:00.250Z"),
        ),
        // What a pattern leaves out is the first.
        ("TO_TIMESTAMP('2024-05', 'yyyy-MM')", j!("2024-05-01T00:00:00Z")),
        ("TO_TIMESTAMP('2024-05-01 7', 'yyyy-MM-dd H')", j!("2024-05-01T07:00:00Z")),
        ("TO_TIMESTAMP('1714550000', '%s')", j!("2024-05-01T07:53:20Z")),
        ("TO_TIMESTAMP_LTZ(1714550000, 0)", j!("2024-05-01T07:53:20Z")),
        ("TO_DATE('01.05.2024', 'dd.MM.yyyy')", j!("2024-05-01")),
        ("DATE_FORMAT(publishedAt, 'yyyy-MM-dd HH:mm')", j!("2024-05-01 08:30")),
        ("DATE_FORMAT(publishedAt, 'EEE, d MMM yy h:mm a')", j!("Wed, 1 May 24 8:30 AM")),
        ("DATE_FORMAT(CAST(publishedAt AS DATE), 'yyyy/MM/dd')", j!("2024/05/01")),
        ("DATE_FORMAT(publishedAt AT TIME ZONE 'Europe/Berlin', 'HH:mm XXX')", j!("10:30 +02:00")),
        ("FLOOR(publishedAt TO HOUR)", j!("2024-05-01T08:00:00Z")),
        ("FLOOR(publishedAt AT TIME ZONE 'Europe/Berlin' TO DAY)", j!("2024-04-30T22:00:00Z")),
        ("CEIL(publishedAt TO HOUR)", j!("2024-05-01T09:00:00Z")),
        ("CEIL(publishedAt TO QUARTER)", j!("2024-07-01T00:00:00Z")),
        ("FLOOR(score)", j!(0.0)),
        ("TIMESTAMPADD(MONTH, 1, publishedAt)", j!("2024-06-01T08:30:00Z")),
        ("TIMESTAMPADD(DAY, -1, publishedAt)", j!("2024-04-30T08:30:00Z")),
        ("TIMESTAMPADD(SQL_TSI_HOUR, words, publishedAt)", j!("2024-05-01T14:30:00Z")),
        ("EXTRACT(MINUTE FROM publishedAt) + HOUR(publishedAt) * 100", j!(830)),
        ("YEAR(publishedAt) * 10 + QUARTER(publishedAt)", j!(20242)),
        ("DAYOFWEEK(publishedAt) * 2", j!(8)),
        ("SPLIT_INDEX(headline, ' ', 1)", j!("rally")),
        ("SPLIT_INDEX(headline, ' ', 99)", Value::Null),
        ("SPLIT_INDEX(headline, ' ', -1)", Value::Null),
        ("REGEXP_EXTRACT(headline, '(\\w+) (\\w+)', 2)", j!("rally")),
        ("REGEXP_EXTRACT(headline, '[A-Z]\\w+')", j!("Shares")),
        ("REGEXP_EXTRACT(headline, '(x)', 1)", Value::Null),
        ("REGEXP_EXTRACT(headline, '(S)', 2)", Value::Null),
        ("REGEXP_EXTRACT(headline, CASE WHEN words > 0 THEN 'b\\w+' ELSE 'x' END)", j!("banks")),
        ("IFNULL(language, 'und')", j!("en")),
        ("NULLIF(language, 'en')", Value::Null),
        ("IF(words = 0, 0, 60 / words)", j!(10)),
        ("MOD(words + 1, 4)", j!(3)),
        ("LOCATE('r', headline)", j!(4)),
        ("REGEXP(headline, '^Sh')", j!(true)),
        ("UNIX_TIMESTAMP('1970-01-01 00:01:00')", j!(60)),
        ("UNIX_TIMESTAMP('01.01.1970 00:02', 'dd.MM.yyyy HH:mm')", j!(120)),
        ("`id` || \"id\"", j!("a1a1")),
    ] {
        assert_eq!(values(expr)[0], first, "{expr}");
    }
    for (unit, from, to, count) in [
        ("HOUR", "2024-05-01 08:30:00", "2024-05-02 08:29:59", 23),
        ("DAY", "2024-05-02 00:00:00", "2024-05-01 12:00:00", 0),
        ("WEEK", "2024-05-01 00:00:00", "2024-05-15 00:00:00", 2),
        ("MONTH", "2024-01-31 00:00:00", "2024-02-29 00:00:00", 1),
        ("MONTH", "2024-01-15 12:00:00", "2024-02-15 11:59:59", 0),
        ("QUARTER", "2024-01-01 00:00:00", "2024-12-31 00:00:00", 3),
        ("YEAR", "2024-03-01 00:00:00", "2022-03-02 00:00:00", -1),
    ] {
        let expr = format!("TIMESTAMPDIFF({unit}, {}, {})", moment(from), moment(to));
        assert_eq!(values(&expr)[0], j!(count), "{expr}");
    }
    assert_eq!(values("TIMESTAMPDIFF(MINUTE, publishedAt, '2024-05-01T09:00:00Z')")[..2], [j!(30), j!(0)]);
    let (rows, failures) = run("SELECT id, TIMESTAMPADD(YEAR, words * 1000000, publishedAt) AS x FROM wire");
    assert_eq!((rows.len(), failures.len()), (2, 2));
    for (expr, message) in [
        ("TO_TIMESTAMP(id, 'yyyy-VV')", "line 1, column 8: to_timestamp takes a pattern of yyyy, MM"),
        ("DATE_FORMAT(publishedAt, 'yyyy ''T')", "quotes are closed"),
        ("TIMESTAMPDIFF(FORTNIGHT, publishedAt, publishedAt)", "`fortnight` is no unit"),
        ("TIMESTAMPADD(DAY, id, publishedAt)", "takes a unit, a number and a moment"),
        ("FLOOR(publishedAt TO CENTURY)", "`century` is no unit"),
        ("REGEXP_EXTRACT(headline, '(', 1)", "'(' is no regular expression"),
        ("SPLIT_INDEX(headline, ' ')", "a number from 0"),
        ("UNIX_TIMESTAMP()", "replay"),
        ("PROCTIME()", "replay"),
        ("LOCALTIMESTAMP", "replay"),
        ("TO_BASE64(id)", "encode(id, 'base64pad')"),
        ("JSON_OBJECT('a' VALUE 1)", "named_struct"),
    ] {
        let refused = refusal(&format!("SELECT {expr} AS x FROM wire"));
        assert!(refused.contains(message) && refused.starts_with("line 1, column "), "{expr}: {refused}");
    }
}

#[test]
fn similar_to_takes_a_pattern_of_sql_and_not_a_regular_expression() {
    let of = |pattern: &str| values(&format!("headline SIMILAR TO {pattern}"));
    assert_eq!(of("'%f(ä|a)ll_'"), [j!(false), j!(true), j!(false), j!(false)]);
    assert_eq!(of("'fäll'")[1], j!(false));
    assert_eq!(of("'[A-Z]% (warning|given)'")[2..], [j!(true), j!(true)]);
    assert_eq!(values("'50%' SIMILAR TO '[0-9]+!%' ESCAPE '!'")[0], j!(true));
    assert_eq!(values("headline NOT SIMILAR TO 'No%'")[2], j!(false));
    assert!(refusal("SELECT id FROM wire WHERE id SIMILAR TO headline").contains("constant pattern"));
}

#[test]
fn json_functions_and_operators() {
    assert_eq!(values("payload->>'source'"), [j!("rtr"), j!("dpa"), Value::Null, Value::Null]);
    assert_eq!(values("payload->'geo'->>'city'")[0], j!("Paris"));
    assert_eq!(values("json_get_int(payload, 'n')"), [j!(7), Value::Null, Value::Null, Value::Null]);
    assert_eq!(values("json_get_str(payload, 'geo', 'city')")[0], j!("Paris"));
    assert_eq!(values("json_get_int(payload, 'list', 1)")[0], j!(2));
    assert_eq!(values("(payload->'n')::int")[0], j!(7));
    assert_eq!(values("payload ? 'source'"), [j!(true), j!(true), j!(false), j!(false)]);
    assert_eq!(values("json_length(payload)")[0], j!(4));
    // A JSON value comes out as JSON text: the string keeps its quotes.
    assert_eq!(values("payload->'n'"), [j!("7"), Value::Null, j!("\"seven\""), Value::Null]);
    assert_eq!(values("json_get(payload, 'geo')")[0], j!(r#"{"city":"Paris"}"#));
    let (rows, _) = run("SELECT id FROM wire WHERE payload->>'source' = 'rtr' AND json_get_int(payload, 'n') > 3");
    assert_eq!(&*rows.origin, [0]);
}

#[test]
fn json_marks_stay_where_the_value_is_still_json() {
    let schema = plan(
        "SELECT payload, payload AS p, payload->'geo' AS geo, json_get_json(payload, 'geo') AS raw, payload->>'a' AS a, id, \
         upper(payload) AS u FROM wire",
    )
    .schema();
    let marked: Vec<bool> = schema.fields().iter().map(|f| is_json(f)).collect();
    assert_eq!(marked, [true, true, true, true, false, false, false]);
    assert!(schema.fields().iter().all(|f| f.data_type() == &DataType::Utf8));
    assert!(schema.field(0).is_nullable() && !schema.field(5).is_nullable());
}

#[test]
fn struct_fields_lists_and_nested_functions() {
    assert_eq!(values("sentiment.label"), [j!("positive"), j!("negative"), Value::Null, j!("negative")]);
    assert_eq!(values("sentiment['score']")[1], j!(0.6));
    assert_eq!(values("wire.sentiment.label")[0], j!("positive"));
    assert_eq!(values("tags[1]"), [j!("markets"), Value::Null, j!("misc"), Value::Null]);
    assert_eq!(values("array_length(tags)")[2], j!(3));
    assert_eq!(values("array_has(tags, 'banks')")[0], j!(true));
    assert_eq!(values("array_to_string(tags, '+')")[2], j!("misc+misc+late"));
    assert_eq!(values("array_distinct(tags)")[2].as_array().unwrap().len(), 2);
    assert_eq!(values("make_array(words, 1)")[0], j!([6, 1]));
    assert_eq!(values("[1, 2]")[0], j!([1, 2]));
    assert_eq!(values("named_struct('a', id, 'n', words)")[0], j!({"a": "a1", "n": 6}));
    assert_eq!(values("string_to_array(headline, ' ')")[3], j!(["Profit", "warning"]));
    let schema =
        plan("SELECT sentiment.label, sentiment['score'], embedding, make_array(1, 2) AS list FROM wire").schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["label", "score", "embedding", "list"]);
    // Floats of a list stay as they are, as embeddings are; integers of a list become 64 bits wide.
    assert_eq!(schema.field(2).data_type(), wire_schema().field(10).data_type());
    assert_eq!(schema.field(3).data_type(), &DataType::List(Arc::new(field("item", DataType::Int64))));
}

#[test]
fn unnest_repeats_the_row_and_drops_empty_lists() {
    let (rows, failures) = run("SELECT id, UNNEST(tags) AS tag FROM wire");
    assert!(failures.is_empty());
    assert_eq!(&*rows.origin, [0, 0, 2, 2, 2]);
    assert_eq!(json(&rows.batch)[4], j!({"id": "a3", "tag": "late"}));
    let (rows, _) =
        run("SELECT tag, upper(id) AS id FROM (SELECT id, UNNEST(tags) AS tag FROM wire) WHERE tag <> 'misc'");
    assert_eq!(&*rows.origin, [0, 0, 2]);
}

#[test]
fn unnest_in_from_is_the_same_as_the_column() {
    let (expected, _) = run("SELECT id, UNNEST(tags) AS tag FROM wire");
    for sql in [
        "SELECT id, tag FROM wire CROSS JOIN UNNEST(tags) AS t (tag)",
        "SELECT w.id, t.tag FROM wire AS w, UNNEST(w.tags) AS t(tag)",
        "SELECT wire.id, tag FROM wire, LATERAL UNNEST(tags) AS tag",
        "SELECT id, t.tag FROM wire JOIN UNNEST(wire.tags) AS t(tag) ON TRUE WHERE t.tag <> 'nothing'",
        "SELECT x.id, t.tag FROM (SELECT * FROM wire) AS x CROSS JOIN UNNEST(x.tags) AS t(tag)",
        "WITH x AS (SELECT id, t.tag FROM wire, UNNEST(tags) AS t(tag)) SELECT * FROM x",
    ] {
        let (rows, failures) = run(sql);
        assert_eq!(
            (json(&rows.batch), &rows.origin, failures.len()),
            (json(&expected.batch), &expected.origin, 0),
            "{sql}"
        );
    }
    // Every item of one list stands beside every item of the other.
    let (rows, _) =
        run("SELECT id, a.x, b.y FROM wire, UNNEST(tags) AS a(x), UNNEST(string_to_array(a.x, 'k')) AS b(y)");
    let first: Vec<String> = json(&rows.batch)[..4].iter().map(|r| format!("{}/{}", r["x"], r["y"])).collect();
    assert_eq!(first, [r#""markets"/"mar""#, r#""markets"/"ets""#, r#""banks"/"ban""#, r#""banks"/"s""#]);
    let (rows, _) = run("SELECT id, s.n FROM wire, UNNEST([named_struct('n', words)]) AS s WHERE s.n > 0");
    assert_eq!(json(&rows.batch)[0], j!({"id": "a1", "n": 6}));
    for sql in [
        "SELECT id, tag FROM wire LEFT JOIN UNNEST(tags) AS t(tag) ON TRUE",
        "SELECT id, a FROM wire CROSS JOIN UNNEST(tags) AS t(a, b)",
        "SELECT id, a FROM wire CROSS JOIN UNNEST(tags) WITH ORDINALITY AS t(a)",
    ] {
        let message = refusal(sql);
        assert!(
            message.starts_with("line 1, column 3") && message.contains("one list and one name"),
            "{sql}: {message}"
        );
    }
}

#[test]
fn subqueries_and_ctes_keep_the_origin() {
    let (rows, _) = run(
        "WITH english AS (SELECT * FROM wire WHERE language = 'en'), short(key, n) AS (SELECT id, words + 1 FROM english) \
         SELECT s.key, s.n * 2 AS n FROM short AS s WHERE s.n < 100",
    );
    assert_eq!(&*rows.origin, [0, 3]);
    assert_eq!(json(&rows.batch), [j!({"key": "a1", "n": 14}), j!({"key": "a4", "n": -2})]);
}

#[test]
fn the_rows_of_one_record_stay_together_after_a_union_of_branches_over_the_same_input() {
    let (rows, _) = run(
        "SELECT id, 'all' AS kind FROM wire UNION ALL SELECT id, 'tag' FROM (SELECT id, UNNEST(tags) AS t FROM wire) WHERE t <> 'late'",
    );
    assert_eq!(&*rows.origin, [0, 0, 0, 1, 2, 2, 2, 3]);
    let kinds: Vec<Value> = json(&rows.batch).iter().map(|r| r["kind"].clone()).collect();
    assert_eq!(kinds[..4], [j!("all"), j!("tag"), j!("tag"), j!("all")]);
}

#[test]
fn an_input_of_a_union_runs_its_own_branches_only() {
    let sql = "SELECT id, words FROM wire WHERE words > 0 UNION ALL SELECT id, CAST(score AS BIGINT) FROM archive UNION ALL SELECT id, 0 FROM \"news.changes\"";
    let transform = plan(sql);
    assert_eq!(transform.inputs(), ["archive", "news.changes", "wire"]);
    let of = |input: &str| json(&run_on(sql, input, wire_rows()).0.batch);
    assert_eq!(of("wire"), [j!({"id": "a1", "words": 6}), j!({"id": "a2", "words": 3})]);
    assert_eq!(of("archive").len(), 4);
    assert_eq!(of("news.changes")[0], j!({"id": "a1", "words": 0}));
    assert!(transform.step().unwrap().run("elsewhere", &Rows::all(wire_rows())).is_err());
    // Types that differ between the branches meet.
    let mixed = plan("SELECT words AS n FROM wire UNION ALL SELECT score FROM archive");
    assert_eq!(mixed.schema().field(0).data_type(), &DataType::Float64);
}

#[test]
fn lineage_names_the_columns_that_pass_unchanged() {
    let t = plan(
        "SELECT id AS key, upper(headline) AS h, w.score, words + 0 AS words, CAST(language AS string) AS language FROM (SELECT * FROM wire WHERE urgent) AS w",
    );
    assert_eq!(t.lineage("wire"), [Some(0), None, Some(4), None, Some(2)]);
    assert_eq!(t.lineage("archive"), [None; 5]);
    let t = plan("SELECT id, UNNEST(tags) AS tag, language FROM wire");
    assert_eq!(t.lineage("wire"), [Some(0), None, Some(2)]);
    let t = plan(
        "SELECT id, language FROM wire UNION ALL SELECT id, headline FROM wire UNION ALL SELECT language, id FROM archive",
    );
    assert_eq!(t.lineage("wire"), [Some(0), None]);
    assert_eq!(t.lineage("archive"), [Some(2), Some(0)]);
}

#[test]
fn a_row_that_fails_takes_no_other_with_it() {
    let schema =
        Arc::new(Schema::new(vec![Field::new("v", DataType::Utf8, false), Field::new("n", DataType::Int64, false)]));
    let lines: String = (0..1000)
        .map(|i| {
            format!(
                "{{\"v\":\"{}\",\"n\":{}}}\n",
                if i % 100 == 7 { "seven".to_owned() } else { i.to_string() },
                i % 250
            )
        })
        .collect();
    let inputs = BTreeMap::from([("t".to_owned(), schema.clone())]);
    let t = SqlTransform::plan("SELECT CAST(v AS BIGINT) AS v, 100 / n AS d FROM t", &inputs).unwrap();
    let (rows, failures) = t.step().unwrap().run("t", &Rows::all(batch(&schema, &lines))).unwrap();
    let failed: Vec<u32> = failures.iter().map(|f| f.row).collect();
    assert_eq!(failed, [0, 7, 107, 207, 250, 307, 407, 500, 507, 607, 707, 750, 807, 907]);
    assert!(failures.iter().all(|f| f.failure.kind == FailureKind::Expression));
    // The same for every record that fails alike, so that they can be counted; the value is in the dead letter.
    assert_eq!(failures[1].failure.message, "a text can't be read as an int");
    assert!(failures[0].failure.message.to_lowercase().contains("zero"), "{}", failures[0].failure.message);
    assert_eq!(rows.len(), 1000 - failed.len());
    assert!(rows.origin.iter().all(|o| !failed.contains(o)));
}

#[test]
fn a_record_that_fails_in_one_branch_comes_out_of_none() {
    let sql =
        "SELECT id, CAST(0 AS BIGINT) AS n FROM wire UNION ALL SELECT id, CAST(payload->>'n' AS BIGINT) FROM wire";
    let (rows, failures) = run(sql);
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [2]);
    assert_eq!(&*rows.origin, [0, 0, 1, 1, 3, 3]);
}

#[test]
fn numbers_that_do_not_fit_fail_and_do_not_wrap_around() {
    let schema = Arc::new(Schema::new(vec![field("n", DataType::Int64)]));
    let rows = batch(&schema, "{\"n\":1}\n{\"n\":9223372036854775807}\n{\"n\":-9223372036854775808}\n{}");
    let inputs = BTreeMap::from([("t".to_owned(), schema)]);
    for (sql, failed) in [
        ("SELECT n + 1 AS x FROM t", vec![1]),
        ("SELECT n - 1 AS x FROM t", vec![2]),
        ("SELECT n * 2 AS x FROM t", vec![1, 2]),
        ("SELECT CAST(n AS SMALLINT) AS x FROM t", vec![1, 2]),
        ("SELECT CAST(n AS int) AS x FROM t WHERE n - 1 < 5", vec![2]),
        ("SELECT n FROM t WHERE n * 3 > 0", vec![1, 2]),
    ] {
        let t = SqlTransform::plan(sql, &inputs).unwrap();
        let (out, failures) = t.step().unwrap().run("t", &Rows::all(rows.clone())).unwrap();
        assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), failed, "{sql}");
        assert!(out.origin.contains(&0), "{sql}");
    }
    // A UInt64 beyond Int64 is a failure of its row, not of the batch.
    let schema = Arc::new(Schema::new(vec![field("u", DataType::UInt64)]));
    let rows = batch(&schema, "{\"u\":1}\n{\"u\":9223372036854775808}\n{\"u\":2}");
    let t = SqlTransform::plan("SELECT u FROM t", &BTreeMap::from([("t".to_owned(), schema)])).unwrap();
    let (out, failures) = t.step().unwrap().run("t", &Rows::all(rows)).unwrap();
    assert_eq!((&*out.origin, failures[0].row), ([0, 2].as_slice(), 1));
    // TRY_CAST asks for null instead.
    assert_eq!(values("TRY_CAST(payload->>'n' AS BIGINT)"), [j!(7), Value::Null, Value::Null, Value::Null]);
}

#[test]
fn a_guarded_expression_does_not_fail_on_the_rows_it_is_guarded_from() {
    let (rows, failures) = run("SELECT CASE WHEN words > 0 THEN 60 / words ELSE 0 END AS x, id FROM wire");
    assert_eq!((rows.len(), failures.len()), (4, 0));
    let (rows, failures) = run("SELECT id FROM wire WHERE words <> 0 AND 60 / words > 5");
    assert_eq!((failures.len(), &*rows.origin), (0, [0, 1].as_slice()));
}

#[test]
fn whatever_needs_other_records_is_refused_in_plain_words() {
    for (sql, word) in [
        ("SELECT language, count(*) AS n FROM wire GROUP BY language", "GROUP BY"),
        ("SELECT count(*) AS n FROM wire", "count"),
        ("SELECT max(score) AS m FROM wire", "max"),
        ("SELECT DISTINCT language FROM wire", "DISTINCT"),
        ("SELECT id FROM wire ORDER BY id", "ORDER BY"),
        ("SELECT id FROM wire LIMIT 5", "LIMIT"),
        ("SELECT id FROM wire OFFSET 5", "LIMIT"),
        ("SELECT w.id FROM wire w JOIN archive a ON w.id = a.id", "join"),
        ("SELECT w.id FROM wire w, archive a", "join"),
        ("SELECT id FROM wire UNION SELECT id FROM archive", "UNION without ALL"),
        ("SELECT id FROM wire INTERSECT SELECT id FROM archive", "INTERSECT"),
        ("SELECT id, row_number() OVER (ORDER BY id) AS n FROM wire", "OVER"),
        ("SELECT id FROM wire WHERE id IN (SELECT id FROM archive)", "subquery"),
        ("SELECT id, (SELECT max(id) FROM archive) AS m FROM wire", "subquery"),
        ("SELECT * FROM (SELECT id FROM wire LIMIT 1)", "LIMIT"),
        ("WITH RECURSIVE r AS (SELECT id FROM wire UNION ALL SELECT id FROM r) SELECT * FROM r", "RECURSIVE"),
    ] {
        let message = refusal(sql);
        assert!(message.contains(word) && message.contains("keeps state across records"), "{sql}: {message}");
        assert!(message.contains("millstream query"), "{sql}: {message}");
    }
    assert!(refusal("SELECT id, count(*) AS n FROM wire GROUP BY id").starts_with("line 1, column 36"));
    for (sql, place, what) in [
        (
            "SELECT id FROM wire\nWHERE id IN (SELECT id FROM archive)",
            "line 2, column 7",
            "a subquery in IN (write the values",
        ),
        ("SELECT id FROM wire\nWHERE NOT EXISTS (SELECT id FROM archive)", "line 2, column", "a subquery in EXISTS"),
        (
            "SELECT id,\n (SELECT max(id) FROM archive) AS m FROM wire",
            "line 2, column",
            "a subquery inside an expression",
        ),
        ("SELECT id FROM wire\nWHERE score > ALL (SELECT score FROM archive)", "line 2, column", "a subquery inside"),
        ("SELECT id FROM wire\nMATCH_RECOGNIZE (ORDER BY id)", "line 2, column 1", "MATCH_RECOGNIZE keeps state"),
        ("SELECT id FROM wire\nFOR SYSTEM_TIME AS OF publishedAt", "line 2, column 5", "keeps state"),
    ] {
        let message = refusal(sql);
        assert!(message.starts_with(place) && message.contains(what), "{sql}: {message}");
    }
}

#[test]
fn whatever_a_replay_would_answer_otherwise_is_refused() {
    for call in ["now()", "current_timestamp", "current_date", "current_date()", "current_time", "random()", "uuid()"] {
        let message = refusal(&format!("SELECT id, {call} AS x FROM wire"));
        assert!(message.contains("replay") && message.starts_with("line 1, column 12"), "{call}: {message}");
        let message =
            refusal(&format!("SELECT t.id FROM (SELECT * FROM wire WHERE CAST({call} AS string) <> id) AS t"));
        assert!(message.contains("replay"), "{call}: {message}");
        let error = Predicate::compile(&format!("CAST({call} AS string) = id"), &wire_schema()).unwrap_err();
        assert!(error.message.contains("replay"), "{call}: {error}");
    }
}

#[test]
fn errors_say_where_and_what_was_meant() {
    let message = refusal("SELECT id,\n  headlne FROM wire");
    assert!(message.starts_with("line 2, column 3: no column `headlne`; did you mean `headline`?"), "{message}");
    let message = refusal("SELECT publishedat FROM wire");
    assert!(message.contains("did you mean `publishedAt`?"), "{message}");
    let message = refusal("SELECT id FROM wires");
    assert!(
        message.contains("nothing called `wires`; did you mean `wire`?") && message.starts_with("line 1, column 16"),
        "{message}"
    );
    let message = refusal("SELECT id FROM news.chnages");
    assert!(message.contains("did you mean `news.changes`?"), "{message}");
    let message = refusal("SELECT id FORM wire");
    assert!(message.starts_with("line 1, column "), "{message}");
    let message = refusal("SELECT id FROM wire WHERE");
    assert!(message.starts_with("line 1") || message.contains("EOF"), "{message}");
    let message = refusal("SELECT uper(id) AS x FROM wire");
    assert!(message.contains("uper") && message.contains("upper"), "{message}");
    let message = refusal("SELECT sentiment.lable FROM wire");
    assert!(message.contains("lable"), "{message}");
    for sql in ["SELECT upper(id) FROM wire", "SELECT id, words + 1 FROM wire", "SELECT payload->>'a' FROM wire"] {
        assert!(refusal(sql).contains("AS name"), "{sql}");
    }
    assert!(refusal("SELECT id, upper(headline) AS id FROM wire").contains("`id`"));
    assert!(refusal("SELECT id, id FROM wire").contains("AS"), "{}", refusal("SELECT id, id FROM wire"));
    assert!(refusal("SELECT id AS __row FROM wire").contains("reserved"));
    assert!(refusal("SELECT 1 AS one").contains("FROM"));
    assert!(refusal("").contains("SELECT"));
    assert!(refusal("SELECT id FROM wire; SELECT id FROM wire").contains("one SELECT"));
    assert!(refusal("DROP TABLE wire").contains("SELECT"));
    assert!(refusal("SELECT id FROM wire WHERE words").contains("`words` is an int: WHERE takes true or false"));
    assert!(refusal("SELECT publishedAt - publishedAt AS d FROM wire").contains("span of time"));
    assert!(refusal("SELECT id FROM wire WHERE payload->'n' > 3 AND (payload->'n') + 1 = 2").contains("->>"));
    assert!(
        refusal("SELECT id FROM wire WHERE UNNEST(tags) = 'x'").starts_with("line 1, column 27: UNNEST is a column")
    );
    assert!(
        refusal("SELECT sentiment.* FROM wire").starts_with("line 1, column 8: `sentiment.*`: there is no relation")
    );
}

#[test]
fn relations_are_the_names_of_streams_and_not_of_ctes() {
    let of = |sql: &str| SqlTransform::relations(sql).unwrap();
    assert_eq!(of("SELECT * FROM wire"), ["wire"]);
    assert_eq!(
        of("SELECT * FROM news.changes UNION ALL SELECT * FROM \"Other.Changes\""),
        ["Other.Changes", "news.changes"]
    );
    assert_eq!(
        of("WITH c AS (SELECT * FROM a) SELECT * FROM c UNION ALL SELECT * FROM (SELECT * FROM b) x"),
        ["a", "b"]
    );
    assert!(SqlTransform::relations("SELECT (").is_err());
}

#[test]
fn other_types_become_stored_types() {
    let timestamp = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
    let schema = Arc::new(Schema::new(vec![
        field("view", DataType::Utf8View),
        field("large", DataType::LargeUtf8),
        field("i", DataType::Int32),
        field("u", DataType::UInt64),
        field("f", DataType::Float32),
        field("ns", timestamp(TimeUnit::Nanosecond, None)),
        field("zone", timestamp(TimeUnit::Second, Some("+02:00"))),
        field("list", DataType::LargeList(Arc::new(field("x", DataType::Utf8View)))),
        field("deep", DataType::Struct(vec![field("a", DataType::Int16), field("b", DataType::LargeUtf8)].into())),
        field("d", DataType::Decimal128(10, 2)),
        field("day", DataType::Date32),
        field("bytes", DataType::BinaryView),
    ]));
    let t = SqlTransform::plan("SELECT *, NULL AS nothing FROM t", &BTreeMap::from([("t".to_owned(), schema.clone())]))
        .unwrap();
    let out = t.schema();
    let kinds: Vec<&DataType> = out.fields().iter().map(|f| f.data_type()).collect();
    let list = DataType::List(Arc::new(field("item", DataType::Utf8)));
    let deep = DataType::Struct(vec![field("a", DataType::Int64), field("b", DataType::Utf8)].into());
    let (text, float, time) = (DataType::Utf8, DataType::Float64, timestamp_type());
    let (int, bytes) = (DataType::Int64, DataType::Binary);
    assert_eq!(kinds, [&text, &text, &int, &int, &float, &time, &time, &list, &deep, &float, &text, &bytes, &text]);
    let line = r#"{"view":"v","large":"l","i":-3,"u":7,"f":1.5,"ns":"2024-05-01T08:30:00.000001999","zone":"2024-05-01T08:30:00Z","list":["a",null],"deep":{"a":1,"b":"x"},"d":"12.25","day":"2024-02-29"}"#;
    let (rows, failures) = t.step().unwrap().run("t", &Rows::all(batch(&schema, line))).unwrap();
    assert_eq!(failures, []);
    let row = &json(&rows.batch)[0];
    assert_eq!(row["ns"], j!("2024-05-01T08:30:00.000001Z"));
    assert_eq!(row["zone"], j!("2024-05-01T08:30:00Z"));
    assert_eq!(
        (&row["d"], &row["day"], &row["i"], &row["deep"]),
        (&j!(12.25), &j!("2024-02-29"), &j!(-3), &j!({"a":1,"b":"x"}))
    );
    // A column that is changed on its way is not passed unchanged.
    assert_eq!(t.lineage("t")[..2], [None, None]);
}

#[test]
fn predicates_take_null_for_false() {
    let yes = |expr: &str| {
        let p = Predicate::compile(expr, &wire_schema()).unwrap_or_else(|e| panic!("{expr}: {e}"));
        let mask = p.evaluate(&wire_rows()).unwrap();
        assert_eq!(mask.null_count(), 0);
        mask.iter().map(Option::unwrap_or_default).collect::<Vec<_>>()
    };
    assert_eq!(yes("score > 0.1"), [true, true, false, false]);
    assert_eq!(yes("language IS NULL OR sentiment.label = 'positive'"), [true, false, true, false]);
    assert_eq!(yes("payload->>'source' IN ('dpa', 'afp')"), [false, true, false, false]);
    assert_eq!(yes("true"), [true; 4]);
    assert_eq!(yes("array_has(tags, 'late') AND publishedAt > '2024-01-01T00:00:00Z'"), [false, false, true, false]);
    let schema = wire_schema();
    assert!(Predicate::compile("words + 1", &schema).unwrap_err().message.contains("true or false"));
    assert!(
        Predicate::compile("langage = 'en'", &schema).unwrap_err().to_string().contains("did you mean `language`?")
    );
    assert!(Predicate::compile("count(*) > 1", &schema).is_err());
    assert!(Predicate::compile("id = 'x' x y", &schema).is_err());
    let error = Predicate::compile("1 / words > 0", &schema).unwrap().evaluate(&wire_rows()).unwrap_err();
    assert_eq!(error.kind(), millstream_core::ErrorKind::Input);
}

#[test]
fn an_empty_batch_gives_an_empty_batch() {
    for sql in ["SELECT id FROM wire", "SELECT id, UNNEST(tags) AS t FROM wire", "SELECT id FROM wire WHERE 1 = 2"] {
        let (rows, failures) = run_on(sql, "wire", RecordBatch::new_empty(wire_schema()));
        assert!(rows.is_empty() && failures.is_empty());
    }
    assert!(run("SELECT id FROM wire WHERE 1 = 2").0.is_empty());
    let (rows, _) = run("SELECT 1 AS one FROM wire");
    assert_eq!(&*rows.origin, [0, 1, 2, 3]);
}

#[test]
fn a_batch_of_other_columns_is_a_bug_not_a_panic() {
    let schema = Arc::new(Schema::new(vec![field("x", DataType::Int64)]));
    let error =
        plan("SELECT id FROM wire").step().unwrap().run("wire", &Rows::all(batch(&schema, "{\"x\":1}"))).unwrap_err();
    assert_eq!(error.kind(), millstream_core::ErrorKind::Bug);
}

#[test]
fn real_headlines_keep_their_line_through_filter_and_unnest() {
    let path = Path::new("../../../shared/data/sentiment/sentfin_dev.csv");
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return;
    }
    let schema = Arc::new(Schema::new(vec![
        field("sno", DataType::Utf8),
        field("text", DataType::Utf8),
        field("label", DataType::Utf8),
    ]));
    let reader = arrow::csv::ReaderBuilder::new(schema.clone())
        .with_header(true)
        .build(std::fs::File::open(path).unwrap())
        .unwrap();
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().unwrap();
    let all = arrow::compute::concat_batches(&schema, &batches).unwrap();
    let t = SqlTransform::plan(
        "SELECT text, word FROM (SELECT text, UNNEST(string_to_array(lower(text), ' ')) AS word FROM headlines WHERE label <> 'neutral') WHERE word LIKE 'bank%'",
        &BTreeMap::from([("headlines".to_owned(), schema)]),
    )
    .unwrap();
    let (rows, failures) = t.step().unwrap().run("headlines", &Rows::all(all.clone())).unwrap();
    assert!(failures.is_empty() && rows.len() > 5, "{} rows", rows.len());
    let text =
        |batch: &RecordBatch, name: &str| -> StringArray { batch.column_by_name(name).unwrap().to_data().into() };
    let (out, input, words) = (text(&rows.batch, "text"), text(&all, "text"), text(&rows.batch, "word"));
    for i in 0..rows.len() {
        let from = input.value(rows.origin[i] as usize);
        assert_eq!(out.value(i), from);
        assert!(from.to_lowercase().split(' ').any(|w| w == words.value(i)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// How a stream is cut into batches changes neither what comes out nor what fails.
    #[test]
    fn the_cut_into_batches_does_not_matter(
        cells in prop::collection::vec(("(-?[0-9]{1,3}|x)", -2_i64..3), 1..40),
        cut in 1_usize..40,
    ) {
        let schema = Arc::new(Schema::new(vec![field("v", DataType::Utf8), field("n", DataType::Int64)]));
        let lines: String = cells.iter().map(|(v, n)| format!("{{\"v\":\"{v}\",\"n\":{n}}}\n")).collect();
        let all = batch(&schema, &lines);
        let sql = "SELECT v, CAST(v AS BIGINT) / n AS q FROM t WHERE n <> 1 AND CAST(v AS BIGINT) > -50 \
                   UNION ALL SELECT v, n FROM (SELECT v, UNNEST(make_array(n, 10 / (n + 1))) AS n FROM t)";
        let t = SqlTransform::plan(sql, &BTreeMap::from([("t".to_owned(), schema)])).unwrap();
        let mut step = t.step().unwrap();
        let (whole, failures) = step.run("t", &Rows::all(all.clone())).unwrap();
        let (mut rows, mut failed, mut origin) = (Vec::new(), Vec::new(), Vec::new());
        for start in (0..all.num_rows()).step_by(cut) {
            let piece = all.slice(start, cut.min(all.num_rows() - start));
            let (out, bad) = step.run("t", &Rows::all(piece)).unwrap();
            rows.extend(json(&out.batch));
            origin.extend(out.origin.iter().map(|o| o + start as u32));
            failed.extend(bad.into_iter().map(|f| f.row + start as u32));
        }
        prop_assert_eq!(json(&whole.batch), rows);
        prop_assert_eq!(&*whole.origin, origin.as_slice());
        prop_assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), failed);
    }
}

#[test]
fn wildcards_leave_out_and_replace_columns() {
    let names = |sql: &str| plan(sql).schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
    for word in ["EXCLUDE", "EXCEPT"] {
        let names =
            names(&format!("SELECT * {word} (payload, sentiment, embedding, tags), upper(id) AS key FROM wire"));
        assert_eq!(names, ["id", "headline", "language", "publishedAt", "score", "words", "urgent", "key"]);
    }
    let t = plan("SELECT * REPLACE (upper(id) AS id) FROM wire");
    assert_eq!(t.lineage("wire")[..2], [None, Some(1)]);
    assert_eq!(names("SELECT wire.* FROM wire").len(), 11);
}

#[test]
fn casts_name_the_types_of_a_pipeline_file() {
    let kind = |expr: &str| plan(&format!("SELECT {expr} AS x FROM wire")).schema().field(0).data_type().clone();
    assert_eq!(kind("CAST(payload AS float)"), DataType::Float64);
    assert_eq!(kind("words::timestamp"), timestamp_type());
    assert_eq!(kind("CAST(id AS bytes)"), DataType::Binary);
    assert_eq!(values("CAST(score AS float)")[0], j!(0.9));
    assert_eq!(values("CAST('5000000000' AS int)")[0], j!(5_000_000_000_i64));
    assert_eq!(values("CAST('9000-01-01T00:00:00Z' AS timestamp)")[0], j!("9000-01-01T00:00:00Z"));
    assert_eq!(values("TIMESTAMP '2024-01-02 03:04:05'")[0], j!("2024-01-02T03:04:05Z"));
    assert_eq!(values("CAST(urgent AS string)")[0], j!("true"));
}

#[test]
fn what_is_no_stream_is_refused() {
    for from in [
        "wire TABLESAMPLE (10 PERCENT)",
        "generate_series(1, 10)",
        "UNNEST([1, 2])",
        "wire FOR SYSTEM_TIME AS OF '2024-01-01'",
        "LATERAL (SELECT id FROM wire) w",
    ] {
        let message = refusal(&format!("SELECT 1 AS one FROM {from}"));
        assert!(message.contains("no stream") || message.contains("Expected"), "{from}: {message}");
    }
    assert!(refusal("SELECT w.id FROM (wire w CROSS JOIN archive a)").contains("join"));
    assert!(refusal("SELECT id FROM wire SORT BY id").contains("SORT BY"));
    assert!(refusal("SELECT id, UNNEST(sentiment) AS s FROM wire").contains("sentiment.label"));
    assert!(refusal("SELECT id FROM wire WHERE UNNEST(tags) = 'x'").contains("array_has"));
    assert!(refusal("SELECT id FROM wire WHERE id = $1").contains("`$1`"));
}

#[test]
fn long_lists_of_conditions_run_and_deep_expressions_are_refused() {
    let any: Vec<String> = (0..1000).map(|i| format!("headline ILIKE '%word{i}%'")).collect();
    let any = format!("{} OR id = 'a2'", any.join(" OR "));
    let (rows, _) = run(&format!("SELECT id FROM wire WHERE {any}"));
    assert_eq!(&*rows.origin, [1]);
    assert_eq!(Predicate::compile(&any, &wire_schema()).unwrap().evaluate(&wire_rows()).unwrap().true_count(), 1);
    let all = vec!["words > -100"; 500].join(" AND ");
    assert_eq!(run(&format!("SELECT id FROM wire WHERE {all} AND (score > 0 OR urgent)")).0.len(), 3);
    let ids: Vec<String> = (0..20_000).map(|i| format!("'x{i}'")).collect();
    assert_eq!(run(&format!("SELECT id FROM wire WHERE id IN ({}, 'a4')", ids.join(", "))).0.len(), 1);
    assert_eq!(values(&vec!["words"; 90].join(" + "))[0], j!(540));

    let parentheses = format!("SELECT {}id{} AS x FROM wire", "(".repeat(500), ")".repeat(500));
    let sum = format!("SELECT {} AS x FROM wire", vec!["words"; 3000].join(" + "));
    let casts = format!("SELECT words{} AS x FROM wire", "::int".repeat(3000));
    let nulls = format!("SELECT id{} AS x FROM wire", " IS NULL".repeat(3000));
    let concat = format!("SELECT id || {}::text AS x FROM wire", "payload->".repeat(2000) + "'a'");
    for sql in [parentheses, sum, casts, nulls, concat] {
        assert!(refusal(&sql).contains("nested too deeply"), "{}", refusal(&sql));
    }
    assert!(refusal(&format!("SELECT {} AS x FROM wire", vec!["words"; 100_000].join(" + "))).contains("operators"));
    assert!(refusal(&vec!["SELECT id FROM wire"; 100].join(" UNION ALL ")).contains("100 branches"));
    assert_eq!(run(&vec!["SELECT id FROM wire"; 60].join(" UNION ALL ")).0.len(), 240);
}

/// The cost of a call; run with `--ignored --nocapture`.
#[test]
#[ignore = "prints timings, asserts nothing"]
fn cost_of_a_call() {
    for sql in [
        "SELECT * FROM wire",
        "SELECT id, score FROM wire WHERE words > 0",
        "SELECT id, upper(headline) AS h, payload->>'source' AS s FROM wire WHERE words > 0 AND score > 0.5",
        "SELECT id, UNNEST(tags) AS tag FROM wire WHERE words > 0",
    ] {
        let start = std::time::Instant::now();
        let mut step = plan(sql).step().unwrap();
        let planned = start.elapsed();
        let rows = Rows::all(wire_rows());
        let start = std::time::Instant::now();
        for _ in 0..1000 {
            step.run("wire", &rows).unwrap();
        }
        println!("{sql}: planned in {planned:?}, {:?} for each call with {} rows", start.elapsed() / 1000, rows.len());
    }
}
