//! Polls RSS, Atom and JSON feeds.

pub mod config;
mod fetch;
mod seen;
pub mod source;

pub use config::FeedSourceConfig;
pub use source::FeedSource;
