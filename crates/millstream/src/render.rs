//! Rows for people and programs: aligned tables, JSON lines, CSV, Arrow streams.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use futures::{Stream, StreamExt};
use millstream_core::json::RowWriter;
use millstream_core::{Error, Result};

use crate::pipeline::streams::StreamBatch;

/// Rows that a table on the terminal shows at most; more are counted.
const TABLE_ROWS_MAX: usize = 1000;
/// Characters of a cell in a table.
const CELL_CHARS_MAX: usize = 80;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    Table,
    /// One JSON object a line.
    Json,
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
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        match format {
            Format::Table => table.add(&batch)?,
            Format::Json => out.write_all(&json_lines(&batch)?)?,
            Format::Csv => csv_lines(&batch, out)?,
        }
    }
    if format == Format::Table {
        table.print(out)?;
    }
    out.flush()?;
    Ok(())
}

/// Rows as JSON lines.
pub fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    let writer = RowWriter::bind(batch)?;
    let mut lines = Vec::new();
    for row in 0..batch.num_rows() {
        writer.write(row, &mut lines);
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Rows of a stream as `{"partition": …, "offset": …, "record": {…}}` lines.
pub fn tap_lines(batch: &StreamBatch) -> Result<Vec<u8>> {
    let writer = RowWriter::bind(&batch.batch)?;
    let mut lines = Vec::new();
    for row in 0..batch.batch.num_rows() {
        let offset = batch.base_offset + row as u64;
        write!(lines, r#"{{"partition":{},"offset":{offset},"record":"#, batch.partition)?;
        writer.write(row, &mut lines);
        lines.extend_from_slice(b"}\n");
    }
    Ok(lines)
}

/// A table of text for the terminal, as wide as it is.
pub fn text_table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

struct TableOutput {
    table: Table,
    rows: usize,
}

impl TableOutput {
    fn new(schema: &SchemaRef) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(schema.fields().iter().map(|f| f.name().clone()));
        Self { table, rows: 0 }
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let cells = cells(batch)?;
        for row in cells {
            self.rows += 1;
            if self.rows <= TABLE_ROWS_MAX {
                self.table.add_row(row.into_iter().map(shorten));
            }
        }
        Ok(())
    }

    fn print(&self, out: &mut dyn Write) -> Result<()> {
        writeln!(out, "{}", self.table)?;
        let rows = self.rows;
        let plural = if rows == 1 { "" } else { "s" };
        let cut = if rows > TABLE_ROWS_MAX {
            format!(" (the first {TABLE_ROWS_MAX} shown; --format json prints all)")
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

fn shorten(text: String) -> String {
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
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
