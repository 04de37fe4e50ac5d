//! Reads an HTTP answer that does not end.

pub mod config;
mod documents;
mod events;
mod lines;
pub mod source;

#[cfg(test)]
mod tests;

pub use config::{HttpStreamSourceConfig, StreamFormat};
pub use source::HttpStreamSource;
