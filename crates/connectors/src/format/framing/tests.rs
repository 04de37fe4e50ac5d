//! Where records end: line ends of every kind, quotes that stay open, JSON documents whole and broken.

use proptest::prelude::*;

use super::*;

const CSV: Framing = Framing::Csv(CsvDialect {
    header: false,
    delimiter: b',',
    quote: Some(b'"'),
    escape: None,
    comment: None,
    skip_lines: 0,
    record_lines_max: 3,
});

fn records(framing: Framing, text: &str, last: bool) -> Vec<&str> {
    frame(framing, text.as_bytes(), 0, last, 1000).spans.into_iter().map(|span| &text[span]).collect()
}

#[test]
fn lines_end_in_any_of_three_ways_and_blank_ones_are_no_records() {
    assert_eq!(records(Framing::Lines, "a\r\n\n \t\r\n b\nc", false), ["a", " b"]);
    assert_eq!(records(Framing::Lines, "a\n\nc\r", true), ["a", "c"]);
    assert_eq!(records(Framing::Lines, "a\rb\r\rc", true), ["a", "b", "c"]);
    assert_eq!(records(Framing::Lines, "a\n  ", true), ["a"]);
    assert!(records(Framing::Lines, "", true).is_empty());
    assert_eq!(records(CSV, "a,1\rb,2\r\"c\rd\",3\r", false), ["a,1", "b,2", "\"c\rd\",3"]);
}

#[test]
fn a_quoted_line_end_does_not_end_a_csv_row_and_a_stray_quote_opens_nothing() {
    assert_eq!(records(CSV, "1,\"a\r\nb\"\r\n\n2,\"c\"\"\n\",x\n3,", true), ["1,\"a\r\nb\"", "2,\"c\"\"\n\",x", "3,"]);
    assert_eq!(records(CSV, "5\" disk,1\n6\" disk,2\n", false), ["5\" disk,1", "6\" disk,2"]);
    assert_eq!(records(CSV, " \n", false), [" "], "white space is a value");
    assert_eq!(records(CSV, "1,\"a\nb\"", true), ["1,\"a\nb\""], "the last row needs no line end");
}

#[test]
fn a_quote_that_is_never_closed_costs_its_line_and_no_other() {
    assert_eq!(records(CSV, "1,\"open\n2\n", false), [""; 0], "it may still be closed");
    assert_eq!(records(CSV, "1,\"open\n2\n", true), ["1,\"open", "2"]);
    assert_eq!(records(CSV, "1,\"open\n2\n3\n4\n5\n", false), ["1,\"open", "2", "3", "4", "5"], "too many lines");
    assert_eq!(records(CSV, "1,\"a\r\nb\r\nc\r\nd\"\n2\n", false), ["1,\"a\r\nb\r\nc\r\nd\"", "2"], "not too many");
}

#[test]
fn comments_escapes_and_no_quotes_are_as_the_dialect_says() {
    let dialect = CsvDialect { comment: Some(b'#'), escape: Some(b'\\'), ..CsvDialect::default() };
    assert_eq!(
        records(Framing::Csv(dialect), "#x,\"y\na,\"b\\\"\n\",1\n#z\nc\\\nd,2\n#end", true),
        ["a,\"b\\\"\n\",1", "c\\\nd,2"]
    );
    let dialect = CsvDialect { quote: None, ..CsvDialect::default() };
    assert_eq!(records(Framing::Csv(dialect), "\"a\n\"b\n", false), ["\"a", "\"b"]);
}

#[test]
fn a_record_over_the_limit_is_refused_and_its_neighbours_pass() {
    let frames = frame(Framing::Lines, b"aa\nbbbbb\ncc\n", 10, false, 4);
    assert_eq!(frames.spans, [0..2, 3..8, 9..11]);
    assert_eq!(frames.positions, [10, 13, 19]);
    assert_eq!(frames.refused.len(), 1);
    assert_eq!((frames.refused[0].row, frames.refused[0].failure.kind), (1, FailureKind::TooLarge));
}

