//! Reading a table: by key, or all of it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, SchemaRef};
use bytes::Bytes;
use millstream_core::partition::partition_rows;
use millstream_core::{Error, Result, ResultExt};
use serde_json::Value;

use super::spec::{TableKeys, TableSpec, range_of};
use crate::codec::SchemaStore;
use crate::keyed::encode_row_keys;
use crate::row::{RowCodec, batch_of, written_at};
use crate::state::{StateScan, StateView};

/// Rows of a batch of a scan.
const BATCH_ROWS: usize = 8192;
/// Encoded bytes after which a batch of a scan ends.
const BATCH_BYTES: usize = 8 << 20;

/// Reads the rows of one table of one partition. Expired rows are not seen, deleted or not.
#[derive(Debug, Clone)]
pub struct TableReader {
    view: StateView,
    spec: Arc<TableSpec>,
    codec: RowCodec,
    keys: TableKeys,
}

impl TableReader {
    /// Reads table `spec` of a state that is owned or only read. Rows that were written with other columns are read by
    /// name.
    ///
    /// # Errors
    /// `Config` where the table can't be one.
    pub fn new(view: impl Into<StateView>, spec: TableSpec, schemas: Arc<SchemaStore>) -> Result<Self> {
        spec.check()?;
        // A reader writes no rows. Where the id is not known, all rows are read by name, as if of another schema.
        let id = schemas.register(&spec.schema).unwrap_or(0);
        let codec = RowCodec::new(&spec.schema, id, schemas)?;
        Ok(Self { view: view.into(), keys: spec.keys(), spec: Arc::new(spec), codec })
    }

    /// The columns; all may be null, for rows older than a column.
    pub fn schema(&self) -> SchemaRef {
        self.codec.schema().clone()
    }

    /// What is read.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// The row with this key: one value per key column, as JSON or text (`"7"` is fine for a number).
    ///
    /// # Errors
    /// `Input` where the values do not fit the key, else as for reading the state.
    pub async fn get(&self, key: &[Value], now_us: i64) -> Result<Option<RecordBatch>> {
        let mut rows = self.get_many(&self.spec.key_columns(key)?, now_us).await?;
        Ok(rows.pop().flatten())
    }

    /// The rows with these keys, in their order; one array per key column. A null key has no row.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn get_many(&self, key: &[ArrayRef], now_us: i64) -> Result<Vec<Option<RecordBatch>>> {
        let keys = encode_row_keys(&self.keys.rows, key)?;
        let count = key.first().map_or(0, |c| c.len());
        let present: Vec<usize> = (0..count).filter(|&i| !keys.bytes_of(i).is_empty()).collect();
        let wanted: Vec<Bytes> = present.iter().map(|&i| keys.get(i)).collect();
        let mut found = vec![None; count];
        for (i, row) in present.into_iter().zip(self.view.get_many(&wanted).await?) {
            if let Some(row) = row {
                RowCodec::check(&row)?;
                if self.is_visible(&row, now_us) {
                    let columns = self.codec.read(&[Some(row)], None)?;
                    found[i] = Some(batch_of(self.codec.schema(), columns, 1)?);
                }
            }
        }
        Ok(found)
    }

    /// All rows in key order, as they are now; only the columns of `projection`, where there is one; `limit` rows at
    /// most.
    ///
    /// # Errors
    /// As for reading the state; `Bug` for a projection out of range.
    pub async fn scan(&self, projection: Option<Vec<usize>>, limit: Option<usize>, now_us: i64) -> Result<TableScan> {
        let schema = match &projection {
            Some(columns) => Arc::new(self.codec.schema().project(columns)?),
            None => self.codec.schema().clone(),
        };
        let scan =
            self.view.scan(range_of(&self.keys.rows)).await.doing(|| format!("scan table {}", self.spec.name))?;
        Ok(TableScan { reader: self.clone(), scan, schema, projection, left: limit.unwrap_or(usize::MAX), now_us })
    }

    /// The number of rows. This reads all of them.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn count(&self, now_us: i64) -> Result<u64> {
        let mut scan = self.view.scan(range_of(&self.keys.rows)).await?;
        let mut count = 0;
        while let Some((_, row)) = scan.next().await? {
            RowCodec::check(&row)?;
            count += u64::from(self.is_visible(&row, now_us));
        }
        Ok(count)
    }

    fn is_visible(&self, row: &[u8], now_us: i64) -> bool {
        self.spec.ttl_us.is_none_or(|ttl| written_at(row).saturating_add(ttl) > now_us)
    }
}

/// A table, batch by batch.
#[derive(Debug)]
pub struct TableScan {
    reader: TableReader,
    scan: StateScan,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    left: usize,
    now_us: i64,
}

impl TableScan {
    /// The columns of each batch.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The next batch, of at most 8,192 rows and about 8 MiB; `None` behind the last.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < BATCH_ROWS.min(self.left) && bytes < BATCH_BYTES {
            let Some((_, row)) = self.scan.next().await? else { break };
            RowCodec::check(&row)?;
            if self.reader.is_visible(&row, self.now_us) {
                bytes += row.len();
                rows.push(Some(row));
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        self.left -= rows.len();
        let columns = self.reader.codec.read(&rows, self.projection.as_deref());
        let columns = columns.doing(|| format!("scan table {}", self.reader.spec.name))?;
        batch_of(&self.schema, columns, rows.len()).map(Some)
    }
}

impl TableSpec {
    /// The partition (of `partitions`) that holds the row with this key, where rows are partitioned by the key.
    ///
    /// # Errors
    /// `Input` where the values do not fit the key; `Config` where there are several partitions, and a column of the
    /// key is of a type that nothing can be partitioned by.
    pub fn partition_of(&self, key: &[Value], partitions: u32) -> Result<u32> {
        let columns = self.key_columns(key)?;
        let named = self.key_names().into_iter().zip(columns);
        let positions: Vec<usize> = (0..self.key.len()).collect();
        let rows = partition_rows(&RecordBatch::try_from_iter(named)?, &positions, partitions, 0)?;
        Ok(rows.first().copied().unwrap_or(0))
    }

    /// A key as columns of one row.
    fn key_columns(&self, key: &[Value]) -> Result<Vec<ArrayRef>> {
        if key.len() != self.key.len() {
            let names = self.key_names().join(", ");
            return Err(Error::input(format!(
                "the key of table `{}` has {} part(s): {names}",
                self.name,
                self.key.len()
            )));
        }
        let part = |(value, &column): (&Value, &usize)| key_column(value, self.schema.field(column));
        key.iter().zip(&self.key).map(part).collect()
    }
}

/// A key value as a column of one row.
fn key_column(value: &Value, field: &Field) -> Result<ArrayRef> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let wrong = || Error::input(format!("`{text}` is no {} for key column `{}`", field.data_type(), field.name()));
    if value.is_null() {
        return Err(wrong());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let column = StringArray::from(vec![text.as_str()]);
    let column = cast_with_options(&column, field.data_type(), &options).map_err(|e| wrong().caused_by(e))?;
    if column.is_null(0) { Err(wrong()) } else { Ok(column) }
}
