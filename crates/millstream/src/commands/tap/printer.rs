//! Lines of a tap, as people and programs want them.

use std::io::Write;

use clap::ValueEnum;
use millstream_core::terminal::Escapes;
use millstream_core::{Error, Result};
use serde_json::Value;

use crate::output;
use crate::render::csv_cell;

/// Characters of a cell of a table.
const CELL_CHARS_MAX: usize = 40;
/// Rows between two headers of a table.
const HEADER_EVERY: usize = 50;

/// How records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TapFormat {
    /// Aligned columns, for people; long values are cut.
    Table,
    /// One JSON array of all records.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// CSV with a header; nested values as JSON.
    Csv,
}

/// Prints lines of JSON as they come.
pub struct Printer {
    format: TapFormat,
    /// More than one name: their columns differ, so that the record is one column.
    several: bool,
    printed: usize,
    columns: Vec<String>,
    widths: Vec<usize>,
    out: Box<dyn Write + Send>,
    is_closed: bool,
}

impl Printer {
    /// A printer onto standard output.
    pub fn new(format: TapFormat, several: bool) -> Self {
        let escapes = match format {
            TapFormat::Json | TapFormat::Jsonl => Escapes::Json,
            TapFormat::Table | TapFormat::Csv => Escapes::Text,
        };
        Self::onto(Box::new(output::rows(escapes)), format, several)
    }

    fn onto(out: Box<dyn Write + Send>, format: TapFormat, several: bool) -> Self {
        Self { format, several, printed: 0, columns: Vec::new(), widths: Vec::new(), out, is_closed: false }
    }

    /// Prints whole lines; false where nobody reads any more.
    ///
    /// # Errors
    /// The server says in a line what went wrong.
    pub fn lines(&mut self, lines: &[u8]) -> Result<bool> {
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            // Most lines go out as they came in: they are only looked into where they must be.
            let is_record = line.starts_with(br#"{"name":"#) && line.windows(10).any(|w| w == br#","record":"#);
            if is_record && self.format == TapFormat::Jsonl {
                self.write(&[line, b"\n"].concat())?;
                continue;
            }
            let value: Value = serde_json::from_slice(line)
                .map_err(|e| Error::retry("the server's answer is no JSON").caused_by(e))?;
            if let Some(error) = value["error"].as_str() {
                return Err(Error::input(error));
            }
            let name = value["name"].as_str().unwrap_or_default();
            match (value["missed"].as_u64(), value["removed"].as_u64()) {
                (Some(missed), _) => {
                    tracing::warn!("{missed} records of `{name}` are not shown: they came faster than they were read");
                }
                (None, Some(removed)) => say_removed(name, removed),
                (None, None) => self.record(line, &value)?,
            }
        }
        Ok(!self.is_closed)
    }

    /// Ends the output.
    pub fn finish(&mut self) -> Result<()> {
        match (self.format, self.printed) {
            (TapFormat::Json, 0) => self.write(b"[]\n"),
            (TapFormat::Json, _) => self.write(b"\n]\n"),
            _ => Ok(()),
        }
    }

    fn record(&mut self, line: &[u8], value: &Value) -> Result<()> {
        let text = match self.format {
            TapFormat::Jsonl => [line, b"\n"].concat(),
            TapFormat::Json => [if self.printed == 0 { &b"[\n  "[..] } else { &b",\n  "[..] }, line].concat(),
            TapFormat::Csv => self.csv(value),
            TapFormat::Table => self.row(value),
        };
        self.printed += 1;
        self.write(&text)
    }

    fn csv(&mut self, value: &Value) -> Vec<u8> {
        let mut text = String::new();
        if self.printed == 0 {
            self.columns = self.columns_of(value);
            let header: Vec<String> = self.columns.iter().map(|c| csv_cell(c)).collect();
            text.push_str(&format!("{}\n", header.join(",")));
        }
        let cells: Vec<String> = self.cells(value).iter().map(|cell| csv_cell(cell)).collect();
        text.push_str(&format!("{}\n", cells.join(",")));
        text.into_bytes()
    }

