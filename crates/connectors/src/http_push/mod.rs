//! Records pushed over HTTP: `POST /streams/{name}/records`. The server itself belongs to the main binary, which owns
//! the listener; here are only the settings.

pub mod config;

pub use config::HttpPushConfig;
