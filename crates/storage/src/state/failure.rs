//! The engine's errors in the words of [`millstream_core::Error`].

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use millstream_core::Error;
use slatedb::{CloseReason, ErrorKind};

/// What the caller should do about an error of the engine.
pub(super) fn translate(e: slatedb::Error) -> Error {
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
        ErrorKind::Data if e.to_string().contains("version") => {
            Error::environment("the state may be of a newer Millstream: use the version that wrote it").caused_by(e)
        }
        ErrorKind::Data => Error::corruption("stored state does not read back").caused_by(e),
        _ => Error::bug("state engine").caused_by(e),
    }
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
