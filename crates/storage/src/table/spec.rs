//! What a table is, and the keys that it uses in its state.
//!
//! ```text
//! "t/" name 00 "k" key    → row        (formats: `key`, `row`)
//! "t/" name 00 "m"        → description of the table, JSON
//! "t/" name 00 "x" time … → keys of rows that were inserted then (format: `keyed::Timers`)
//! ```

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::{Error, Result, ResultExt};
use serde::{Deserialize, Serialize};

use crate::codec::SchemaStore;
use crate::keyed::{can_be_key, end_of};
use crate::state::StateView;

const FORMAT: u32 = 1;

/// A table: its name, columns and key.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// The name, unique in its state; without NUL bytes.
    pub name: Arc<str>,
    /// The columns that identify a row, by position; at least one.
    pub key: Vec<usize>,
    /// All columns.
    pub schema: SchemaRef,
    /// Rows expire this long after their last write, in microseconds of processing time.
    pub ttl_us: Option<i64>,
}

impl TableSpec {
    /// # Errors
    /// `Config` where the name or the key can't be used.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::config(format!("table `{}`: {what}", self.name)));
        if self.name.is_empty() || self.name.len() > 256 || self.name.contains('\0') {
            return wrong("the name must have 1 to 256 bytes, none of them NUL".into());
        }
        if self.key.is_empty() {
            return wrong("it needs a key".into());
        }
        for &column in &self.key {
            let Some(field) = self.schema.fields().get(column) else {
                return wrong(format!("the key names column {column}, which does not exist"));
            };
            if !can_be_key(field.data_type()) {
                return wrong(format!(
                    "column `{}` of type {} can't be part of a key",
                    field.name(),
                    field.data_type()
                ));
            }
        }
        if self.ttl_us.is_some_and(|ttl| ttl <= 0) {
            return wrong("the TTL must be longer than nothing".into());
        }
        Ok(())
    }

    /// The key columns' names.
    pub fn key_names(&self) -> Vec<&str> {
        self.key.iter().map(|&k| self.schema.field(k).name().as_str()).collect()
    }

    /// Reads the description that [`super::Table::open`] stored; `None` where `name` was never opened in this state.
    ///
    /// # Errors
    /// As for reading the state; `Environment` where a newer version wrote it.
    pub async fn stored(view: &StateView, name: &str, schemas: &SchemaStore) -> Result<Option<Self>> {
        let Some(stored) = Stored::load(view, &prefix(name)).await.doing(|| format!("open table {name}"))? else {
            return Ok(None);
        };
        let schema = schemas.get(stored.schema_id()?).doing(|| format!("open table {name}"))?;
        let position = |column: &String| {
            schema
                .index_of(column)
                .map_err(|_| Error::corruption(format!("table `{name}` has no key column `{column}`")))
        };
        let key = stored.key.iter().map(position).collect::<Result<_>>()?;
        Ok(Some(Self { name: name.into(), key, schema, ttl_us: stored.ttl_us }))
    }

    pub(super) fn keys(&self) -> TableKeys {
        let prefix = prefix(&self.name);
        let with = |kind: u8| [prefix.as_slice(), &[kind]].concat();
        TableKeys { rows: with(b'k').into(), expiry: with(b'x').into(), stored: with(b'm').into() }
    }
}

fn prefix(name: &str) -> Vec<u8> {
    [b"t/", name.as_bytes(), b"\0"].concat()
}

/// The prefixes of a table's keys.
#[derive(Debug, Clone)]
pub(super) struct TableKeys {
    pub(super) rows: Bytes,
    pub(super) expiry: Bytes,
    pub(super) stored: Bytes,
}

/// The range of keys that begin with `prefix`, whose last byte is a letter.
pub(super) fn range_of(prefix: &[u8]) -> std::ops::Range<Bytes> {
    Bytes::copy_from_slice(prefix)..end_of(prefix)
}

/// A table's description as it is stored beside it, so that it can be read without its pipeline file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    format: u32,
    schema: String,
    pub(super) key: Vec<String>,
    ttl_us: Option<i64>,
    /// True where the expiry index knows every row.
    pub(super) indexed: bool,
}

impl Stored {
    pub(super) fn new(spec: &TableSpec, schema_id: u64, indexed: bool) -> Self {
        Self {
            format: FORMAT,
            schema: format!("{schema_id:016x}"),
            key: spec.key_names().into_iter().map(String::from).collect(),
            ttl_us: spec.ttl_us,
            indexed,
        }
    }

    pub(super) async fn load(view: &StateView, prefix: &[u8]) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let broken =
            |e: serde_json::Error| Error::corruption("the table's description does not read back").caused_by(e);
        let Some(bytes) = view.get(&[prefix, b"m"].concat()).await? else { return Ok(None) };
        let Format { format } = serde_json::from_slice(&bytes).map_err(broken)?;
        if format > FORMAT {
            return Err(Error::environment(format!(
                "the table is of format {format}, this Millstream reads up to {FORMAT}: use the version that wrote it"
            )));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(broken)
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::bug("table description").caused_by(e))
    }

    fn schema_id(&self) -> Result<u64> {
        u64::from_str_radix(&self.schema, 16).map_err(|e| Error::corruption("the table's schema id").caused_by(e))
    }
}
