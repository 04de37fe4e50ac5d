//! CSV: fields, quotes, types, and what does not parse.

use std::path::Path;

use millstream_core::Field;
use millstream_core::json::to_string;
use proptest::prelude::*;

use super::*;
use crate::format::framing::CsvDialect;

fn schema(declared: &[(&str, &str)]) -> StreamSchema {
    let fields = declared.iter().map(|(name, kind)| {
        let (kind, optional) = FieldType::parse(kind).unwrap();
        Field { name: (*name).into(), kind, optional }
    });
    StreamSchema { fields: fields.collect() }
}

fn without_header() -> CsvConfig {
    CsvConfig { dialect: CsvDialect { header: false, ..CsvDialect::default() }, ..CsvConfig::default() }
}

fn rows(decoded: &Decoded) -> Vec<String> {
    (0..decoded.batch.num_rows()).map(|row| to_string(&decoded.batch, row)).collect()
}

fn failures(decoded: &Decoded) -> Vec<(u32, FailureKind, &str)> {
    decoded.failures.iter().map(|f| (f.row, f.failure.kind, f.failure.message.as_str())).collect()
}

fn decode(config: CsvConfig, declared: &[(&str, &str)], body: &'static str) -> Decoded {
    let decoder = CsvDecoder::new(&config, &schema(declared)).unwrap();
    let raw = decoder.split(Bytes::from_static(body.as_bytes()), None).unwrap();
    decoder.decode(&raw)
}

#[test]
fn columns_are_found_by_name_and_coerced() {
    let body = concat!(
        "\u{feff}extra,n, text ,when,tags\r\n",
        "x, 12 ,\"say \"\"hi\"\",\r\nthere\",2024-05-01,\"[\"\"a\"\"]\"\r\n",
        "\r\n",
        ",,\"\",,\n",
        "y,-3,z,1714566600,[]",
    );
    let decoded = decode(
        CsvConfig::default(),
        &[("text", "string"), ("n", "int?"), ("when", "timestamp?"), ("tags", "[string]?"), ("absent", "float?")],
        body,
    );
    assert_eq!(failures(&decoded), []);
    assert_eq!(
        rows(&decoded),
        [
            r#"{"text":"say \"hi\",\r\nthere","n":12,"when":"2024-05-01T00:00:00Z","tags":["a"],"absent":null}"#,
            r#"{"text":"","n":null,"when":null,"tags":null,"absent":null}"#,
            r#"{"text":"z","n":-3,"when":"2024-05-01T12:30:00Z","tags":[],"absent":null}"#,
        ]
    );
}

