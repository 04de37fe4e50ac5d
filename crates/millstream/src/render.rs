//! Rows for people and programs: aligned tables, JSON, JSON lines, CSV, Arrow streams.

mod table;

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::ValueEnum;
use futures::{Stream, StreamExt};
use millstream_core::json;
use millstream_core::{Error, Result};

use crate::output;

pub use table::Table;

/// Rows that a table on the terminal shows at most; more are counted.
const TABLE_ROWS_MAX: usize = 1000;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    Table,
    /// One JSON array of all rows.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// CSV with a header; nested values as JSON.
    Csv,
}

/// Prints batches as they come.
///
/// # Errors
/// A batch is an error, or the output is closed.
pub async fn print(
    schema: &SchemaRef,
    mut batches: impl Stream<Item = Result<RecordBatch>> + Unpin,
    format: Format,
    out: &mut dyn Write,
) -> Result<()> {
    let mut table = TableOutput::new(schema);
    if format == Format::Csv {
        let names: Vec<String> = schema.fields().iter().map(|f| csv_cell(f.name())).collect();
        writeln!(out, "{}", names.join(","))?;
    }
    let mut array = JsonArray::default();
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        match format {
            Format::Table => table.add(&batch)?,
            Format::Json => array.lines(&json::lines(&batch)?, out)?,
            Format::Jsonl => out.write_all(&json::lines(&batch)?)?,
            Format::Csv => csv_lines(&batch, out)?,
        }
    }
    match format {
        Format::Table => table.print(out)?,
        Format::Json => array.end(out)?,
        Format::Jsonl | Format::Csv => {}
    }
    out.flush()?;
    Ok(())
}

/// An array of JSON, written piece by piece: an element a line.
#[derive(Debug, Default)]
pub struct JsonArray {
    begun: bool,
}

impl JsonArray {
    /// Writes elements, one of each line.
    ///
    /// # Errors
    /// The output is closed.
    pub fn lines(&mut self, lines: &[u8], out: &mut dyn Write) -> Result<()> {
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            out.write_all(if std::mem::replace(&mut self.begun, true) { b",\n" } else { b"[\n" })?;
            out.write_all(line)?;
        }
        Ok(())
    }

    /// Writes the end.
    ///
    /// # Errors
    /// The output is closed.
    pub fn end(self, out: &mut dyn Write) -> Result<()> {
        Ok(out.write_all(if self.begun { b"\n]\n" } else { b"[]\n" })?)
    }
}

/// The width that a table may have: that of the terminal, where there is one.
pub fn terminal_width() -> Option<usize> {
    let size = output::is_terminal().then(|| console::Term::stdout().size_checked()).flatten();
    size.map(|(_, columns)| usize::from(columns))
}

/// A table of text, as wide as the terminal.
pub fn text_table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new(header);
    rows.into_iter().for_each(|row| table.row(row));
    table.render(terminal_width())
}

/// The same of JSON values, whose numbers are at the right, in the format that was asked for. In a cell, a list is its
/// elements, and null is empty.
pub fn print_values(columns: &[&str], rows: &[Vec<serde_json::Value>], format: Format) -> Result<()> {
    use serde_json::{Map, Value};
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            list.iter().map(|v| v.as_str().map_or(v.to_string(), str::to_owned)).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let object = |row: &Vec<Value>| -> String {
        let fields = columns.iter().zip(row).map(|(column, value)| ((*column).to_owned(), value.clone()));
        Value::Object(fields.collect::<Map<_, _>>()).to_string()
    };
    match format {
        Format::Json => {
            let mut out = output::rows(millstream_core::terminal::Escapes::Json);
            let mut array = JsonArray::default();
            let written = rows.iter().try_for_each(|row| array.lines(object(row).as_bytes(), &mut out));
            unless_closed(written.and_then(|()| array.end(&mut out)).and_then(|()| Ok(out.flush()?)))?;
        }
        Format::Jsonl => rows.iter().for_each(|row| crate::outln!("{}", object(row))),
        Format::Csv => {
            crate::outln!("{}", columns.join(","));
            for row in rows {
                crate::outln!("{}", row.iter().map(|value| csv_cell(&cell(value))).collect::<Vec<_>>().join(","));
            }
        }
        Format::Table => {
            let numbers = |&column: &usize| rows.iter().any(|row| row[column].is_number());
            let mut table = Table::new(columns).right((0..columns.len()).filter(numbers));
            rows.iter().for_each(|row| table.row(row.iter().map(cell).collect()));
            crate::outln!("{}", table.render(terminal_width()));
        }
    }
    Ok(())
}

