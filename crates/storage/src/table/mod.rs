//! A keyed table in the state of one partition, and the change stream of what happens to it.
//!
//! [`Table::apply`] takes rows in order and says, for each that made a difference, what the row was before and is now.
//! The writes go into the caller's [`Writes`], so that rows, changes and offsets are committed in one step. A table has
//! one writer: the task that owns the partition.
//!
//! What makes it fast: a row that is new needs no read, because a filter in memory knows of most keys that they are not
//! in the table; rows that were written lately are in memory; and a row that is written again as it was is neither
//! written nor announced. All of that is [`KeyedState`]'s.
//!
//! Limits: keys of 32 KiB, rows of 64 MiB. Memory: see [`crate::keyed`].

mod change;
mod expiry;
mod scan;
mod spec;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use bytes::Bytes;
use millstream_core::{Error, Failure, FailureKind, Result, ResultExt, RowFailure};

pub use change::change_schema;
pub use scan::{TableReader, TableScan};
pub use spec::TableSpec;

use crate::codec::SchemaStore;
use crate::keyed::{KeySet, KeyedState, RowKeys, Slot, StateTx, copy, encode_row_keys};
use crate::row::{self, EncodedRows, ROW_BYTES_MAX, RowCodec};
use crate::state::{State, StateView, Writes};
use change::{Changes, Op};
use expiry::Expiry;
use spec::{Stored, TableKeys, range_of};

/// Longest key, in bytes, with the table's prefix; the state's own limit is twice that.
const KEY_BYTES_MAX: usize = 32 << 10;
/// Keys that are put into the expiry index together when a table that had no TTL gets one.
const INDEX_KEYS_MAX: usize = 4096;

/// True where a table can hold a column of this type.
pub fn can_hold(data_type: &DataType) -> bool {
    row::supports(data_type)
}

/// What [`Table::apply`] did.
#[derive(Debug)]
pub struct Applied {
    /// The changes, in order; the columns of [`change_schema`].
    pub changes: RecordBatch,
    /// The input row of each change.
    pub rows: Vec<u32>,
    /// Rows that could not be applied.
    pub failures: Vec<RowFailure>,
}

/// The rows of one table in one state.
#[derive(Debug)]
pub struct Table {
    spec: TableSpec,
    codec: RowCodec,
    keys: TableKeys,
    rows: KeyedState,
    expiry: Option<Expiry>,
}

impl Table {
    /// Opens the table, and creates it where there is none. This reads little, however many rows it has.
    ///
    /// # Errors
    /// `Config` where the specification can't be used, or names another key than the one the table was made with.
    pub async fn open(state: State, spec: TableSpec, schemas: Arc<SchemaStore>) -> Result<Self> {
        spec.check()?;
        let doing = || format!("open table {}", spec.name);
        let id = schemas.register(&spec.schema)?;
        let codec = RowCodec::new(&spec.schema, id, schemas).doing(doing)?;
        let keys = spec.keys();
        let expiry = load(&state, &spec, &keys, id).await.doing(doing)?;
        let rows = KeyedState::open(state, &keys.rows).await.doing(doing)?;
        Ok(Self { codec, rows, expiry, spec, keys })
    }

