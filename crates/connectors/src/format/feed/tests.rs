//! Feeds: RSS and Atom entries as records.

use std::path::{Path, PathBuf};

use millstream_core::json::{parse_timestamp, to_string};
use serde_json::Value;

use super::*;
use crate::format::{DecodeConfig, build};

pub(super) fn feeds() -> Vec<PathBuf> {
    let folder = Path::new("../../../shared/data/feeds");
    if !folder.exists() {
        eprintln!("skipped: {} is not there", folder.display());
        return Vec::new();
    }
    let mut files = Vec::new();
    for kind in ["atom", "jsonfeed", "rss0", "rss1", "rss2"] {
        for file in std::fs::read_dir(folder.join(kind)).unwrap() {
            let path = file.unwrap().path();
            if path.with_extension("serde.json").exists() && !path.to_string_lossy().ends_with(".serde.json") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 50, "{}", files.len());
    files.sort();
    files
}

fn text(value: &Value) -> Option<String> {
    value["content"].as_str().map(str::to_owned)
}

fn time(value: &Value) -> Option<i64> {
    value.as_str().map(|text| parse_timestamp(text).unwrap())
}

/// The expected parse holds ids that its maker drew at random or by digest where a feed has none.
fn made_up(id: &str) -> bool {
    id.len() >= 30 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[test]
fn every_captured_feed_agrees_with_its_expected_parse() {
    for path in feeds() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let expected: Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("serde.json")).unwrap()).unwrap();
        let entries = parse_feed(&bytes, None, None).unwrap_or_else(|e| panic!("{name}: {}", e.message));
        let wanted = expected["entries"].as_array().unwrap();
        assert_eq!(entries.len(), wanted.len(), "{name}");
        for (found, wanted) in entries.iter().zip(wanted) {
            let id = wanted["id"].as_str().unwrap();
            assert!(found.id == id || made_up(id), "{name}: {} is not {id}", found.id);
            assert!(!found.id.is_empty(), "{name}");
            assert_eq!(found.title, text(&wanted["title"]), "{name} {id}");
            assert_eq!(found.summary, text(&wanted["summary"]), "{name} {id}");
            let (mut published, mut updated) = (time(&wanted["published"]), time(&wanted["updated"]));
            if name == "rss_2.0_nbcny.xml" {
                // The maker of the expected parse could not read `Sat, Dec 16 2023 02:02:33 PM`.
                assert_eq!((published, updated), (None, None));
                (published, updated) =
                    (parse_timestamp("2023-12-16T14:02:33Z"), parse_timestamp("2023-12-16T14:02:33Z"));
            }
            assert_eq!(found.published, published, "{name} {id}");
            assert_eq!(found.updated, updated, "{name} {id}");
            let links: Vec<_> =
                wanted["links"].as_array().unwrap().iter().map(|l| l["href"].as_str().unwrap()).collect();
            assert_eq!(found.links, links, "{name} {id}");
            // Where there is no link, the id may be one: a guid that is a permalink.
            let permalink = found.link.as_deref() == Some(id);
            assert!(found.link.is_some() != links.is_empty() || permalink, "{name} {id}");
            let terms: Vec<_> =
                wanted["categories"].as_array().unwrap().iter().map(|c| c["term"].as_str().unwrap()).collect();
            assert_eq!(found.categories, terms, "{name} {id}");
            if let Some(body) = wanted["content"]["body"].as_str() {
                // Some of the expected parses keep the `div` around XHTML, which RFC 4287 says is not content.
                let inner = body.strip_prefix("<div").and_then(|b| b.split_once('>')?.1.strip_suffix("</div>"));
                let content = found.content.as_deref();
                assert!(content == Some(body) || content == inner.map(str::trim), "{name} {id}: {content:?}");
            }
            assert_eq!(found.feed_title, text(&expected["title"]), "{name}");
        }
    }
}

#[test]
fn the_same_bytes_give_the_same_entries_and_different_entries_have_different_ids() {
    for path in feeds() {
        let bytes = std::fs::read(&path).unwrap();
        let entries = parse_feed(&bytes, None, None).unwrap();
        assert_eq!(entries, parse_feed(&bytes, None, None).unwrap(), "{}", path.display());
    }
    let feed = br#"<rss version="2.0"><channel><title>t</title><item><description>one</description></item>
        <item><description>two</description></item></channel></rss>"#;
    let entries = parse_feed(feed, None, None).unwrap();
    assert_eq!(entries.len(), 2);
    assert_ne!(entries[0].id, entries[1].id);
    assert_eq!(entries, parse_feed(feed, None, None).unwrap());
}