#[test]
fn a_full_batch_stops_and_says_so() {
    let frames = frame(Framing::Lines, &b"x\n".repeat(BATCH_RECORDS_MAX + 5), 0, true, 4);
    assert!(frames.full);
    assert_eq!((frames.spans.len(), frames.consumed), (BATCH_RECORDS_MAX, BATCH_RECORDS_MAX * 2));
    let frames = frame(CSV, &b"x\n".repeat(BATCH_RECORDS_MAX), 0, true, 4);
    assert!(!frames.full);
    let frames = frame(Framing::Json, &b"{}".repeat(BATCH_RECORDS_MAX + 1), 0, true, 4);
    assert_eq!((frames.full, frames.spans.len()), (true, BATCH_RECORDS_MAX));
}

#[test]
fn json_documents_are_found_however_they_are_laid_out() {
    for text in [
        "{\"a\":1}\n{\"b\":{\"c\":[2]}}\n",
        "{\"a\":1}{\"b\":{\"c\":[2]}}",
        "{\"a\":1} {\"b\":{\"c\":[2]}}",
        "{\"a\":1}\r{\"b\":{\"c\":[2]}}\r",
        "[{\"a\":1},{\"b\":{\"c\":[2]}}]",
        "[\n  {\"a\":1},\n  {\"b\":{\"c\":[2]}}\n]\n",
        "\u{1e}{\"a\":1}\n\u{1e}{\"b\":{\"c\":[2]}}\n",
        "{\"a\":1},{\"b\":{\"c\":[2]}}\n[]\n",
    ] {
        assert_eq!(records(Framing::Json, text, false), ["{\"a\":1}", "{\"b\":{\"c\":[2]}}"], "{text}");
    }
    let pretty = "{\n  \"a\": [\n    {\n      \"x\": \"}\\\"{\"\n    }\n  ]\n}";
    assert_eq!(records(Framing::Json, &format!("{pretty}\n{pretty}\n"), false), [pretty, pretty]);
    assert_eq!(records(Framing::Json, "{\"a\":{\"b\":1}\n}\n{\"c\":2}\n", false), ["{\"a\":{\"b\":1}\n}", "{\"c\":2}"]);
    assert_eq!(records(Framing::Json, "{\"a\":1}{\"b\":", false), ["{\"a\":1}"], "the rest is still to come");
}

#[test]
fn a_broken_json_document_does_not_take_its_neighbours_with_it() {
    let good = "{\"ok\":1}";
    for broken in [
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":\"x",
        "{\"a\":\"x\\",
        "{\"a\":[1}",
        "{\"a\":{\"b\":1}",
        "{\"a\":1,,}",
        "{\"a\":}",
        "{\"a\":[",
        "hello, world",
        "\"open",
        "12 34",
        "}",
    ] {
        let text = format!("{good}\n{broken}\n{good}\n{good}\n");
        for last in [false, true] {
            assert_eq!(records(Framing::Json, &text, last), [good, broken, good, good], "{broken}");
        }
    }
    let pretty = "{\n  \"a\": 1,\n  \"b\": [\n    {\"c\": 2}\n}";
    let text = format!("{pretty}\n{{\n  \"d\": 3\n}}\n");
    assert_eq!(records(Framing::Json, &text, false), [pretty, "{\n  \"d\": 3\n}"]);
    assert_eq!(records(Framing::Json, "{\"a\":1", true), ["{\"a\":1"]);
    assert_eq!(records(Framing::Json, "[1, null, {\"a\":1}]", false), ["1", "null", "{\"a\":1}"]);
}

#[test]
fn a_deep_document_is_found_whole() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let text = format!("{deep}{{\"b\":1}}");
    assert_eq!(frame(Framing::Json, text.as_bytes(), 0, false, 1 << 20).spans.len(), 2);
}

fn framings() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::Lines),
        Just(CSV),
        Just(Framing::Csv(CsvDialect { escape: Some(b'\\'), comment: Some(b'#'), ..CsvDialect::default() })),
    ]
}

