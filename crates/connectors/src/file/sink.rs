//! Writes rows into files that appear only when they are whole.
//!
//! A file is written under a hidden name in the folder itself, so that publishing it is one `rename`:
//!
//! ```text
//! .{pipeline}~{sink}~{partition}-{offset}.part    being written, or sealed
//! {name}-{partition}-{offset}.{extension}         published; partition and offset are those of its first row
//! ```
//!
//! The token of a sealed file is JSON: `{"folder": absolute, "part": hidden name, "name": name in the folder}`. Every
//! crash leaves one of these:
//!
//! | what is there | stored token | recovery |
//! |---|---|---|
//! | hidden file | none, or another | removes it: its rows come again |
//! | hidden file | names it | publishes it |
//! | published file | names it | nothing to do |

mod writer;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use millstream_core::descriptors::wait_for_one;
use millstream_core::{Clock, Error, Result, ResultExt, RowFailure, SinkBatch, StagedSink};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use self::writer::{Piece, Writer};
use super::sink_config::{FileSinkConfig, FileSinkSpec};
use crate::context::SinkContext;
use crate::payload::{Body, Payload};

/// Writes rows into files; see [`FileSinkConfig`].
pub struct FileSink {
    config: FileSinkConfig,
    body: Option<Body>,
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    folder: PathBuf,
    /// What the hidden files of this sink begin with.
    prefix: String,
    state: State,
    turn: Turn,
}

enum State {
    Idle,
    Open(OpenFile),
    /// A call is at work, or was abandoned in the middle: what is in the file is not known any more.
    Busy,
}

/// A file being written.
struct OpenFile {
    path: PathBuf,
    part: String,
    /// `{partition}-{offset}` of its first row.
    first: String,
    opened_us: i64,
    writer: Writer,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    folder: PathBuf,
    part: String,
    name: String,
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink").field("name", &self.name).field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl FileSink {
    /// A sink with settings that were checked; touches the disk with the first call.
    ///
    /// # Errors
    /// `Environment`: the current folder is not known.
    pub fn new(spec: &FileSinkSpec, context: SinkContext) -> Result<Self> {
        let (config, body) = (spec.config.clone(), spec.body.clone());
        let folder = std::path::absolute(&config.folder).doing(|| format!("find folder {}", config.folder))?;
        let prefix = format!(".{}~{}~", context.pipeline, context.name);
        let (name, clock) = (context.name, context.clock);
        Ok(Self { config, body, name, clock, folder, prefix, state: State::Idle, turn: Turn::default() })
    }

    fn take(&mut self) -> Result<Option<OpenFile>> {
        match std::mem::replace(&mut self.state, State::Busy) {
            State::Idle => Ok(None),
            State::Open(file) => Ok(Some(file)),
            State::Busy => {
                Err(Error::bug(format!("sink {}: a call was abandoned; its rows must be read again", self.name)))
            }
        }
    }

    /// What is to be written of a batch, the first row of it, and the rows that can't be.
    fn piece(&self, batch: &SinkBatch) -> Result<(Piece, Option<u32>, Vec<RowFailure>)> {
        let Some(body) = &self.body else {
            let payload = Payload::of(&batch.batch, self.config.image)?;
            let first = payload.rows.first().copied();
            return Ok((Piece::Rows(payload.batch), first, Vec::new()));
        };
        let encoded = body.encode(&batch.batch)?;
        let first = encoded.rows.first().copied();
        Ok((Piece::Records { header: body.header().to_vec(), data: encoded.data }, first, encoded.failures))
    }

    /// Opens a file for rows of which the first is `first`.
    fn opener(&self, first: String) -> impl FnOnce(&Piece) -> Result<OpenFile> + Send + use<> {
        let (folder, opened_us) = (self.folder.clone(), self.clock.now_us());
        let part = format!("{}{first}.part", self.prefix);
        move |piece| {
            fs::create_dir_all(&folder).doing(|| format!("make folder {}", folder.display()))?;
            let path = folder.join(&part);
            let writer = Writer::create(&path, piece).doing(|| format!("make {}", path.display()))?;
            Ok(OpenFile { path, part, first, opened_us, writer })
        }
    }

    /// The name of a file that is closed at `now_us`, not yet taken by another.
    fn free_name(&self, first: &str, now_us: i64) -> Result<String> {
        let moment = chrono::DateTime::from_timestamp_micros(now_us)
            .ok_or_else(|| Error::bug(format!("no date for the time {now_us}")))?;
        let default = format!("{}-%Y-%m-%d", self.name);
        let stem = moment.format(self.config.name.as_deref().unwrap_or(&default)).to_string();
        let extension = self.config.encode.extension();
        let mut name = format!("{stem}-{first}.{extension}");
        // The same rows were written before, by a run whose state is gone: both are kept.
        let mut copy = 2;
        while self.folder.join(&name).exists() {
            name = format!("{stem}-{first}-{copy}.{extension}");
            copy += 1;
        }
        Ok(name)
    }
}

#[async_trait]
impl StagedSink for FileSink {
    async fn recover(&mut self, token: Option<Bytes>) -> Result<()> {
        // After a failure, something may be open still.
        self.state = State::Idle;
        let token = token.map(|bytes| Token::read(&bytes)).transpose()?;
        let (folder, prefix, turn) = (self.folder.clone(), self.prefix.clone(), self.turn.clone());
        turn.blocking(move || {
            if let Some(token) = &token {
                token.publish()?;
            }
            remove_parts(&folder, &prefix)
        })
        .await
        .map_err(|e| e.context(format!("sink {}", self.name)))
    }

