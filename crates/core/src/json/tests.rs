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
        ("2024-5-1T12:30:00Z", at),
        ("2024/05/01 12:30:00", at),
        ("2024-05-01T12:30:00Z ", at),
        ("2024-05-01T123000Z", at),
        ("2024-05-01T14:30:00+2", at),
        ("2024-05-01T12:30:00 UTC", at),
        ("2024-05-01 12:30:00 +0000 UTC", at),
        ("2024-05-01 14:30:00 +0200 CEST", at),
        ("2024-05-01T14:30:00+02:00[Europe/Berlin]", at),
        ("2024-05-01T14:30:00 CEST", at),
        ("2024-05-01 12:30:00\u{202f}PM", at),
        ("2024-05-01Z", at - 45_000_000_000),
        ("2024-05-01+12:00", at - 45_000_000_000 - 43_200_000_000),
        ("2024-05-01T24:00:00Z", at + 41_400_000_000),
        ("20240501T123000Z", at),
        ("20240501T1230Z", at),
        ("20240501T143000.5+0200", at + 500_000),
        ("20240501 12:30:00", at),
        ("20240501123000", at),
        ("20240501123000Z", at),
        ("20240501123000.5Z", at + 500_000),
        ("20240501123000.5", at + 500_000),
        ("20240501123000+0000", at),
        ("202405011230Z", at),
        ("20240501123000123", at + 123_000),
        ("20240501123000123456", at + 123_456),
        ("20240501", at - 45_000_000_000),
        ("1714566600", at),
        ("1714566600.5", at + 500_000),
        ("1714566600,123457", at + 123_457),
        ("1714566600.1234569", at + 123_457),
        ("1714566600123", at + 123_000),
        ("1714566600123.5", at + 123_500),
        ("1714566600123456", at + 123_456),
        ("1714566600123456789", at + 123_456),
        ("-1714566600.5", -at - 500_000),
        ("Wed, 1 May 2024 12:30 GMT", at),
        ("Wed, 01 May 2024 12:30:00", at),
        ("Wed, 01 May 2024 12:30:00 Z", at),
        ("Wed, 01 May 2024 12:30:00 UTC", at),
        ("Wed, 01 May 2024 14:30:00 CEST", at),
        ("Wed, 01 May 2024 13:30:00 BST", at),
        ("Wed, 01 May 2024 21:30:00 JST", at),
        ("Wed, 01 May 2024 22:30:00 AEST", at),
        ("Wed, 01 May 2024 22:00:00 ACST", at),
        ("Wed, 01 May 2024 05:30:00 PDT", at),
        ("Wed, 01 May 2024 04:30:00 -0800 (PST)", at),
        ("Wed, 01 May 2024 14:30:00 +02:00", at),
        ("Wed, 01 May 2024 14:30:00 GMT+0200", at),
        ("Wed, 01 May 2024 14:30:00 GMT +2", at),
        ("Wed 1 May 2024 12:30:00 GMT", at),
        ("Wednesday, 1 May 2024 12:30:00 GMT", at),
        ("Thu, 01 May 2024 12:30:00 GMT", at),
        ("Mi., 01 May 2024 12:30:00 GMT", at),
        ("m\u{e9}r, 01 May 2024 12:30:00 GMT", at),
        ("mar., 01 May 2024 12:30:00 GMT", at),
        ("Wed, 01 May 2024 12:29:60 GMT", at),
        ("Tue, 30 Apr 2024 24:00:00 GMT", at - 45_000_000_000),
        ("Wednesday, 01-May-24 12:30:00 GMT", at),
        ("01-May-2024 12:30:00", at),
        ("2024-May-01 12:30:00", at),
        ("01/May/2024:14:30:00 +0200", at),
        ("Wed May  1 12:30:00 2024", at),
        ("Wed May  1 12:30:00 UTC 2024", at),
        ("Wed May 01 2024 12:30:00 GMT+0000 (Coordinated Universal Time)", at),
        ("May 1, 2024 12:30 PM", at),
        ("May 1st, 2024 at 12:30 p.m. GMT", at),
        ("1 May 2024, 12:30pm", at),
        ("1 May 2024 12:30:00.5 GMT", at + 500_000),
        ("1 May 2024 12:30:00,5 GMT", at + 500_000),
        ("Wed, 01 May 2024", at - 45_000_000_000),
        ("Wed, 01 May 2024 12:30 AM GMT", at - 43_200_000_000),
        ("1 Sept 2024 00:00 GMT", 1_725_148_800_000_000),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800_000_000),
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
        ("2024-05-01T", Malformed),
        ("2024-05-01T12:30:00.Z", Malformed),
        ("2024-05-01T12:30:00.1234567890Z", Malformed),
        ("2024-05-01T12:30:00Zx", Malformed),
        ("2024-05-01T12:30:00 XYZ", Malformed),
        ("2024-05-01T12:30:00 IST", Malformed),
        ("Wed, 01 May 2024 12:30:00 A", Malformed),
        ("Wed, 01 May 2024 12:30:00 +0100 EST", Malformed),
        ("2024-05-01T12:30:00[Europe/Berlin]", Malformed),
        ("01/02/2024", Malformed),
        ("31/12/2024 10:00", Malformed),
        ("02.01.2024", Malformed),
        ("01-02-2024", Malformed),
        ("2024-123", Malformed),
        ("2024-W18-3", Malformed),
        ("2024", Malformed),
        ("May 2024", Malformed),
        ("May", Malformed),
        ("12:30:00", Malformed),
        ("1 May", Malformed),
        ("1 May 2024 13:30 PM", OutOfRange),
        ("1 May 2024 1 May 2024", Malformed),
        ("2024-05-01T24:00:01Z", OutOfRange),
        ("2024-05-01T24:30:00Z", OutOfRange),
        ("20240230T000000Z", OutOfRange),
        ("20240230123000", Malformed),
        ("20240230", Malformed),
        ("00000000", Malformed),
        ("0000000000", Malformed),
        ("00000000000000", Malformed),
        ("12345678", Malformed),
        ("1714566600.", Malformed),
        ("1714566600.5x", Malformed),
        ("1.5", Malformed),
        ("202405011230", Ambiguous),
        ("99999999999999999999999", OutOfRange),
        ("Wed, 1 Mäy 2024 12:30:00 GMT", Malformed),
    ] {
        assert_eq!(parse_timestamp_strict(text), Err(error), "{text}");
    }
}

