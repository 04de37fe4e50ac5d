//! The data folder: who may use it, and where things are in it.
//!
//! ```text
//! LOCK              held by the one process that writes
//! millstream.json   format version, pipeline name and identity of the folder
//! catalog.json      which streams and tables there are, for commands at rest
//! schemas/          schemas of stored rows, by fingerprint
//! log/<stream>/     segments
//! state/<stage>/<partition>/   SlateDB
//! cache/<model>/    SlateDB: predictions of a model with `cache`
//! state/sink:<name>/0/         SlateDB: how far a sink is
//! damaged/<moment>/ what `repair` took away, under the same paths
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::disk::{
    RealDisk, create_private_dir_all, is_open_to_others, make_tree_private, private_options, write_atomic,
};
use millstream_core::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};

use crate::deliver::sink_target;
use crate::whereabouts::Whereabouts;

/// The version of the layout that this program writes.
///
/// 2: every file of a state ends with a seal. 3: log frames name producer, sequence and watermark; sinks have states;
/// commit records are of several inputs. 4: late records are named, and commit records hold watermarks.
pub const FORMAT: u32 = 4;

/// Where the data folders of all pipelines are unless told otherwise, each called like its pipeline.
pub const DEFAULT_ROOT: &str = "millstream-data";

/// What lies in a data folder and could have been a pipeline's name.
const INSIDE: [&str; 5] = ["cache", "damaged", "log", "schemas", "state"];

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    pipeline: String,
    written_by: String,
    /// A UUID, drawn when the folder is made. A folder of a version that had none gets one when it is opened to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// A data folder.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    /// Held for as long as the folder is open for writing.
    _lock: Option<File>,
}

impl DataDir {
    /// Opens the folder for this process alone, and creates it where it is missing.
    ///
    /// # Errors
    /// It is in use, belongs to another pipeline or a newer version, or can't be written.
    pub fn open(root: &Path, pipeline: &str) -> Result<Self> {
        let doing = || format!("open data folder {}", root.display());
        create_private_dir_all(root).doing(doing)?;
        close_to_others(root);
        let lock = lock(root).map_err(|e| e.context(doing()))?;
        let dir = Self { root: root.to_owned(), _lock: Some(lock) };
        match dir.identity()? {
            Some(identity) if identity.pipeline != pipeline => {
                return Err(Error::config(format!(
                    "data folder {} belongs to the pipeline `{}`, not `{pipeline}`: choose another with --data-dir",
                    root.display(),
                    identity.pipeline
                )));
            }
            Some(identity) if identity.id.is_some() => {}
            _ => dir.write_identity(pipeline).doing(doing)?,
        }
        Ok(dir)
    }

    /// Opens an existing folder to read, beside whatever may be writing.
    ///
    /// # Errors
    /// There is none, or it is of a newer version.
    pub fn open_read_only(root: &Path) -> Result<Self> {
        let dir = Self { root: root.to_owned(), _lock: None };
        match dir.identity()? {
            Some(_) => Ok(dir),
            None => Err(Error::config(format!(
                "{} is no data folder of Millstream: name one with --data-dir, or a running server with --url",
                root.display()
            ))),
        }
    }

