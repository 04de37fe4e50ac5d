//! HTTP: records that others push to this server, answers that do not end, and requests to web services.

pub mod push;
pub mod sink;
pub mod stream;

// For the server, which belongs to the main binary.
pub use crate::http_client::charset;