    fn row(&mut self, value: &Value) -> Vec<u8> {
        if self.printed == 0 {
            self.columns = self.columns_of(value);
            self.widths = self.columns.iter().map(|c| c.chars().count()).collect();
        }
        let cells: Vec<String> = self.cells(value).iter().map(|cell| short(cell)).collect();
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        let mut text = String::new();
        if self.printed.is_multiple_of(HEADER_EVERY) {
            text.push_str(&self.aligned(&self.columns));
        }
        text.push_str(&self.aligned(&cells));
        text.into_bytes()
    }

    fn aligned(&self, cells: &[String]) -> String {
        let cells = cells.iter().zip(&self.widths).map(|(cell, &width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    }

    fn columns_of(&self, value: &Value) -> Vec<String> {
        let first: &[&str] =
            if self.several { &["name", "partition", "offset", "record"] } else { &["partition", "offset"] };
        let fields = value["record"].as_object().filter(|_| !self.several);
        let fields = fields.into_iter().flat_map(|record| record.keys().cloned());
        first.iter().map(|name| (*name).to_owned()).chain(fields).collect()
    }

    fn cells(&self, value: &Value) -> Vec<String> {
        let places = if self.several { 4 } else { 2 };
        let cell =
            |(at, column): (usize, &String)| text(if at < places { &value[column] } else { &value["record"][column] });
        self.columns.iter().enumerate().map(cell).collect()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.is_closed {
            return Ok(());
        }
        match self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            written => written.map_err(Error::from),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One line of a table, without what would move the cursor.
fn short(cell: &str) -> String {
    let mut short: String = cell.chars().take(CELL_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cell.chars().nth(CELL_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// Says that a tap begins, or goes on, behind records that are gone.
pub fn say_removed(name: &str, removed: u64) {
    if removed > 0 {
        tracing::warn!("{removed} records of `{name}` are not shown: they are no longer kept");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const LINES: &str = concat!(
        r#"{"name":"a","partition":0,"offset":1,"record":{"id":7,"text":"x, \"y\"","tags":["p"]}}"#,
        "\n",
        r#"{"name":"a","partition":1,"offset":20,"record":{"id":8,"text":null,"tags":[]}}"#,
        "\n"
    );

    fn printed(format: TapFormat, several: bool, lines: &str) -> String {
        let screen = Screen::default();
        let mut printer = Printer::onto(Box::new(screen.clone()), format, several);
        assert!(printer.lines(lines.as_bytes()).unwrap());
        printer.finish().unwrap();
        let bytes = screen.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_format_prints_the_same_records() {
        assert_eq!(printed(TapFormat::Jsonl, false, LINES), LINES);
        let array: Value = serde_json::from_str(&printed(TapFormat::Json, false, LINES)).unwrap();
        assert_eq!(array[1]["record"]["id"], 8);
        assert_eq!(
            printed(TapFormat::Csv, false, LINES),
            "partition,offset,id,text,tags\n0,1,7,\"x, \"\"y\"\"\",\"[\"\"p\"\"]\"\n1,20,8,,[]\n"
        );
        let table = [
            "partition  offset  id  text    tags\n",
            "0          1       7   x, \"y\"  [\"p\"]\n",
            "1          20      8           []\n",
        ]
        .concat();
        assert_eq!(printed(TapFormat::Table, false, LINES), table);
        let csv = printed(TapFormat::Csv, true, LINES);
        assert!(csv.starts_with("name,partition,offset,record\na,0,1,\"{\"\"id\"\":7,"), "{csv}");
    }

    #[test]
    fn no_record_is_an_empty_array_and_an_error_of_the_server_is_one_here() {
        assert_eq!(printed(TapFormat::Json, false, ""), "[]\n");
        assert_eq!(printed(TapFormat::Jsonl, false, "{\"name\":\"a\",\"missed\":3}\n"), "");
        assert_eq!(printed(TapFormat::Jsonl, false, "{\"name\":\"a\",\"partition\":0,\"removed\":3}\n"), "");
        let mut printer = Printer::onto(Box::new(Screen::default()), TapFormat::Jsonl, false);
        assert_eq!(printer.lines(b"{\"error\":\"no\"}\n").unwrap_err().message(), "no");
    }
}
