//! Reads the messages of a WebSocket.

pub mod config;
mod connect;
mod frames;
pub mod source;

#[cfg(test)]
mod tests;

pub use config::WebsocketSourceConfig;
pub use source::WebsocketSource;
