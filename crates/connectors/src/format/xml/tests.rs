//! XML: elements as records.

use millstream_core::json::to_string;
use proptest::prelude::*;

use super::*;
use crate::format::{DecodeConfig, build, effective_schema};

fn decode_with(config: &str, declared: Option<&StreamSchema>, documents: &[&[u8]]) -> Decoded {
    let config: DecodeConfig = serde_json::from_str(config).unwrap();
    let schema = effective_schema(&config, declared).unwrap();
    let decoder = build(&config, &schema).unwrap();
    let mut data = Vec::new();
    let mut spans = Vec::new();
    for document in documents {
        spans.push(data.len()..data.len() + document.len());
        data.extend_from_slice(document);
    }
    decoder.decode(&RawBatch { data: data.into(), spans, ..RawBatch::default() })
}

fn rows(decoded: &Decoded) -> Vec<String> {
    assert_eq!(decoded.failures, []);
    (0..decoded.batch.num_rows()).map(|row| to_string(&decoded.batch, row)).collect()
}

/// The values at `path` below the outermost element.
fn at(document: &str, path: &str) -> Vec<String> {
    let config = serde_json::json!({
        "format": "xml", "fields": { "v": { "path": path, "repeated": true } },
        "namespaces": { "n": "urn:n", "m": "urn:m" }
    });
    let decoded = decode_with(&config.to_string(), None, &[document.as_bytes()]);
    assert_eq!(decoded.failures, [], "{path}");
    let row: serde_json::Value = serde_json::from_str(&to_string(&decoded.batch, 0)).unwrap();
    row["v"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn failure(document: &[u8]) -> (FailureKind, String) {
    let decoded = decode_with(r#"{"format":"xml","fields":{"v":{"path":".","optional":true}}}"#, None, &[document]);
    assert_eq!(decoded.batch.num_rows(), 0, "{}", String::from_utf8_lossy(document));
    let failure = decoded.failures[0].failure.clone();
    (failure.kind, failure.message)
}

const DOCUMENT: &str = r#"<?xml version="1.0"?>
<!-- a comment --><!DOCTYPE r SYSTEM "http://192.0.2.1/never-fetched.dtd">
<r xmlns:n="urn:n" id="1" xml:lang="en">
  own <a k="x">one  <b>two</b>
     three</a> text
  <a k="y" role="main"><b>four</b><b>five &amp; &#x41;<![CDATA[ <six> ]]></b></a>
  <n:a><m:b xmlns:m="urn:m" m:k="z">seven</m:b></n:a>
  <undeclared:c><b><b>deep</b></b></undeclared:c>
</r>"#;

#[test]
fn paths_lead_where_they_say() {
    for (path, expected) in [
        ("a/b", &["two", "four", "five & A <six>", "seven"][..]),
        ("a", &["one two three", "fourfive & A <six>", "seven"]),
        ("/r/a[1]", &["one two three"]),
        ("a[2]/b[2]", &["five & A <six>"]),
        ("a[@role='main']/b[1]", &["four"]),
        ("a[@role]/@k", &["y"]),
        ("a[b='four']/@role", &["main"]),
        ("//b", &["two", "four", "five & A <six>", "seven", "deep", "deep"]),
        ("//b//b", &["deep"]),
        ("c/b/b", &["deep"]),
        ("*/b", &["two", "four", "five & A <six>", "seven", "deep"]),
        ("@id", &["1"]),
        ("@xml:lang", &["en"]),
        ("@lang", &["en"]),
        ("//@k", &["x", "y", "z"]),
        ("//@m:k", &["z"]),
        ("n:a/m:b", &["seven"]),
        ("n:a/n:b", &[]),
        ("m:a", &[]),
        ("nothing", &[]),
    ] {
        assert_eq!(at(DOCUMENT, path), expected, "{path}");
    }
    assert_eq!(at("<r>own<a>not</a> text</r>", "text()"), ["own text"]);
    assert_eq!(at("<r><a>x<b/>y</a></r>", "./a/text()"), ["xy"]);
    assert_eq!(at("<r a='1'><s a='2'><t a='3'/></s></r>", "/*//@a"), ["1", "2", "3"]);
}

#[test]
fn wrong_paths_are_found_before_anything_runs() {
    for (path, part) in [
        ("", "is empty"),
        ("a//", "needs a name"),
        ("a/", "needs a name"),
        ("x:a", "prefix `x`"),
        ("a[0]", "counts from 1"),
        ("a[@b='c]", "not closed"),
        ("a[@b=c]", "quotes"),
        ("a[1", "`]`"),
        ("@a/b", "must end"),
        ("a b", "where `/` should be"),
        ("//text()", "//text()"),
        ("..", "needs a name"),
    ] {
        let problem = Path::parse(path, &[]).unwrap_err();
        assert!(problem.contains(part), "{path}: {problem}");
    }
}

#[test]
fn a_record_path_gives_a_row_per_element() {
    let config = r#"{"format":"xml","record":"list/item","fields":{
        "id":{"path":"@id","type":"int"}, "name":"name", "list":"/list/@name",
        "price":{"path":"price","type":"float?"}, "tags":{"path":"tag","repeated":true},
        "state":{"path":"state","default":"new"} }}"#;
    let good: &[u8] = br#"<list name="L"><item id="1"><name> A
        b </name><price> 2.5 </price><tag>x</tag><tag/><tag>y</tag></item><item id="2"><name>B</name><state>old</state></item></list>"#;
    let bad: &[u8] = br#"<list><item id="3"><name>C</name></item><item id="x"><name>D</name></item></list>"#;
    let empty: &[u8] = b"<list/>";
    let decoded = decode_with(config, None, &[bad, good, empty]);
    let found: Vec<_> = decoded.failures.iter().map(|f| (f.row, f.failure.kind, f.failure.message.as_str())).collect();
    assert_eq!(found[0].0, 0);
    assert_eq!(found[0].2, "field `list`: is not there, or empty");
    assert_eq!((found[1].0, found[1].1), (2, FailureKind::MissingField));
    assert_eq!(decoded.record, [1, 1]);
    assert_eq!(
        to_string(&decoded.batch, 0),
        r#"{"id":1,"name":"A b","list":"L","price":2.5,"tags":["x","y"],"state":"new"}"#
    );
    assert_eq!(to_string(&decoded.batch, 1), r#"{"id":2,"name":"B","list":"L","price":null,"tags":[],"state":"old"}"#);
}

#[test]
fn a_declared_schema_gives_the_types_of_a_mapping() {
    let config = r#"{"format":"xml","fields":{"n":"@n","when":"when"}}"#;
    let field = |name: &str, kind, optional| Field { name: name.into(), kind, optional };
    let declared =
        StreamSchema { fields: vec![field("when", FieldType::Timestamp, true), field("n", FieldType::Int, false)] };
    let decoded = decode_with(config, Some(&declared), &[b"<r n='7'><when>2024-05-01</when></r>"]);
    assert_eq!(rows(&decoded), [r#"{"when":"2024-05-01T00:00:00Z","n":7}"#]);
    let parsed: DecodeConfig = serde_json::from_str(config).unwrap();
    let other = StreamSchema { fields: vec![field("n", FieldType::Int, false)] };
    assert!(effective_schema(&parsed, Some(&other)).unwrap_err().contains("`when` has a path, but is not declared"));
    let other = StreamSchema { fields: vec![field("x", FieldType::Int, false)] };
    assert!(effective_schema(&parsed, Some(&other)).unwrap_err().contains("`x` is declared, but has no path"));
}

#[test]
fn entities_are_never_expanded_and_never_fetched() {
    let laughs: &[u8] = br#"<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><l>&b;</l>"#;
    let external: &[u8] = br#"<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><l>&x;</l>"#;
    let parameter: &[u8] = br#"<!DOCTYPE l [<!ENTITY % p SYSTEM "http://192.0.2.1/x.dtd"> %p;]><l/>"#;
    for bomb in [laughs, external, parameter] {
        assert_eq!(failure(bomb), (FailureKind::Malformed, "entity declarations are not accepted".into()));
    }
    assert_eq!(failure(b"<l>&nbsp;</l>").1, "the entity `&nbsp;` is not declared");
    assert_eq!(failure(b"<l a='&x;'/>").0, FailureKind::Malformed);
    assert_eq!(at(r#"<!DOCTYPE l PUBLIC "-//X//Y" "http://192.0.2.1/l.dtd"><l a="&lt;&#65;">b</l>"#, "@a"), ["<A"]);
}

#[test]
fn what_is_not_well_formed_is_malformed() {
    let deep = [b"<a>".repeat(300), b"</a>".repeat(300)].concat();
    for document in [
        &b""[..],
        b"   ",
        b"text",
        b"<a>",
        b"<a></b>",
        b"</a>",
        b"<a/><b/>",
        b"<a/>text",
        b"text<a/>",
        b"<a b='1' b='2'/>",
        b"<a b=1/>",
        b"<a>& </a>",
        b"<a>&#0;</a>",
        b"<a>&#x110000;</a>",
        b"<a><![CDATA[x</a>",
        b"<a><!-- x</a>",
        &deep,
    ] {
        let (kind, message) = failure(document);
        assert_eq!(kind, FailureKind::Malformed, "{}: {message}", String::from_utf8_lossy(document));
    }
}

#[test]
fn encodings_are_read_as_declared_or_marked() {
    let text = "<?xml version='1.0' encoding='ENC'?><r>café €</r>";
    let encode = |label: &str, name: &str| {
        let document = text.replace("ENC", name);
        let document = if label == "iso-8859-1" { document.replace('€', "e") } else { document };
        encoding_rs::Encoding::for_label(label.as_bytes()).unwrap().encode(&document).0.into_owned()
    };
    let utf16 = |big: bool| -> Vec<u8> {
        let units = "\u{feff}<?xml version='1.0' encoding='UTF-16'?><r>café €</r>".encode_utf16();
        units.flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
    };
    let config = r#"{"format":"xml","fields":{"v":"."}}"#;
    let documents: Vec<(Vec<u8>, &str)> = vec![
        (text.replace("encoding='ENC'", "").into_bytes(), "café €"),
        (encode("utf-8", "UTF-8"), "café €"),
        ([b"\xef\xbb\xbf".to_vec(), encode("utf-8", "utf8")].concat(), "café €"),
        (encode("windows-1252", "windows-1252"), "café €"),
        (encode("iso-8859-1", "ISO-8859-1"), "café e"),
        (encode("iso-8859-15", "iso-8859-15"), "café €"),
        (utf16(false), "café €"),
        (utf16(true), "café €"),
        (utf16(false)[2..].to_vec(), "café €"),
        (encode("utf-8", "UTF-16"), "café €"),
    ];
    for (document, expected) in documents {
        let decoded = decode_with(config, None, &[&document]);
        assert_eq!(rows(&decoded), [format!(r#"{{"v":"{expected}"}}"#)], "{}", String::from_utf8_lossy(&document));
    }
    for document in [
        &b"<?xml version='1.0' encoding='klingon-1'?><r/>"[..],
        b"<r>\xff</r>",
        b"<?xml encoding='shift_jis'?><r>\x81</r>",
    ] {
        assert_eq!(failure(document).0, FailureKind::Encoding, "{}", String::from_utf8_lossy(document));
    }
    assert!(failure(b"<?xml version='1.0' encoding='klingon-1'?><r/>").1.contains("unknown encoding `klingon-1`"));
}

#[test]
fn the_encoding_that_came_with_a_document_overrules_the_declared_one_where_the_bytes_are_of_it() {
    let config: DecodeConfig = serde_json::from_str(r#"{"format":"xml","fields":{"v":"."}}"#).unwrap();
    let decoder = build(&config, &effective_schema(&config, None).unwrap()).unwrap();
    let latin = |text: &str| encoding_rs::WINDOWS_1252.encode(text).0.into_owned();
    for (document, charset) in [
        (latin("<r>café</r>"), "iso-8859-1"),
        (latin("<?xml version='1.0' encoding='utf-8'?><r>café</r>"), "latin1"),
        (latin("<?xml version='1.0' encoding='iso-8859-1'?><r>café</r>"), "utf-8"),
        (latin("<?xml version='1.0' encoding='iso-8859-1'?><r>café</r>"), "klingon"),
        ("<?xml version='1.0' encoding='iso-8859-1'?><r>café</r>".into(), "utf-8"),
        ("\u{feff}<r>café</r>".into(), "iso-8859-1"),
        ("<r>café</r>".into(), "utf-16"),
    ] {
        let raw = RawBatch { charset: Some(charset.into()), ..RawBatch::single(document.into(), "".into()) };
        assert_eq!(rows(&decoder.decode(&raw)), [r#"{"v":"café"}"#], "{charset}");
    }
}

proptest! {
    #[test]
    fn any_text_survives_a_document(text in "[^\u{0}-\u{1f}\r\u{fffe}\u{ffff}]{0,40}", inner in "[a-z<>&\"' é]{0,20}") {
        let escaped = quick_xml::escape::escape(text.as_str());
        let inner_escaped = quick_xml::escape::escape(inner.as_str());
        let document = format!("<r a=\"{inner_escaped}\">{escaped}<b>{inner_escaped}</b></r>");
        let collapsed = |t: &str| t.split_whitespace().collect::<Vec<_>>().join(" ");
        prop_assert_eq!(at(&document, "@a"), if inner.trim().is_empty() { vec![] } else { vec![inner.trim().to_owned()] });
        let found = at(&document, ".");
        let expected = collapsed(&format!("{text}{inner}"));
        prop_assert_eq!(found.first().map_or("", |t| t.as_str()), expected.as_str());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let config = r#"{"format":"xml","fields":{"v":{"path":"//a/@b","optional":true}}}"#;
        let decoded = decode_with(config, None, &[&bytes]);
        prop_assert_eq!(decoded.batch.num_rows() + decoded.failures.len(), 1);
    }

    #[test]
    fn no_markup_makes_it_panic(text in r#"(<|>|</|/>|<!|<\?xml|\?>|a|b:c| |=|"|'|&|;|#|\[|\]|CDATA|DOCTYPE|ENTITY|--|é){0,30}"#) {
        for config in [r#"{"format":"xml","preset":"newsml-g2"}"#, r#"{"format":"xml","preset":"nitf"}"#, r#"{"format":"xml","preset":"feed"}"#] {
            let decoded = decode_with(config, None, &[text.as_bytes()]);
            prop_assert!(decoded.failures.len() <= 1);
        }
    }
}
