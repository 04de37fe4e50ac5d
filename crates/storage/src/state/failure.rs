//! The engine's errors in the words of [`millstream_core::Error`].

use std::error::Error as StdError;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use millstream_core::{Error, Result};
use slatedb::{CloseReason, ErrorKind};

use super::damage::Damaged;
use super::local::StateStore;

/// What a person can do about damage.
const ADVICE: &str = "put it back from a backup, or let `millstream repair` build the state anew from its log";

/// Where a state lives: whoever explains an error looks there.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) store: StateStore,
    pub(super) path: Arc<str>,
}

impl Home {
    pub(super) fn new(store: StateStore, path: &str) -> Self {
        Self { store, path: path.into() }
    }

    /// The answer of the engine; its error with what was being done, and with the file that is damaged where that is
    /// why.
    pub(super) async fn told<T>(&self, answer: std::result::Result<T, slatedb::Error>, doing: &str) -> Result<T> {
        match answer {
            Ok(value) => Ok(value),
            Err(e) => Err(self.explained(e).await.context(format!("{doing} state {}", self.path))),
        }
    }

    /// The same of a start of the engine, which a damaged file can make panic.
    pub(super) async fn started<T>(
        &self,
        start: impl Future<Output = std::result::Result<T, slatedb::Error>>,
        doing: &str,
    ) -> Result<T> {
        match AssertUnwindSafe(start).catch_unwind().await {
            Ok(answer) => self.told(answer, doing).await,
            Err(_) => {
                let damaged = self.damaged().await;
                let error = damaged.map_or_else(|| Error::bug("the state engine panicked"), |found| damage(&found));
                Err(error.context(format!("{doing} state {}", self.path)))
            }
        }
    }

    async fn explained(&self, e: slatedb::Error) -> Error {
        if let Some(found) = self.store.damage.below(&self.path) {
            return damage(&found).caused_by(e);
        }
        let suspect = matches!(e.kind(), ErrorKind::Data | ErrorKind::Closed(CloseReason::Panic));
        if suspect && let Some(found) = self.damaged().await {
            return damage(&found).caused_by(e);
        }
        translate(e)
    }

    /// The first file that is not what was written, or one that the engine has missed.
    async fn damaged(&self) -> Option<Damaged> {
        match self.store.damage.below(&self.path) {
            Some(found) => Some(found),
            None => {
                let missing = self.store.damage.missing_below(&self.path);
                self.store.find_damage(&self.path).await.or(missing)
            }
        }
    }
}

/// The error about a file that is not what was written.
pub(super) fn damage(found: &Damaged) -> Error {
    Error::corruption(found.to_string()).advise(ADVICE)
}

/// What the caller should do about an error of the engine.
fn translate(e: slatedb::Error) -> Error {
    if let Some(io) = disk_error(&e) {
        // Kind and advice are those of the disk's error; the whole chain stays readable.
        let advice = Error::from(io::Error::new(io.kind(), e.to_string()));
        return Error::environment(advice.message()).caused_by(e);
    }
    match e.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => Error::environment(
            "another process has taken this state over: stop one of the two, they must not share a data folder",
        )
        .caused_by(e),
        ErrorKind::Closed(CloseReason::Clean) => Error::bug("the state was closed before").caused_by(e),
        ErrorKind::Unavailable => Error::retry("the object store does not answer").caused_by(e),
        ErrorKind::Data if e.to_string().contains("format version") => {
            Error::environment("the state is of a newer Millstream: use the version that wrote it").caused_by(e)
        }
        ErrorKind::Data => Error::corruption("stored state does not read back").advise(ADVICE).caused_by(e),
        _ => Error::bug("state engine").caused_by(e),
    }
}

/// The error about files that can't be read.
pub(super) fn in_disk_words(e: &object_store::Error, path: &str) -> Error {
    let advice = disk_error(e).map(|io| Error::from(io::Error::new(io.kind(), e.to_string())));
    advice.unwrap_or_else(|| Error::environment(e.to_string())).context(format!("read state {path}"))
}

/// The error of the operating system behind `e`, other than "not found": that is a missing object, which is damage.
fn disk_error<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(e);
    while let Some(e) = next {
        let io = e.downcast_ref::<io::Error>().or_else(|| e.downcast_ref::<Arc<io::Error>>().map(|io| &**io));
        if let Some(io) = io.filter(|io| io.raw_os_error().is_some() && io.kind() != io::ErrorKind::NotFound) {
            return Some(io);
        }
        next = match io.and_then(io::Error::get_ref) {
            // `source` of an I/O error skips the error that it wraps.
            Some(wrapped) => Some(wrapped),
            None => e.source(),
        };
    }
    None
}
