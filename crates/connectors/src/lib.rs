//! Sources, sinks and formats: the only crate that names client libraries and file formats.
//!
//! A system is a folder (or a file): its settings, and what they become when they are checked. `registry.rs` lists
//! them, `connector.rs` is what each of them answers to. What several of them need lies beside them: the HTTP client,
//! templates, back-off, formats. Edges go one way: the registry knows the folders, no folder knows the registry or
//! another folder.

pub mod amqp;
mod backoff;
mod check;
#[cfg(test)]
mod conformance;
mod connector;
mod context;
pub mod feed;
pub mod file;
pub mod format;
pub mod http;
mod http_client;
mod payload;
mod preview;
mod probe;
mod record_buffer;
mod registry;
pub mod stdout;
pub mod template;
#[cfg(test)]
mod test_server;
pub mod websocket;

pub use check::Problem;
pub use connector::{
    Carries, Intake, Pull, PushSpec, SinkConnector, SinkSettings, SourceConnector, SourceSettings, Unfit,
};
pub use context::{SinkContext, SourceContext, SourceStatus, Status};
pub use payload::Image;
pub use preview::Preview;
pub use probe::Depth;
pub use registry::{SinkConfig, SourceConfig};
