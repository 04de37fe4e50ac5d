//! What is in a data folder, for commands that read it at rest: streams, and tables with their keys and schemas.

use std::collections::BTreeSet;
use std::path::Path;

use millstream_core::disk::{RealDisk, read_all, write_atomic};
use millstream_core::{Error, Result, ResultExt};
use millstream_storage::codec::SchemaStore;
use millstream_storage::table::TableSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::plan::{Plan, storage_spec};
use crate::streams::is_visible;

/// The streams and tables of a data folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// Streams, by name.
    pub streams: Vec<CatalogStream>,
    /// Tables, by name.
    pub tables: Vec<CatalogTable>,
    /// The sinks that have begun: one of them that has no state has lost it.
    #[serde(default)]
    pub sinks: BTreeSet<String>,
}

/// A catalog as it is in its file.
#[derive(Serialize, Deserialize)]
struct Stored {
    checksum: String,
    #[serde(flatten)]
    catalog: Catalog,
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogStream {
    /// Its name.
    pub name: String,
    /// Id of the schema of its rows.
    pub schema: u64,
    /// False for exchanges.
    pub visible: bool,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogTable {
    /// Its name.
    pub name: String,
    /// The stage whose state holds it.
    pub stage: String,
    /// Partitions.
    pub partitions: u32,
    /// Key columns.
    pub key: Vec<usize>,
    /// Id of its schema.
    pub schema: u64,
    /// Time to live, microseconds.
    pub ttl_us: Option<i64>,
}

impl Catalog {
    /// Reads the catalog; an empty one where there is none.
    pub fn load(path: &Path) -> Result<Self> {
        match read_all(&RealDisk, path) {
            Ok(text) => {
                let broken = || Error::corruption(format!("{} is damaged", path.display()));
                let stored: Stored = serde_json::from_slice(&text).map_err(|e| broken().caused_by(e))?;
                if stored.checksum == stored.catalog.checksum()? { Ok(stored.catalog) } else { Err(broken()) }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::from(e).context(format!("read {}", path.display()))),
        }
    }

    /// Adds what `plan` has, keeps what it does not (a table that a replay made), and writes the file.
    ///
    /// # Errors
    /// `Config` where a stored table would be looked for in another place than where its rows are.
    pub fn update(mut self, path: &Path, plan: &Plan, schemas: &SchemaStore) -> Result<Self> {
        for stream in &plan.streams {
            self.streams.retain(|known| *known.name != *stream.name);
            self.streams.push(CatalogStream {
                name: stream.name.to_string(),
                schema: schemas.register(&stream.schema)?,
                visible: is_visible(stream.kind),
            });
        }
        for stage in &plan.stages {
            for table in &stage.tables {
                let spec = storage_spec(&table.spec);
                if let Some(known) = self.table(&spec.name) {
                    known.check_unmoved(&spec, &stage.id, stage.partitions, schemas)?;
                }
                self.tables.retain(|known| *known.name != *spec.name);
                self.tables.push(CatalogTable {
                    name: spec.name.to_string(),
                    stage: stage.id.to_string(),
                    partitions: stage.partitions,
                    key: spec.key,
                    schema: schemas.register(&spec.schema)?,
                    ttl_us: spec.ttl_us,
                });
            }
        }
        self.streams.sort_by(|a, b| a.name.cmp(&b.name));
        self.tables.sort_by(|a, b| a.name.cmp(&b.name));
        self.store(path)
    }

    /// Adds the sinks of `plan`, once they have begun, and writes the file where one of them is new.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn add_sinks(mut self, path: &Path, plan: &Plan) -> Result<Self> {
        let known = self.sinks.len();
        self.sinks.extend(plan.sinks.iter().map(|sink| sink.name.to_string()));
        if self.sinks.len() == known { Ok(self) } else { self.store(path) }
    }

    fn store(self, path: &Path) -> Result<Self> {
        let stored = Stored { checksum: self.checksum()?, catalog: self };
        let text = serde_json::to_vec_pretty(&stored).map_err(|e| Error::bug(e.to_string()))?;
        write_atomic(&RealDisk, path, &text).doing(|| format!("write {}", path.display()))?;
        Ok(stored.catalog)
    }

    /// Of all that it says; a changed letter of a name would be another stream.
    fn checksum(&self) -> Result<String> {
        let text = serde_json::to_vec(self).map_err(|e| Error::bug(e.to_string()))?;
        Ok(Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }

    /// The names of all streams and tables.
    pub fn names(&self) -> BTreeSet<String> {
        let streams = self.streams.iter().map(|stream| stream.name.clone());
        streams.chain(self.tables.iter().map(|table| table.name.clone())).collect()
    }

    /// The table called `name`.
    pub fn table(&self, name: &str) -> Option<&CatalogTable> {
        self.tables.iter().find(|t| t.name == name)
    }
}

impl CatalogTable {
    /// Rows are found by stage and partition: a table whose key or partitions changed would lose sight of its old rows,
    /// and keep two of one key.
    fn check_unmoved(&self, new: &TableSpec, stage: &str, partitions: u32, schemas: &SchemaStore) -> Result<()> {
        let old = self.spec(schemas)?;
        let what = if old.key_names() != new.key_names() {
            format!("its key is ({}), not ({})", old.key_names().join(", "), new.key_names().join(", "))
        } else if self.partitions != partitions {
            format!("it has {} partitions, not {partitions}", self.partitions)
        } else if self.stage != stage {
            format!("its rows are partitioned like stream `{}`, not like `{stage}`", self.stage)
        } else {
            return Ok(());
        };
        Err(Error::config(format!(
            "table `{}` is stored otherwise than the pipeline file now says: {what}. Give the changed table another name \
             and fill it with `millstream replay`, undo the change, or start with another data folder",
            self.name
        )))
    }

    /// The table as the storage crate wants it.
    pub fn spec(&self, schemas: &SchemaStore) -> Result<TableSpec> {
        Ok(TableSpec {
            name: self.name.as_str().into(),
            key: self.key.clone(),
            schema: schemas.get(self.schema)?,
            ttl_us: self.ttl_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn a_table_whose_rows_would_be_looked_for_elsewhere_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let schemas = SchemaStore::open(temp.path()).unwrap();
        let text = |name| Field::new(name, DataType::Utf8, false);
        let schema = Arc::new(Schema::new(vec![text("id"), text("site")]));
        let id = schemas.register(&schema).unwrap();
        let table = CatalogTable {
            name: "news".into(),
            stage: "wire".into(),
            partitions: 4,
            key: vec![0],
            schema: id,
            ttl_us: None,
        };
        let spec = |key: Vec<usize>| TableSpec { name: "news".into(), key, schema: schema.clone(), ttl_us: None };
        assert!(table.check_unmoved(&spec(vec![0]), "wire", 4, &schemas).is_ok());
        let why = |key, stage, partitions| {
            table.check_unmoved(&spec(key), stage, partitions, &schemas).unwrap_err().to_string()
        };
        assert!(why(vec![0], "wire", 8).contains("it has 4 partitions, not 8"));
        assert!(why(vec![1], "wire", 4).contains("its key is (id), not (site)"));
        assert!(why(vec![0], "news.input", 4).contains("partitioned like stream `wire`"));
    }
}
