//! Millstream: one binary that reads live feeds, enriches them in process, keeps tables and publishes their changes.

#![deny(clippy::print_stdout, clippy::print_stderr)] // `outln!` and `errln!` do not panic at a closed pipe.

pub mod api;
pub mod commands;
pub mod config;
pub mod output;
pub mod render;
pub mod secrets;
