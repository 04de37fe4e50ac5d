//! Posts records to a web service.

pub mod config;
pub mod sink;

pub use config::{HttpBatchConfig, HttpFormat, HttpMethod, HttpSinkConfig};
pub use sink::HttpSink;
