//! JSON: fields, types, and what does not parse.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use millstream_core::json::to_string;
use millstream_core::{FailureKind, Field, FieldType, RowFailure};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::format::config::{Bools, Values};
use crate::format::encoding::TextEncoding;

fn fields(declared: &[(&str, &str)]) -> StreamSchema {
    let fields = declared.iter().map(|(name, kind)| {
        let (kind, optional) = FieldType::parse(kind).unwrap();
        Field { name: (*name).into(), kind, optional }
    });
    StreamSchema { fields: fields.collect() }
}

fn decoder(declared: &[(&str, &str)]) -> JsonDecoder {
    JsonDecoder::new(&JsonConfig::default(), &fields(declared))
}

fn raw(records: &[&[u8]]) -> RawBatch {
    let mut data = Vec::new();
    let mut spans = Vec::new();
    for record in records {
        spans.push(data.len()..data.len() + record.len());
        data.extend_from_slice(record);
        data.push(b'\n');
    }
    RawBatch { data: data.into(), spans, ..RawBatch::default() }
}

/// Every record is a row or a failure, and rows know their record.
fn decode(decoder: &dyn Decoder, records: &[&[u8]]) -> Decoded {
    let decoded = decoder.decode(&raw(records));
    assert_eq!(decoded.batch.num_rows(), decoded.record.len());
    let mut all: Vec<u32> = decoded.record.iter().copied().chain(decoded.failures.iter().map(|f| f.row)).collect();
    all.sort_unstable();
    assert_eq!(all, (0..records.len() as u32).collect::<Vec<_>>());
    decoded
}

