//! RSS, Atom and JSON Feed documents, as one kind of entry.
//!
//! The readers below are of our own, and refuse nothing that says anything: see `docs/adr/0005-feeds.md`.

mod entities;
mod entry;
mod json_feed;
mod markup;
mod names;
mod person;
mod text;
mod tree;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::json::write_timestamp_us;
use millstream_core::{Decoded, Decoder, Failure, FailureKind, Field, FieldType, RawBatch, StreamSchema};
use serde::{Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128;

use super::columns::{Built, Columns, Fault, Text, decode_each, shorten};
use super::xml::feed_text;
use entry::Reader;
use tree::Tree;

/// One entry of a feed, with what its feed says about itself. The names are those of the `feed` preset's columns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FeedEntry {
    /// The publisher's id; where there is none, a digest of link and title, or of the whole entry.
    pub id: String,
    /// The title.
    pub title: Option<String>,
    /// Where the entry can be read: the link that is no enclosure, no feed and no comment page, or where there is none,
    /// a guid that is a permalink.
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
    /// Where the feed says itself that it is, or belongs.
    #[serde(skip)]
    pub own_url: Option<String>,
    /// Addresses of pictures, sound and video.
    pub media: Vec<String>,
}

/// Reads a feed. The same bytes, address and encoding give the same entries, in the order of the document.
///
/// `url` is what relative links are resolved against; `charset` is the encoding that came with the bytes, in the
/// `Content-Type` of an HTTP answer. Entities that the document declares itself are not expanded.
///
/// # Errors
/// `malformed`: nothing can be read of the bytes; `encoding`: for they declare an encoding that is unknown.
pub fn parse_feed(bytes: &[u8], url: Option<&str>, charset: Option<&str>) -> Result<Vec<FeedEntry>, Failure> {
    read(bytes, url, charset).map_err(Failure::from)
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

/// The schema of the records of a `feed` source: all of [`entry_schema`], or the fields that are declared. A timestamp
/// may be declared as the text that it is in the record, and anything as `json`.
///
/// # Errors
/// A declared field is none of a feed's, or of another type.
pub fn record_schema(declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
    let all = entry_schema();
    let Some(declared) = declared else { return Ok(all) };
    for (i, field) in declared.fields.iter().enumerate() {
        let Some(known) = all.field(&field.name) else {
            let known: Vec<_> = all.fields.iter().map(|f| f.name.as_str()).collect();
            let near = known.iter().find(|name| strsim::jaro_winkler(name, &field.name) > 0.85);
            let hint = near.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
            let known = known.join(", ");
            return Err(format!("the entries of a feed have no field `{}`: they have {known}{hint}", field.name));
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
            for entry in read(record, url, raw.charset.as_deref())? {
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

    fn split(&self, body: Bytes, _charset: Option<&str>) -> Result<RawBatch, Failure> {
        Ok(RawBatch::single(body, "".into()))
    }
}

fn read(bytes: &[u8], url: Option<&str>, charset: Option<&str>) -> Built<Vec<FeedEntry>> {
    let (text, unknown_encoding) = feed_text(bytes, charset);
    let refused = |message: String| match unknown_encoding {
        Some(label) => Fault::new(
            FailureKind::Encoding,
            format!("unknown encoding `{}`, and {message}", shorten(label.as_bytes())),
        ),
        None => Fault::malformed(message),
    };
    let (mut entries, about) = match text.bytes().find(|byte| matches!(byte, b'<' | b'{')) {
        Some(b'{') => json_feed::read(&text, url).map_err(refused)?,
        Some(_) => read_xml(&text, url).map_err(refused)?,
        None => return Err(refused("this is no feed: neither XML nor JSON".into())),
    };
    about.complete(&mut entries, url);
    Ok(entries)
}

fn read_xml(text: &str, url: Option<&str>) -> Result<(Vec<FeedEntry>, entry::About), String> {
    if u32::try_from(text.len()).is_err() {
        return Err("a document can't be larger than 4 GiB".into());
    }
    let tree = Tree::parse(text);
    if tree.has_nested_entities {
        return Err("entity declarations are not accepted".into());
    }
    let Some(reader) = Reader::new(&tree, url) else {
        return Err(match tree.elements(0).next() {
            Some(root) => format!(
                "not an RSS, Atom or JSON feed: the outermost element is `{}`",
                shorten(tree.full_name(root).as_bytes())
            ),
            None => "not an RSS, Atom or JSON feed: there is no element".into(),
        });
    };
    let (entries, empty) = reader.entries();
    let about = reader.about();
    match (entries.is_empty(), empty) {
        (false, _) => Ok((entries, about)),
        (true, 1..) => Err("none of the entries of this feed says anything".into()),
        (true, 0) if tree.is_broken => Err("the document is damaged, and no entry can be found in it".into()),
        (true, 0) if about.is_feed => Ok((entries, about)),
        (true, 0) => Err("not an RSS, Atom or JSON feed: there is neither a channel nor an entry in it".into()),
    }
}

/// An id for an entry that has none: of link and title, or of all that it says.
fn digest(entry: &FeedEntry, url: Option<&str>) -> String {
    let place = entry.links.first().map(String::as_str).or(url.filter(|_| entry.title.is_some()));
    let hash = match place {
        Some(place) => xxh3_128(format!("{place}\0{}", entry.title.as_deref().unwrap_or_default()).as_bytes()),
        None => xxh3_128(&entry.to_json()),
    };
    format!("{hash:032x}")
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
mod odd_tests;
#[cfg(test)]
mod tests;
