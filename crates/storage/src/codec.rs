//! Arrow batches as bytes, and the schemas that they are read with.
//!
//! # A batch
//!
//! ```text
//! version u8 = 2 | 3 × 0 | metadata length u32 LE | CRC-32C of all the rest u32 LE | 4 × 0
//! Arrow IPC record-batch message, padded to 8 | body, padded to 8
//! ```
//!
//! The schema is not part of it: whoever stores a batch stores the 64-bit id that [`SchemaStore::register`] gave for
//! its schema. Buffers of a body over 1 KiB are compressed with LZ4 where that makes them smaller. Only the rows of the
//! batch are written, never the rest of a buffer that it is a slice of. Limits: no dictionary columns, and what Arrow's
//! 32-bit offsets allow.
//!
//! # A schema
//!
//! `{id:016x}.arrow` in the folder of the store: an Arrow IPC stream without batches. The id is the XXH3-64 of a
//! canonical description (names, types, nullability, metadata), so that the same schema has the same id everywhere.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::{StreamReader, read_record_batch};
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, MetadataVersion, root_as_message};
use bytes::Bytes;
use millstream_core::disk::{Disk, RealDisk, read_all, write_atomic};
use millstream_core::{Error, Result, ResultExt};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

const VERSION: u8 = 2;
/// The first bytes that the checksum covers; then come those behind the header.
const CHECKED_HEADER_BYTES: usize = 8;
const HEADER_BYTES: usize = 16;
const ALIGNMENT: usize = 8;
/// Bodies up to this many bytes are not worth compressing.
const COMPRESS_OVER_BYTES: usize = 1024;

/// The bytes of a batch, without its schema; see the module.
///
/// # Errors
/// `Bug` where a column is of a type that has no such form (dictionary).
pub fn encode_batch(batch: &RecordBatch) -> Result<Bytes> {
    let columns: Vec<ArrayRef> = batch.columns().iter().map(compact_views).collect();
    let mut body_bytes = 0;
    for column in &columns {
        body_bytes += column.to_data().get_slice_memory_size()?;
    }
    let batch_options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(batch.schema(), columns, &batch_options)?;
    let compression = (body_bytes > COMPRESS_OVER_BYTES).then_some(CompressionType::LZ4_FRAME);
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?.try_with_compression(compression)?;
    let mut dictionaries = DictionaryTracker::new(false);
    let (extra, data) =
        IpcDataGenerator::default().encode(&batch, &mut dictionaries, &options, &mut Default::default())?;
    if !extra.is_empty() {
        return Err(Error::bug("a batch with dictionary columns can't be stored: unpack them first"));
    }
    let metadata_bytes = data.ipc_message.len().next_multiple_of(ALIGNMENT);
    let mut out = Vec::with_capacity(HEADER_BYTES + metadata_bytes + data.arrow_data.len());
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
    out.extend_from_slice(&(metadata_bytes as u32).to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&data.ipc_message);
    out.resize(HEADER_BYTES + metadata_bytes, 0);
    out.extend_from_slice(&data.arrow_data);
    let crc = checksum(&out);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    Ok(out.into())
}

/// The batch that [`encode_batch`] made `payload` of; `schema` must be the one it had. Buffers that are not compressed
/// are not copied: they keep `payload` alive (where it is aligned to 8 bytes; else they are copied).
///
/// # Errors
/// `Corruption` where the bytes are not such a batch, `Environment` where they are of a newer version.
pub fn decode_batch(payload: &Bytes, schema: &SchemaRef) -> Result<RecordBatch> {
    let broken = |what: &str| Error::corruption(format!("a stored batch does not read back: {what}"));
    let Some((&version, header)) = payload.first().zip(payload.get(..HEADER_BYTES)) else {
        return Err(broken("it is too short"));
    };
    if version != VERSION {
        return Err(Error::environment(format!(
            "a stored batch is of format {version}, this Millstream reads {VERSION}: use the version that wrote it"
        )));
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    // The Arrow reader checks values, but trusts lengths: it would panic on damaged ones.
    if checksum(payload) != word(8) || payload[12..HEADER_BYTES] != [0; 4] {
        return Err(broken("the checksum does not match"));
    }
    let body_at = HEADER_BYTES.saturating_add(word(4) as usize);
    let metadata = payload.get(HEADER_BYTES..body_at).ok_or_else(|| broken("it is cut off"))?;
    let message = root_as_message(metadata).map_err(|e| broken("its header").caused_by(e.to_string()))?;
    let header = message.header_as_record_batch().ok_or_else(|| broken("it is no record batch"))?;
    let body = Buffer::from(payload.slice(body_at..));
    read_record_batch(&body, header, schema.clone(), &HashMap::new(), None, &message.version())
        .map_err(|e| broken("its columns").caused_by(e))
}

/// Of all but itself and the zeros behind it: a length that is wrong must not be believed.
fn checksum(payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&payload[..CHECKED_HEADER_BYTES]), &payload[HEADER_BYTES..])
}

/// String and binary views would be written with the whole buffers that they point into.
fn compact_views(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => column.clone(),
    }
}

/// A folder of schemas, by id.
#[derive(Debug)]
pub struct SchemaStore {
    folder: PathBuf,
    writable: bool,
    // A std-like lock: nothing awaits while it is held.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<u64, SchemaRef>,
    /// What was asked for last; batches of one stream share their schema, so this saves the description.
    last: Option<(SchemaRef, u64)>,
}

