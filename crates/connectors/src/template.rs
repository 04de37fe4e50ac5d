//! Text with columns in it: `{sentiment.label}`, `orders.{country}`. `{{` and `}}` stand for the braces themselves.
//!
//! A path names a column, and below it the fields of structs. On a change stream a path that does not begin with `op`,
//! `ts`, `key`, `old` or `new` is looked up in the new image, or, of a delete, in the old one. A null is written
//! `null`, a moment as in JSON but without quotes, a list or an object as JSON.
//!
//! A template is made for a [`Place`], which says what a record's value must not do there.

mod place;

use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use millstream_core::Result;
use millstream_core::json::ValueWriter;

pub use self::place::{Place, SHORT_STRING_MAX};
use crate::payload::is_change_stream;

/// A text with columns to fill in, checked against a schema, for one place.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    place: Place,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Column indices from the outermost to the value.
    Column(Vec<usize>),
    /// The same below `new`, and below `old` where a row has no new image.
    Image(Vec<usize>),
}

/// Columns of a change stream.
const OLD: usize = 3;
const NEW: usize = 4;

impl Template {
    /// Reads a template for rows with the columns of `schema`, whose text goes to `place`.
    ///
    /// # Errors
    /// A brace without its partner, or a path that names no column; the message names the nearest one there is.
    pub fn parse(text: &str, schema: &Schema, place: Place) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                literal.push_str(&rest[..1]);
                rest = &rest[2..];
            } else if let Some(inner) = rest.strip_prefix('{') {
                let end = inner.find('}').ok_or("has a `{` without its `}`: write `{{` for the brace itself")?;
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(resolve(inner[..end].trim(), schema)?);
                rest = &inner[end + 1..];
            } else {
                return Err("has a `}` without its `{`: write `}}` for the brace itself".into());
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts, place })
    }

    /// A column's value, and nothing else.
    pub(crate) fn column(index: usize, place: Place) -> Self {
        Self { parts: vec![Part::Column(vec![index])], place }
    }

    /// True where the text is the same for every row.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|p| matches!(p, Part::Text(_)))
    }

    /// True where the columns of a URL all stand behind its host: none of them can send the request elsewhere.
    pub(crate) fn has_fixed_host(&self) -> bool {
        let begins = match self.parts.first() {
            Some(Part::Text(text)) => text.as_str(),
            _ => return self.parts.is_empty(),
        };
        let authority = begins.split_once("://").map(|(_, rest)| rest);
        self.is_constant() || authority.is_some_and(|rest| rest.contains(['/', '?', '#']))
    }

    /// The text with `x` for every value, to check its form.
    pub(crate) fn sample(&self) -> String {
        self.parts.iter().map(|p| if let Part::Text(text) = p { text.as_str() } else { "x" }).collect()
    }

    /// Binds the columns of a batch, which has the schema that the template was read for.
    ///
    /// # Errors
    /// A column's type has no text form at all.
    pub fn bind<'a>(&'a self, batch: &'a RecordBatch) -> Result<BoundTemplate<'a>> {
        let parts = self.parts.iter().map(|part| {
            Ok(match part {
                Part::Text(text) => BoundPart::Text(text),
                Part::Column(path) => BoundPart::Column(Value::bind(batch, path)?),
                Part::Image(path) => BoundPart::Image {
                    new: batch.column(NEW).as_ref(),
                    of_new: Value::bind(batch, &below(NEW, path))?,
                    of_old: if has_image(batch.schema_ref(), OLD) {
                        Some(Value::bind(batch, &below(OLD, path))?)
                    } else {
                        None
                    },
                },
            })
        });
        Ok(BoundTemplate { parts: parts.collect::<Result<_>>()?, place: self.place })
    }
}

/// The text itself may be a secret (a URL).
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({} parts)", self.parts.len())
    }
}

/// A template and the columns of one batch.
pub struct BoundTemplate<'a> {
    parts: Vec<BoundPart<'a>>,
    place: Place,
}

enum BoundPart<'a> {
    Text(&'a str),
    Column(Value<'a>),
    Image { new: &'a dyn Array, of_new: Value<'a>, of_old: Option<Value<'a>> },
}

impl BoundTemplate<'_> {
    /// The text of row `row`.
    ///
    /// # Errors
    /// With this row's values it can't go to its place; the message says why, without the values.
    pub fn render(&self, row: usize) -> Result<String, String> {
        let mut filled = place::Filled::new(self.place, self.parts.len());
        let mut scratch = Vec::new();
        for part in &self.parts {
            match part.value(row) {
                Ok(text) => filled.push_text(text),
                Err(value) => value.with_text(row, &mut scratch, |text| filled.push_value(text)),
            }
        }
        filled.finish()
    }

    /// The same with `***` for the template's own text, which may be a secret.
    ///
    /// # Errors
    /// As of [`BoundTemplate::render`].
    pub fn render_hidden(&self, row: usize) -> Result<String, String> {
        self.render(row)?;
        let mut filled = place::Filled::new(Place::Text, self.parts.len());
        let mut scratch = Vec::new();
        for part in &self.parts {
            match part.value(row) {
                Ok(_) => filled.push_text("***"),
                Err(value) => value.with_text(row, &mut scratch, |text| filled.push_value(&self.place.escape(text))),
            }
        }
        filled.finish()
    }
}

impl<'a> BoundPart<'a> {
    /// The text of the template, or what stands for it in row `row`.
    fn value(&self, row: usize) -> Result<&'a str, &Value<'a>> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Column(value) => Err(value),
            Self::Image { new, of_new, of_old } => Err(match of_old {
                Some(of_old) if new.is_null(row) => of_old,
                _ => of_new,
            }),
        }
    }
}

