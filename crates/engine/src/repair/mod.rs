//! Mending a data folder at rest: what is damaged is taken away, where something else can make it anew.
//!
//! A task's state comes from its log: without a state it begins with the oldest record that is kept, and sends on
//! everything again. A sink whose state is damaged delivers its streams again. What nothing else can make (logs) stays
//! as it is. Nothing is deleted: what is taken away lies under the same path in `damaged/<moment>/`.

mod look;

use arrow::datatypes::SchemaRef;
use millstream_core::disk::{Disk, RealDisk, create_private_dir_all};
use millstream_core::{Error, Result, ResultExt};
use millstream_storage::codec::SchemaStore;
use millstream_storage::state::{State, StateOptions, Writes, local_store};
use std::path::{Path, PathBuf};

use super::data_dir::DataDir;
use super::deliver::state_options;
use super::outbox::{COMMIT_KEY, Commit};

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
    /// A sink's state is taken away, and one that begins with the oldest records put in its place.
    Restart(Box<Commit>),
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
    pub async fn mend(&self, dir: &DataDir, aside: &Path) -> Result<()> {
        let (from, to) = (dir.root().join(&self.path), aside.join(&self.path));
        let mended = match &self.remedy {
            Remedy::None => Ok(()),
            Remedy::Rebuild | Remedy::TakeAway => take_away(&from, &to),
            Remedy::Restart(commit) => restart(dir, &from, &to, commit).await,
            Remedy::Rewrite(schema) => rewrite(dir, &from, &to, schema),
        };
        mended.doing(|| format!("mend {}", from.display()))
    }
}

/// A crash after the first step leaves a sink without a state, which begins with the oldest records, too.
async fn restart(dir: &DataDir, from: &Path, to: &Path, commit: &Commit) -> Result<()> {
    take_away(from, to)?;
    let path = from.strip_prefix(dir.state()).ok().and_then(Path::to_str);
    let path = path.ok_or_else(|| Error::bug(format!("{} is no state", from.display())))?;
    let state = State::open(local_store(&dir.state())?, path, &state_options(&StateOptions::default())).await?;
    let mut writes = Writes::new();
    writes.put(COMMIT_KEY, commit.encode());
    state.commit(writes).await?;
    state.close().await
}

fn rewrite(dir: &DataDir, from: &Path, to: &Path, schema: &SchemaRef) -> Result<()> {
    if from.exists() {
        take_away(from, to)?;
    }
    SchemaStore::open(&dir.schemas())?.register(schema).map(drop)
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
