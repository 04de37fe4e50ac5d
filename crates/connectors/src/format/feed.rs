//! RSS, Atom and JSON Feed documents, as one kind of entry.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use feed_rs::model::{Entry, Feed, Link, MediaObject, Person};
use feed_rs::parser::{Builder, ParseFeedError, generate_id};
use millstream_core::json::write_timestamp_us;
use millstream_core::{Decoded, Decoder, Failure, FailureKind, Field, FieldType, RawBatch, StreamSchema};
use serde::{Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128;

use super::columns::{Built, Columns, Fault, Text, decode_each};
use super::feed_markup::escape_markup;
use super::json;
use super::xml;

/// One entry of a feed, with what its feed says about itself. The names are those of the `feed` preset's columns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FeedEntry {
    /// The publisher's id; where there is none, a digest of link and title, or of the whole entry.
    pub id: String,
    /// The title.
    pub title: Option<String>,
    /// Where the entry can be read: the link that is no enclosure, no feed and no comment page.
    pub link: Option<String>,
    /// Every link but those to comments.
    pub links: Vec<String>,
    /// A short text.
    pub summary: Option<String>,
    /// The full text, or the address of it.
    pub content: Option<String>,
    /// The first author.
    pub author: Option<String>,
    /// Every author.
    pub authors: Vec<String>,
    /// Categories and tags: the term, not the label.
    pub categories: Vec<String>,
    /// First published, in microseconds since the epoch.
    #[serde(serialize_with = "timestamp")]
    pub published: Option<i64>,
    /// Last changed, in microseconds since the epoch.
    #[serde(serialize_with = "timestamp")]
    pub updated: Option<i64>,
    /// The entry's language, or the feed's.
    pub language: Option<String>,
    /// The feed's title.
    pub feed_title: Option<String>,
    /// Where the feed was read from, or where it says it belongs.
    pub feed_url: Option<String>,
    /// Addresses of pictures, sound and video.
    pub media: Vec<String>,
}

/// Reads a feed. The same bytes and address give the same entries, in the order of the document.
///
/// `url` is what relative links are resolved against; entities that the document declares itself are not accepted.
///
/// # Errors
/// `malformed`: the bytes are no feed; `encoding`: they are not of the encoding that they declare.
pub fn parse_feed(bytes: &[u8], url: Option<&str>) -> Result<Vec<FeedEntry>, Failure> {
    read(bytes, url).map_err(Failure::from)
}

/// The columns of the `feed` preset, and of the records of a `feed` source: all but `id` are optional.
pub fn entry_schema() -> StreamSchema {
    let text = FieldType::String;
    let list = FieldType::List(Box::new(FieldType::String));
    let fields = [
        ("id", &text),
        ("title", &text),
        ("link", &text),
        ("links", &list),
        ("summary", &text),
        ("content", &text),
        ("author", &text),
        ("authors", &list),
        ("categories", &list),
        ("published", &FieldType::Timestamp),
        ("updated", &FieldType::Timestamp),
        ("language", &text),
        ("feed_title", &text),
        ("feed_url", &text),
        ("media", &list),
    ];
    let fields = fields.map(|(name, kind)| Field { name: name.into(), kind: kind.clone(), optional: name != "id" });
    StreamSchema { fields: fields.into() }
}

/// The schema of the records of a `feed` source: all of [`entry_schema`], or the fields that are declared. A timestamp may
/// be declared as the text that it is in the record, and anything as `json`.
///
/// # Errors
/// A declared field is none of a feed's, or of another type.
pub fn record_schema(declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
    let all = entry_schema();
    let Some(declared) = declared else { return Ok(all) };
    for (i, field) in declared.fields.iter().enumerate() {
        let Some(known) = all.field(&field.name) else {
            let known: Vec<_> = all.fields.iter().map(|f| f.name.as_str()).collect();
            return Err(format!("the entries of a feed have no field `{}`: they have {}", field.name, known.join(", ")));
        };
        let fits = match field.kind {
            FieldType::Json => true,
            FieldType::String => matches!(known.kind, FieldType::String | FieldType::Timestamp),
            _ => field.kind == known.kind,
        };
        if !fits {
            return Err(format!("`{}` of a feed's entry is {}, not {}", field.name, known.kind, field.kind));
        }
        if declared.fields[..i].iter().any(|f| f.name == field.name) {
            return Err(format!("the schema names `{}` twice", field.name));
        }
    }
    if declared.fields.is_empty() { Err("the schema has no field".into()) } else { Ok(declared.clone()) }
}