    async fn stage(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        let (piece, first, failures) = self.piece(batch)?;
        let Some(row) = first else { return Ok(failures) };
        let (open, turn) = (self.take()?, self.turn.clone());
        // Zeros in front, so that names sort as offsets do.
        let opener = self.opener(format!("{}-{:012}", batch.partition, batch.offsets[row as usize]));
        let file = turn
            .blocking(move || {
                let mut file = match open {
                    Some(file) => file,
                    None => opener(&piece)?,
                };
                file.writer.write(&piece).doing(|| format!("write {}", file.path.display()))?;
                Ok(file)
            })
            .await
            .map_err(|e| e.context(format!("sink {}", self.name)))?;
        self.state = State::Open(file);
        Ok(failures)
    }

    fn due(&self, now_us: i64) -> bool {
        let State::Open(file) = &self.state else { return false };
        let open_us = now_us.saturating_sub(file.opened_us);
        file.writer.bytes() >= self.config.roll.size.0
            || u128::try_from(open_us).unwrap_or(0) >= self.config.roll.interval.0.as_micros()
    }

    async fn seal(&mut self, now_us: i64) -> Result<Option<Bytes>> {
        let Some(file) = self.take()? else {
            self.state = State::Idle;
            return Ok(None);
        };
        let name = self.free_name(&file.first, now_us)?;
        let token = Token { folder: self.folder.clone(), part: file.part, name };
        let (folder, turn) = (self.folder.clone(), self.turn.clone());
        turn.blocking(move || {
            file.writer.finish().doing(|| format!("finish {}", file.path.display()))?;
            // The token must not outlive the hidden file's name.
            sync_folder(&folder)?;
            if !file.path.try_exists().doing(|| format!("look for {}", file.path.display()))? {
                return Err(Error::environment(format!(
                    "{} was removed by others while it was being written: its rows are written again",
                    file.path.display()
                )));
            }
            Ok(())
        })
        .await
        .map_err(|e| e.context(format!("sink {}", self.name)))?;
        self.state = State::Idle;
        Ok(Some(token.write()?))
    }

    async fn publish(&mut self, token: Bytes) -> Result<()> {
        let (token, turn) = (Token::read(&token)?, self.turn.clone());
        turn.blocking(move || token.publish()).await.map_err(|e| e.context(format!("sink {}", self.name)))
    }
}

impl Token {
    fn read(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::corruption("a file sink's stored token can't be read").caused_by(e))
    }

    fn write(&self) -> Result<Bytes> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|e| {
            Error::config(format!("the folder's path is not UTF-8: {}", self.folder.display())).caused_by(e)
        })
    }

    /// Gives the sealed file its name, where that has not been done.
    fn publish(&self) -> Result<()> {
        let (part, path) = (self.folder.join(&self.part), self.folder.join(&self.name));
        if !self.folder.is_dir() {
            return Err(Error::environment(format!(
                "folder {} is gone, and with it a file to publish: bring it back (a drive that is not mounted?)",
                self.folder.display()
            )));
        }
        if !part.try_exists().doing(|| format!("look for {}", part.display()))? {
            if !path.exists() {
                tracing::warn!(path = %path.display(), "the published file is gone: moved or removed by others");
            }
            return Ok(());
        }
        if path.exists() {
            return Err(Error::environment(format!(
                "{} exists already, written by others: move it away, and give this sink another `name` or `folder`",
                path.display()
            )));
        }
        let home = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(home).doing(|| format!("make folder {}", home.display()))?;
        fs::rename(&part, &path).doing(|| format!("rename {} to {}", part.display(), path.display()))?;
        for folder in home.ancestors().take_while(|f| f.starts_with(&self.folder)) {
            sync_folder(folder)?;
        }
        Ok(())
    }
}

/// Removes the hidden files of this sink, which no token names any more. Another sink's name may begin with this one's,
/// so what follows the prefix must be `{partition}-{offset}`.
fn remove_parts(folder: &Path, prefix: &str) -> Result<()> {
    let entries = match wait_for_one(|| fs::read_dir(folder)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::from(e).context(format!("read folder {}", folder.display()))),
    };
    for entry in entries {
        let entry = entry.doing(|| format!("read folder {}", folder.display()))?;
        let name = entry.file_name();
        let middle = name.to_str().and_then(|n| n.strip_prefix(prefix)).and_then(|n| n.strip_suffix(".part"));
        if middle.is_some_and(|m| m.bytes().all(|b| b.is_ascii_digit() || b == b'-')) {
            fs::remove_file(entry.path()).doing(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Held by whatever is being done on the disk, also where nobody waits for it any more: what an abandoned call has
/// begun ends before the next one begins.
#[derive(Clone, Default)]
struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// Runs work on the disk where it holds up no other task.
    async fn blocking<T: Send + 'static>(self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let turn = self.0.lock_owned().await;
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::bug("write file").caused_by(e))?
    }
}

/// Makes names in a folder durable.
fn sync_folder(folder: &Path) -> Result<()> {
    wait_for_one(|| File::open(folder)).and_then(|f| f.sync_all()).doing(|| format!("sync folder {}", folder.display()))
}

#[cfg(test)]
mod tests;