    /// What this table is.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Applies the rows of `batch` in order; a row whose entry in `deletes` is true deletes its key. Later rows see
    /// what earlier ones did. A row that is as it is stored makes no change (but counts as written, for the TTL); so
    /// does the delete of a key that is not there. A row that has expired but was not deleted yet is still there.
    ///
    /// What is applied is seen by the next call, before `writes` are committed: several batches can be one commit, and
    /// the next be applied while the last becomes durable. Where a commit fails, the table must be dropped.
    ///
    /// # Errors
    /// As for reading the state. A row that can't be applied is a failure of that row only.
    pub async fn apply(
        &mut self,
        batch: &RecordBatch,
        deletes: Option<&BooleanArray>,
        now_us: i64,
        writes: &mut Writes,
    ) -> Result<Applied> {
        self.check_columns(batch)?;
        let columns = batch.columns();
        let key_columns: Vec<ArrayRef> = self.spec.key.iter().map(|&k| columns[k].clone()).collect();
        let keys = encode_row_keys(&self.keys.rows, &key_columns)?;
        let rows = self.codec.encode(columns, batch.num_rows(), |_| now_us);
        let failures = self.failures(&keys, &rows, batch.num_rows());
        let (wanted, slots) = wanted_keys(&keys, batch.num_rows(), &failures);
        let mut tx = self.rows.look_up(wanted).await?;
        self.renew(&mut tx).doing(|| format!("read table {}", self.spec.name))?;

        let mut changes = Changes::with_capacity(batch.num_rows());
        for (row, slot) in slots.into_iter().enumerate() {
            // A row that failed has no slot.
            let Some(slot) = slot else { continue };
            let delete = deletes.is_some_and(|d| d.is_valid(row) && d.value(row));
            self.step(&mut tx, slot, row, (!delete).then_some(&rows), &mut changes);
        }
        tx.unshare(keys.bytes.len() + rows.bytes.len());
        if let Some(expiry) = &mut self.expiry {
            expiry.inserted(now_us, tx.new_keys().map(|key| &key[self.keys.rows.len()..]), writes);
        }
        self.rows.write(tx, writes);
        let changed = changes.batch(&self.spec, &self.codec, columns, now_us)?;
        Ok(Applied { changes: changed, rows: changes.rows, failures })
    }

    /// Deletes rows whose TTL is over, at most about `limit` of them, and gives the changes; `None` where there are
    /// none. `writes` must be committed in both cases, by the rules of [`Self::apply`]: rows that were written again
    /// since are put back into the index. To be called again as long as [`Self::next_expiry`] is not in the future. A
    /// call that is dropped half-way leaves a table that must be dropped too.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn expire(&mut self, now_us: i64, limit: usize, writes: &mut Writes) -> Result<Option<RecordBatch>> {
        let Some(expiry) = &mut self.expiry else { return Ok(None) };
        let expired = expiry.expire(&self.rows, &self.keys.rows, (now_us, limit), writes).await;
        let expired = expired.doing(|| format!("expire rows of table {}", self.spec.name))?;
        if expired.is_empty() {
            return Ok(None);
        }
        Changes::expired(expired, &self.spec, &self.codec, now_us).map(Some)
    }

    /// When [`Self::expire`] may have something to do next, in microseconds since the epoch.
    pub fn next_expiry(&self) -> Option<i64> {
        self.expiry.as_ref()?.next_us()
    }

    fn check_columns(&self, batch: &RecordBatch) -> Result<()> {
        let (given, own) = (batch.schema_ref().fields(), self.spec.schema.fields());
        let same = given.len() == own.len() && given.iter().zip(own).all(|(g, o)| g.data_type() == o.data_type());
        if same {
            return Ok(());
        }
        Err(Error::bug(format!("table `{}` was given rows with other columns than its own", self.spec.name)))
    }

    fn failures(&self, keys: &RowKeys, rows: &EncodedRows, count: usize) -> Vec<RowFailure> {
        let names = self.spec.key_names();
        let fail =
            |row: usize, kind, message: String| RowFailure { row: row as u32, failure: Failure::new(kind, message) };
        let null = |&(row, column): &(usize, usize)| {
            fail(
                row,
                FailureKind::MissingField,
                format!("key column `{}` of table `{}` is null", names[column], self.spec.name),
            )
        };
        let mut failures: Vec<RowFailure> = keys.nulls().iter().map(null).collect();
        // Without the size: messages of one kind are the same.
        let too_large =
            |what: &str, max: usize| format!("the {what} is over the limit of table `{}`, {max} bytes", self.spec.name);
        for row in 0..count {
            let (key, bytes) = (keys.bytes_of(row).len(), rows.row_bytes(row));
            if key > KEY_BYTES_MAX {
                failures.push(fail(row, FailureKind::TooLarge, too_large("key", KEY_BYTES_MAX)));
            } else if bytes > ROW_BYTES_MAX && key > 0 {
                failures.push(fail(row, FailureKind::TooLarge, too_large("row", ROW_BYTES_MAX)));
            }
        }
        failures.sort_by_key(|f| f.row);
        failures
    }

    /// Rows that were read as those of the table's columns now, so that images can be compared.
    fn renew(&self, tx: &mut StateTx) -> Result<()> {
        let slots = tx.read_slots();
        let mut rows: Vec<Option<Bytes>> = slots.iter().map(|&slot| tx.get(slot).cloned()).collect();
        self.codec.renew(&mut rows)?;
        for (slot, row) in slots.into_iter().zip(rows) {
            if let Some(row) = row {
                tx.replace(slot, row);
            }
        }
        Ok(())
    }

    /// One row: `rows` holds its new image, unless it is a delete.
    fn step(&self, tx: &mut StateTx, slot: Slot, row: usize, rows: Option<&EncodedRows>, changes: &mut Changes) {
        let Some(rows) = rows else {
            if let Some(old) = tx.delete(slot) {
                changes.push(Op::Delete, row, Some(old));
            }
            return;
        };
        match tx.get(slot) {
            Some(old) if row::image(old) == rows.image(row) => {
                // Only the time of the last write is new.
                if self.expiry.is_some() {
                    tx.put(slot, rows.get(row));
                }
            }
            Some(old) => {
                changes.push(Op::Update, row, Some(old.clone()));
                tx.put(slot, rows.get(row));
            }
            None => {
                changes.push(Op::Insert, row, None);
                tx.put(slot, rows.get(row));
            }
        }
    }
}

