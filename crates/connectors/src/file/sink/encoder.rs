//! One file being written, in any of the formats.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use millstream_core::descriptors::wait_for_one;
use millstream_core::disk::create_fresh;
use millstream_core::{Error, Result};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::super::sink_config::FileFormat;
use crate::format::CsvEncoder;

/// A row group is held in memory until it is written.
const ROW_GROUP_BYTES_MAX: usize = 16 << 20;

/// Writes rows to a file.
pub(super) enum Encoder {
    Lines { out: BufWriter<File>, bytes: u64, text: Vec<u8> },
    Csv { out: BufWriter<File>, bytes: u64, text: Vec<u8> },
    Parquet(Box<ArrowWriter<File>>),
}

impl Encoder {
    /// Makes the file, in place of whatever has its name, and writes what comes before the rows.
    pub(super) fn create(path: &Path, format: FileFormat, schema: &Arc<Schema>) -> Result<Self> {
        Self::new(wait_for_one(|| create_fresh(path))?, format, schema)
    }

    /// Writes what comes before the rows to a file that is empty.
    pub(super) fn new(file: File, format: FileFormat, schema: &Arc<Schema>) -> Result<Self> {
        Ok(match format {
            FileFormat::JsonLines => Self::Lines { out: BufWriter::new(file), bytes: 0, text: Vec::new() },
            FileFormat::Csv => {
                let (mut out, mut text) = (BufWriter::new(file), Vec::new());
                CsvEncoder::default().write_header(schema, &mut text);
                out.write_all(&text)?;
                Self::Csv { out, bytes: text.len() as u64, text }
            }
            FileFormat::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_created_by(concat!("millstream ", env!("CARGO_PKG_VERSION")).into())
                    .build();
                Self::Parquet(Box::new(
                    ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(from_parquet)?,
                ))
            }
        })
    }

    /// Appends rows.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Lines { out, bytes, text } => {
                text.clear();
                millstream_core::json::write_lines(batch, text)?;
                out.write_all(text)?;
                *bytes += text.len() as u64;
            }
            Self::Csv { out, bytes, text } => {
                text.clear();
                CsvEncoder::default().write_rows(batch, text)?;
                out.write_all(text)?;
                *bytes += text.len() as u64;
            }
            Self::Parquet(writer) => {
                writer.write(batch).map_err(from_parquet)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES_MAX {
                    writer.flush().map_err(from_parquet)?;
                }
            }
        }
        Ok(())
    }

    /// About how large the file is.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Lines { bytes, .. } | Self::Csv { bytes, .. } => *bytes,
            Self::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
        }
    }

    /// Writes what comes after the rows, and waits until all of it is on the disk.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Lines { out, .. } | Self::Csv { out, .. } => {
                out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
            }
            Self::Parquet(mut writer) => {
                writer.finish().map_err(from_parquet)?;
                // Empties the buffer in front of the file. `into_inner` would too, but hides what kind of error it met.
                writer.sync()?;
                writer.inner().sync_all()?;
            }
        }
        Ok(())
    }
}

/// A full disk comes out of the Parquet writer as an outer error of an I/O error.
fn from_parquet(error: ParquetError) -> Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(io) => Error::from(*io),
            Err(cause) => Error::bug("write Parquet").caused_by(cause),
        },
        other => Error::bug("write Parquet").caused_by(other),
    }
}