/// JSON as it comes: whole documents of every layout, and broken ones on lines of their own.
fn json_text() -> impl Strategy<Value = String> {
    let document = prop_oneof![
        Just("{\"a\":1}"),
        Just("{\"a\":{\"b\":\"}{\"},\"c\":[1,{\"d\":2}]}"),
        Just("{\n  \"a\": [\n    {\n      \"x\": \"\\\"\"\n    }\n  ]\n}"),
        Just("\n{\"a\":1\n"),
        Just("\n{\"a\":\"x\n"),
        Just("\nhello\n"),
        Just("\n{\"a\":[\n"),
    ];
    let between = prop_oneof![Just("\n"), Just("\r\n"), Just(""), Just(" "), Just(",\n"), Just("\r")];
    prop::collection::vec((document, between), 0..6)
        .prop_map(|parts| parts.into_iter().map(|(document, between)| format!("{document}{between}")).collect())
}

fn found_in_two(framing: Framing, text: &str, cut: usize) -> (Vec<String>, Vec<u64>) {
    let cut = cut.min(text.len());
    let first = frame(framing, &text.as_bytes()[..cut], 0, false, 1000);
    let second = frame(framing, &text.as_bytes()[first.consumed..], first.consumed as u64, true, 1000);
    let mut found: Vec<String> = first.spans.iter().map(|s| text[s.clone()].to_owned()).collect();
    found.extend(second.spans.iter().map(|s| text[first.consumed + s.start..first.consumed + s.end].to_owned()));
    (found, first.positions.into_iter().chain(second.positions).collect())
}

proptest! {
    /// Cutting a text at any border, and giving what was left again, finds the records that one piece gives.
    #[test]
    fn records_do_not_depend_on_where_the_buffer_ends(
        text in "[ab\",#\\\\\r\n]{0,60}", cut in 0_usize..60, framing in framings(),
    ) {
        let whole = frame(framing, text.as_bytes(), 0, true, 1000);
        let (found, positions) = found_in_two(framing, &text, cut);
        prop_assert_eq!(found, whole.spans.into_iter().map(|span| text[span].to_owned()).collect::<Vec<_>>());
        prop_assert_eq!(positions, whole.positions);
    }

    #[test]
    fn json_documents_do_not_depend_on_where_the_buffer_ends(text in json_text(), cut in 0_usize..200) {
        let whole = frame(Framing::Json, text.as_bytes(), 0, true, 1000);
        let (found, positions) = found_in_two(Framing::Json, &text, cut);
        prop_assert_eq!(found, whole.spans.into_iter().map(|span| text[span].to_owned()).collect::<Vec<_>>());
        prop_assert_eq!(positions, whole.positions);
    }

    /// No byte is lost: what lies in no record is white space, or stands between documents.
    #[test]
    fn every_byte_of_json_is_in_a_record_or_between_records(text in "[{}\\[\\]\",:a1\\\\ \r\n]{0,60}") {
        let frames = frame(Framing::Json, text.as_bytes(), 0, true, 1000);
        prop_assert_eq!(frames.consumed, text.len());
        let mut at = 0;
        for span in frames.spans.into_iter().chain([text.len()..text.len()]) {
            prop_assert!(text[at..span.start].bytes().all(|byte| b" \t\r\n,[]".contains(&byte)), "{:?}", &text[at..]);
            at = span.end;
        }
    }

    /// The scan in pieces ends where the scan of the whole does.
    #[test]
    fn the_scan_for_a_records_end_goes_on_over_borders(
        text in "[{}\\[\\]ab\",\r\n]{0,60}", cut in 0_usize..60, json: bool,
    ) {
        let framing = if json { Framing::Json } else { CSV };
        let text = if json { format!("{{{text}") } else { text };
        let cut = cut.min(text.len());
        let first = if json { b'{' } else { b' ' };
        let whole = RecordScan::new(framing, first).find_end_in(text.as_bytes());
        let mut scan = RecordScan::new(framing, first);
        let in_pieces = scan.find_end_in(&text.as_bytes()[..cut]).or_else(|| {
            scan.find_end_in(&text.as_bytes()[cut..]).map(|(end, line_end)| (cut + end, line_end))
        });
        // A broken document may have ended in a piece that is gone: then it ends at the border.
        let whole = whole.map(|(end, line_end)| if json && in_pieces == Some((cut, 0)) { (end.max(cut), line_end) } else { (end, line_end) });
        prop_assert_eq!(whole, in_pieces);
    }
}