#[test]
fn a_bad_row_fails_alone_and_says_why() {
    let body = "a,b\n1,x\n2\n3,y,z\noops,w\n,v\n5,\"t\"u\n99999999999999999999,s\n7,ok\n8,\"open\n";
    let decoded = decode(CsvConfig::default(), &[("a", "int"), ("b", "string")], body);
    assert_eq!(rows(&decoded), [r#"{"a":1,"b":"x"}"#, r#"{"a":7,"b":"ok"}"#]);
    assert_eq!(
        failures(&decoded),
        [
            (1, FailureKind::Malformed, "1 columns where 2 should be"),
            (2, FailureKind::Malformed, "3 columns where 2 should be"),
            (3, FailureKind::TypeMismatch, "field `a`: `oops` is no int"),
            (4, FailureKind::MissingField, "field `a`: is empty, but not optional"),
            (5, FailureKind::Malformed, "text behind a closing quote, in column 2"),
            (6, FailureKind::OutOfRange, "field `a`: `99999999999999999999` is beyond what an int (64 bits) holds"),
            (8, FailureKind::Malformed, "a quote is not closed, in column 2"),
        ]
    );
}

#[test]
fn a_header_without_a_declared_column_fails_every_record() {
    let decoded = decode(CsvConfig::default(), &[("id", "string")], "a,b\n1,2\n3,4\n");
    let message = "field `id`: no such column; there are: a, b";
    assert_eq!(failures(&decoded), [(0, FailureKind::MissingField, message), (1, FailureKind::MissingField, message)]);
    let twice = decode(CsvConfig::default(), &[("a", "string")], "a,a\n1,2\n");
    assert_eq!(failures(&twice), [(0, FailureKind::Malformed, "the header names `a` twice")]);
    let decoder = CsvDecoder::new(&CsvConfig::default(), &schema(&[("a", "string")])).unwrap();
    let decoded = decoder.decode(&RawBatch::single(Bytes::from_static(b"1"), "".into()));
    assert!(failures(&decoded)[0].2.contains("header: false"));
}

#[test]
fn without_a_header_the_columns_are_those_of_the_settings_or_of_the_schema() {
    let semicolon = CsvConfig {
        dialect: CsvDialect { header: false, delimiter: b';', quote: Some(b'\''), ..CsvDialect::default() },
        ..CsvConfig::default()
    };
    let decoded = decode(semicolon.clone(), &[("a", "string"), ("b", "int")], "'x;''y';1\n");
    assert_eq!(rows(&decoded), [r#"{"a":"x;'y","b":1}"#]);
    let named = CsvConfig { columns: vec!["skip".into(), "b".into(), "a".into()], ..semicolon };
    let decoded = decode(named.clone(), &[("a", "string"), ("b", "int")], "_;1;x\n");
    assert_eq!(rows(&decoded), [r#"{"a":"x","b":1}"#]);
    assert!(CsvDecoder::new(&named, &schema(&[("c", "int")])).unwrap_err().contains("`c` is declared"));
}

#[test]
fn rows_end_in_any_of_three_ways() {
    for body in ["id,name\n1,a\n2,b\n", "id,name\r\n1,a\r\n2,b\r\n", "id,name\r1,a\r2,b\r", "id,name\r1,a\n\n2,b"] {
        let decoded = decode(CsvConfig::default(), &[("id", "int"), ("name", "string")], body);
        assert_eq!(rows(&decoded), [r#"{"id":1,"name":"a"}"#, r#"{"id":2,"name":"b"}"#], "{body:?}");
    }
}

#[test]
fn a_quote_that_is_never_closed_costs_its_row_and_no_header_swallows_the_rows() {
    let declared = [("id", "int"), ("name", "string")];
    let decoded = decode(CsvConfig::default(), &declared, "id,name\n1,a\n2,\"b\n3,c\n");
    assert_eq!(rows(&decoded), [r#"{"id":1,"name":"a"}"#, r#"{"id":3,"name":"c"}"#]);
    assert_eq!(failures(&decoded), [(1, FailureKind::Malformed, "a quote is not closed, in column 2")]);
    let decoded = decode(CsvConfig::default(), &declared, "\"id,name\n1,a\n2,b\n");
    let why = "the header: a quote is not closed, in column 1";
    assert_eq!(failures(&decoded), [(0, FailureKind::Malformed, why), (1, FailureKind::Malformed, why)]);
}

/// Read as a pipeline file has it.
fn config(json: &str) -> CsvConfig {
    match serde_json::from_str(json).unwrap() {
        crate::format::DecodeConfig::Csv(config) => config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lines_before_the_header_and_comments_are_no_records() {
    let config = config(r##"{"format":"csv","skip_lines":2,"comment":"#"}"##);
    let body = "Report \"of\nyesterday\r\n# a comment\nid,name\n1,a\n#2,b\n3,#c\n";
    let decoded = decode(config, &[("id", "int"), ("name", "string")], body);
    assert_eq!(rows(&decoded), [r#"{"id":1,"name":"a"}"#, r##"{"id":3,"name":"#c"}"##]);
}

#[test]
fn short_rows_are_padded_where_the_decoder_is_told_so() {
    let config = config(r#"{"format":"csv","short_rows":"pad"}"#);
    let decoded = decode(config, &[("a", "int"), ("b", "string"), ("c", "int?")], "a,b,c\n1\n2,x\n,y\n3,z,4,5\n");
    assert_eq!(rows(&decoded), [r#"{"a":1,"b":"","c":null}"#, r#"{"a":2,"b":"x","c":null}"#]);
    assert_eq!(
        failures(&decoded).iter().map(|f| f.1).collect::<Vec<_>>(),
        [FailureKind::MissingField, FailureKind::Malformed]
    );
}

#[test]
fn an_escape_takes_the_meaning_from_what_stands_behind_it() {
    let config = config(r#"{"format":"csv","escape":"\\","header":false}"#);
    let declared = [("a", "string"), ("b", "string")];
    let decoded = decode(config, &declared, "\"say \\\"hi\\\"\\\\\",x\\,y\nl1\\\nl2,\"\"\"\"\nend,\\\n");
    assert_eq!(rows(&decoded)[..2], [r#"{"a":"say \"hi\"\\","b":"x,y"}"#, r#"{"a":"l1\nl2","b":"\""}"#]);
    assert_eq!(decoded.failures.len(), 1);
}

#[test]
fn without_quotes_a_quote_is_a_character() {
    let config = config(r#"{"format":"csv","quote":"none","delimiter":"\t","header":false}"#);
    let decoded = decode(config, &[("a", "string"), ("b", "string")], "\"x\ty\"\nx\"\t\"\n");
    assert_eq!(rows(&decoded), [r#"{"a":"\"x","b":"y\""}"#, r#"{"a":"x\"","b":"\""}"#]);
}

#[test]
fn null_texts_without_quotes_are_nulls_and_quoted_ones_are_texts() {
    let config = config(r#"{"format":"csv","nulls":["NULL","\\N"],"escape":"\\"}"#);
    let decoded = decode(
        config,
        &[("a", "string?"), ("n", "int?"), ("r", "string")],
        concat!("a,n,r\nNULL,\\N,x\n\"NULL\",1,y\nNULLS,2,z\nq,3,NULL\n"),
    );
    assert_eq!(
        rows(&decoded),
        [r#"{"a":null,"n":null,"r":"x"}"#, r#"{"a":"NULL","n":1,"r":"y"}"#, r#"{"a":"NULLS","n":2,"r":"z"}"#]
    );
    assert_eq!(failures(&decoded), [(3, FailureKind::MissingField, "field `r`: is null, but not optional")]);
}

#[test]
fn a_decimal_comma_is_read_and_a_point_is_then_none() {
    let config = config(r#"{"format":"csv","decimal":",","delimiter":";","bools":"words"}"#);
    let decoded =
        decode(config, &[("x", "float"), ("b", "bool")], "x;b\n3,14;ja\n-0,5;yes\n1.234,5;no\n7;0\n1,2,3;1\n");
    assert_eq!(rows(&decoded), [r#"{"x":-0.5,"b":true}"#, r#"{"x":7.0,"b":false}"#]);
    assert_eq!(failures(&decoded).iter().map(|f| f.0).collect::<Vec<_>>(), [0, 2, 4]);
}

#[test]
fn an_object_without_fields_harms_nothing_even_where_nobody_checked() {
    let empty = FieldType::Struct(Vec::new());
    let field = |name: &str, kind| Field { name: name.into(), kind, optional: true };
    let fields = vec![field("meta", empty.clone()), field("list", FieldType::List(Box::new(empty)))];
    let schema = StreamSchema { fields };
    let decoder = crate::format::build(&crate::format::DecodeConfig::default(), &schema).unwrap();
    let raw = decoder.split(Bytes::from_static(b"{\"meta\":{\"a\":1},\"list\":[{},{}]}{}"), None).unwrap();
    let decoded = decoder.decode(&raw);
    assert_eq!((decoded.batch.num_rows(), decoded.failures.len()), (2, 0));
}

#[test]
fn invalid_utf8_is_an_encoding_failure() {
    let config = without_header();
    let decoder = CsvDecoder::new(&config, &schema(&[("a", "string")])).unwrap();
    let decoded = decoder.decode(&decoder.split(Bytes::from_static(b"ok\n\xff\nfine\n"), None).unwrap());
    assert_eq!(failures(&decoded), [(1, FailureKind::Encoding, "invalid UTF-8 at byte 0")]);
    assert_eq!(decoded.record, [0, 2]);
}

#[test]
fn every_row_of_the_sentiment_files_agrees_with_the_csv_crate() {
    let folder = Path::new("../../../shared/data/sentiment");
    if !folder.exists() {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    }
    let files = [
        ("sentfin_train.csv", 6_583),
        ("sentfin_dev.csv", 929),
        ("tfns_train_clean.csv", 9_543),
        ("tfns_valid_clean.csv", 2_388),
        ("sentfin_entities.csv", 1_010),
    ];
    for (name, count) in files {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let (first, second) = if name.contains("entities") { ("Symbol", "Entity") } else { ("text", "label") };
        let decoder =
            CsvDecoder::new(&CsvConfig::default(), &schema(&[(first, "string"), (second, "string")])).unwrap();
        let decoded = decoder.decode(&decoder.split(bytes.clone().into(), None).unwrap());
        assert_eq!(failures(&decoded), [], "{name}");
        assert_eq!(decoded.batch.num_rows(), count, "{name}");
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let header = reader.headers().unwrap().clone();
        let at = |wanted: &str| header.iter().position(|h| h == wanted).unwrap();
        for (row, record) in reader.records().enumerate() {
            let record = record.unwrap();
            let expected = serde_json::json!({ first: &record[at(first)], second: &record[at(second)] }).to_string();
            assert_eq!(to_string(&decoded.batch, row), expected, "{name} row {row}");
        }
    }
}

proptest! {
    #[test]
    fn what_the_csv_crate_writes_reads_back(rows in prop::collection::vec(prop::collection::vec(any::<String>(), 3), 1..8)) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in &rows {
            writer.write_record(row).unwrap();
        }
        let body = writer.into_inner().unwrap();
        let config = without_header();
        let declared = schema(&[("a", "string"), ("b", "string"), ("c", "string")]);
        let decoder = CsvDecoder::new(&config, &declared).unwrap();
        // A byte order mark in front is not part of the first cell.
        prop_assume!(!body.starts_with(b"\xef\xbb\xbf"));
        let decoded = decoder.decode(&decoder.split(body.into(), None).unwrap());
        prop_assert!(decoded.failures.is_empty(), "{:?}", decoded.failures);
        for (row, expected) in rows.iter().enumerate() {
            let expected = serde_json::json!({ "a": expected[0], "b": expected[1], "c": expected[2] });
            let found: serde_json::Value = serde_json::from_str(&to_string(&decoded.batch, row)).unwrap();
            prop_assert_eq!(found, expected);
        }
        prop_assert_eq!(decoded.batch.num_rows(), rows.len());
    }

    /// With every option on, and whatever bytes: each record is a row or a failure.
    #[test]
    fn no_bytes_make_it_panic(
        body in prop::collection::vec(prop_oneof![
            Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(b'\\'), Just(b'#'), Just(b'1'), any::<u8>(),
        ], 0..60),
        plain: bool,
    ) {
        let options = config(
            r##"{"format":"csv","escape":"\\","comment":"#","skip_lines":1,"short_rows":"pad","nulls":["1"],
                "decimal":",","bools":"words","max_lines":2}"##,
        );
        let options = if plain { CsvConfig::default() } else { options };
        let decoder = CsvDecoder::new(&options, &schema(&[("a", "int?"), ("b", "[json]?")])).unwrap();
        let raw = decoder.split(body.into(), None).unwrap();
        let decoded = decoder.decode(&raw);
        prop_assert_eq!(decoded.batch.num_rows() + decoded.failures.len(), raw.len());
    }
}
