//! Reading a state without owning it.

use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Result, ResultExt};
use slatedb::config::DbReaderOptions;
use slatedb::{DbReader, DbReaderMode};

use super::cache::BudgetedBlocks;
use super::failure::Home;
use super::{
    FORMAT_KEY, State, StateOptions, StateScan, StateStore, bounds, check_format, read_options, scan_options,
    side_by_side,
};

/// A view of a state at rest, or of one that another process is writing. It writes nothing and fences nobody; it
/// follows the writer with a delay of seconds.
#[derive(Clone)]
pub struct StateReader {
    db: Arc<DbReader>,
    home: Home,
}

impl StateReader {
    /// Opens the state at `path` of `store` for reading.
    ///
    /// # Errors
    /// As for [`State::open`]; also where there is no such state.
    pub async fn open(store: StateStore, path: &str, options: &StateOptions) -> Result<Self> {
        let reader_options = DbReaderOptions {
            max_memtable_bytes: options.memtable_bytes as u64,
            object_store_max_retries: options.engine().object_store_max_retries,
            manifest_poll_interval: std::time::Duration::from_secs(2),
            ..DbReaderOptions::default()
        };
        store.damage.forget(path);
        let home = Home::new(store, path);
        home.check_whole().await?;
        let builder = DbReader::builder(path, home.store.objects.clone())
            .with_system_clock(home.store.clock.clone())
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_options(reader_options)
            .with_db_cache(BudgetedBlocks::new(&options.memory), options.memory.scope().into());
        let db = home.started(Box::pin(builder.build()), "open").await?;
        let reader = Self { db: Arc::new(db), home };
        if let Some(format) = reader.get(FORMAT_KEY).await? {
            check_format(&format).doing(|| format!("open state {path} for reading"))?;
        }
        Ok(reader)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// As for [`State::open`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let got = Box::pin(self.db.get_with_options(key, &read_options())).await;
        self.home.told(got, "read").await
    }

    /// The entries with keys in `range`, in key order.
    ///
    /// # Errors
    /// As for [`State::open`].
    pub async fn scan(&self, range: impl RangeBounds<Bytes>) -> Result<StateScan> {
        let (range, options) = (bounds(&range), scan_options());
        let iter = Box::pin(self.db.scan_with_options(range, &options)).await;
        let iter = self.home.told(iter, "scan").await?;
        Ok(StateScan { iter, home: self.home.clone() })
    }

    /// Stops following the writer.
    ///
    /// # Errors
    /// As for [`State::open`].
    pub async fn close(&self) -> Result<()> {
        let closed = Box::pin(self.db.close()).await;
        self.home.told(closed, "close").await
    }
}

impl std::fmt::Debug for StateReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateReader").field("path", &self.home.path).finish_non_exhaustive()
    }
}

/// A state to read from: one that this process owns, or one that it only reads.
#[derive(Debug, Clone)]
pub enum StateView {
    /// Owned by this process.
    Owned(State),
    /// Read only.
    Reader(StateReader),
}

impl StateView {
    /// The value of `key`.
    ///
    /// # Errors
    /// As for [`State::open`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self {
            Self::Owned(state) => state.get(key).await,
            Self::Reader(reader) => reader.get(key).await,
        }
    }

    /// The values of `keys`, in their order.
    ///
    /// # Errors
    /// As for [`State::open`].
    pub async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let view = self.clone();
        side_by_side(keys, move |key| {
            let view = view.clone();
            async move { view.get(&key).await }
        })
        .await
    }

    /// The entries with keys in `range`, in key order.
    ///
    /// # Errors
    /// As for [`State::open`].
    pub async fn scan(&self, range: impl RangeBounds<Bytes>) -> Result<StateScan> {
        match self {
            Self::Owned(state) => state.scan(range).await,
            Self::Reader(reader) => reader.scan(range).await,
        }
    }
}

impl From<State> for StateView {
    fn from(state: State) -> Self {
        Self::Owned(state)
    }
}

impl From<&State> for StateView {
    fn from(state: &State) -> Self {
        Self::Owned(state.clone())
    }
}

impl From<StateReader> for StateView {
    fn from(reader: StateReader) -> Self {
        Self::Reader(reader)
    }
}
