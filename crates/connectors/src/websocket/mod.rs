//! Reads the messages of a WebSocket.

pub mod config;
pub mod source;

#[cfg(test)]
mod tests;

pub use config::WebsocketSourceConfig;
pub use source::WebsocketSource;
