//! Ready-made XML mappings: NewsML-G2 (IPTC, https://iptc.org/std/NewsML-G2/), NITF (https://iptc.org/std/NITF/) and
//! feeds. Each field has the paths that real documents keep it at, in the order of trust.

use std::sync::Arc;

use millstream_core::{Decoder, Field, FieldType, StreamSchema};

use super::columns::{Built, Fault, shorten};
use super::config::Preset;
use super::feed::{FeedDecoder, entry_schema};
use super::xml::{Document, Extract, NodeId, Path, XmlDecoder, push_collapsed};

/// What a field of a preset holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Int,
    Time,
    /// A list of strings.
    Texts,
    /// What names a concept: its `name`, `qcode`, `literal` or `uri`.
    Label,
    /// A list of those.
    Labels,
    RootName,
    Body,
}

type Row = (&'static str, Kind, &'static [&'static str]);

/// One row per document, whichever item or fragment is its outermost element. All are optional but `item_kind`.
const NEWSML_G2: &[Row] = &[
    ("item_kind", Kind::RootName, &[]),
    ("guid", Kind::Text, &["/*/@guid", "//itemSet/*/@guid", "//header/transmitId"]),
    ("version", Kind::Int, &["/*/@version", "//itemSet/*/@version"]),
    ("standard_version", Kind::Text, &["/*/@standardversion", "//itemSet/*/@standardversion"]),
    ("item_class", Kind::Text, &["//itemMeta/itemClass/@qcode", "//itemMeta/itemClass/@uri"]),
    ("provider", Kind::Label, &["//itemMeta/provider", "//header/sender"]),
    ("version_created", Kind::Time, &["//itemMeta/versionCreated", "//header/sent"]),
    ("first_created", Kind::Time, &["//itemMeta/firstCreated"]),
    ("embargoed", Kind::Time, &["//itemMeta/embargoed"]),
    // Text: NewsML-G2 allows parts of a date here, `2016-10` say.
    ("content_created", Kind::Text, &["//contentMeta/contentCreated"]),
    ("content_modified", Kind::Text, &["//contentMeta/contentModified"]),
    ("pub_status", Kind::Text, &["//itemMeta/pubStatus/@qcode", "//itemMeta/pubStatus/@uri"]),
    ("service", Kind::Label, &["//itemMeta/service"]),
    ("ed_note", Kind::Text, &["//itemMeta/edNote", "//planning/edNote"]),
    ("headline", Kind::Text, &["//contentMeta/headline", "//hedline/hl1", "//planning/headline", "//itemRef/headline"]),
    (
        "title",
        Kind::Text,
        &[
            "//itemMeta/title",
            "//concept/name",
            "//events/event/name",
            "//schemeMeta/name",
            "//catalog/scheme/name",
            "//itemRef/title",
            "//deliveredItemRef/title",
            "//nitf/head/title",
        ],
    ),
    (
        "language",
        Kind::Text,
        &[
            "//contentMeta/language/@tag",
            "/*/@xml:lang",
            "//itemSet/*/@xml:lang",
            "//headline/@xml:lang",
            "//title/@xml:lang",
        ],
    ),
    ("urgency", Kind::Int, &["//contentMeta/urgency", "//header/priority"]),
    ("slugline", Kind::Text, &["//contentMeta/slugline"]),
    ("byline", Kind::Text, &["//contentMeta/by", "//body.head/byline"]),
    ("dateline", Kind::Text, &["//contentMeta/dateline", "//body.head/dateline"]),
    ("located", Kind::Label, &["//contentMeta/located", "//eventDetails/location"]),
    ("creditline", Kind::Text, &["//contentMeta/creditline"]),
    ("creators", Kind::Labels, &["//contentMeta/creator"]),
    ("description", Kind::Text, &["//contentMeta/description", "//concept/definition", "//itemRef/description"]),
    ("subjects", Kind::Labels, &["//contentMeta/subject"]),
    ("subject_codes", Kind::Texts, &["//contentMeta/subject/@qcode"]),
    ("genres", Kind::Labels, &["//contentMeta/genre"]),
    ("keywords", Kind::Texts, &["//contentMeta/keyword"]),
    ("concepts", Kind::Texts, &["//concept/conceptId/@qcode", "//concept/conceptId/@uri", "//catalog/scheme/@uri"]),
    ("body", Kind::Body, &[]),
    (
        "links",
        Kind::Texts,
        &[
            "//itemMeta/link/@href",
            "//itemMeta/link/@residref",
            "//itemRef/@residref",
            "//itemRef/@href",
            "//deliveredItemRef/@guidref",
            "//remoteContent/@href",
            "//remoteContent/@residref",
        ],
    ),
    ("copyright", Kind::Text, &["//rightsInfo/copyrightNotice", "//doc.copyright/@holder"]),
    ("copyright_holder", Kind::Label, &["//rightsInfo/copyrightHolder"]),
    ("usage_terms", Kind::Text, &["//rightsInfo/usageTerms"]),
];

/// One row per document, whether NITF is the document or inside another.
const NITF: &[Row] = &[
    ("item_kind", Kind::RootName, &[]),
    ("guid", Kind::Text, &["//nitf//doc-id/@id-string", "/*/@guid"]),
    ("title", Kind::Text, &["//nitf/head/title", "//itemMeta/title"]),
    ("headline", Kind::Text, &["//nitf//hedline/hl1", "//contentMeta/headline"]),
    ("subheadline", Kind::Text, &["//nitf//hedline/hl2"]),
    ("byline", Kind::Text, &["//nitf//body.head/byline", "//nitf//byline"]),
    ("dateline", Kind::Text, &["//nitf//body.head/dateline", "//nitf//dateline"]),
    ("located", Kind::Text, &["//nitf//dateline/location"]),
    ("abstract", Kind::Text, &["//nitf//body.head/abstract"]),
    ("body", Kind::Body, &[]),
    // Text: NITF dates come in the basic and the extended form of ISO 8601.
    ("issued", Kind::Text, &["//nitf//date.issue/@norm", "//nitf//story.date/@norm", "//itemMeta/versionCreated"]),
    (
        "language",
        Kind::Text,
        &["//nitf/@xml:lang", "//nitf/body/@xml:lang", "//contentMeta/language/@tag", "/*/@xml:lang"],
    ),
    ("urgency", Kind::Int, &["//nitf//urgency/@ed-urg", "//contentMeta/urgency"]),
    ("slugline", Kind::Text, &["//nitf//du-key/@key", "//contentMeta/slugline"]),
    (
        "subjects",
        Kind::Texts,
        &[
            "//nitf//tobject.subject/@tobject.subject.type",
            "//nitf//tobject.subject/@tobject.subject.matter",
            "//nitf//tobject.subject/@tobject.subject.detail",
        ],
    ),
    (
        "subject_codes",
        Kind::Texts,
        &["//nitf//tobject.subject/@tobject.subject.refnum", "//nitf//tobject.subject/@tobject.subject.code"],
    ),
    ("keywords", Kind::Texts, &["//nitf//key-list/keyword/@key"]),
    ("people", Kind::Texts, &["//nitf//identified-content/person"]),
    ("organisations", Kind::Texts, &["//nitf//identified-content/org"]),
    ("places", Kind::Texts, &["//nitf//identified-content/location"]),
    ("links", Kind::Texts, &["//nitf//body.content//a/@href", "//nitf//media-reference/@source"]),
    ("copyright", Kind::Text, &["//nitf//doc.copyright/@holder", "//rightsInfo/copyrightNotice"]),
];

/// The rows of a preset: all its fields, or those that are declared, in that order.
///
/// # Errors
/// A declared field is not one of the preset, or of another type.
pub(super) fn schema(preset: Preset, declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
    let all = match preset {
        Preset::Feed => entry_schema(),
        Preset::NewsmlG2 => table_schema(NEWSML_G2),
        Preset::Nitf => table_schema(NITF),
    };
    let Some(declared) = declared else { return Ok(all) };
    for field in &declared.fields {
        match all.field(&field.name) {
            Some(known) if known.kind == field.kind => {}
            Some(known) => {
                return Err(format!("`{}` of this preset is {}, not {}", field.name, known.kind, field.kind));
            }
            None => {
                let known: Vec<_> = all.fields.iter().map(|f| f.name.as_str()).collect();
                return Err(format!("this preset has no field `{}`: it has {}", field.name, known.join(", ")));
            }
        }
    }
    Ok(declared.clone())
}

fn table_schema(table: &[Row]) -> StreamSchema {
    let fields = table.iter().map(|(name, kind, _)| Field {
        name: (*name).into(),
        kind: match kind {
            Kind::Text | Kind::Label | Kind::RootName | Kind::Body => FieldType::String,
            Kind::Int => FieldType::Int,
            Kind::Time => FieldType::Timestamp,
            Kind::Texts | Kind::Labels => FieldType::List(Box::new(FieldType::String)),
        },
        optional: !matches!(kind, Kind::RootName),
    });
    StreamSchema { fields: fields.collect() }
}

/// The decoder of a preset; `schema` is what [`schema`] gave.
pub(super) fn build(preset: Preset, schema: &StreamSchema) -> Result<Arc<dyn Decoder>, String> {
    let (table, accept): (_, fn(&Document) -> Built) = match preset {
        Preset::Feed => return Ok(Arc::new(FeedDecoder::new(schema))),
        Preset::NewsmlG2 => (NEWSML_G2, accept_newsml),
        Preset::Nitf => (NITF, accept_nitf),
    };
    let mut extracts = Vec::with_capacity(schema.fields.len());
    for field in &schema.fields {
        let Some((_, kind, paths)) = table.iter().find(|(name, _, _)| *name == field.name) else {
            return Err(format!("this preset has no field `{}`", field.name));
        };
        extracts.push(match kind {
            Kind::RootName => Extract::RootName,
            Kind::Body => Extract::Body,
            _ => {
                let paths = paths.iter().map(|path| Path::parse(path, &[])).collect::<Result<_, _>>()?;
                Extract::Paths { paths, default: None, label: matches!(kind, Kind::Label | Kind::Labels) }
            }
        });
    }
    Ok(Arc::new(XmlDecoder::preset(schema, extracts, accept)))
}

/// The namespace of NewsML-G2, all versions.
const G2_NAMESPACE: &str = "http://iptc.org/std/nar/2006-10-01/";

/// Outermost elements of NewsML-G2 documents, and of the parts of them that are passed around without a namespace.
const G2_ROOTS: &[&str] = &[
    "newsItem",
    "packageItem",
    "conceptItem",
    "knowledgeItem",
    "planningItem",
    "catalogItem",
    "newsMessage",
    "itemMeta",
    "contentMeta",
    "partMeta",
    "rightsInfo",
    "contentSet",
    "inlineXML",
    "groupSet",
    "conceptSet",
    "concept",
    "newsCoverageSet",
    "newsCoverage",
    "catalog",
    "itemSet",
];

fn accept_newsml(document: &Document) -> Built {
    let (name, namespace) = (document.name(document.root()), document.namespace(document.root()));
    if namespace == Some(G2_NAMESPACE) || (namespace.is_none() && G2_ROOTS.contains(&name)) {
        return Ok(());
    }
    Err(Fault::malformed(format!("not NewsML-G2: the outermost element is `{}`", shorten(name.as_bytes()))))
}

fn accept_nitf(document: &Document) -> Built {
    if document.descendants(0).any(|node| document.name(node) == "nitf") {
        return Ok(());
    }
    let name = shorten(document.name(document.root()).as_bytes());
    Err(Fault::malformed(format!("there is no `nitf` element in this document, whose outermost element is `{name}`")))
}

/// Elements that are part of a sentence. Every other element is a paragraph of its own: what is not known is not
/// glued together.
const INLINE: &[&str] = &[
    "a",
    "abbr",
    "alt-code",
    "b",
    "big",
    "chron",
    "cite",
    "city",
    "classifier",
    "code",
    "copyrite",
    "country",
    "del",
    "em",
    "event",
    "frac",
    "frac-den",
    "frac-num",
    "frac-sep",
    "function",
    "i",
    "ins",
    "inline",
    "kbd",
    "lang",
    "location",
    "mark",
    "money",
    "name.family",
    "name.given",
    "num",
    "object.title",
    "org",
    "person",
    "postaddr",
    "pronounce",
    "q",
    "region",
    "s",
    "samp",
    "small",
    "span",
    "state",
    "story.date",
    "strong",
    "sub",
    "sublocation",
    "sup",
    "tt",
    "u",
    "virtloc",
];

/// Appends the running text of an article: paragraphs with collapsed white space, a blank line between them.
///
/// It is that of the first `body.content` (NITF), else of the first `inlineXML`, in it of an XHTML `body` where there
/// is one, else of the first `inlineData`.
pub(super) fn body(document: &Document, out: &mut String) {
    let named = |name: &'static str, below: NodeId| document.descendants(below).find(|&n| document.name(n) == name);
    let start = named("body.content", 0)
        .or_else(|| named("inlineXML", 0).map(|inline| named("body", inline).unwrap_or(inline)))
        .or_else(|| named("inlineData", 0));
    let Some(start) = start else { return };
    let mut paragraph = String::new();
    // Block elements that the walk is in, by where they end.
    let mut blocks: Vec<NodeId> = Vec::new();
    for node in document.descendants(start) {
        while blocks.last().is_some_and(|&end| node >= end) {
            blocks.pop();
            flush(&mut paragraph, out);
        }
        if let Some(text) = document.text(node) {
            push_collapsed(text, &mut paragraph);
        } else if !INLINE.contains(&document.name(node)) {
            flush(&mut paragraph, out);
            blocks.push(document.descendants(node).end);
        }
    }
    flush(&mut paragraph, out);
}

fn flush(paragraph: &mut String, out: &mut String) {
    let text = paragraph.trim();
    if !text.is_empty() {
        if !out.is_empty() {
            out.push_str("\n\n");
        }
        out.push_str(text);
    }
    paragraph.clear();
}

#[cfg(test)]
#[path = "presets_tests.rs"]
mod tests;