    /// Opens an existing folder for this process alone, also where the file that says whose it is is damaged.
    ///
    /// # Errors
    /// As [`DataDir::open`], without that; there is none.
    pub fn open_to_repair(root: &Path, pipeline: &str) -> Result<Self> {
        let known = match Self::open_read_only(root) {
            Err(e) if e.kind() == ErrorKind::Corruption => None,
            opened => Some(opened?.pipeline()?),
        };
        let lock = lock(root).map_err(|e| e.context(format!("open data folder {}", root.display())))?;
        match known.filter(|known| known != pipeline) {
            Some(other) => Err(Error::config(format!(
                "data folder {} belongs to the pipeline `{other}`, not `{pipeline}`",
                root.display()
            ))),
            None => Ok(Self { root: root.to_owned(), _lock: Some(lock) }),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where schemas are.
    pub fn schemas(&self) -> PathBuf {
        self.root.join("schemas")
    }

    /// Where the log of `stream` is.
    pub fn log(&self, stream: &str) -> PathBuf {
        self.root.join("log").join(stream)
    }

    /// Where all states are.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Where a run with these streams and states keeps what it must find again.
    pub fn whereabouts<'a>(
        &self,
        streams: impl IntoIterator<Item = &'a str>,
        states: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Whereabouts {
        let logs = streams.into_iter().map(|stream| self.log(stream));
        let states = states.into_iter().map(|(stage, partition)| self.state().join(Self::state_path(stage, partition)));
        let states = states.flat_map(|state| [state.join("manifest"), state]);
        let whole = [self.root.clone(), self.root.join("millstream.json"), self.schemas()];
        Whereabouts::of(whole.into_iter().chain(logs).chain(states))
    }

    /// Path of one state below [`DataDir::state`].
    pub fn state_path(stage: &str, partition: u32) -> String {
        format!("{stage}/{partition}")
    }

    /// Path of the state of a sink below [`DataDir::state`]: no stage has a name with a colon.
    pub fn sink_state_path(sink: &str) -> String {
        Self::state_path(&sink_target(sink), 0)
    }

    /// Where the predictions of all models are; one state below it for each.
    pub fn model_caches(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// True where a log lies in it.
    pub fn has_logs(&self) -> bool {
        std::fs::read_dir(self.root.join("log")).is_ok_and(|mut logs| logs.next().is_some())
    }

    /// Where the catalog is.
    pub fn catalog(&self) -> PathBuf {
        self.root.join("catalog.json")
    }

    /// The pipeline that the folder belongs to.
    pub fn pipeline(&self) -> Result<String> {
        Ok(self.identity()?.map(|i| i.pipeline).unwrap_or_default())
    }

    /// The identity of the folder: what tells its offsets from those of another folder, or of an earlier one at the
    /// same place. A copy of the folder is the same folder.
    ///
    /// # Errors
    /// It can't be read.
    pub fn id(&self) -> Result<Arc<str>> {
        let id = self.identity()?.and_then(|i| i.id);
        id.map(Into::into)
            .ok_or_else(|| Error::bug("the data folder was not opened to write, so it may have no identity"))
    }

    fn identity(&self) -> Result<Option<Identity>> {
        let path = self.root.join("millstream.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::from(e).context(format!("read {}", path.display()))),
        };
        // Only the version is read of a newer layout: the rest may look otherwise there.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let broken = |e: serde_json::Error| Error::corruption(format!("{} is damaged", path.display())).caused_by(e);
        let version: Version = serde_json::from_slice(&text).map_err(broken)?;
        if version.format > FORMAT {
            return Err(Error::environment(format!(
                "data folder {} was written by a newer version of Millstream (layout {}, this program knows {FORMAT}): \
                 use that version, or another folder with --data-dir",
                self.root.display(),
                version.format
            )));
        }
        if version.format < FORMAT {
            return Err(Error::environment(format!(
                "data folder {} was written before the first release of Millstream (layout {}, this program knows \
                 {FORMAT}): take another folder with --data-dir, and read the sources again",
                self.root.display(),
                version.format
            )));
        }
        serde_json::from_slice(&text).map(Some).map_err(broken)
    }

    fn write_identity(&self, pipeline: &str) -> Result<()> {
        let identity = Identity {
            format: FORMAT,
            pipeline: pipeline.into(),
            written_by: env!("CARGO_PKG_VERSION").into(),
            id: Some(uuid::Uuid::new_v4().to_string()),
        };
        let text = serde_json::to_vec_pretty(&identity).map_err(|e| Error::bug(e.to_string()))?;
        Ok(write_atomic(&RealDisk, &self.root.join("millstream.json"), &text)?)
    }
}

/// Where the pipeline called `name` keeps its data below `root` ([`DEFAULT_ROOT`]) unless told otherwise: in
/// `root/name`. Earlier versions kept it in `root` itself; that of this pipeline is used where it is.
///
/// # Errors
/// `root` is the data folder of another pipeline, and the name is that of something in it.
pub fn default_folder(root: &Path, name: &str) -> Result<PathBuf> {
    let own = root.join(name);
    if own.join("millstream.json").exists() {
        return Ok(own);
    }
    match owner(root) {
        Some(owner) if owner == name => {
            tracing::info!(
                "the data is in {} itself, as earlier versions had it; now it would be in {}: both work",
                root.display(),
                own.display()
            );
            Ok(root.to_owned())
        }
        Some(owner) if INSIDE.contains(&name) => Err(Error::config(format!(
            "{} is the data folder of the pipeline `{owner}`, and `{name}` is a part of it: choose another folder with --data-dir",
            root.display()
        ))),
        _ => Ok(own),
    }
}

/// The data folders in `root`, and `root` itself where it is one, by the name of their pipelines.
pub fn found_in(root: &Path) -> Vec<(String, PathBuf)> {
    let below = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<(String, PathBuf)> =
        std::iter::once(root.to_owned()).chain(below).filter_map(|folder| Some((owner(&folder)?, folder))).collect();
    found.sort();
    found
}

/// The pipeline that a folder belongs to. Where its file does not read, the name of the folder: whoever opens it is
/// told.
fn owner(folder: &Path) -> Option<String> {
    let text = std::fs::read(folder.join("millstream.json")).ok()?;
    let identity = serde_json::from_slice::<Identity>(&text).map(|identity| identity.pipeline);
    Some(identity.unwrap_or_else(|_| folder.file_name().unwrap_or_default().to_string_lossy().into_owned()))
}

/// Takes from a folder that earlier versions made, or a person, what others may do with it: records are in it.
fn close_to_others(root: &Path) {
    // What can't be looked at can't be opened either, which is said then.
    if !is_open_to_others(root).unwrap_or(false) {
        return;
    }
    let root_shown = root.display();
    match make_tree_private(root) {
        Ok(()) => tracing::info!("the data folder {root_shown} was open to other users: it is its owner's alone now"),
        Err(e) => tracing::warn!(
            "the data folder {root_shown} is open to other users, who may read records in it, and can't be closed to them \
             ({e}): `chmod -R go= {root_shown}` as its owner"
        ),
    }
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("LOCK");
    let file = private_options().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::environment(
            "another Millstream process is using it: stop that one, ask it with --url, or choose another folder with --data-dir",
        )),
        Err(std::fs::TryLockError::Error(e)) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pipeline_has_a_folder_of_its_own_and_one_of_an_earlier_version_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("millstream-data");
        assert_eq!(default_folder(&root, "news").unwrap(), root.join("news"));
        assert!(found_in(&root).is_empty());
        for name in ["news", "posts"] {
            drop(DataDir::open(&default_folder(&root, name).unwrap(), name).unwrap());
        }
        let names = |found: Vec<(String, PathBuf)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(found_in(&root)), ["news", "posts"]);

        let root = temp.path().join("old");
        drop(DataDir::open(&root, "news").unwrap());
        assert_eq!(default_folder(&root, "news").unwrap(), root);
        assert_eq!(default_folder(&root, "posts").unwrap(), root.join("posts"));
        assert!(default_folder(&root, "log").unwrap_err().to_string().contains("--data-dir"));
        assert_eq!(found_in(&root), [("news".to_owned(), root)]);
    }

