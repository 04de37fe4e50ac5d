//! A keyed table in the state of one partition, and the change stream of what happens to it.
//!
//! [`Table::apply`] takes rows in order and says, for each that made a difference, what the row was before and is now.
//! The writes go into the caller's [`Writes`], so that rows, changes and offsets are committed in one step. A table has
//! one writer: the task that owns the partition.
//!
//! What makes it fast: a row that is new needs no read, because a filter in memory knows of most keys that they are not
//! in the table; rows that were written lately are in memory; and a row that is written again as it was is neither
//! written nor announced.
//!
//! Limits: keys of 32 KiB, rows of 64 MiB. Memory: see [`TableOptions`].

mod change;
mod decode;
mod expiry;
mod filter;
mod key;
mod row;
mod scan;
mod spec;

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use bytes::Bytes;
use hashbrown::HashTable;
use millstream_core::{Error, Failure, FailureKind, Result, ResultExt, RowFailure};

pub use change::change_schema;
pub use scan::{TableReader, TableScan};
pub use spec::TableSpec;

use crate::codec::SchemaStore;
use crate::generations::Generations;
use crate::state::{State, StateView, Writes};
use change::{Changes, Op};
use expiry::Expiry;
use filter::KeyFilter;
use key::Keys;
use row::{EncodedRows, ROW_BYTES_MAX, RowCodec};
use spec::{Stored, TableKeys, range_of};

/// Longest key, in bytes, with the table's prefix; the state's own limit is twice that.
const KEY_BYTES_MAX: usize = 32 << 10;
/// What an entry of the row cache costs besides key and row.
const CACHE_ENTRY_OVERHEAD_BYTES: usize = 128;
/// Rows that one call of [`Table::expire`] looks at, due or not; more where its limit is higher.
const EXPIRY_LOOKS_MAX: usize = 16 << 10;
/// Keys that are put into the expiry index together when a table that had no TTL gets one.
const INDEX_KEYS_MAX: usize = 4096;

/// True where a table can hold a column of this type.
pub fn can_hold(data_type: &DataType) -> bool {
    row::supports(data_type)
}

/// What a table keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableOptions {
    /// Rows that were written or read lately.
    pub cache_bytes: usize,
    /// Up to this many keys are known to a filter, which costs two to six bytes for each. A table with more reads the
    /// old row of every key that it is given.
    pub filter_keys_max: usize,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { cache_bytes: 8 << 20, filter_keys_max: 4_000_000 }
    }
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
    state: State,
    spec: TableSpec,
    codec: RowCodec,
    keys: TableKeys,
    /// Rows by the fingerprint of their key; `None` is a key that is known to be absent.
    cache: Generations<u64, (Bytes, Option<Bytes>), BuildHasherDefault<AsIs>>,
    /// Where there is one, it knows every key of the table.
    filter: Option<KeyFilter>,
    expiry: Option<Expiry>,
}

/// One key of a batch.
struct Slot {
    fingerprint: u64,
    /// The first row with this key.
    row: usize,
    /// The row as it is after the rows so far.
    current: Option<Bytes>,
    /// True where the key was in the table before the batch.
    stored: bool,
    /// True where the row came from the cache.
    cached: bool,
    /// True where there is something to write.
    dirty: bool,
}

impl Table {
    /// Opens the table, which reads its keys once, and creates it where there is none.
    ///
    /// # Errors
    /// `Config` where the specification can't be used, or names another key than the one the table was made with.
    pub async fn open(state: State, spec: TableSpec, schemas: Arc<SchemaStore>) -> Result<Self> {
        Self::open_with(state, spec, schemas, TableOptions::default()).await
    }