#[test]
fn a_number_is_a_count_whose_unit_follows_from_its_size_or_a_date_without_separators() {
    use TimestampError::*;
    let at = 1_714_566_600_000_000; // 2024-05-01T12:30:00Z
    let day = at - 45_000_000_000;
    for (number, wanted) in [
        ("0", Ok(0)),
        ("1714566600", Ok(at)),
        ("1714566600.25", Ok(at + 250_000)),
        ("1.7145666e9", Ok(at)),
        ("1.71456660025E9", Ok(at + 250_000)),
        ("1714566600123", Ok(at + 123_000)),
        ("1714566600123.4", Ok(at + 123_400)),
        ("1714566600123456", Ok(at + 123_456)),
        ("1714566600123456789", Ok(at + 123_456)),
        ("-1714566600", Ok(-at)),
        ("-14831769600000", Ok(-14_831_769_600_000_000)),
        ("20240501", Ok(day)),
        ("20240501.0", Ok(day)),
        ("20240501.5", Err(Malformed)),
        ("20240230", Err(Malformed)),
        ("20241301", Err(Malformed)),
        ("20240501123000", Ok(at)),
        ("20240501123000.5", Ok(at + 500_000)),
        ("20240501123000123", Ok(at + 123_000)),
        ("20240230123000", Err(Malformed)),
        ("99991231235959", Ok(253_402_300_799_000_000)),
        ("50000000000000", Err(Malformed)),
        ("202405011230", Err(Ambiguous)),
        ("202405999999", Ok(202_405_999_999_000)),
        ("9999999999999", Ok(9_999_999_999_999_000)),
        ("9999999999999999", Ok(9_999_999_999_999_999)),
        ("253402300799", Ok(253_402_300_799_000_000)),
        ("253402214400000", Ok(253_402_214_400_000_000)),
        ("253402300799999", Ok(253_402_300_799_999_000)),
        ("253402300799999999", Ok(TIMESTAMP_MAX_US)),
        ("253402300800", Ok(253_402_300_800_000)),
        ("99999999999", Ok(99_999_999_999_000_000)),
        ("-99999999999", Err(OutOfRange)),
        ("99999999999999999999", Err(OutOfRange)),
        ("1e300", Err(OutOfRange)),
        ("-1e300", Err(OutOfRange)),
    ] {
        assert_eq!(timestamp_from_decimal(number), wanted, "{number}");
        if let Ok(int) = number.parse() {
            assert_eq!(timestamp_from_int(int), wanted, "{number}");
        }
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

    #[test]
    fn no_words_make_the_timestamp_parser_panic(
        text in concat!(
            r"((Wed|Mai|May|2024|01|1|12:30|:|24:00:60|GMT|[+-]02|PM|a\.m\.|\(|\[x\]|,|-|/|\.|T|Z|é|",
            "20240501|1st) ?){0,9}"
        ),
        digits in "[0-9]{1,22}([.,][0-9]{0,12})?",
        number in any::<i64>(),
    ) {
        for text in [&text, &digits, &format!("-{digits}")] {
            let _ = parse_timestamp(text);
            let _ = timestamp_from_decimal(text);
        }
        let _ = timestamp_from_int(number);
    }

    #[test]
    fn a_number_and_its_text_are_the_same_moment(number in 100_000_000_i64..=i64::MAX) {
        prop_assert_eq!(parse_timestamp_strict(&number.to_string()), timestamp_from_int(number));
    }
}
