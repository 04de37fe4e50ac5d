//! What each format makes of rows, and of rows that it can't take.

use arrow::array::{
    ArrayRef, BinaryArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Int64Type};
use millstream_core::FailureKind;
use millstream_core::schema::timestamp_type;

use super::*;

fn batch() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a,b", Arc::new(StringArray::from(vec![Some("x"), Some(""), None, Some("say \"hi\",\nthere")]))),
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-3), Some(4)]))),
        ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN, 1e300, 2.0]))),
        ("t", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2, 3]).with_data_type(timestamp_type()))),
        (
            "l",
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
                Some(vec![Some(1), Some(2)]),
                Some(vec![]),
                None,
                Some(vec![None]),
            ])),
        ),
    ];
    let fields: Vec<_> = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, a)| a).collect()).unwrap()
}

fn config(json: &str) -> EncodeConfig {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn encoder(json: &str, schema: &Schema) -> Arc<dyn Encoder> {
    build(&config(json), schema, Place::Line).unwrap().unwrap()
}

/// The records, each of which must lie where its span says.
fn records(encoded: &Encoded) -> Vec<String> {
    (0..encoded.len()).map(|i| String::from_utf8(encoded.record(i).to_vec()).unwrap()).collect()
}

#[test]
fn csv_is_quoted_where_it_must_be() {
    let batch = batch();
    let csv = encoder(r#""csv""#, batch.schema_ref());
    assert_eq!(csv.header(), b"\"a,b\",n,f,t,l\n");
    let encoded = csv.encode(&batch).unwrap();
    let expected = concat!(
        "x,1,0.5,1970-01-01T00:00:00Z,\"[1,2]\"\n",
        "\"\",,,1970-01-01T00:00:00.000001Z,[]\n",
        ",-3,1e300,1970-01-01T00:00:00.000002Z,\n",
        "\"say \"\"hi\"\",\nthere\",4,2.0,1970-01-01T00:00:00.000003Z,[null]\n",
    );
    assert_eq!(records(&encoded)[3], "\"say \"\"hi\"\",\nthere\",4,2.0,1970-01-01T00:00:00.000003Z,[null]");
    assert_eq!(String::from_utf8(encoded.data).unwrap(), expected);
    let semicolons = encoder(r#"{"format":"csv","delimiter":";","header":false}"#, batch.schema_ref());
    assert_eq!(semicolons.header(), b"");
    assert_eq!(records(&semicolons.encode(&batch).unwrap())[0], "x;1;0.5;1970-01-01T00:00:00Z;[1,2]");
}

#[test]
fn json_is_one_object_per_line() {
    let encoded = encoder(r#""json""#, batch().schema_ref()).encode(&batch()).unwrap();
    assert_eq!(records(&encoded)[1], r#"{"a,b":"","n":null,"f":null,"t":"1970-01-01T00:00:00.000001Z","l":[]}"#);
    assert_eq!(String::from_utf8(encoded.data.clone()).unwrap().lines().collect::<Vec<_>>(), records(&encoded));
    let pretty = encoder(r#"{"format":"json","pretty":true}"#, batch().schema_ref()).encode(&batch()).unwrap();
    assert!(records(&pretty)[0].starts_with("{\n  \"a,b\": \"x\",\n"), "{}", records(&pretty)[0]);
}

#[test]
fn text_is_a_line_and_a_value_that_would_begin_another_is_refused() {
    let encoded =
        encoder(r#"{"format":"text","template":"{n}. {a,b}"}"#, batch().schema_ref()).encode(&batch()).unwrap();
    assert_eq!(records(&encoded), ["1. x", "null. ", "-3. null"]);
    assert_eq!(encoded.data, b"1. x\nnull. \n-3. null\n");
    assert_eq!(encoded.rows, [0, 1, 2]);
    assert_eq!(
        encoded.failures.iter().map(|f| (f.row, f.failure.kind)).collect::<Vec<_>>(),
        [(3, FailureKind::Rejected)]
    );
    // The only string is the line.
    let alone = encoder(r#""text""#, batch().schema_ref()).encode(&batch()).unwrap();
    assert_eq!(records(&alone), ["x", "", "null"]);
}

#[test]
fn raw_is_the_bytes_and_a_null_is_a_failure_of_its_row() {
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"\xff\n"[..]), None, Some(b"")]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("id", ids), ("body", bytes)]).unwrap();
    for json in [r#""raw""#, r#"{"format":"raw","column":"body"}"#] {
        let encoded = encoder(json, batch.schema_ref()).encode(&batch).unwrap();
        assert_eq!(encoded.data, b"\xff\n");
        assert_eq!(
            (encoded.rows.as_slice(), encoded.record(0), encoded.record(1)),
            (&[0, 2][..], &b"\xff\n"[..], &b""[..])
        );
        let failed: Vec<_> = encoded.failures.iter().map(|f| (f.row, f.failure.kind)).collect();
        assert_eq!(failed, [(1, FailureKind::MissingField)]);
    }
}

#[test]
fn what_was_encoded_as_csv_reads_back_by_the_decoder() {
    use millstream_core::{FieldType, StreamSchema};
    let (names, numbers) = (["a", "b \"c\"", "", " d\r\n,e "], [1, -2, i64::MAX, 0]);
    let columns: [(&str, ArrayRef); 2] =
        [("name", Arc::new(StringArray::from(names.to_vec()))), ("n", Arc::new(Int64Array::from(numbers.to_vec())))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let csv = encoder(r#""csv""#, batch.schema_ref());
    let body = [csv.header(), &csv.encode(&batch).unwrap().data].concat();
    let field = |name: &str, kind| millstream_core::Field { name: name.into(), kind, optional: false };
    let schema = StreamSchema { fields: vec![field("name", FieldType::String), field("n", FieldType::Int)] };
    let decode: crate::format::DecodeConfig = serde_json::from_str(r#""csv""#).unwrap();
    let decoder = crate::format::build(&decode, &schema).unwrap();
    let decoded = decoder.decode(&decoder.split(body.into(), None).unwrap());
    assert_eq!(decoded.failures, []);
    assert_eq!(decoded.batch.columns(), batch.columns());
}

#[test]
fn a_name_and_a_map_read_and_print() {
    for json in [
        r#""json""#,
        r#""csv""#,
        r#""text""#,
        r#""raw""#,
        r#""parquet""#,
        r#"{"format":"json","pretty":true}"#,
        r#"{"format":"csv","delimiter":"\t","header":false}"#,
        r#"{"format":"text","template":"{a}"}"#,
        r#"{"format":"raw","column":"a"}"#,
    ] {
        let read = config(json);
        assert_eq!(config(&serde_json::to_string(&read).unwrap()), read, "{json}");
    }
}

#[test]
fn wrong_settings_say_what_to_do() {
    for (json, part) in [
        (r#""jsn""#, "unknown format `jsn`: known are json, csv, text, raw, parquet"),
        (r#"{"format":"json","column":"a"}"#, "`column` belongs to `format: raw`, not to `format: json`"),
        (r#"{"format":"csv","delimiter":"\""}"#, "`delimiter` can't be the quote"),
        (r#"{"format":"csv","delimiter":"é"}"#, "one ASCII character"),
        (r#"{"format":"csv","x":1}"#, "unknown field `x`"),
    ] {
        let message = serde_json::from_str::<EncodeConfig>(json).unwrap_err().to_string();
        assert!(message.contains(part), "{json}: {message}");
    }
    for (json, part) in [
        (r#""raw""#, "needs a column such as"),
        (r#"{"format":"raw","column":"xyz"}"#, "names `xyz`, which is no column (there are: a,b, n, f, t, l)"),
        (r#"{"format":"raw","column":"n"}"#, "neither bytes nor a string"),
        (r#"{"format":"text","template":"{no}"}"#, "which is no column"),
    ] {
        let message = build(&config(json), batch().schema_ref(), Place::Line).unwrap_err();
        assert!(message.contains(part), "{json}: {message}");
    }
}
