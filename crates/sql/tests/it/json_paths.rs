//! JSON by path: JSON_VALUE, JSON_QUERY, JSON_EXISTS, and `dynamodb_json`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use millstream_core::Rows;
use millstream_core::schema::is_json;
use millstream_sql::{Predicate, SqlTransform};
use serde_json::{Value, json as j};

use crate::support::*;

#[test]
fn a_value_is_taken_from_columns_strings_and_what_an_arrow_gives() {
    assert_eq!(values("JSON_VALUE(payload, '$.source')"), [j!("rtr"), j!("dpa"), Value::Null, Value::Null]);
    assert_eq!(values("json_value(payload, 'strict $.geo.city')")[0], j!("Paris"));
    assert_eq!(values("JSON_VALUE(payload -> 'geo', '$.city')")[0], j!("Paris"));
    assert_eq!(values("JSON_VALUE(JSON_QUERY(payload, '$.geo'), '$.city')")[0], j!("Paris"));
    assert_eq!(values("JSON_VALUE('{\"a\": [1, {\"b c\": \"x\"}]}', '$.a[last].\"b c\"')")[0], j!("x"));
    assert_eq!(values("JSON_VALUE('{\"a b\": true}', 'strict $.[''a b'']')")[0], j!("true"));
    assert_eq!(values("JSON_VALUE('{\"a\": \"\\u00fc\\n\"}', '$.a')")[0], j!("ü\n"));
    assert_eq!(values("JSON_VALUE('{\"a\": 1.500}', '$.a')")[0], j!("1.500"));
    assert_eq!(values("JSON_VALUE(CAST(NULL AS string), '$.a')")[0], Value::Null);
    let nested = "JSON_VALUE(JSON_QUERY(payload, '$.geo' WITH WRAPPER), '$[0].city' DEFAULT '?' ON EMPTY)";
    assert_eq!(values(nested), [j!("Paris"), Value::Null, Value::Null, Value::Null]);
    // A path for each row.
    assert_eq!(values("JSON_VALUE('{\"a1\": 1, \"a2\": 2}', '$.' || id)")[..3], [j!("1"), j!("2"), Value::Null]);
}

#[test]
fn a_value_has_the_type_that_is_named() {
    assert_eq!(values("JSON_VALUE(payload, '$.n' RETURNING int) + 1")[..2], [j!(8), Value::Null]);
    assert_eq!(values("JSON_VALUE('{\"n\": \"7\"}', '$.n' RETURNING BIGINT)")[0], j!(7));
    assert_eq!(values("JSON_VALUE('{\"n\": 7.0}', '$.n' RETURNING INTEGER)")[0], j!(7));
    assert_eq!(values("JSON_VALUE('{\"n\": 9007199254740993}', '$.n' RETURNING int)")[0], j!(9007199254740993_i64));
    // As a float it would be another number.
    assert_eq!(values("JSON_VALUE('{\"n\": 9007199254740993.0}', '$.n' RETURNING int)")[0], Value::Null);
    assert_eq!(values("JSON_VALUE('{\"n\": 7.5}', '$.n' RETURNING DOUBLE)")[0], j!(7.5));
    assert_eq!(values("JSON_VALUE('{\"n\": true}', '$.n' RETURNING BOOLEAN)")[0], j!(true));
    assert_eq!(values("JSON_VALUE('{\"n\": true}', '$.n' RETURNING VARCHAR(10))")[0], j!("true"));
    let kind = |expr: &str| plan(&format!("SELECT {expr} AS x FROM wire")).schema().field(0).data_type().clone();
    assert_eq!(kind("JSON_VALUE(payload, '$.n')"), DataType::Utf8);
    assert_eq!(kind("JSON_VALUE(payload, '$.n' RETURNING int)"), DataType::Int64);
    assert_eq!(kind("JSON_VALUE(payload, '$.n' RETURNING float)"), DataType::Float64);
    assert_eq!(kind("JSON_VALUE(payload, '$.n' RETURNING bool NULL ON ERROR)"), DataType::Boolean);
}

