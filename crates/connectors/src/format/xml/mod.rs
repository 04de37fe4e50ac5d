//! XML: a document is read into a flat tree, and paths of a mapping lead from it to the fields of one row or more.

mod document;
mod encoding;
mod path;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::{Decoded, Decoder, Failure, FailureKind, Field, FieldType, RawBatch, StreamSchema};

use super::coerce;
use super::columns::{Built, Column, Columns, Fault, Text, decode_each, shorten};
use super::config::XmlField;
use super::presets;

pub(super) use document::{Document, NodeId, push_collapsed};
pub(super) use encoding::feed_text;
use encoding::to_text;
pub(super) use path::{Found, Path};

/// The schema of a mapping. Where a schema is declared, it rules: its fields, in its order, with its types; but it must
/// declare what is mapped and map what is declared.
///
/// # Errors
/// A type is unknown, or schema and mapping do not fit each other.
pub(super) fn mapping_schema(
    fields: &[(String, XmlField)],
    declared: Option<&StreamSchema>,
) -> Result<StreamSchema, String> {
    let mut mapped = Vec::with_capacity(fields.len());
    for (name, field) in fields {
        let in_field = |problem: String| format!("`fields.{name}`: {problem}");
        let (mut kind, optional) = match &field.kind {
            Some(text) => FieldType::parse(text).map_err(in_field)?,
            None => (FieldType::String, false),
        };
        if field.repeated && !matches!(kind, FieldType::List(_)) {
            kind = FieldType::List(Box::new(kind));
        }
        mapped.push(Field { name: name.clone(), kind, optional: optional || field.optional });
    }
    let Some(declared) = declared else { return Ok(StreamSchema { fields: mapped }) };
    for field in &declared.fields {
        let Some(index) = mapped.iter().position(|m| m.name == field.name) else {
            return Err(format!("`{}` is declared, but has no path: add it to `decode.fields`", field.name));
        };
        let (written, repeated) = (fields[index].1.kind.is_some(), fields[index].1.repeated);
        if (written && mapped[index].kind != field.kind) || (repeated && !matches!(field.kind, FieldType::List(_))) {
            return Err(format!(
                "`{}` is declared as {}, but mapped as {}: write the type in one place",
                field.name, field.kind, mapped[index].kind
            ));
        }
    }
    match mapped.iter().find(|m| declared.field(&m.name).is_none()) {
        Some(extra) => Err(format!("`{}` has a path, but is not declared: add it to `schema`", extra.name)),
        None => Ok(declared.clone()),
    }
}

/// Where the value of one field comes from.
#[derive(Debug)]
pub(super) enum Extract {
    /// What the paths lead to: for a list everything, else the first thing that has a text.
    Paths {
        /// Tried in order.
        paths: Vec<Path>,
        /// Used where there is nothing.
        default: Option<String>,
        /// Take what names the thing: `name`, `@qcode`, `@literal`, `@uri`, else its text.
        label: bool,
    },
    /// The name of the outermost element.
    RootName,
    /// The running text of an article; see [`presets::body`].
    Body,
}

/// Decides from its outermost element whether a document is of the kind that a preset reads.
pub(super) type Accept = fn(&Document) -> Built;

/// The decoder of mappings, and of the presets that are mappings.
#[derive(Debug)]
pub(super) struct XmlDecoder {
    fields: StreamSchema,
    schema: SchemaRef,
    /// The element of one row; `None` is the document.
    record: Option<Path>,
    /// By field.
    extracts: Vec<Extract>,
    accept: Option<Accept>,
}

impl XmlDecoder {
    /// A decoder for a mapping; `schema` is what [`mapping_schema`] gave.
    ///
    /// # Errors
    /// A path is no path.
    pub(super) fn new(
        record: Option<&str>,
        fields: &[(String, XmlField)],
        namespaces: &[(String, String)],
        schema: &StreamSchema,
    ) -> Result<Self, String> {
        let record = match record {
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(path) => format!("/{path}"),
            None => "/*".into(),
        };
        let mut extracts = Vec::with_capacity(schema.fields.len());
        for field in &schema.fields {
            let Some((_, mapping)) = fields.iter().find(|(name, _)| *name == field.name) else {
                return Err(format!("`{}` has no path", field.name));
            };
            let path = Path::parse(&mapping.path, namespaces)?;
            extracts.push(Extract::Paths { paths: vec![path], default: mapping.default.clone(), label: false });
        }
        let record = Some(Path::parse(&record, namespaces)?);
        Ok(Self { fields: schema.clone(), schema: schema.arrow(), record, extracts, accept: None })
    }

