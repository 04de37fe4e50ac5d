//! Sources, sinks and formats: the only crate that names client libraries and file formats.

pub mod amqp;
pub mod backoff;
#[cfg(test)]
mod conformance;
pub mod feed;
pub mod file;
pub mod format;
pub mod http;
mod http_client;
pub mod http_push;
pub mod http_stream;
pub mod probe;
mod record_buffer;
pub mod sink;
pub mod source;
pub mod stdout;
pub mod template;
#[cfg(test)]
mod test_server;
pub mod websocket;