    #[test]
    fn each_folder_has_an_identity_that_stays_and_an_old_one_gets_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let id = |name: &str| DataDir::open(&temp.path().join(name), "news").unwrap().id().unwrap();
        let first = id("a");
        assert_eq!(id("a"), first, "it stays");
        assert_ne!(id("b"), first);
        std::fs::remove_dir_all(temp.path().join("a")).unwrap();
        assert_ne!(id("a"), first, "another folder at the same place");
        let old = temp.path().join("old");
        std::fs::create_dir_all(&old).unwrap();
        let text = format!(r#"{{"format":{FORMAT},"pipeline":"news","written_by":"0.0.9"}}"#);
        std::fs::write(old.join("millstream.json"), text).unwrap();
        assert_eq!(id("old"), id("old"));
    }

    #[test]
    fn a_folder_serves_one_process_one_pipeline_and_no_newer_version() {
        let temp = tempfile::tempdir().unwrap();
        let held = DataDir::open(temp.path(), "news").unwrap();
        assert!(DataDir::open(temp.path(), "news").unwrap_err().to_string().contains("another Millstream process"));
        drop(held);
        assert!(
            DataDir::open(temp.path(), "posts").unwrap_err().to_string().contains("belongs to the pipeline `news`")
        );
        std::fs::write(temp.path().join("millstream.json"), r#"{"format": 99, "new": []}"#).unwrap();
        assert!(DataDir::open(temp.path(), "news").unwrap_err().to_string().contains("newer version"));
        assert_eq!(std::fs::read(temp.path().join("millstream.json")).unwrap(), br#"{"format": 99, "new": []}"#);
        for earlier in 1..FORMAT {
            let text = format!(r#"{{"format":{earlier},"pipeline":"news","written_by":"0"}}"#);
            std::fs::write(temp.path().join("millstream.json"), text).unwrap();
            assert!(DataDir::open(temp.path(), "news").unwrap_err().to_string().contains("before the first release"));
        }
    }
}
