//! Whole-pipeline tests: every one of them runs the real `millstream` binary on a folder of its own.
//!
//! `golden` runs the cases of `tests/cases` (`UPDATE_GOLDEN=1` writes their expected output again), `crash` kills the
//! process at random moments, the others go through commands, the server, bad input and the data folder.

// A test that can't go on says where: that is what `unwrap` does.
#![allow(clippy::unwrap_used)]

mod api;
mod attacks;
mod bad_input;
mod begin;
mod commands;
mod crash;
mod data_dir;
mod endpoints;
mod examples;
mod failures;
mod feeds;
mod first_steps;
mod golden;
mod guide;
mod model_commands;
mod models;
mod output;
mod reload;
mod secrets;
mod serve;
mod settings;
mod sink_troubles;
mod support;
mod taps;
mod trials;
mod validate;
mod waiting;
mod yaml;