    /// A decoder that gives one row per document; `extracts` are by field of `schema`, with paths from the document.
    pub(super) fn preset(schema: &StreamSchema, extracts: Vec<Extract>, accept: Accept) -> Self {
        Self { fields: schema.clone(), schema: schema.arrow(), record: None, extracts, accept: Some(accept) }
    }

    fn document(&self, bytes: &[u8], charset: Option<&str>, columns: &mut Columns<'_>, scratch: &mut String) -> Built {
        let text = to_text(bytes, charset)?;
        let document = Document::parse(&text)?;
        if let Some(accept) = self.accept {
            accept(&document)?;
        }
        let mut records = Vec::new();
        match &self.record {
            Some(path) => path.select(&document, 0, &mut records),
            None => records.push(Found::Element(0)),
        }
        let mut rows = 0;
        for record in records {
            let Found::Element(context) = record else { continue };
            rows += 1;
            columns.begin();
            for (index, extract) in self.extracts.iter().enumerate() {
                columns.mark(index);
                extract
                    .push(&document, context, columns.column(index), scratch)
                    .map_err(|fault| fault.within(columns.name(index)))?;
            }
            columns.end()?;
        }
        if rows == 0 {
            let root = shorten(document.name(document.root()).as_bytes());
            return Err(Fault::new(
                FailureKind::MissingField,
                format!("`record` leads to no element of this document, whose outermost element is `{root}`"),
            ));
        }
        Ok(())
    }
}

impl Decoder for XmlDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&self, raw: &RawBatch) -> Decoded {
        let mut scratch = String::new();
        decode_each(raw, &self.fields.fields, &self.schema, &Text::Bytes, |record, columns| {
            self.document(record, raw.charset.as_deref(), columns, &mut scratch)
        })
    }

    fn split(&self, body: Bytes, _charset: Option<&str>) -> Result<RawBatch, Failure> {
        Ok(RawBatch::single(body, "".into()))
    }
}

impl Extract {
    fn push(&self, document: &Document, context: NodeId, column: &mut Column<'_>, scratch: &mut String) -> Built {
        scratch.clear();
        match self {
            Self::RootName => push(column, document.name(document.root())),
            Self::Body => {
                presets::body(document, scratch);
                push(column, scratch)
            }
            Self::Paths { paths, default, label } => {
                let mut found = Vec::new();
                let is_list = matches!(column.kind, FieldType::List(_));
                if is_list {
                    for path in paths {
                        path.select(document, context, &mut found);
                    }
                    return push_list(document, &found, *label, default.as_deref(), column, scratch);
                }
                for path in paths {
                    path.select(document, context, &mut found);
                    for one in found.drain(..) {
                        scratch.clear();
                        text_of(document, one, *label, scratch);
                        if !scratch.is_empty() {
                            return coerce::push_text(column, scratch);
                        }
                        // An element that is there and empty is an empty string, unless a later one has text.
                    }
                }
                match default {
                    Some(default) => coerce::push_text(column, default),
                    None => column.null().map_err(|_| Fault::new(FailureKind::MissingField, "is not there, or empty")),
                }
            }
        }
    }
}

/// An empty text is a null where it may be.
fn push(column: &mut Column<'_>, text: &str) -> Built {
    if text.is_empty() && column.optional { column.null() } else { coerce::push_text(column, text) }
}

fn push_list(
    document: &Document,
    found: &[Found<'_>],
    label: bool,
    default: Option<&str>,
    column: &mut Column<'_>,
    scratch: &mut String,
) -> Built {
    if found.is_empty() && default.is_none() && column.optional {
        return column.null();
    }
    if let Some(items) = column.items() {
        let mut count = 0;
        for &one in found {
            scratch.clear();
            text_of(document, one, label, scratch);
            if !scratch.is_empty() {
                coerce::push_text(items, scratch).map_err(|fault| fault.within_item(count))?;
                count += 1;
            }
        }
        if let (0, Some(default)) = (count, default) {
            coerce::push_text(items, default)?;
        }
    }
    column.end_list();
    Ok(())
}

fn text_of(document: &Document, found: Found<'_>, label: bool, out: &mut String) {
    if let (true, Found::Element(node)) = (label, found) {
        if let Some(name) = document.children(node).find(|&child| document.name(child) == "name") {
            document.collapsed_text(name, out);
        }
        for attribute in ["qcode", "literal", "uri"] {
            if out.is_empty() {
                out.push_str(document.attribute(node, attribute).unwrap_or_default().trim());
            }
        }
        if !out.is_empty() {
            return;
        }
    }
    found.text(document, out);
}

#[cfg(test)]
mod tests;