impl fmt::Debug for BoundTemplate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BoundTemplate({} parts)", self.parts.len())
    }
}

/// A column, and the structs around it, whose nulls are its nulls too.
struct Value<'a> {
    parents: Vec<&'a dyn Array>,
    array: &'a ArrayRef,
    writer: ValueWriter<'a>,
}

impl<'a> Value<'a> {
    fn bind(batch: &'a RecordBatch, path: &[usize]) -> Result<Self> {
        let mut array = batch.column(path[0]);
        let mut field: &Field = batch.schema_ref().fields()[path[0]].as_ref();
        let mut parents: Vec<&dyn Array> = Vec::new();
        for &index in &path[1..] {
            parents.push(array.as_ref());
            if let DataType::Struct(fields) = field.data_type() {
                field = fields[index].as_ref();
            }
            array = array.as_struct().column(index);
        }
        Ok(Self { parents, array, writer: ValueWriter::bind(array.as_ref(), field)? })
    }

    /// Gives the text of a value to `take`; `scratch` is room to write it in.
    fn with_text(&self, row: usize, scratch: &mut Vec<u8>, take: impl FnOnce(&str)) {
        if self.parents.iter().any(|p| p.is_null(row)) || self.array.is_null(row) {
            return take("null");
        }
        match self.array.data_type() {
            DataType::Utf8 => take(self.array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => take(self.array.as_string::<i64>().value(row)),
            DataType::Utf8View => take(self.array.as_string_view().value(row)),
            nested => {
                let keep_quotes = nested.is_nested();
                scratch.clear();
                self.writer.write(row, scratch);
                let text = std::str::from_utf8(scratch).unwrap_or("null"); // JSON is UTF-8.
                match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
                    Some(inner) if !keep_quotes => take(inner),
                    _ => take(text),
                }
            }
        }
    }
}

fn below(column: usize, path: &[usize]) -> Vec<usize> {
    std::iter::once(column).chain(path.iter().copied()).collect()
}

/// True where images of this kind are structs (the old one of an insert-only stream may be no struct).
fn has_image(schema: &Schema, column: usize) -> bool {
    matches!(schema.field(column).data_type(), DataType::Struct(_))
        && schema.field(column).data_type() == schema.field(NEW).data_type()
}

fn resolve(path: &str, schema: &Schema) -> Result<Part, String> {
    if path.is_empty() {
        return Err("has `{}` without a column: write `{name}`, or `{{}}` for the braces themselves".into());
    }
    let first = path.split('.').next().unwrap_or(path);
    let direct = schema.fields().iter().any(|f| f.name() == first || f.name() == path);
    match schema.fields().get(NEW).map(|f| f.data_type()) {
        Some(DataType::Struct(image)) if !direct && is_change_stream(schema) => {
            let names = || image.iter().chain(schema.fields().iter());
            Ok(Part::Image(walk(path, image, names())?))
        }
        _ => Ok(Part::Column(walk(path, schema.fields(), schema.fields().iter())?)),
    }
}

/// The indices along `path`. A column whose own name has dots in it is found by its whole name. `known` is what to
/// suggest instead of an unknown first name.
fn walk<'f>(path: &str, fields: &'f Fields, known: impl Iterator<Item = &'f FieldRef>) -> Result<Vec<usize>, String> {
    if let Some(index) = fields.iter().position(|f| f.name() == path) {
        return Ok(vec![index]);
    }
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let Some(index) = fields.iter().position(|f| f.name() == first) else {
        let known: Vec<&str> = known.map(|f| f.name().as_str()).collect();
        return Err(format!("names `{first}`, which is no column{}", nearest(first, &known)));
    };
    let mut indices = vec![index];
    if let Some(rest) = rest {
        match fields[index].data_type() {
            DataType::Struct(inner) => indices.extend(walk(rest, inner, inner.iter())?),
            _ => return Err(format!("names `{path}`, but `{first}` has no fields: write `{{{first}}}`")),
        }
    }
    Ok(indices)
}

/// "did you mean …" and the list of what there is.
pub(crate) fn nearest(name: &str, known: &[&str]) -> String {
    let lower = name.to_lowercase();
    let score = |k: &str| strsim::jaro_winkler(&lower, &k.to_lowercase());
    let best = known.iter().map(|&k| (score(k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    let guess = match best {
        Some((score, k)) if score > 0.75 => format!("; did you mean `{k}`?"),
        _ => String::new(),
    };
    format!("{guess} (there are: {})", known.join(", "))
}

#[cfg(test)]
mod tests;