/// The one value of a one-field schema, or the kind of failure; `neighbours` must come through either way.
fn one(kind: &str, value: &str) -> Result<Value, (FailureKind, String)> {
    let record = format!(r#"{{"before":1,"v":{value},"after":[{{}}]}}"#);
    let decoded = decode(&decoder(&[("v", kind)]), &[record.as_bytes()]);
    match decoded.failures.into_iter().next() {
        Some(RowFailure { failure, .. }) => Err((failure.kind, failure.message)),
        None => {
            let row: Value = serde_json::from_str(&to_string(&decoded.batch, 0)).unwrap();
            Ok(row["v"].clone())
        }
    }
}

#[test]
fn coercions_are_as_documented() {
    for (kind, value, expected) in [
        ("string", r#""a\u00e9\ud83c\udf88\n\"\/""#, json!("aé🎈\n\"/")),
        ("string", "4111111111111111234", json!("4111111111111111234")),
        ("string", "1.50", json!("1.50")),
        ("string", "true", json!("true")),
        ("string", r#""""#, json!("")),
        ("int", "4111111111111111234", json!(4_111_111_111_111_111_234_i64)),
        ("int", "-9223372036854775808", json!(i64::MIN)),
        ("int", "12.0", json!(12)),
        ("int", "1.5e3", json!(1500)),
        ("int", "-0", json!(0)),
        ("int", "0e99999999999999999999", json!(0)),
        ("int", r#""12""#, json!(12)),
        ("int", r#""007""#, json!(7)),
        ("float", "1", json!(1.0)),
        ("float", "-1.5e-3", json!(-0.0015)),
        ("float", r#""2.5""#, json!(2.5)),
        ("bool", "false", json!(false)),
        ("bool", r#""true""#, json!(true)),
        ("timestamp", r#""2024-05-01T12:30:00Z""#, json!("2024-05-01T12:30:00Z")),
        ("timestamp", r#""Wed, 01 May 2024 12:30:00 GMT""#, json!("2024-05-01T12:30:00Z")),
        ("timestamp", "1714566600", json!("2024-05-01T12:30:00Z")),
        ("timestamp", "1714566600.25", json!("2024-05-01T12:30:00.250Z")),
        ("timestamp", "1714566600123", json!("2024-05-01T12:30:00.123Z")),
        ("timestamp", "1714566600123456", json!("2024-05-01T12:30:00.123456Z")),
        ("timestamp", "1714566600123456789", json!("2024-05-01T12:30:00.123456Z")),
        ("timestamp", r#""1714566600""#, json!("2024-05-01T12:30:00Z")),
        ("bytes", r#""/wA=""#, json!("/wA=")),
        ("bytes", r#""/wA""#, json!("/wA=")),
        ("json", r#"{ "a" : [ 1 , "x y\" ]" ] }"#, json!({"a": [1, "x y\" ]"]})),
        ("json", "1", json!(1)),
        ("[string]", r#"["a", 1, true]"#, json!(["a", "1", "true"])),
        ("[[int]]", "[[1],[],[2,3]]", json!([[1], [], [2, 3]])),
        ("[string]", "[ ]", json!([])),
        ("string?", "null", Value::Null),
        ("[int]?", "null", Value::Null),
    ] {
        assert_eq!(one(kind, value), Ok(expected), "{kind} {value}");
    }
}

#[test]
fn bad_values_are_named_by_kind_and_field() {
    use FailureKind::*;
    for (kind, value, failure, part) in [
        ("int", "9223372036854775808", OutOfRange, "field `v`"),
        ("int", "1e400", OutOfRange, "1e400"),
        ("int", "99999999999999999999", OutOfRange, "64 bits"),
        ("int", r#""99999999999999999999""#, OutOfRange, "64 bits"),
        ("int", "1.5", TypeMismatch, "whole number"),
        ("int", r#"" 1""#, TypeMismatch, "is no int"),
        ("int", "true", TypeMismatch, "true is no int"),
        ("int", "[1]", TypeMismatch, "a list is no int"),
        ("int", "{}", TypeMismatch, "an object is no int"),
        ("float", "1e400", OutOfRange, "1e400"),
        ("float", r#""NaN""#, TypeMismatch, "NaN"),
        ("float", r#""inf""#, TypeMismatch, "inf"),
        ("bool", "1", TypeMismatch, "1 is no bool"),
        ("timestamp", r#""2024-13-45T00:00:00Z""#, OutOfRange, "2024-13-45"),
        ("timestamp", r#""99999-01-01T00:00:00Z""#, OutOfRange, "99999"),
        ("timestamp", r#""soon""#, TypeMismatch, "soon"),
        ("timestamp", "99999999999999999999", OutOfRange, "timestamp"),
        ("timestamp", "-99999999999", OutOfRange, "timestamp"),
        ("timestamp", "1e300", OutOfRange, "timestamp"),
        ("bytes", r#""%""#, TypeMismatch, "base64"),
        ("string", "{}", TypeMismatch, "an object is no string"),
        ("[int]", "[1,null]", MissingField, "v[1]"),
        ("[int]", r#"[1,"x"]"#, TypeMismatch, "v[1]"),
        ("[int]", r#""1""#, TypeMismatch, "a string is no [int]"),
        ("string", "null", MissingField, "null"),
        ("json", "null", MissingField, "null"),
        ("string", r#""\ud800""#, Malformed, "surrogate"),
        ("string", r#""\ud800\u0041""#, Malformed, "surrogate"),
        ("string", r#""\udc00""#, Malformed, "surrogate"),
        ("string", r#""\x""#, Malformed, "escape"),
        ("string", "\"\t\"", Malformed, "control character"),
        ("string", "\"x", Malformed, ""),
        ("int", "01", Malformed, ""),
        ("int", "1.", Malformed, "digit"),
        ("int", "+1", Malformed, ""),
        ("int", "-", Malformed, "digit"),
        ("bool", "True", Malformed, ""),
        ("json", "[1,]", Malformed, ""),
        ("json", "{\"a\"}", Malformed, "colon"),
    ] {
        let (found, message) = one(kind, value).unwrap_err();
        assert_eq!(found, failure, "{kind} {value}: {message}");
        assert!(message.contains(part), "{kind} {value}: {message}");
    }
}

#[test]
fn bad_records_fail_alone_and_leave_no_trace() {
    let deep = format!(r#"{{"id":"x","n":1,"o":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let records: &[(&[u8], Option<FailureKind>)] = &[
        (br#"{"id":"first","n":1,"tags":["a"]}"#, None),
        (br#"{"id":"half","tags":["b","c"],"n":"#, Some(FailureKind::Malformed)),
        (br#"{"id":"lost","tags":["b","#, Some(FailureKind::Malformed)),
        (b"", Some(FailureKind::Malformed)),
        (b"   ", Some(FailureKind::Malformed)),
        (b"[1]", Some(FailureKind::Malformed)),
        (b"not json", Some(FailureKind::Malformed)),
        (br#"{"id":"trail","n":1} x"#, Some(FailureKind::Malformed)),
        (br#"{"id":"two","n":1}{"id":"three","n":1}"#, Some(FailureKind::Malformed)),
        (b"{\"id\":\"\xff\",\"n\":1}", Some(FailureKind::Encoding)),
        (br#"{"id":"noint"}"#, Some(FailureKind::MissingField)),
        (br#"{"id":"twice","id":"again","n":1}"#, Some(FailureKind::Malformed)),
        (deep.as_bytes(), Some(FailureKind::Malformed)),
        ("\u{feff}{\"n\":2,\"other\":{\"id\":[]},\"id\":\"last\"}".as_bytes(), None),
    ];
    let decoder = decoder(&[("id", "string"), ("n", "int"), ("tags", "[string]?")]);
    let bytes: Vec<&[u8]> = records.iter().map(|(bytes, _)| *bytes).collect();
    let decoded = decode(&decoder, &bytes);
    for (index, (bytes, expected)) in records.iter().enumerate() {
        let found = decoded.failures.iter().find(|f| f.row as usize == index).map(|f| f.failure.kind);
        assert_eq!(found, *expected, "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(to_string(&decoded.batch, 0), r#"{"id":"first","n":1,"tags":["a"]}"#);
    assert_eq!(to_string(&decoded.batch, 1), r#"{"id":"last","n":2,"tags":null}"#);
}

#[test]
fn nested_objects_roll_back_and_name_their_path() {
    let place = FieldType::Struct(vec![
        Field { name: "name".into(), kind: FieldType::String, optional: false },
        Field { name: "at".into(), kind: FieldType::List(Box::new(FieldType::Float)), optional: true },
    ]);
    let schema = StreamSchema {
        fields: vec![
            Field { name: "place".into(), kind: place.clone(), optional: true },
            Field { name: "stops".into(), kind: FieldType::List(Box::new(place)), optional: true },
        ],
    };
    let decoder = JsonDecoder::new(&JsonConfig::default(), &schema);
    let decoded = decode(
        &decoder,
        &[
            br#"{"place":{"name":"a","at":[1,2]},"stops":[{"name":"x"},{"at":[3],"name":"y"}]}"#,
            br#"{"stops":[{"name":"lost","at":[9]},{"name":"z","at":[1,"far"]}],"place":{"name":"q"}}"#,
            br#"{"place":{"at":[7]}}"#,
            br#"{"place":null}"#,
            br#"{"place":{"name":"a","name":"b"}}"#,
            br#"{"stops":[]}"#,
        ],
    );
    let messages: Vec<_> = decoded.failures.iter().map(|f| f.failure.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "field `stops[1].at[1]`: `far` is no float",
            "field `place.name`: is not there",
            "field `place.name`: appears twice in one object"
        ]
    );
    let rows: Vec<_> = (0..3).map(|row| to_string(&decoded.batch, row)).collect();
    assert_eq!(
        rows,
        [
            r#"{"place":{"name":"a","at":[1.0,2.0]},"stops":[{"name":"x","at":null},{"name":"y","at":[3.0]}]}"#,
            r#"{"place":null,"stops":null}"#,
            r#"{"place":null,"stops":[]}"#,
        ]
    );
}

#[test]
fn the_last_duplicate_counts_where_that_is_asked_for() {
    let config = JsonConfig { duplicate_keys: DuplicateKeys::Last, ..JsonConfig::default() };
    let decoder = JsonDecoder::new(&config, &fields(&[("a", "[int]"), ("b", "string?")]));
    let decoded = decode(&decoder, &[br#"{"a":[1,2],"b":"x","a":[3],"b":null}"#]);
    assert_eq!(to_string(&decoded.batch, 0), r#"{"a":[3],"b":null}"#);
}

#[test]
fn what_the_source_refused_is_passed_on() {
    let failure = |row, text: &str| RowFailure { row, failure: Failure::new(FailureKind::TooLarge, text) };
    let mut batch = raw(&[br#"{"a":1}"#, b"{\"a\":\"cut of", br#"{"a":3}"#]);
    batch.refused = vec![failure(1, "line over 64 MiB")];
    let decoded = decoder(&[("a", "int")]).decode(&batch);
    assert_eq!(decoded.failures, batch.refused);
    assert_eq!(decoded.record, [0, 2]);
}

#[test]
fn a_record_cut_out_of_a_character_is_an_encoding_failure() {
    let data = Bytes::from_static("{\"a\":\"é\"}".as_bytes());
    let cut = data.iter().position(|&b| b == 0xc3).unwrap() + 1;
    let batch = RawBatch { spans: vec![0..cut, cut..data.len()], data, ..RawBatch::default() };
    let decoded = decoder(&[("a", "string")]).decode(&batch);
    let kinds: Vec<_> = decoded.failures.iter().map(|f| f.failure.kind).collect();
    assert_eq!(kinds, [FailureKind::Encoding, FailureKind::Encoding]);
}

#[test]
fn a_body_splits_into_its_records() {
    let records = |body: &'static str| {
        let batch = decoder(&[("a", "int")]).split(Bytes::from_static(body.as_bytes()), None).map_err(|f| f.kind)?;
        Ok((0..batch.len()).map(|i| String::from_utf8_lossy(batch.record(i)).into_owned()).collect::<Vec<_>>())
    };
    let owned = |texts: &[&str]| Ok(texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
    assert_eq!(records(r#" {"a":1} "#), owned(&[r#"{"a":1}"#]));
    assert_eq!(records("\u{feff}[{\"a\":1} , {\"a\":[2]},3]"), owned(&[r#"{"a":1}"#, r#"{"a":[2]}"#, "3"]));
    assert_eq!(records("{\"a\":1}\r\n\n{\"a\":2}\nnonsense\n"), owned(&[r#"{"a":1}"#, r#"{"a":2}"#, "nonsense"]));
    assert_eq!(records("{\n \"a\": 1\n}\n{\n \"a\": 2\n}"), owned(&["{\n \"a\": 1\n}", "{\n \"a\": 2\n}"]));
    assert_eq!(records("{\n \"a\": 1\n}"), owned(&["{\n \"a\": 1\n}"]));
    assert_eq!(records("[]"), owned(&[]));
    assert_eq!(records(" \n"), owned(&[]));
    assert_eq!(records("[{\"a\":1}"), Err(FailureKind::Malformed));
    assert_eq!(records("[1] x"), owned(&["1", "x"]));
    assert_eq!(records("{\"a\":1}{\"a\":2} {\"a\":3}"), owned(&["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]));
    assert_eq!(records("{\"a\":1}{\"a\":\n{\"a\":3}"), owned(&["{\"a\":1}", "{\"a\":", "{\"a\":3}"]));
    assert_eq!(records("{\"a\":1}\r{\"a\":2}\r"), owned(&["{\"a\":1}", "{\"a\":2}"]));
    assert_eq!(records("[{\"a\":1}]\n[{\"a\":2}]\n"), owned(&["{\"a\":1}", "{\"a\":2}"]));
}

#[test]
fn words_and_numbers_are_bools_where_the_decoder_is_told_so() {
    let values = Values { bools: Bools::Words, ..Values::default() };
    let decoder = JsonDecoder::new(&JsonConfig { values, ..JsonConfig::default() }, &fields(&[("v", "[bool]")]));
    let decoded =
        decode(&decoder, &[br#"{"v":[1,0,"yes","No","ON","f",true,"1"]}"#, br#"{"v":[2]}"#, br#"{"v":["ja"]}"#]);
    assert_eq!(to_string(&decoded.batch, 0), r#"{"v":[true,false,true,false,true,false,true,true]}"#);
    assert_eq!(decoded.failures.iter().map(|f| f.failure.kind).collect::<Vec<_>>(), [FailureKind::TypeMismatch; 2]);
}

#[test]
fn a_body_in_another_encoding_is_read_by_its_charset_or_the_setting() {
    let encoding = Some(TextEncoding::named("latin1").unwrap());
    let decoder = JsonDecoder::new(&JsonConfig { encoding, ..JsonConfig::default() }, &fields(&[("a", "string")]));
    for (body, charset) in [
        (&b"{\"a\":\"caf\xe9\"}"[..], None),
        (b"{\"a\":\"caf\xc3\xa9\"}", Some("utf-8")),
        (b"\xff\xfe{\0\"\0a\0\"\0:\0\"\0c\0a\0f\0\xe9\0\"\0}\0", None),
    ] {
        let decoded = decoder.decode(&decoder.split(Bytes::from_static(body), charset).unwrap());
        assert_eq!(to_string(&decoded.batch, 0), r#"{"a":"café"}"#, "{charset:?}");
    }
    let refused = decoder.split(Bytes::from_static(b"\xff\xfe{"), None).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Encoding);
}

/// Any JSON object, with the declared names often among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| serde_json::Number::from_f64(f).map_or(Value::Null, Value::Number)),
        any::<String>().prop_map(Value::from),
        Just(json!("2024-05-01")),
        "[0-9]{1,20}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map("[a-e]|\\PC{0,3}", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    });
    prop::collection::hash_map("[a-e]|\\PC{0,3}", value, 0..8).prop_map(|m| Value::Object(m.into_iter().collect()))
}

/// What each field must be, worked out on the parsed value.
fn reference(record: &Value) -> Option<[Option<Value>; 4]> {
    let text = |v: &Value| match v {
        Value::String(s) => Some(json!(s)),
        Value::Number(_) | Value::Bool(_) => Some(json!(v.to_string())),
        _ => None,
    };
    let string = match &record["a"] {
        Value::Null => None,
        v => Some(text(v)?),
    };
    let int = match &record["b"] {
        Value::Null => None,
        Value::String(s) if s.bytes().all(|b| b.is_ascii_digit()) && !s.is_empty() => {
            Some(json!(s.parse::<i64>().ok()?))
        }
        Value::Number(n) if n.is_i64() => Some(json!(n)),
        // Which floats are whole numbers in range is checked by examples.
        _ => return None,
    };
    let json = match &record["c"] {
        Value::Null => None,
        v => Some(v.clone()),
    };
    let list = match &record["d"] {
        Value::Null => None,
        Value::Array(items) => Some(Value::Array(items.iter().map(text).collect::<Option<_>>()?)),
        _ => return None,
    };
    Some([string, int, json, list])
}

proptest! {
    #[test]
    fn decoding_agrees_with_serde_json(records in prop::collection::vec((any_json(), any::<bool>()), 1..12)) {
        let texts: Vec<String> = records.iter().map(|(value, pretty)| {
            if *pretty { serde_json::to_string_pretty(value).unwrap() } else { value.to_string() }
        }).collect();
        let bytes: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
        let decoder = decoder(&[("a", "string?"), ("b", "int?"), ("c", "json?"), ("d", "[string]?")]);
        let decoded = decode(&decoder, &bytes);
        for (row, &record) in decoded.record.iter().enumerate() {
            let value = &records[record as usize].0;
            let Some(expected) = reference(value) else {
                prop_assert!(value["b"].is_f64(), "{} should have failed", value);
                continue;
            };
            for (column, expected) in expected.iter().enumerate() {
                let mut out = Vec::new();
                let field = decoded.batch.schema_ref().field(column).clone();
                millstream_core::json::write_value(decoded.batch.column(column), row, &field, &mut out);
                let found: Value = serde_json::from_slice(&out).unwrap();
                // Through text, since serde_json's own reading of floats may be off by one bit.
                let expected: Value = serde_json::from_str(&expected.clone().unwrap_or(Value::Null).to_string()).unwrap();
                prop_assert_eq!(found, expected, "{}", value);
            }
        }
        for failure in &decoded.failures {
            let value = &records[failure.row as usize].0;
            prop_assert!(reference(value).is_none(), "{} failed: {}", value, &failure.failure.message);
        }
    }

    #[test]
    fn what_serde_json_takes_is_taken_and_the_rest_refused(text in r#"[-0-9.eE{}\[\]",:\\u a-ftrn]{0,24}"#) {
        let record = format!("{{\"x\":{text}}}");
        let decoded = decode(&decoder(&[("a", "string?")]), &[record.as_bytes()]);
        let valid = serde_json::from_str::<Value>(&record).is_ok();
        // serde_json refuses numbers beyond f64 when it builds values; skipping them is allowed.
        let huge = text.contains(['e', 'E']);
        let duplicate = decoded.failures.iter().any(|f| f.failure.message.contains("twice"));
        prop_assert!(duplicate || huge || decoded.failures.is_empty() == valid, "{}: {:?}", record, decoded.failures);
    }

    #[test]
    fn no_bytes_make_it_panic(records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let bytes: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let decoder = decoder(&[("a", "string?"), ("b", "timestamp?"), ("c", "[json]?")]);
        decode(&decoder, &bytes);
        let _ = decoder.split(records.concat().into(), None);
    }

    #[test]
    fn no_damaged_record_makes_it_panic(flips in prop::collection::vec((0_usize..200, any::<u8>()), 0..6)) {
        let mut record = br#"{"a":"t\u00e9xt \"q\"","b":"2024-05-01T12:30:00.123Z","c":[{"k":[1,2.5e3]},null],"d":[1.5,"2"],"e":-12}"#.to_vec();
        for (at, byte) in flips {
            let at = at % record.len();
            record[at] = byte;
        }
        let decoder = decoder(&[("a", "string?"), ("b", "timestamp?"), ("c", "json?"), ("d", "[float]?"), ("e", "int?")]);
        decode(&decoder, &[&record, br#"{"a":"neighbour"}"#]);
    }
}

#[test]
fn typed_columns_hold_typed_values() {
    let decoder = decoder(&[("i", "int"), ("f", "float"), ("t", "timestamp"), ("b", "bool")]);
    let decoded = decode(&decoder, &[br#"{"t":1,"i":2,"b":true,"f":0.25}"#]);
    let batch = decoded.batch;
    assert_eq!(batch.schema(), decoder.schema());
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 2);
    assert_eq!(batch.column(1).as_primitive::<Float64Type>().value(0), 0.25);
    assert_eq!(batch.column(2).as_primitive::<TimestampMicrosecondType>().value(0), 1_000_000);
    assert!(batch.column(3).as_boolean().value(0));
    assert!(Arc::strong_count(batch.schema_ref()) > 1);
    assert_eq!(batch.column(0).null_count(), 0);
}
