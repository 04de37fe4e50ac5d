//! Millstream: one binary that reads live feeds, enriches them in process, keeps tables and publishes their changes.

pub mod api;
pub mod commands;
pub mod config;
pub mod metrics;
pub mod pipeline;
pub mod render;
