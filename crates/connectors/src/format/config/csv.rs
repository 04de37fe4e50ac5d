//! Settings of `format: csv`, and what makes them impossible.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RawDecode, Values, text_encoding};
use crate::format::encoding::TextEncoding;
use crate::format::framing::{CsvDialect, RECORD_LINES_MAX};

/// Settings of `format: csv`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CsvConfig {
    /// What tells rows and cells apart.
    pub dialect: CsvDialect,
    /// Names of the columns in order, where there is no header. Empty: the declared fields in their order.
    pub columns: Vec<String>,
    /// What a row with too few cells is.
    pub short_rows: ShortRows,
    /// Cells without quotes that are nulls.
    pub nulls: Vec<String>,
    /// How values are written.
    pub values: Values,
    /// The encoding of the bytes; none is UTF-8.
    pub encoding: Option<TextEncoding>,
}

/// What a CSV row with too few cells is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShortRows {
    /// The record fails as `malformed`.
    #[default]
    Error,
    /// The cells that are not there are empty.
    Pad,
}

/// Checks what was written.
pub(super) fn checked(raw: RawDecode) -> Result<CsvConfig, String> {
    let columns = raw.columns.unwrap_or_default();
    let header = raw.header.unwrap_or(columns.is_empty());
    if header && !columns.is_empty() {
        return Err("`columns` is for files without a header: add `header: false`, or take `columns` away".into());
    }
    if let Some(name) = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name)).map(|(_, n)| n) {
        return Err(format!("`columns` names `{name}` twice"));
    }
    let quote = match raw.quote.as_deref() {
        None => Some(b'"'),
        Some("none") => None,
        Some(text) => {
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => Some(one_byte("quote", c)?),
                _ => return Err(format!("`quote` must be one ASCII character or `none`, not `{text}`")),
            }
        }
    };
    let dialect = CsvDialect {
        header,
        delimiter: raw.delimiter.map_or(Ok(b','), |c| one_byte("delimiter", c))?,
        quote,
        escape: raw.escape.map(|c| one_byte("escape", c)).transpose()?,
        comment: raw.comment.map(|c| one_byte("comment", c)).transpose()?,
        skip_lines: raw.skip_lines.unwrap_or_default(),
        record_lines_max: raw.max_lines.unwrap_or(RECORD_LINES_MAX),
    };
    check_differ(&dialect)?;
    let decimal_comma = match raw.decimal {
        None | Some('.') => false,
        Some(',') => true,
        Some(c) => return Err(format!("`decimal` must be `.` or `,`, not `{}`", c.escape_debug())),
    };
    let nulls = raw.nulls.unwrap_or_default();
    if let Some(text) = nulls.iter().find(|text| text.bytes().any(|b| b == dialect.delimiter || b == b'\n')) {
        return Err(format!("`nulls` holds `{}`, which no cell without quotes can be", text.escape_debug()));
    }
    Ok(CsvConfig {
        dialect,
        columns,
        short_rows: raw.short_rows.unwrap_or_default(),
        nulls,
        values: Values { bools: raw.bools.unwrap_or_default(), decimal_comma },
        encoding: text_encoding(raw.encoding.as_deref())?,
    })
}

/// A character that stands between or around cells.
pub(in crate::format) fn one_byte(key: &str, c: char) -> Result<u8, String> {
    if c.is_ascii() && !matches!(c, '\n' | '\r' | '\0') {
        return Ok(c as u8);
    }
    Err(format!("`{key}` must be one ASCII character other than a line break, not `{}`", c.escape_debug()))
}

fn check_differ(dialect: &CsvDialect) -> Result<(), String> {
    let roles = [
        ("delimiter", Some(dialect.delimiter)),
        ("quote", dialect.quote),
        ("escape", dialect.escape),
        ("comment", dialect.comment),
    ];
    for (i, (first, byte)) in roles.iter().enumerate() {
        if let Some((second, _)) = roles[i + 1..].iter().find(|(_, other)| byte.is_some() && other == byte) {
            return Err(format!("`{first}` and `{second}` must differ"));
        }
    }
    Ok(())
}
