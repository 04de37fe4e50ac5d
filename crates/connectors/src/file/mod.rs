//! Reads files, once or as they grow.

mod block;
pub mod config;
mod content;
mod copies;
mod handles;
mod identity;
mod reader;
pub mod sink;
pub mod sink_config;
pub mod source;
mod tracked;
mod tracker;
mod troubles;
mod view;

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;

pub use config::{Compression, FileSourceConfig, Identity, StartAt};
pub use sink::FileSink;
pub use sink_config::{FileFormat, FileSinkConfig, RollConfig};
pub use source::FileSource;
pub(crate) use view::probe;

pub(crate) use crate::format::framing::{KEPT_BYTES_MAX, too_large};
