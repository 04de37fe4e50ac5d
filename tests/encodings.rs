//! What sinks write in each format: bytes as they came, and rows that a format can't hold.

use serde_json::json;

use crate::support::{Place, files_below};

/// The content of all files below a folder, in the order of their names.
fn written(place: &Place, folder: &str) -> Vec<u8> {
    let mut files = files_below(&place.path(folder));
    files.sort();
    files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect()
}

#[test]
fn bytes_that_come_in_go_out_as_they_were() {
    let place = Place::new(
        "
pipeline: copy
sources:
  pictures: { type: file, path: ./in, decode: raw }
sinks:
  copies: { type: file, from: pictures, folder: ./out, encode: raw }
",
    );
    let picture: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!([b'\n', b'\r', 0, 0xff].iter().all(|byte| picture.contains(byte)));
    place.write("in/a.png", &picture);
    place.write("in/b.png", b"\r\n\0");
    place.run();
    assert!(written(&place, "out") == [&picture[..], b"\r\n\0"].concat(), "other bytes came out");
}

const FORMATS: &str = "
pipeline: formats
sources:
  wire: { type: file, path: ./wire.jsonl, schema: { id: int, body: string? } }
sinks:
  cells: { type: file, from: wire, folder: ./csv, encode: csv }
  lines: { type: file, from: wire, folder: ./text, encode: { format: text, template: \"{id}: {body}\" } }
  bytes: { type: file, from: wire, folder: ./bytes, encode: { format: raw, column: body } }
";

#[test]
fn a_row_that_a_format_can_not_hold_is_a_dead_letter_alone_and_goes_out_in_another() {
    let place = Place::new(FORMATS);
    let rows = [json!({"id": 1, "body": "one"}), json!({"id": 2}), json!({"id": 3, "body": "two\nlines"})];
    place.write("wire.jsonl", rows.map(|row| row.to_string() + "\n").concat());
    place.run();
    assert_eq!(String::from_utf8(written(&place, "csv")).unwrap(), "id,body\n1,one\n2,\n3,\"two\nlines\"\n");
    assert_eq!(String::from_utf8(written(&place, "text")).unwrap(), "1: one\n2: null\n");
    assert_eq!(String::from_utf8(written(&place, "bytes")).unwrap(), "onetwo\nlines");
    let letters = place.dead_letters();
    let mut found: Vec<_> =
        letters.iter().map(|l| (l["component"].as_str().unwrap(), l["kind"].as_str().unwrap())).collect();
    found.sort_unstable();
    assert_eq!(found, [("bytes", "missing_field"), ("lines", "rejected")]);

    let mended = FORMATS.replace("encode: { format: raw, column: body }", "encode: json");
    place
        .write("pipeline.yaml", mended.replace("encode: { format: text, template: \"{id}: {body}\" }", "encode: json"));
    place.redrive();
    place.run();
    assert_eq!(place.sink_rows("bytes"), [json!({"id": 2, "body": null})]);
    assert_eq!(place.sink_rows("text"), [json!({"id": 3, "body": "two\nlines"})]);
    assert_eq!(place.sink_rows("csv"), Vec::<serde_json::Value>::new());
}