impl FeedEntry {
    /// The entry as one JSON object, a record that `decode: json` reads with [`entry_schema`].
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default() // Strings and numbers always serialise.
    }

    fn push(&self, columns: &mut Columns<'_>, index: usize) -> Built {
        let text = match columns.name(index) {
            "id" => Some(&self.id),
            "title" => self.title.as_ref(),
            "link" => self.link.as_ref(),
            "summary" => self.summary.as_ref(),
            "content" => self.content.as_ref(),
            "author" => self.author.as_ref(),
            "language" => self.language.as_ref(),
            "feed_title" => self.feed_title.as_ref(),
            "feed_url" => self.feed_url.as_ref(),
            "published" => return push_time(columns, index, self.published),
            "updated" => return push_time(columns, index, self.updated),
            "links" => return push_list(columns, index, &self.links),
            "authors" => return push_list(columns, index, &self.authors),
            "categories" => return push_list(columns, index, &self.categories),
            _ => return push_list(columns, index, &self.media),
        };
        match text {
            Some(text) => columns.column(index).push_bytes(text.as_bytes()),
            None => columns.column(index).null(),
        }
    }
}

fn push_time(columns: &mut Columns<'_>, index: usize, us: Option<i64>) -> Built {
    match us {
        Some(us) => {
            columns.column(index).push_int(us);
            Ok(())
        }
        None => columns.column(index).null(),
    }
}

fn push_list(columns: &mut Columns<'_>, index: usize, values: &[String]) -> Built {
    let column = columns.column(index);
    if let Some(items) = column.items() {
        for value in values {
            items.push_bytes(value.as_bytes())?;
        }
    }
    column.end_list();
    Ok(())
}

/// The decoder of `preset: feed`.
#[derive(Debug)]
pub(super) struct FeedDecoder {
    fields: StreamSchema,
    schema: SchemaRef,
}

impl FeedDecoder {
    pub(super) fn new(schema: &StreamSchema) -> Self {
        Self { fields: schema.clone(), schema: schema.arrow() }
    }
}

impl Decoder for FeedDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&self, raw: &RawBatch) -> Decoded {
        let url = (raw.origin.starts_with("http://") || raw.origin.starts_with("https://")).then_some(&*raw.origin);
        decode_each(raw, &self.fields.fields, &self.schema, &Text::Bytes, |record, columns| {
            for entry in read(record, url)? {
                columns.begin();
                for index in 0..self.fields.fields.len() {
                    columns.mark(index);
                    entry.push(columns, index).map_err(|fault| fault.within(columns.name(index)))?;
                }
                columns.end()?;
            }
            Ok(())
        })
    }

    fn split(&self, body: Bytes) -> Result<RawBatch, Failure> {
        Ok(RawBatch::single(body, "".into()))
    }
}

fn read(bytes: &[u8], url: Option<&str>) -> Built<Vec<FeedEntry>> {
    let bytes = prepare(bytes)?;
    let parser = Builder::new()
        .base_uri(url)
        .sanitize_content(false)
        // The default falls back to a random id, and the same bytes must give the same rows.
        .id_generator(|links, title, uri| match (links, title, uri) {
            ([], None, _) | ([], _, None) => String::new(),
            _ => generate_id(links, title, uri),
        })
        .build();
    // The feed parser unwraps a few numbers of the document (`<itunes:duration>99999999999999999999</…>`), and no
    // document may stop a pipeline. It keeps no state that could be left broken.
    let parsed = catch_unwind(AssertUnwindSafe(|| parser.parse(bytes.as_ref())));
    let parsed = parsed.map_err(|_| Fault::malformed("not a readable feed: the feed parser fails on it"))?;
    let feed = parsed.map_err(|e| match e {
        ParseFeedError::IoError(e) => Fault::new(FailureKind::Encoding, format!("not readable as text: {e}")),
        e => Fault::malformed(format!("not an RSS, Atom or JSON feed: {e}")),
    })?;
    Ok(entries(feed, url))
}

