//! JSON by path, as SQL:2016 has it: `JSON_VALUE`, `JSON_QUERY` and `JSON_EXISTS`; and `dynamodb_json`.
//!
//! A path ([`path`]) is read once for each batch where it is constant, and followed in the text itself ([`find`]); what
//! stands behind it (`DEFAULT 0 ON EMPTY`) reaches the functions as a text ([`clauses`]).

mod clauses;
mod dynamodb;
mod find;
mod path;

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Float64Builder, Int64Builder, StringArray, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_functions_json::{JSON_UNION_DATA_TYPE, udfs};
use jiter::Jiter;
use millstream_core::schema::TYPE_KEY;

use self::clauses::{Clauses, Instead, Kind, Returning, Wrapper};
use self::find::{Trouble, find};
use self::path::Path;

pub(crate) use clauses::rewritten;

/// The functions.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    let by_path = Kind::ALL.map(|kind| ScalarUDF::from(ByPath::new(kind)));
    by_path.into_iter().chain([dynamodb::DynamodbJson::new().into()]).map(Arc::new).collect()
}

/// True where a row can fail in a call of the function `name`; none where it is not one of the three with a path.
pub(crate) fn can_fail(name: &str, args: &[Expr]) -> Option<bool> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
    let text = |at: usize| match args.get(at) {
        Some(Expr::Literal(value, _)) => value.try_as_str().flatten(),
        _ => None,
    };
    // A path that is no constant may be none.
    let has_path = text(1).is_some_and(|path| Path::read(path).is_ok());
    let clauses = match args.len() {
        2 => Ok(Clauses::none(kind)),
        _ => Clauses::read(kind, text(2).unwrap_or_default()),
    };
    Some(!has_path || clauses.map_or(true, |clauses| clauses.can_fail()))
}

/// One of the functions with a path.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ByPath {
    kind: Kind,
    signature: Signature,
}