impl SchemaStore {
    /// The store in `dir`, which is created where it does not exist.
    ///
    /// # Errors
    /// The folder can't be created.
    pub fn open(dir: &Path) -> Result<Arc<Self>> {
        millstream_core::disk::create_private_dir_all(dir).doing(|| format!("create folder {}", dir.display()))?;
        Ok(Arc::new(Self { folder: dir.to_path_buf(), writable: true, known: Mutex::default() }))
    }

    /// The store in `dir`, which is only read.
    ///
    /// # Errors
    /// The folder does not exist.
    pub fn open_read_only(dir: &Path) -> Result<Arc<Self>> {
        let doing = || format!("open folder {}", dir.display());
        if !RealDisk.exists(dir).doing(doing)? {
            return Err(Error::from(std::io::Error::from(std::io::ErrorKind::NotFound)).context(doing()));
        }
        Ok(Arc::new(Self { folder: dir.to_path_buf(), writable: false, known: Mutex::default() }))
    }

    /// The id of a schema. It is durable before this returns for the first time.
    ///
    /// # Errors
    /// The file can't be written. `Bug` where the store was opened for reading and does not know the schema.
    pub fn register(&self, schema: &SchemaRef) -> Result<u64> {
        let mut known = self.known.lock();
        if let Some((last, id)) = &known.last
            && Arc::ptr_eq(last, schema)
        {
            return Ok(*id);
        }
        let id = fingerprint(schema);
        if let Entry::Vacant(unknown) = known.by_id.entry(id) {
            let path = self.path(id);
            if !path.exists() {
                if !self.writable {
                    return Err(Error::bug(format!("{} does not exist, and the store is read-only", path.display())));
                }
                let mut bytes = Vec::new();
                StreamWriter::try_new(&mut bytes, schema)?.finish()?;
                write_atomic(&RealDisk, &path, &bytes).doing(|| format!("write schema {}", path.display()))?;
            }
            unknown.insert(schema.clone());
        }
        known.last = Some((schema.clone(), id));
        Ok(id)
    }

    /// The schema with this id.
    ///
    /// # Errors
    /// `Corruption` where its file is missing or broken; the message names it.
    pub fn get(&self, id: u64) -> Result<SchemaRef> {
        let mut known = self.known.lock();
        if let Some(schema) = known.by_id.get(&id) {
            return Ok(schema.clone());
        }
        let path = self.path(id);
        let broken = |what: &str| Error::corruption(format!("schema file {} {what}", path.display()));
        let bytes = match read_all(&RealDisk, &path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(broken("is missing: records that were written with it can't be read; restore the file"));
            }
            Err(e) => return Err(Error::from(e).context(format!("read schema {}", path.display()))),
        };
        let reader = StreamReader::try_new(bytes.as_slice(), None).map_err(|e| broken("is broken").caused_by(e))?;
        let schema = reader.schema();
        if fingerprint(&schema) != id {
            return Err(broken("does not hold the schema that it is named after"));
        }
        known.by_id.insert(id, schema.clone());
        Ok(schema)
    }

    /// Where the schema with this id is.
    pub fn path(&self, id: u64) -> PathBuf {
        self.folder.join(format!("{id:016x}.arrow"))
    }
}

/// The id that [`SchemaStore::register`] gives `schema`.
pub fn schema_id(schema: &Schema) -> u64 {
    fingerprint(schema)
}

/// XXH3-64 of the canonical description. It is stored with every batch and row: never change it.
fn fingerprint(schema: &Schema) -> u64 {
    let mut text = String::from("schema 1");
    describe_metadata(schema.metadata(), &mut text);
    for field in schema.fields() {
        describe(field, &mut text);
    }
    xxh3_64(text.as_bytes())
}

fn describe(field: &Field, out: &mut String) {
    let (name, null) = (field.name(), if field.is_nullable() { '?' } else { '!' });
    // Writing to a string can't fail.
    let _ = write!(out, "({}:{name}{null}", name.len());
    match field.data_type() {
        DataType::Struct(fields) => {
            out.push_str("struct");
            fields.iter().for_each(|f| describe(f, out));
        }
        DataType::List(item) => {
            out.push_str("list");
            describe(item, out);
        }
        DataType::LargeList(item) => {
            out.push_str("large_list");
            describe(item, out);
        }
        DataType::FixedSizeList(item, len) => {
            let _ = write!(out, "list[{len}]");
            describe(item, out);
        }
        DataType::Map(entries, sorted) => {
            let _ = write!(out, "map {sorted}");
            describe(entries, out);
        }
        DataType::Timestamp(unit, zone) => {
            let _ = write!(out, "timestamp {unit:?} {}", zone.as_deref().unwrap_or("-"));
        }
        DataType::Decimal128(precision, scale) => {
            let _ = write!(out, "decimal128 {precision} {scale}");
        }
        // The variant's name, and its parameters where there are any.
        leaf => {
            let _ = write!(out, "{leaf:?}");
        }
    }
    describe_metadata(field.metadata(), out);
    out.push(')');
}

fn describe_metadata(metadata: &HashMap<String, String>, out: &mut String) {
    let mut pairs: Vec<_> = metadata.iter().collect();
    pairs.sort();
    for (key, value) in pairs {
        let _ = write!(out, "{{{}:{key}={}:{value}}}", key.len(), value.len());
    }
}

#[cfg(test)]
pub(crate) mod tests;