#[test]
fn nothing_and_errors_give_what_was_asked_for() {
    let all = "DEFAULT 'none' ON EMPTY DEFAULT 'it''s wrong' ON ERROR";
    let of = |path: &str| values(&format!("JSON_VALUE(payload, '{path}' {all})"));
    // A null that is there is null.
    assert_eq!(of("$.n"), [j!("7"), Value::Null, j!("seven"), j!("it's wrong")]);
    assert_eq!(of("$.source")[2..], [j!("none"), j!("it's wrong")]);
    assert_eq!(of("$.geo")[0], j!("it's wrong"));
    assert_eq!(of("$.list[*]")[0], j!("it's wrong"));
    assert_eq!(of("strict $.source")[2], j!("it's wrong"));
    assert_eq!(values("JSON_VALUE(payload, '$.n' RETURNING int DEFAULT -1 ON ERROR)")[2], j!(-1));
    assert_eq!(values("JSON_VALUE(payload, '$.x' RETURNING bool DEFAULT true ON EMPTY)")[0], j!(true));
    assert_eq!(values("JSON_VALUE(payload, '$.x' RETURNING float DEFAULT 1.5 ON EMPTY)")[0], j!(1.5));
}

#[test]
fn a_query_gives_json() {
    let of = |clauses: &str, path: &str| values(&format!("JSON_QUERY(payload, '{path}' {clauses})"))[0].clone();
    assert_eq!(of("", "$.geo"), j!(r#"{"city":"Paris"}"#));
    assert_eq!(of("", "$.n"), Value::Null);
    assert_eq!(of("WITH WRAPPER", "$.n"), j!("[7]"));
    assert_eq!(of("WITH WRAPPER", "$.geo"), j!(r#"[{"city":"Paris"}]"#));
    assert_eq!(of("WITH UNCONDITIONAL ARRAY WRAPPER", "$.list[*]"), j!("[1,2]"));
    assert_eq!(of("WITH CONDITIONAL WRAPPER", "$.list"), j!("[1,2]"));
    assert_eq!(of("WITH CONDITIONAL WRAPPER", "$.source"), j!(r#"["rtr"]"#));
    assert_eq!(of("WITHOUT ARRAY WRAPPER EMPTY ARRAY ON EMPTY", "$.x"), j!("[]"));
    assert_eq!(of("EMPTY OBJECT ON ERROR", "$.n"), j!("{}"));
    let schema = plan("SELECT JSON_QUERY(payload, '$.geo') AS geo FROM wire").schema();
    assert!(is_json(schema.field(0)));
}

#[test]
fn what_exists_can_be_asked() {
    assert_eq!(values("JSON_EXISTS(payload, '$.n')"), [j!(true), j!(true), j!(true), j!(false)]);
    assert_eq!(values("JSON_EXISTS(payload, 'strict $.source' TRUE ON ERROR)"), vec![j!(true); 4]);
    assert_eq!(values("JSON_EXISTS(payload, 'strict $.source' UNKNOWN ON ERROR)")[2..], [Value::Null, Value::Null]);
    let (rows, _) = run("SELECT id FROM wire WHERE JSON_EXISTS(payload, '$.geo.city')");
    assert_eq!(&*rows.origin, [0]);
    assert!(Predicate::compile("JSON_EXISTS(payload, '$.a' FALSE ON ERROR)", &wire_schema()).is_ok());
}

#[test]
fn a_row_that_fails_takes_no_other_with_it() {
    for (expr, failed, message) in [
        ("JSON_VALUE(payload, '$.n' ERROR ON ERROR)", &[3][..], "a text is no JSON (ERROR ON ERROR)"),
        ("JSON_VALUE(payload, '$.source' ERROR ON EMPTY)", &[2], "the path leads to nothing (ERROR ON EMPTY)"),
        ("JSON_VALUE(payload, '$.n' RETURNING int ERROR ON ERROR)", &[2, 3], "the value is no int"),
        ("JSON_QUERY(payload, '$.n' ERROR ON ERROR)", &[0, 1, 2, 3], "which JSON_VALUE takes"),
        ("JSON_EXISTS(payload, 'strict $.source' ERROR ON ERROR)", &[2, 3], "strict path"),
        ("JSON_VALUE(payload, CASE WHEN words > 0 THEN '$.n' ELSE 'n' END)", &[2, 3], "no path into JSON"),
        ("dynamodb_json(payload)", &[0, 1, 2, 3], "no typed JSON of DynamoDB"),
    ] {
        let (rows, failures) = run(&format!("SELECT {expr} AS x FROM wire"));
        let rows_failed: Vec<u32> = failures.iter().map(|f| f.row).collect();
        assert_eq!((rows_failed.as_slice(), rows.len()), (failed, 4 - failed.len()), "{expr}");
        assert!(failures[0].failure.message.contains(message), "{expr}: {}", failures[0].failure.message);
    }
    let schema = Arc::new(Schema::new(vec![field("item", DataType::Utf8)]));
    let lines = r#"{"item":"{\"n\":{\"N\":\"1.50\"}}"}
{"item":"{\"n\":1.5}"}
{}"#;
    let inputs = BTreeMap::from([("t".to_owned(), schema.clone())]);
    let t = SqlTransform::plan("SELECT dynamodb_json(item) AS x FROM t", &inputs).unwrap();
    let (rows, failures) = t.step().unwrap().run("t", &Rows::all(batch(&schema, lines))).unwrap();
    assert_eq!(json(&rows.batch), [j!({"x": "{\"n\":1.50}"}), j!({})]);
    assert_eq!(failures.len(), 1);
    assert!(is_json(t.schema().field(0)));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (expr, column, message) in [
        ("JSON_VALUE(payload, '$.a..b')", 33, "write each step"),
        ("JSON_VALUE(payload, '$.\"it''s\"x')", 38, "can't stand here"),
        ("JSON_VALUE(payload, 'a.b' NULL ON EMPTY)", 29, "a path begins with $"),
        ("JSON_VALUE(payload, '$.a' RETURNING uuid)", 44, "RETURNING takes string, int, float or bool"),
        ("JSON_VALUE(payload, '$.a' RETURNING int DEFAULT 'x' ON EMPTY)", 56, "DEFAULT x: this is no int"),
        ("JSON_VALUE(payload, '$.a' DEFAULT words ON EMPTY)", 42, "COALESCE"),
        ("JSON_VALUE(payload, '$.a' NULL ON)", 39, "can't stand here"),
        ("JSON_VALUE(payload, '$.a' NULL ON ERROR NULL ON EMPTY)", 56, "can't stand here"),
        ("JSON_VALUE(payload, '$.a' WITH WRAPPER)", 34, "this is not understood: `WITH`"),
        ("JSON_QUERY(payload, '$.a' WITH CONDITIONAL)", 39, "WRAPPER is missing"),
        ("JSON_QUERY(payload, '$.a' KEEP QUOTES)", 34, "this is not understood: `KEEP`"),
        ("JSON_EXISTS(payload, '$.a' NULL ON ERROR)", 35, "this is not understood"),
        ("JSON_EXISTS(payload, '$.a' TRUE ON EMPTY)", 43, "can't stand here"),
        ("JSON_VALUE(words, '$.a')", 8, "json_value takes json or a string, not int"),
        ("JSON_VALUE(payload)", 8, "json_value takes json and a path"),
        ("JSON_VALUE(payload, '$.' || 'a.')", 8, "a name is missing"),
        ("JSON_VALUE(payload, '$.a' DEFAULT 1 ON EMPTY) + lenght(id)", 56, "lenght"),
    ] {
        let message_of = refusal(&format!("SELECT {expr} AS x FROM wire"));
        let place = format!("line 1, column {column}: ");
        assert!(message_of.starts_with(&place) && message_of.contains(message), "{expr}: {message_of}");
    }
}