struct TableOutput {
    table: Table,
    rows: usize,
}

impl TableOutput {
    fn new(schema: &SchemaRef) -> Self {
        let fields = schema.fields();
        let numeric = fields.iter().enumerate().filter(|(_, f)| f.data_type().is_numeric()).map(|(i, _)| i);
        let mut table = Table::new(fields.iter().map(|f| f.name())).right(numeric.collect::<Vec<_>>());
        // What EXPLAIN answers with.
        if fields.iter().map(|f| f.name().as_str()).eq(["plan_type", "plan"]) {
            table = table.keep_lines();
        }
        Self { table, rows: 0 }
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        for row in cells(batch)? {
            self.rows += 1;
            if self.rows <= TABLE_ROWS_MAX {
                self.table.row(row);
            }
        }
        Ok(())
    }

    fn print(&self, out: &mut dyn Write) -> Result<()> {
        // A plan is not cut: what it says at its right end is what one looks for.
        writeln!(out, "{}", self.table.render(terminal_width()))?;
        let rows = self.rows;
        let plural = if rows == 1 { "" } else { "s" };
        let cut = if rows > TABLE_ROWS_MAX {
            format!(" (the first {TABLE_ROWS_MAX} shown; --format jsonl prints all)")
        } else {
            String::new()
        };
        writeln!(out, "{rows} row{plural}{cut}")?;
        Ok(())
    }
}

/// Every row as text, nested values as JSON.
fn cells(batch: &RecordBatch) -> Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_null("");
    let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| {
        if field.data_type().is_nested() || matches!(field.data_type(), arrow::datatypes::DataType::Timestamp(_, _)) {
            let writer = millstream_core::json::ValueWriter::bind(column.as_ref(), field)?;
            let value = |row| {
                let mut out = Vec::new();
                writer.write(row, &mut out);
                let text = String::from_utf8_lossy(&out).into_owned();
                if text == "null" { String::new() } else { text.trim_matches('"').to_owned() }
            };
            return Ok((0..batch.num_rows()).map(value).collect::<Vec<_>>());
        }
        let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
        Ok((0..batch.num_rows()).map(|row| formatter.value(row).to_string()).collect())
    });
    let columns = columns.collect::<Result<Vec<Vec<String>>>>()?;
    Ok((0..batch.num_rows()).map(|row| columns.iter().map(|c| c[row].clone()).collect()).collect())
}

fn csv_lines(batch: &RecordBatch, out: &mut dyn Write) -> Result<()> {
    for row in cells(batch)? {
        let cells: Vec<String> = row.iter().map(|cell| csv_cell(cell)).collect();
        writeln!(out, "{}", cells.join(","))?;
    }
    Ok(())
}

/// A cell of a CSV file, in quotes where it must be.
pub fn csv_cell(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// Arrow IPC streams, by which `millstream query --url` gets its rows with their types.
pub mod ipc {
    use std::io::Cursor;

    use arrow::array::RecordBatch;
    use arrow::datatypes::SchemaRef;
    use arrow::ipc::reader::StreamReader;
    use arrow::ipc::writer::StreamWriter;
    use bytes::Bytes;
    use futures::{Stream, StreamExt, stream};
    use millstream_core::{Error, Result};

    /// The bytes of a stream, batch by batch. An error in the middle breaks it off.
    pub fn encode(
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        let items = batches.map(Some).chain(stream::once(async { None }));
        let mut writer: Option<StreamWriter<Vec<u8>>> = None;
        items.map(move |item| {
            let writer = match &mut writer {
                Some(writer) => writer,
                empty => empty.insert(StreamWriter::try_new(Vec::new(), &schema)?),
            };
            match item {
                Some(batch) => writer.write(&batch?)?,
                None => writer.finish()?,
            }
            Ok(Bytes::from(std::mem::take(writer.get_mut())))
        })
    }

    /// All batches of a stream.
    ///
    /// # Errors
    /// The bytes are no Arrow stream, or it broke off.
    pub fn decode(bytes: Bytes) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let broken = |e: arrow::error::ArrowError| Error::retry("the server's answer broke off").caused_by(e);
        let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(broken)?;
        let schema = reader.schema();
        let batches = reader.collect::<std::result::Result<Vec<_>, _>>().map_err(broken)?;
        Ok((schema, batches))
    }
}

/// Turns a closed pipe (`millstream query … | head`) into a quiet end.
pub fn unless_closed(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if is_broken_pipe(&e) => Ok(()),
        other => other,
    }
}

fn is_broken_pipe(e: &Error) -> bool {
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>());
    source.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