/// Refuses what the feed parser would read too generously or too deeply, and mends what it would cut off.
fn prepare(bytes: &[u8]) -> Built<Cow<'_, [u8]>> {
    if let Some(b'{') = bytes.iter().find(|byte| matches!(byte, b'<' | b'{')) {
        json::check_depth(bytes)?;
        return Ok(Cow::Borrowed(bytes));
    }
    let text = xml::to_text(bytes)?;
    xml::check_bounds(&text)?;
    Ok(escape_markup(&text).map_or(Cow::Borrowed(bytes), Cow::Owned))
}

fn entries(feed: Feed, url: Option<&str>) -> Vec<FeedEntry> {
    let feed_title = feed.title.map(|t| t.content);
    let own = feed.links.iter().find(|l| l.rel.as_deref() == Some("self")).or(feed.links.first());
    let feed_url = url.map(str::to_owned).or_else(|| own.map(|l| l.href.clone()));
    let (language, feed_authors) = (feed.language, feed.authors);
    feed.entries
        .into_iter()
        .map(|mut entry| {
            if entry.authors.is_empty() {
                entry.authors.clone_from(&feed_authors);
            }
            let mut entry = one(entry);
            entry.language = entry.language.or_else(|| language.clone());
            entry.feed_title.clone_from(&feed_title);
            entry.feed_url.clone_from(&feed_url);
            if entry.id.is_empty() {
                entry.id = format!("{:032x}", xxh3_128(&entry.to_json()));
            }
            entry
        })
        .collect()
}

fn one(mut entry: Entry) -> FeedEntry {
    // A target is only given to links that lead to comments.
    entry.links.retain(|link| link.target.is_none());
    let link = main_link(&entry.links).map(|link| link.href.clone());
    let mut media: Vec<String> = Vec::new();
    let enclosures = entry.links.iter().filter(|l| l.rel.as_deref() == Some("enclosure")).map(|l| l.href.clone());
    for address in entry.media.iter().flat_map(media_addresses).chain(enclosures) {
        if !media.contains(&address) {
            media.push(address);
        }
    }
    let authors: Vec<String> = entry.authors.into_iter().filter_map(person).collect();
    let content = entry.content.and_then(|content| content.body.or(content.src.map(|link| link.href)));
    FeedEntry {
        id: entry.id,
        title: entry.title.map(|t| t.content),
        link,
        links: entry.links.into_iter().map(|l| l.href).collect(),
        summary: entry.summary.map(|t| t.content),
        content,
        author: authors.first().cloned(),
        authors,
        categories: entry.categories.into_iter().map(|c| c.term).collect(),
        published: entry.published.map(|t| t.timestamp_micros()),
        updated: entry.updated.map(|t| t.timestamp_micros()),
        language: entry.language,
        feed_title: None,
        feed_url: None,
        media,
    }
}

/// The alternate link, or the first one that leads to a page.
fn main_link(links: &[Link]) -> Option<&Link> {
    let rel = |link: &Link, wanted: &str| link.rel.as_deref() == Some(wanted);
    let page = |link: &&Link| !["self", "enclosure", "replies", "edit", "via", "hub"].iter().any(|r| rel(link, r));
    links.iter().find(|link| rel(link, "alternate")).or_else(|| links.iter().find(page)).or(links.first())
}

fn person(person: Person) -> Option<String> {
    person.name.or(person.email).or(person.uri).filter(|name| !name.is_empty())
}

fn media_addresses(media: &MediaObject) -> impl Iterator<Item = String> + '_ {
    let contents = media.content.iter().filter_map(|content| content.url.as_ref().map(ToString::to_string));
    contents.chain(media.thumbnails.iter().map(|thumbnail| thumbnail.image.uri.clone()))
}

fn timestamp<S: Serializer>(us: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    match us {
        None => serializer.serialize_none(),
        Some(us) => {
            let mut text = Vec::new();
            write_timestamp_us(*us, &mut text);
            serializer.serialize_str(&String::from_utf8_lossy(&text))
        }
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