#[test]
fn the_preset_and_the_records_of_a_poll_give_the_same_rows() {
    for path in feeds() {
        let bytes = std::fs::read(&path).unwrap();
        let preset = FeedDecoder::new(&entry_schema());
        let from_document = preset.decode(&RawBatch::single(bytes.clone().into(), "".into()));
        assert_eq!(from_document.failures, [], "{}", path.display());
        let json = build(&DecodeConfig::default(), &entry_schema()).unwrap();
        let entries = parse_feed(&bytes, None, None).unwrap();
        let mut raw = RawBatch::default();
        let mut data = Vec::new();
        for entry in &entries {
            let start = data.len();
            data.extend(entry.to_json());
            raw.spans.push(start..data.len());
        }
        raw.data = data.into();
        let from_records = json.decode(&raw);
        assert_eq!(from_records.failures, [], "{}", path.display());
        let rows = |decoded: &Decoded| (0..entries.len()).map(|r| to_string(&decoded.batch, r)).collect::<Vec<_>>();
        assert_eq!(rows(&from_document), rows(&from_records), "{}", path.display());
    }
}

#[test]
fn what_is_no_feed_is_refused_with_a_reason() {
    let kind = |bytes: &[u8]| parse_feed(bytes, None, None).unwrap_err().kind;
    assert_eq!(kind(b""), FailureKind::Malformed);
    assert_eq!(kind(b"<html><body/></html>"), FailureKind::Malformed);
    assert_eq!(kind(b"{\"version\":\"x\"}"), FailureKind::Malformed);
    assert_eq!(kind(b"{\"version\":"), FailureKind::Malformed);
    assert_eq!(kind(b"<?xml version='1.0' encoding='klingon'?><rss version='2.0'/>"), FailureKind::Encoding);
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(kind(deep.as_bytes()), FailureKind::Malformed);
    let bomb = br#"<!DOCTYPE rss [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>
        <rss version="2.0"><channel><title>&b;</title></channel></rss>"#;
    assert_eq!(parse_feed(bomb, None, None).unwrap_err().message, "entity declarations are not accepted");
    let nested = |name: &str| {
        let (open, close) = (format!("<{name} text='x'>").repeat(100_000), format!("</{name}>").repeat(100_000));
        format!(
            "<rss version='2.0' xmlns:itunes='http://www.itunes.com/dtds/podcast-1.0.dtd' \
             xmlns:media='http://search.yahoo.com/mrss/'><channel><item>{open}{close}</item></channel></rss>"
        )
    };
    assert_eq!(kind(nested("itunes:category").as_bytes()), FailureKind::Malformed);
    assert_eq!(kind(nested("media:group").as_bytes()), FailureKind::Malformed);
    let number = "<rss version='2.0' xmlns:itunes='http://www.itunes.com/dtds/podcast-1.0.dtd'><channel><item>\
        <itunes:duration>99999999999999999999</itunes:duration></item></channel></rss>";
    assert_eq!(kind(number.as_bytes()), FailureKind::Malformed);
    let invalid = Path::new("../../../shared/data/feeds/rss2/rss_2.0_invalid_1.xml");
    if invalid.exists() {
        assert!(parse_feed(&std::fs::read(invalid).unwrap(), None, None).is_err());
    }
}

#[test]
fn markup_that_was_not_escaped_is_not_cut_off() {
    let feed = "<?xml version='1.0' encoding='ISO-8859-1'?><rss version='2.0'><channel><title>A <b>bold</b> feed\
     </title><item>\
        <title>One &amp; <i>two</i></title><description><![CDATA[kept <em>as</em> is]]></description>\
        <guid>1</guid></item><item><guid>2</guid>\
        <description>caf\u{e9} <em>is</em> open<br/></description></item></channel></rss>";
    let latin1 = encoding_rs::WINDOWS_1252.encode(feed).0;
    let entries = parse_feed(&latin1, None, None).unwrap();
    assert_eq!(entries[0].feed_title.as_deref(), Some("A <b>bold</b> feed"));
    assert_eq!(entries[0].title.as_deref(), Some("One &amp; <i>two</i>"));
    assert_eq!(entries[0].summary.as_deref(), Some("kept <em>as</em> is"));
    assert_eq!(entries[1].summary.as_deref(), Some("caf\u{e9} <em>is</em> open<br/>"));
}
