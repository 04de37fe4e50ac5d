//! Presets of formats.

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use millstream_core::RawBatch;
use millstream_core::json::to_string;
use serde_json::Value;

use super::*;

fn decode(preset: Preset, document: &[u8]) -> Result<Value, String> {
    let schema = schema(preset, None).unwrap();
    let decoded = build(preset, &schema).unwrap().decode(&RawBatch::single(document.to_vec().into(), "".into()));
    match decoded.failures.first() {
        Some(failure) => Err(failure.failure.message.clone()),
        None => Ok(serde_json::from_str(&to_string(&decoded.batch, 0)).unwrap()),
    }
}

#[test]
fn every_listing_of_newsml_gives_a_useful_row() {
    let folder = FilePath::new("../../../shared/data/newsml");
    if !folder.exists() {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    }
    let mut rows = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let number = name.split('_').nth(1).unwrap().to_owned();
        let row = decode(Preset::NewsmlG2, &std::fs::read(&path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let is_item = row["item_kind"].as_str().unwrap().ends_with("Item");
        assert_eq!(row["guid"].is_string(), is_item || number == "24", "{name}: {row}");
        assert_eq!(row["version_created"].is_string(), is_item || number == "24", "{name}: {row}");
        let about = [
            "headline",
            "title",
            "description",
            "body",
            "links",
            "subjects",
            "ed_note",
            "copyright_holder",
            "dateline",
        ];
        assert!(about.iter().any(|field| !row[*field].is_null()), "{name} says nothing: {row}");
        rows.insert(number, row);
    }
    assert_eq!(rows.len(), 30);
    let expect = |number: &str, field: &str, expected: &str| {
        let value = &rows[number][field];
        let found = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(found, expected, "listing {number}, {field}");
    };
    expect("1", "item_kind", "newsItem");
    expect("1", "guid", "urn:newsml:acmenews.com:20161018:US-FINANCE-FED");
    expect("1", "version", "11");
    expect("1", "headline", "Fed to halt QE to avert \"bubble\"");
    expect("1", "version_created", "2018-10-21T21:25:32Z");
    expect("1", "embargoed", "2018-10-23T12:00:00Z");
    expect("1", "located", "Berlin");
    expect("1", "subjects", r#"["economy, business and finance","labour market"]"#);
    expect("1", "genres", r#"["Interview"]"#);
    expect("1", "copyright", "Copyright 2017-18 Example Enews LLP, all rights reserved");
    expect("1", "body", "null");
    expect("2", "byline", "By Meredith Jameson, Staff Reporter");
    expect("3", "keywords", r#"["business","economic","economy","finance","poor","poverty","gamble"]"#);
    expect("6", "title", "UK-TOPNEWS");
    expect(
        "6",
        "links",
        r#"["urn:newsml:iptc.org:20081007:tutorial-item-A","urn:newsml:iptc.org:20081007:tutorial—item-B"]"#,
    );
    expect("7", "item_kind", "groupSet");
    expect("10", "title", "Concept Item delivering a concept requested from the IPTC Media Topic NewsCodes");
    expect("10", "concepts", r#"["medtop:01000000"]"#);
    expect("12", "concepts", r#"["access:easy","access:difficult","access:restricted"]"#);
    expect("18", "headline", "The 12 Days of Christmas");
    expect("20", "links", r#"["tag:example.com,2008:ART-ENT-SRV:USA20081220098658"]"#);
    expect("22", "slugline", "AAV!PREVIEW-ARI-PHI");
    expect("24", "item_kind", "newsMessage");
    expect("24", "provider", "thomsonreuters.com");
    expect("24", "links", r#"["N1","N2","N3","N4"]"#);
    expect("26", "urgency", "4");
    expect("28", "subjects", r#"["city:Tskhinvali","city:Tblisi"]"#);
    expect("28", "dateline", "MOSCOW, Monday (Reuters)");
    let paragraphs: Vec<_> = rows["22"]["body"].as_str().unwrap().split("\n\n").collect();
    assert!(
        paragraphs.len() >= 6 && paragraphs[1].starts_with("The Phillies picked up some momentum with a three-game")
    );
    assert!(paragraphs.iter().all(|p| !p.contains("  ") && !p.contains('\n')));
    assert!(
        rows["25"]["headline"].as_str().unwrap().starts_with("Arizona Diamondbacks (29-23) at Philadelphia Phillies")
    );
}

#[test]
fn nitf_reads_alone_and_inside_newsml() {
    let folder = FilePath::new("../../../shared/data/newsml");
    if folder.exists() {
        for listing in [
            "2_NewsML-G2_Text_Document",
            "22_Sports_story_in_NewsML-G2NITF",
            "25_An_NITF_marked-up_article_conveyed_in_inlineXML",
        ] {
            let bytes = std::fs::read(folder.join(format!("LISTING_{listing}.xml"))).unwrap();
            let row = decode(Preset::Nitf, &bytes).unwrap();
            assert!(row["headline"].is_string() && row["body"].is_string() && row["byline"].is_string(), "{row}");
        }
    } else {
        eprintln!("skipped in part: {} is not there", folder.display());
    }
    let document = br#"<?xml version="1.0"?><!DOCTYPE nitf SYSTEM "nitf-3-6.dtd">
        <nitf><head><title>Harbour opens</title>
          <docdata><doc-id id-string="h-1"/><urgency ed-urg="3"/><date.issue norm="20240501T123000Z"/>
            <doc.copyright holder="Example Wire"/><key-list><keyword key="harbour"/><keyword key="trade"/></key-list>
            <identified-content><org>Port Board</org></identified-content></docdata></head>
        <body><body.head><hedline><hl1>New harbour <em>opens</em></hl1><hl2>Ships expected</hl2></hedline>
            <byline>By A. Writer</byline><dateline><location>Oslo</location>, May 1</dateline></body.head>
          <body.content><block><p>First   <org>Port Board</org> paragraph.</p><p>Second,<br/>broken.</p></block>
            <ul><li>One</li><li>Two</li></ul></body.content></body></nitf>"#;
    let row = decode(Preset::Nitf, document).unwrap();
    let expected = [
        ("guid", r#""h-1""#),
        ("headline", r#""New harbour opens""#),
        ("subheadline", r#""Ships expected""#),
        ("dateline", r#""Oslo, May 1""#),
        ("located", r#""Oslo""#),
        ("urgency", "3"),
        ("keywords", r#"["harbour","trade"]"#),
        ("organisations", r#"["Port Board"]"#),
        ("copyright", r#""Example Wire""#),
        ("body", r#""First Port Board paragraph.\n\nSecond,\n\nbroken.\n\nOne\n\nTwo""#),
    ];
    for (field, text) in expected {
        assert_eq!(row[field].to_string(), text, "{field}");
    }
}

#[test]
fn another_kind_of_document_is_refused_by_name() {
    assert!(decode(Preset::NewsmlG2, b"<rss/>").unwrap_err().contains("outermost element is `rss`"));
    assert!(decode(Preset::Nitf, b"<newsItem/>").unwrap_err().contains("no `nitf` element"));
    assert!(decode(Preset::Feed, b"<newsItem/>").unwrap_err().contains("not an RSS, Atom or JSON feed"));
}

#[test]
fn a_declared_schema_chooses_and_requires() {
    let field = |name: &str, kind, optional| Field { name: name.into(), kind, optional };
    let chosen = StreamSchema {
        fields: vec![field("headline", FieldType::String, false), field("guid", FieldType::String, true)],
    };
    let schema_of = |s: &StreamSchema| schema(Preset::NewsmlG2, Some(s));
    assert_eq!(schema_of(&chosen).unwrap(), chosen);
    let decoder = build(Preset::NewsmlG2, &chosen).unwrap();
    let decoded = decoder.decode(&RawBatch::single("<newsItem guid='x'/>".into(), "".into()));
    assert_eq!(decoded.failures[0].failure.message, "field `headline`: is not there, or empty");
    let unknown = StreamSchema { fields: vec![field("headlin", FieldType::String, false)] };
    assert!(schema_of(&unknown).unwrap_err().contains("no field `headlin`"));
    let other = StreamSchema { fields: vec![field("headline", FieldType::Int, false)] };
    assert!(schema_of(&other).unwrap_err().contains("is string, not int"));
}