    /// [`Self::open`] with other bounds for memory.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub async fn open_with(
        state: State,
        spec: TableSpec,
        schemas: Arc<SchemaStore>,
        options: TableOptions,
    ) -> Result<Self> {
        spec.check()?;
        let id = schemas.register(&spec.schema)?;
        let keys = spec.keys();
        let mut table = Self {
            codec: RowCodec::new(&spec.schema, id, schemas).doing(|| format!("open table {}", spec.name))?,
            cache: Generations::new(options.cache_bytes),
            filter: Some(KeyFilter::new(options.filter_keys_max)),
            expiry: spec.ttl_us.map(|ttl| Expiry::new(ttl, keys.expiry.clone())),
            state,
            spec,
            keys,
        };
        table.load(id).await.doing(|| format!("open table {}", table.spec.name))?;
        Ok(table)
    }

    /// What this table is.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Applies the rows of `batch` in order; a row whose entry in `deletes` is true deletes its key. Later rows see what
    /// earlier ones did. A row that is as it is stored makes no change (but counts as written, for the TTL); so does the
    /// delete of a key that is not there. A row that has expired but was not deleted yet is still there.
    ///
    /// The caller commits `writes` before it calls this again; where the commit fails, the table must be dropped.
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
        let keys = key::encode(&self.keys.rows, &key_columns)?;
        let rows = self.codec.encode(columns, batch.num_rows(), |_| now_us);
        let failures = self.failures(&keys, &rows, batch.num_rows());
        let (mut slots, slot_of) = group_by_key(&keys, batch.num_rows(), &failures);
        self.look_up(&keys, &mut slots).await?;

        let mut changes = Changes::with_capacity(batch.num_rows());
        for (row, &slot) in slot_of.iter().enumerate() {
            // A row that failed has no slot.
            let Some(slot) = slots.get_mut(slot as usize) else { continue };
            let delete = deletes.is_some_and(|d| d.is_valid(row) && d.value(row));
            self.step(slot, row, (!delete).then_some(&rows), &mut changes);
        }
        self.write(&keys, rows.bytes.len(), slots, now_us, writes);
        let changed = changes.batch(&self.spec, &self.codec, columns, now_us)?;
        Ok(Applied { changes: changed, rows: changes.rows, failures })
    }

    /// Deletes rows whose TTL is over, at most about `limit` of them, and gives the changes; `None` where there are none.
    /// `writes` must be committed in both cases, by the rules of [`Self::apply`]: rows that were written again since are
    /// put back into the index. To be called again as long as [`Self::next_expiry`] is not in the future.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn expire(&mut self, now_us: i64, limit: usize, writes: &mut Writes) -> Result<Option<RecordBatch>> {
        // On a copy, so that a call that is dropped half-way changes nothing.
        let Some(mut expiry) = self.expiry.clone() else { return Ok(None) };
        let expired = self.expire_due(&mut expiry, now_us, limit, writes).await;
        let expired = expired.doing(|| format!("expire rows of table {}", self.spec.name))?;
        self.expiry = Some(expiry);
        if expired.is_empty() {
            return Ok(None);
        }
        Changes::expired(expired, &self.spec, &self.codec, now_us).map(Some)
    }

    /// When [`Self::expire`] may have something to do next, in microseconds since the epoch.
    pub fn next_expiry(&self) -> Option<i64> {
        self.expiry.as_ref()?.next_us()
    }

    async fn load(&mut self, schema_id: u64) -> Result<()> {
        let view = StateView::from(&self.state);
        let stored = Stored::load(&view, &self.keys.stored[..self.keys.stored.len() - 1]).await?;
        let names = self.spec.key_names();
        if let Some(stored) = stored.as_ref().filter(|s| s.key != names) {
            return Err(Error::config(format!(
                "its key was [{}] and is now [{}]: give the table a new name, so that its rows are built anew",
                stored.key.join(", "),
                names.join(", ")
            )));
        }
        let mut writes = Writes::new();
        let unindexed = self.expiry.is_some() && stored.as_ref().is_some_and(|s| !s.indexed);
        self.load_keys(unindexed, &mut writes).await?;
        if let Some(expiry) = &mut self.expiry
            && expiry.head_us.is_none()
            && let Some((key, _)) = self.state.scan(expiry.from(i64::MIN)).await?.next().await?
        {
            expiry.head_us = expiry.time_of(&key);
        }
        // Without a TTL, rows are not indexed from now on.
        let now = Stored::new(&self.spec, schema_id, self.expiry.is_some());
        if stored.as_ref() != Some(&now) {
            writes.put(self.keys.stored.clone(), now.bytes()?);
            self.state.commit(writes).await?;
        }
        Ok(())
    }

    /// Reads all keys: into the filter, as far as they fit, and into the expiry index where they are not in it yet.
    async fn load_keys(&mut self, index: bool, writes: &mut Writes) -> Result<()> {
        let mut scan = self.state.scan(range_of(&self.keys.rows)).await?;
        let mut unindexed: Vec<Bytes> = Vec::new();
        loop {
            let entry = scan.next().await?;
            if let Some((key, _)) = &entry {
                if self.filter.as_mut().is_some_and(|filter| !filter.insert(key::fingerprint(key))) {
                    self.filter = None;
                }
                if index {
                    unindexed.push(copy(&key.slice(self.keys.rows.len()..)));
                } else if self.filter.is_none() {
                    return Ok(());
                }
            }
            if let Some(expiry) = self.expiry.as_mut()
                && (entry.is_none() || unindexed.len() == INDEX_KEYS_MAX)
            {
                // At the beginning of time: the first look puts the rows where they belong. A crash on the way leaves
                // entries that the next open adds again, which does no harm.
                expiry.add(i64::MIN, unindexed.iter().map(|k| k.as_ref()), writes);
                unindexed.clear();
                self.state.commit(std::mem::take(writes)).await?;
            }
            if entry.is_none() {
                return Ok(());
            }
        }
    }

    fn check_columns(&self, batch: &RecordBatch) -> Result<()> {
        let (given, own) = (batch.schema_ref().fields(), self.spec.schema.fields());
        let same = given.len() == own.len() && given.iter().zip(own).all(|(g, o)| g.data_type() == o.data_type());
        if same {
            return Ok(());
        }
        Err(Error::bug(format!("table `{}` was given rows with other columns than its own", self.spec.name)))
    }

    fn failures(&self, keys: &Keys, rows: &EncodedRows, count: usize) -> Vec<RowFailure> {
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

    /// Fills in what is stored under each key: from memory where possible.
    async fn look_up(&mut self, keys: &Keys, slots: &mut [Slot]) -> Result<()> {
        let mut unknown = Vec::new();
        for (i, slot) in slots.iter_mut().enumerate() {
            let cached = self.cache.get(&slot.fingerprint, |(key, row)| (copy(key), row.as_ref().map(copy)));
            match cached.filter(|(key, _)| key == keys.bytes_of(slot.row)) {
                Some((_, row)) => (slot.current, slot.cached) = (row, true),
                None if self.filter.as_ref().is_some_and(|f| !f.may_contain(slot.fingerprint)) => {}
                None => unknown.push(i),
            }
        }
        if !unknown.is_empty() {
            // In key order, neighbours find each other's blocks in the engine's cache.
            unknown.sort_unstable_by(|&a, &b| keys.bytes_of(slots[a].row).cmp(keys.bytes_of(slots[b].row)));
            let wanted: Vec<Bytes> = unknown.iter().map(|&i| keys.get(slots[i].row)).collect();
            let mut rows = self.state.get_many(&wanted).await?;
            self.codec.renew(&mut rows).doing(|| format!("read table {}", self.spec.name))?;
            for (i, row) in unknown.into_iter().zip(rows) {
                slots[i].current = row;
            }
        }
        for slot in slots {
            slot.stored = slot.current.is_some();
        }
        Ok(())
    }

    /// One row: `rows` holds its new image, unless it is a delete.
    fn step(&self, slot: &mut Slot, row: usize, rows: Option<&EncodedRows>, changes: &mut Changes) {
        let Some(rows) = rows else {
            if let Some(old) = slot.current.take() {
                slot.dirty = true;
                changes.push(Op::Delete, row, Some(old));
            }
            return;
        };
        match &slot.current {
            Some(old) if row::image(old) == rows.image(row) => {
                // Only the time of the last write is new.
                slot.dirty |= self.expiry.is_some();
                slot.current = Some(rows.get(row));
            }
            Some(old) => {
                changes.push(Op::Update, row, Some(old.clone()));
                (slot.current, slot.dirty) = (Some(rows.get(row)), true);
            }
            None => {
                changes.push(Op::Insert, row, None);
                (slot.current, slot.dirty) = (Some(rows.get(row)), true);
            }
        }
    }

    fn write(&mut self, keys: &Keys, rows_bytes: usize, slots: Vec<Slot>, now_us: i64, writes: &mut Writes) {
        let kept: usize = slots.iter().filter(|s| s.dirty).filter_map(|s| s.current.as_ref()).map(Bytes::len).sum();
        // What is written stays in memory for a while. Slices of the batch's buffers keep all of them: only good where
        // most of them is needed anyway.
        let share = kept * 2 >= rows_bytes;
        let mut inserted: Vec<Bytes> = Vec::new();
        for slot in slots {
            if slot.cached && !slot.dirty {
                continue;
            }
            // What was only read is a slice of a block of the engine.
            let own = |bytes: Bytes| if share && slot.dirty { bytes } else { copy(&bytes) };
            let key = own(keys.get(slot.row));
            let current = slot.current.map(own);
            if slot.dirty {
                match &current {
                    Some(row) => writes.put(key.clone(), row.clone()),
                    None => writes.delete(key.clone()),
                }
            }
            if !slot.stored && current.is_some() {
                // A filter that is full would take new keys for absent ones.
                if self.filter.as_mut().is_some_and(|f| !f.insert(slot.fingerprint)) {
                    self.filter = None;
                }
                if self.expiry.is_some() {
                    inserted.push(key.slice(self.keys.rows.len()..));
                }
            }
            let bytes = key.len() + current.as_ref().map_or(0, Bytes::len) + CACHE_ENTRY_OVERHEAD_BYTES;
            self.cache.insert(slot.fingerprint, (key, current), bytes);
        }
        if let Some(expiry) = &mut self.expiry {
            expiry.add(now_us, inserted.iter().map(|k| k.as_ref()), writes);
        }
    }

    /// The rows that are deleted, as they were.
    async fn expire_due(
        &mut self,
        expiry: &mut Expiry,
        now_us: i64,
        limit: usize,
        writes: &mut Writes,
    ) -> Result<Vec<Option<Bytes>>> {
        let Some(due) = expiry.due(now_us) else { return Ok(Vec::new()) };
        let (mut expired, mut put_back, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        let (mut entries, mut rest, mut all_seen) = (self.state.scan(due).await?, Vec::new(), false);
        while expired.len() < limit && seen.len() < EXPIRY_LOOKS_MAX.max(limit) {
            let Some((entry, value)) = entries.next().await? else {
                all_seen = true;
                break;
            };
            let broken = || Error::corruption("an entry of the expiry index does not read back");
            let time_us = expiry.time_of(&entry).ok_or_else(broken)?;
            let mut keys = Expiry::keys_of(&value).ok_or_else(broken)?;
            let later = keys.split_off(keys.len().min(limit - expired.len()));
            // A key that was deleted and inserted again has two entries; and what this call does can't be read yet.
            keys.retain(|key| seen.insert(key.clone()));
            for (key, row) in self.rows_of(&keys).await? {
                let Some(row) = row else { continue };
                let written_at = row::written_at(&row);
                if expiry.is_over(written_at, now_us) {
                    let full = [self.keys.rows.as_slice(), &key].concat();
                    self.cache.remove(&key::fingerprint(&full));
                    writes.delete(full);
                    expired.push(Some(row));
                } else {
                    put_back.push((written_at, copy(&key)));
                }
            }
            writes.delete(entry);
            rest.push((time_us, later));
        }
        if all_seen {
            let not_due_us = now_us.saturating_sub(expiry.ttl_us).saturating_add(1);
            let next = self.state.scan(expiry.from(not_due_us)).await?.next().await?;
            expiry.head_us = next.and_then(|(key, _)| expiry.time_of(&key));
        }
        // What goes back may be earlier than what comes next.
        for (time_us, keys) in rest {
            expiry.add(time_us, keys.iter().map(|k| k.as_ref()), writes);
        }
        expiry.put_back(put_back, writes);
        Ok(expired)
    }

    /// The stored rows of these keys, which come without the table's prefix.
    async fn rows_of(&self, keys: &[Bytes]) -> Result<Vec<(Bytes, Option<Bytes>)>> {
        let full = |key: &Bytes| Bytes::from([self.keys.rows.as_slice(), key].concat());
        let wanted: Vec<Bytes> = keys.iter().map(full).collect();
        let rows = self.state.get_many(&wanted).await?;
        rows.iter().flatten().try_for_each(|row| RowCodec::check(row))?;
        Ok(keys.iter().cloned().zip(rows).collect())
    }
}

/// Bytes of their own, where `bytes` may be a slice of something large.
fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The distinct keys of a batch, and for each row which of them it has; `u32::MAX` for a row that failed.
fn group_by_key(keys: &Keys, rows: usize, failures: &[RowFailure]) -> (Vec<Slot>, Vec<u32>) {
    let mut slots: Vec<Slot> = Vec::with_capacity(rows);
    let mut slot_of = Vec::with_capacity(rows);
    let mut by_key: HashTable<u32> = HashTable::with_capacity(rows);
    let mut failed = failures.iter().map(|f| f.row as usize).peekable();
    for row in 0..rows {
        if failed.next_if_eq(&row).is_some() {
            slot_of.push(u32::MAX);
            continue;
        }
        let key = keys.bytes_of(row);
        let fingerprint = key::fingerprint(key);
        let is_same = |&slot: &u32| keys.bytes_of(slots[slot as usize].row) == key;
        let hash = |&slot: &u32| slots[slot as usize].fingerprint;
        let slot = *by_key.entry(fingerprint, is_same, hash).or_insert(slots.len() as u32).get();
        if slot as usize == slots.len() {
            slots.push(Slot { fingerprint, row, current: None, stored: false, cached: false, dirty: false });
        }
        slot_of.push(slot);
    }
    (slots, slot_of)
}

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = key::fingerprint(bytes);
    }
}

#[cfg(test)]
mod tests;
