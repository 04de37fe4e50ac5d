//! JSON values of rows.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{Float64Type, Int32Type, Schema};
use proptest::prelude::*;

use super::*;
use crate::schema::{TYPE_KEY, timestamp_type};

fn batch(columns: Vec<(Field, ArrayRef)>) -> RecordBatch {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn column(name: &str, array: impl Array + 'static) -> (Field, ArrayRef) {
    (Field::new(name, array.data_type().clone(), true), Arc::new(array))
}

#[test]
fn every_kind_of_column_is_written_as_documented() {
    let json = Field::new("raw", DataType::Utf8, true).with_metadata(HashMap::from([(TYPE_KEY.into(), "json".into())]));
    let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(1.0), None, Some(0.1)])]);
    let item: ArrayRef = Arc::new(StringArray::from(vec![Some("x")]));
    let structs = StructArray::from(vec![(Arc::new(Field::new("a", DataType::Utf8, true)), item)]);
    let dictionary: DictionaryArray<Int32Type> = vec!["word"].into_iter().collect();
    let batch = batch(vec![
        column("q\"k", StringArray::from(vec!["a\"b\\c\n\u{1}é🎈"])),
        column("i", Int64Array::from(vec![i64::MIN])),
        column("u", UInt64Array::from(vec![u64::MAX])),
        column("s", Int16Array::from(vec![-7])),
        column("f", Float64Array::from(vec![1e300])),
        column("g", Float32Array::from(vec![0.1_f32])),
        column("n", Float64Array::from(vec![f64::NAN])),
        column("b", BooleanArray::from(vec![Some(true)])),
        column("z", StringArray::from(vec![None::<&str>])),
        column("t", TimestampMicrosecondArray::from(vec![1_700_000_000_120_000]).with_data_type(timestamp_type())),
        column("ns", TimestampNanosecondArray::from(vec![-1])),
        column("d", Date32Array::from(vec![19_723])),
        column("dec", Decimal128Array::from(vec![12_345]).with_precision_and_scale(10, 2).unwrap()),
        column("bin", BinaryArray::from(vec![&[0xff_u8, 0x00][..]])),
        (json, Arc::new(StringArray::from(vec![r#"{"a":[1]}"#]))),
        column("l", list),
        column("o", structs),
        column("w", dictionary),
    ]);
    assert_eq!(
        to_string(&batch, 0),
        concat!(
            r#"{"q\"k":"a\"b\\c\n\u0001é🎈","i":-9223372036854775808,"u":18446744073709551615,"s":-7,"f":1e300,"#,
            r#""g":0.1,"n":null,"b":true,"z":null,"t":"2023-11-14T22:13:20.120Z","ns":"1969-12-31T23:59:59.999999999Z","#,
            r#""d":"2024-01-01","dec":123.45,"bin":"/wA=","raw":{"a":[1]},"l":[1.0,null,0.1],"o":{"a":"x"},"w":"word"}"#
        )
    );
}

#[test]
fn an_empty_row_is_an_empty_object() {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(to_string(&batch, 0), "{}");
}

#[test]
fn timestamps_read_in_every_form_that_is_documented() {
    let at = 1_714_566_600_000_000; // 2024-05-01T12:30:00Z
    for (text, us) in [
        ("2024-05-01T12:30:00Z", at),
        ("2024-05-01 12:30", at),
        ("2024-05-01t14:30:00+02:00", at),
        ("2024-05-01T14:30:00+0200", at),
        ("2024-05-01T14:30:00 +02", at),
        ("2024-05-01T12:30:00.5Z", at + 500_000),
        ("2024-05-01T12:30:00,123456789Z", at + 123_456),
        ("2024-05-01", at - 45_000_000_000),
        (" 2024-05-01T12:30:00Z ", at),
        ("2024-05-01T12:29:60Z", at),
        ("Wed, 01 May 2024 12:30:00 GMT", at),
        ("1 May 24 12:30 UT", at),
        ("Wed, 1 May 2024 08:30:00 EDT", at),
        ("Wed, 01 May 2024 14:30:00 +0200", at),
        ("0001-01-01T00:00:00Z", TIMESTAMP_MIN_US),
        ("9999-12-31T23:59:59.999999Z", TIMESTAMP_MAX_US),
    ] {
        assert_eq!(parse_timestamp_strict(text), Ok(us), "{text}");
    }
}

#[test]
fn impossible_moments_are_out_of_range_and_the_rest_is_malformed() {
    use TimestampError::*;
    for (text, error) in [
        ("2024-13-01", OutOfRange),
        ("2023-02-29T00:00:00Z", OutOfRange),
        ("2024-05-01T25:00:00Z", OutOfRange),
        ("2024-05-01T12:00:61Z", OutOfRange),
        ("2024-05-01T12:00:00+99:00", OutOfRange),
        ("0000-01-01", OutOfRange),
        ("99999-01-01T00:00:00Z", OutOfRange),
        ("+12024-01-01T00:00:00Z", OutOfRange),
        ("-0044-03-15T00:00:00Z", OutOfRange),
        ("9999-12-31T23:59:59-01:00", OutOfRange),
        ("Wed, 32 May 2024 12:30:00 GMT", OutOfRange),
        ("", Malformed),
        ("-", Malformed),
        ("yesterday", Malformed),
        ("2024-05", Malformed),
        ("2024-5-1", Malformed),
        ("2024-05-01T", Malformed),
        ("2024-05-01T12:30:00.Z", Malformed),
        ("2024-05-01T12:30:00.1234567890Z", Malformed),
        ("2024-05-01T12:30:00Zx", Malformed),
        ("2024-05-01T12:30:00 CEST", Malformed),
        ("Wed, 1 Mäy 2024 12:30:00 GMT", Malformed),
        ("1714566600", Malformed),
    ] {
        assert_eq!(parse_timestamp_strict(text), Err(error), "{text}");
    }
}

proptest! {
    #[test]
    fn a_written_string_reads_back(text in any::<String>()) {
        let mut out = Vec::new();
        write_str(&text, &mut out);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    #[test]
    fn a_written_number_reads_back(int in any::<i64>(), float in any::<f64>()) {
        let batch = batch(vec![column("i", Int64Array::from(vec![int])), column("f", Float64Array::from(vec![float]))]);
        let text = to_string(&batch, 0);
        let (first, second) = text[5..text.len() - 1].split_once(r#","f":"#).unwrap();
        prop_assert_eq!(first.parse::<i64>().unwrap(), int);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        // Not through serde_json: without `float_roundtrip` its own reading is off by one bit at times.
        prop_assert_eq!(second.parse::<f64>().ok(), float.is_finite().then_some(float));
    }

    #[test]
    fn a_written_moment_reads_back(us in TIMESTAMP_MIN_US..=TIMESTAMP_MAX_US) {
        let mut out = Vec::new();
        write_timestamp_us(us, &mut out);
        let text = String::from_utf8(out).unwrap();
        prop_assert_eq!(parse_timestamp(&text), Some(us), "{}", &text);
        let chrono = chrono::DateTime::parse_from_rfc3339(&text).unwrap();
        prop_assert_eq!(chrono.timestamp_micros(), us);
    }

    #[test]
    fn no_text_makes_the_timestamp_parser_panic(text in "[-+0-9A-Za-z:., ]{0,40}") {
        let _ = parse_timestamp(&text);
    }
}
