//! One file being written, in any of the formats.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use arrow::array::RecordBatch;
use millstream_core::descriptors::wait_for_one;
use millstream_core::disk::create_fresh;
use millstream_core::{Error, Result};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

/// A row group is held in memory until it is written.
const ROW_GROUP_BYTES_MAX: usize = 16 << 20;

/// Writes records or rows to a file.
pub(super) enum Writer {
    Records { out: BufWriter<File>, bytes: u64 },
    Parquet(Box<ArrowWriter<File>>),
}

/// What is written of a batch.
pub(super) enum Piece {
    /// Bytes as they are, and what comes before them where the file is new.
    Records {
        header: Vec<u8>,
        data: Vec<u8>,
    },
    Rows(RecordBatch),
}

impl Writer {
    /// Makes the file, in place of whatever has its name, and writes what comes before the rows.
    pub(super) fn create(path: &Path, first: &Piece) -> Result<Self> {
        Self::new(wait_for_one(|| create_fresh(path))?, first)
    }

    /// Writes what comes before the rows to a file that is empty.
    pub(super) fn new(file: File, first: &Piece) -> Result<Self> {
        Ok(match first {
            Piece::Records { header, .. } => {
                let mut out = BufWriter::new(file);
                out.write_all(header)?;
                Self::Records { out, bytes: header.len() as u64 }
            }
            Piece::Rows(batch) => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_created_by(concat!("millstream ", env!("CARGO_PKG_VERSION")).into())
                    .build();
                Self::Parquet(Box::new(
                    ArrowWriter::try_new(file, batch.schema(), Some(properties)).map_err(from_parquet)?,
                ))
            }
        })
    }

    /// Appends a piece of the kind that the first was of.
    pub(super) fn write(&mut self, piece: &Piece) -> Result<()> {
        match (self, piece) {
            (Self::Records { out, bytes }, Piece::Records { data, .. }) => {
                out.write_all(data)?;
                *bytes += data.len() as u64;
            }
            (Self::Parquet(writer), Piece::Rows(batch)) => {
                writer.write(batch).map_err(from_parquet)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES_MAX {
                    writer.flush().map_err(from_parquet)?;
                }
            }
            (Self::Records { .. }, Piece::Rows(_)) | (Self::Parquet(_), Piece::Records { .. }) => {
                return Err(Error::bug("a file is given records and rows"));
            }
        }
        Ok(())
    }

    /// About how large the file is.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Records { bytes, .. } => *bytes,
            Self::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
        }
    }

    /// Writes what comes after the rows, and waits until all of it is on the disk.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Records { out, .. } => {
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