/// Compares the table with its description, writes that where it is new, and opens its expiry index.
async fn load(state: &State, spec: &TableSpec, keys: &TableKeys, schema_id: u64) -> Result<Option<Expiry>> {
    let stored = Stored::load(&StateView::from(state), &keys.stored[..keys.stored.len() - 1]).await?;
    let names = spec.key_names();
    if let Some(stored) = stored.as_ref().filter(|s| s.key != names) {
        return Err(Error::config(format!(
            "its key was [{}] and is now [{}]: give the table a new name, so that its rows are built anew",
            stored.key.join(", "),
            names.join(", ")
        )));
    }
    let mut expiry = match spec.ttl_us {
        Some(ttl_us) => Some(Expiry::open(state.clone(), ttl_us, keys.expiry.clone()).await?),
        None => None,
    };
    if let Some(expiry) = expiry.as_mut().filter(|_| stored.as_ref().is_some_and(|s| !s.indexed)) {
        index_all(state, keys, expiry).await?;
    }
    // Without a TTL, rows are not indexed from now on.
    let now = Stored::new(spec, schema_id, expiry.is_some());
    if stored.as_ref() != Some(&now) {
        let mut writes = Writes::new();
        writes.put(keys.stored.clone(), now.bytes()?);
        state.commit(writes).await?;
    }
    Ok(expiry)
}

/// Puts all keys of a table that had no TTL into the expiry index.
async fn index_all(state: &State, keys: &TableKeys, expiry: &mut Expiry) -> Result<()> {
    let mut scan = state.scan(range_of(&keys.rows)).await?;
    let mut unindexed: Vec<Bytes> = Vec::new();
    loop {
        let entry = scan.next().await?;
        unindexed.extend(entry.iter().map(|(key, _)| copy(&key.slice(keys.rows.len()..))));
        if entry.is_none() || unindexed.len() == INDEX_KEYS_MAX {
            // At the beginning of time: the first look puts the rows where they belong. A crash on the way leaves
            // entries that the next open adds again, which does no harm.
            let mut writes = Writes::new();
            expiry.inserted(i64::MIN, unindexed.iter().map(|k| k.as_ref()), &mut writes);
            unindexed.clear();
            state.commit(writes).await?;
        }
        if entry.is_none() {
            return Ok(());
        }
    }
}

/// The distinct keys of a batch, and for each row which of them it has; `None` for a row that failed.
fn wanted_keys(keys: &RowKeys, rows: usize, failures: &[RowFailure]) -> (KeySet, Vec<Option<Slot>>) {
    let mut wanted = KeySet::with_capacity(rows);
    let mut failed = failures.iter().map(|f| f.row as usize).peekable();
    let slot = |row| {
        let is_fit = failed.next_if_eq(&row).is_none();
        is_fit.then(|| wanted.insert_with(keys.bytes_of(row), || keys.get(row)))
    };
    let slots = (0..rows).map(slot).collect();
    (wanted, slots)
}

#[cfg(test)]
mod tests;
