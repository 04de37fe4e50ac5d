//! Reads files, once or as they grow.

pub mod config;
mod framing;
mod identity;
mod reader;
pub mod sink;
pub mod sink_config;
pub mod source;
mod tracker;
mod view;

#[cfg(test)]
mod tests;

pub use config::{FileSourceConfig, StartAt};
pub(crate) use framing::{KEPT_BYTES_MAX, too_large};
pub use sink::FileSink;
pub use sink_config::{FileFormat, FileSinkConfig, RollConfig};
pub use source::FileSource;
pub(crate) use view::probe;
