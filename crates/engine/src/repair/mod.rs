//! Mending a data folder at rest: what is damaged is taken away, where something else can make it anew.
//!
//! A task's state comes from its log: without a state it begins with the oldest record that is kept, and sends on
//! everything again. A sink without offsets delivers its streams again. What nothing else can make (logs) stays as it is.
//! Nothing is deleted: what is taken away lies under the same path in `damaged/<moment>/`.

mod look;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::disk::{Disk, RealDisk, create_private_dir_all, write_atomic};
use millstream_core::{Error, Result, ResultExt};
use millstream_storage::checkpoint::Checkpoint;
use millstream_storage::codec::SchemaStore;

use super::data_dir::DataDir;
use super::deliver::Committed;

pub use look::{Looked, look};

/// A part of a data folder that is damaged.
#[derive(Debug)]
pub struct Damaged {
    /// Its path in the data folder: a file, or the folder of a log or state.
    pub path: PathBuf,
    /// What is wrong, with the names of files.
    pub found: Vec<String>,
    /// What can be done.
    pub remedy: Remedy,
    /// The same in words, with what it costs.
    pub says: String,
}

/// What can be done about damage.
#[derive(Debug)]
pub enum Remedy {
    /// A task's state is taken away; the task builds it anew from its log.
    Rebuild,
    /// It is taken away: the next start writes it anew, or nobody needs it.
    TakeAway,
    /// A sink starts again with the oldest record of these streams.
    Restart(Vec<Arc<str>>),
    /// A schema is written anew.
    Rewrite(SchemaRef),
    /// Nothing: nothing else holds what is in it.
    None,
}

impl Damaged {
    /// True where something can be done.
    pub fn can_be_mended(&self) -> bool {
        !matches!(self.remedy, Remedy::None)
    }

    /// Does it; what is taken away goes below `aside`. A crash in between leaves the damage, or what is mended.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn mend(&self, dir: &DataDir, aside: &Path) -> Result<()> {
        let (from, to) = (dir.root().join(&self.path), aside.join(&self.path));
        let mend = || match &self.remedy {
            Remedy::None => Ok(()),
            Remedy::Rebuild | Remedy::TakeAway => take_away(&from, &to),
            Remedy::Restart(streams) => {
                // Copied and replaced, not moved: a sink without offsets could begin with the newest record.
                create_private_dir_all(parent(&to)?)?;
                write_atomic(&RealDisk, &to, &std::fs::read(&from)?)?;
                let offsets = streams.iter().map(|stream| (stream.to_string(), Vec::new())).collect();
                let committed = Committed { offsets, token: None };
                let bytes = serde_json::to_vec(&committed).map_err(|e| Error::bug(e.to_string()))?;
                Checkpoint::open(&from)?.store(&bytes)
            }
            Remedy::Rewrite(schema) => {
                if from.exists() {
                    take_away(&from, &to)?;
                }
                SchemaStore::open(&dir.schemas())?.register(schema).map(drop)
            }
        };
        mend().doing(|| format!("mend {}", from.display()))
    }
}

fn take_away(from: &Path, to: &Path) -> Result<()> {
    create_private_dir_all(parent(to)?)?;
    std::fs::rename(from, to)?;
    RealDisk.sync_dir(parent(to)?)?;
    Ok(RealDisk.sync_dir(parent(from)?)?)
}

fn parent(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| Error::bug(format!("{} is in no folder", path.display())))
}