impl ByPath {
    fn new(kind: Kind) -> Self {
        Self { kind, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn clauses(&self, text: Option<&str>) -> Result<Clauses, String> {
        text.map_or_else(|| Ok(Clauses::none(self.kind)), |text| Clauses::read(self.kind, text))
    }
}

impl ScalarUDFImpl for ByPath {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let (document, texts) = match types {
            [document, texts @ ..] if (1..=2).contains(&texts.len()) => (document, texts),
            _ => return plan_err!("{name} takes json and a path: {name}(payload, '$.name')"),
        };
        let Some(document) = readable(document) else {
            return plan_err!("{name} takes json or a string, not {document}");
        };
        match texts.iter().find(|kind| !is_text(kind)) {
            Some(other) => plan_err!("{name} takes a path as text, not {other}"),
            None => Ok(std::iter::once(document).chain(texts.iter().map(|_| DataType::Utf8)).collect()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let constant = |at: usize| args.scalar_arguments.get(at).copied().flatten();
        let text = |at| constant(at).and_then(|value| value.try_as_str().flatten());
        if let Some(Err(wrong)) = text(1).map(Path::read) {
            return plan_err!("{wrong}");
        }
        if args.arg_fields.len() == 3 && text(2).is_none() {
            return plan_err!("{} takes a constant behind the path", self.name());
        }
        let clauses = match self.clauses(text(2)) {
            Ok(clauses) => clauses,
            Err(wrong) => return plan_err!("{wrong}"),
        };
        Ok(Arc::new(match self.kind {
            Kind::Exists => Field::new(self.name(), DataType::Boolean, true),
            Kind::Query => json_field(self.name()),
            Kind::Value => Field::new(self.name(), data_type(clauses.returning), true),
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [document, path, rest @ ..] = args.args.as_slice() else {
            return exec_err!("{} takes json and a path", self.name());
        };
        let clauses = match rest {
            [ColumnarValue::Scalar(text)] => self.clauses(text.try_as_str().flatten()),
            _ => self.clauses(None),
        };
        let clauses = clauses.or_else(|wrong| exec_err!("{wrong}"))?;
        let is_constant = [document, path].iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let documents = texts(document, rows)?;
        let mut paths = Paths::new(path, rows)?;
        let mut out = Output::new(self.kind, clauses.returning, rows);
        for row in 0..rows {
            match (documents.is_valid(row), paths.at(row)?) {
                (true, Some(path)) => self.answer(documents.value(row), path, &clauses, &mut out)?,
                _ => out.push_null(),
            }
        }
        finished(out.finish(), is_constant)
    }
}

impl ByPath {
    /// Adds what is found in one document.
    fn answer(&self, document: &str, path: &Path, clauses: &Clauses, out: &mut Output) -> Result<()> {
        let done = match self.kind {
            Kind::Exists => {
                let mut exists = false;
                find(path, document, &mut |_| exists = true).map_err(Why::from).map(|()| out.push_truth(exists))
            }
            Kind::Value => value(document, path, out),
            Kind::Query => query(document, path, clauses.wrapper, out),
        };
        let Err(why) = done else { return Ok(()) };
        let (instead, end) = match why {
            Why::Empty => (&clauses.on_empty, "ON EMPTY"),
            _ => (&clauses.on_error, "ON ERROR"),
        };
        match instead {
            Instead::Null | Instead::Unknown => out.push_null(),
            Instead::Default(text) => out.push_default(text),
            Instead::Empty(text) => out.push_text(text),
            Instead::Truth(truth) => out.push_truth(*truth),
            Instead::Error => return exec_err!("{}: {} (ERROR {end})", self.name(), why.words()),
        }
        Ok(())
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy)]
enum Why {
    Trouble(Trouble),
    Empty,
    Several,
    /// An object or array in the place of a value.
    NoScalar,
    /// A value in the place of an object or array.
    Scalar,
    Type(Returning),
}

impl From<Trouble> for Why {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Why {
    fn words(self) -> &'static str {
        match self {
            Self::Trouble(Trouble::Malformed) => "a text is no JSON",
            Self::Trouble(Trouble::Unlike) => "the document is not built as the strict path has it",
            Self::Empty => "the path leads to nothing",
            Self::Several => "the path leads to more than one value",
            Self::NoScalar => "the path leads to an object or array, which JSON_QUERY takes",
            Self::Scalar => "the path leads to a value that is no object and no array, which JSON_VALUE takes",
            Self::Type(Returning::Int) => "the value is no int",
            Self::Type(Returning::Float) => "the value is no float",
            Self::Type(Returning::Bool) => "the value is neither true nor false",
            Self::Type(Returning::String) => "the value is no string",
        }
    }
}

/// Adds the one value that `path` leads to.
fn value(document: &str, path: &Path, out: &mut Output) -> Result<(), Why> {
    let (mut first, mut count) = (None, 0_usize);
    find(path, document, &mut |text| {
        first = first.or(Some(text));
        count += 1;
    })?;
    match first {
        None => Err(Why::Empty),
        Some(_) if count > 1 => Err(Why::Several),
        Some(text) if text.starts_with(['{', '[']) => Err(Why::NoScalar),
        Some("null") => {
            out.push_null();
            Ok(())
        }
        Some(text) if text.starts_with('"') => {
            let mut json = Jiter::new(text.as_bytes());
            out.push_scalar(json.next_str().map_err(|_| Trouble::Malformed)?)
        }
        Some(text) => out.push_scalar(text),
    }
}

/// Adds what `path` leads to as JSON.
fn query(document: &str, path: &Path, wrapper: Wrapper, out: &mut Output) -> Result<(), Why> {
    let Output::Text(out) = out else { return Err(Why::Scalar) };
    let (mut first, mut count) = (None, 0_usize);
    find(path, document, &mut |text| {
        first = first.or(Some(text));
        count += 1;
    })?;
    let Some(first) = first else { return Err(Why::Empty) };
    let is_one = count == 1 && first.starts_with(['{', '[']);
    match wrapper {
        Wrapper::Never | Wrapper::Conditional if is_one => {
            out.append_value(first);
            return Ok(());
        }
        Wrapper::Never if count > 1 => return Err(Why::Several),
        Wrapper::Never => return Err(Why::Scalar),
        Wrapper::Conditional | Wrapper::Always => {}
    }
    // What is written to a builder stays in it, and nothing can fail any more: the document has been read.
    let mut separator = "[";
    let mut write = |text: &str| {
        let written = out.write_str(separator).and_then(|()| out.write_str(text));
        separator = ",";
        // Writing to memory never fails.
        written.unwrap_or_default();
    };
    if count == 1 {
        write(first);
    } else {
        find(path, document, &mut write)?;
    }
    out.append_value("]");
    Ok(())
}

/// The values of a batch.
enum Output {
    Text(StringBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
}

impl Output {
    fn new(kind: Kind, returning: Returning, rows: usize) -> Self {
        match (kind, returning) {
            (Kind::Exists, _) | (Kind::Value, Returning::Bool) => Self::Bool(BooleanBuilder::with_capacity(rows)),
            (Kind::Value, Returning::Int) => Self::Int(Int64Builder::with_capacity(rows)),
            (Kind::Value, Returning::Float) => Self::Float(Float64Builder::with_capacity(rows)),
            _ => Self::Text(StringBuilder::with_capacity(rows, rows * 8)),
        }
    }

    fn push_null(&mut self) {
        match self {
            Self::Text(out) => out.append_null(),
            Self::Int(out) => out.append_null(),
            Self::Float(out) => out.append_null(),
            Self::Bool(out) => out.append_null(),
        }
    }

    fn push_text(&mut self, text: &str) {
        match self {
            Self::Text(out) => out.append_value(text),
            other => other.push_null(),
        }
    }

    fn push_truth(&mut self, truth: bool) {
        match self {
            Self::Bool(out) => out.append_value(truth),
            other => other.push_null(),
        }
    }

    /// Of this type already: that was checked where it was written.
    fn push_default(&mut self, text: &str) {
        if self.push_scalar(text).is_err() {
            self.push_null();
        }
    }

    /// Adds a value, read as the type of the column.
    fn push_scalar(&mut self, text: &str) -> Result<(), Why> {
        match self {
            Self::Text(out) => out.append_value(text),
            Self::Int(out) => out.append_value(int(text).ok_or(Why::Type(Returning::Int))?),
            Self::Float(out) => {
                let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
                out.append_value(number.ok_or(Why::Type(Returning::Float))?);
            }
            Self::Bool(out) => out.append_value(text.parse().map_err(|_| Why::Type(Returning::Bool))?),
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut out) => Arc::new(out.finish()),
            Self::Int(mut out) => Arc::new(out.finish()),
            Self::Float(mut out) => Arc::new(out.finish()),
            Self::Bool(mut out) => Arc::new(out.finish()),
        }
    }
}

/// A whole number, also where it is written as `7.0` or `1e3`.
fn int(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let number: f64 = text.parse().ok()?;
    // From 2^53 on the float that was read may be another number.
    (number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0).then_some(number as i64)
}

/// The paths of a batch.
enum Paths {
    /// The same for all rows; none where it is null.
    One(Option<Path>),
    /// One for each row, and the last that was read.
    Each(StringArray, Option<(usize, Path)>),
}

impl Paths {
    fn new(value: &ColumnarValue, rows: usize) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Scalar(scalar) => Self::One(scalar.try_as_str().flatten().map(read_path).transpose()?),
            ColumnarValue::Array(_) => Self::Each(texts(value, rows)?, None),
        })
    }

    fn at(&mut self, row: usize) -> Result<Option<&Path>> {
        match self {
            Self::One(path) => Ok(path.as_ref()),
            Self::Each(texts, _) if texts.is_null(row) => Ok(None),
            Self::Each(texts, last) => {
                let is_known = last.as_ref().is_some_and(|(at, _)| texts.value(*at) == texts.value(row));
                if !is_known {
                    *last = Some((row, read_path(texts.value(row))?));
                }
                Ok(last.as_ref().map(|(_, path)| path))
            }
        }
    }
}

/// A path that is wrong at run time; without its text, so that messages about different rows are of one kind.
fn read_path(text: &str) -> Result<Path> {
    match Path::read(text) {
        Ok(path) => Ok(path),
        Err(_) => exec_err!("a text is no path into JSON: '$.name[0]'"),
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// What a document of this type is read as: text, or the value that `->` gives.
fn readable(kind: &DataType) -> Option<DataType> {
    match kind {
        kind if is_text(kind) => Some(DataType::Utf8),
        kind if kind == &*JSON_UNION_DATA_TYPE => Some(kind.clone()),
        _ => None,
    }
}

/// An argument as text, for each row.
fn texts(value: &ColumnarValue, rows: usize) -> Result<StringArray> {
    let array = value.to_array(rows)?;
    let array = match array.data_type() {
        kind if kind == &*JSON_UNION_DATA_TYPE => {
            let args = ScalarFunctionArgs {
                args: vec![ColumnarValue::Array(Arc::clone(&array))],
                arg_fields: vec![Arc::new(Field::new("json", kind.clone(), true))],
                number_rows: array.len(),
                return_field: Arc::new(Field::new("text", DataType::Utf8View, true)),
                config_options: Arc::default(),
            };
            udfs::json_union_to_text_udf().invoke_with_args(args)?.to_array(array.len())?
        }
        _ => array,
    };
    Ok(cast(&array, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn data_type(returning: Returning) -> DataType {
    match returning {
        Returning::String => DataType::Utf8,
        Returning::Int => DataType::Int64,
        Returning::Float => DataType::Float64,
        Returning::Bool => DataType::Boolean,
    }
}

/// A column whose text is JSON.
fn json_field(name: &str) -> Field {
    let metadata = HashMap::from([(TYPE_KEY.to_owned(), "json".to_owned())]);
    Field::new(name, DataType::Utf8, true).with_metadata(metadata)
}

fn finished(array: ArrayRef, is_constant: bool) -> Result<ColumnarValue> {
    Ok(match is_constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
        false => ColumnarValue::Array(array),
    })
}
