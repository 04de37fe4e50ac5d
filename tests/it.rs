//! Whole-pipeline tests: every one of them runs the real `millstream` binary on a folder of its own.
//!
//! `golden` runs the cases of `tests/cases` (`UPDATE_GOLDEN=1` writes their expected output again), `crash` kills the
//! process at random moments, `chaos` attacks it in every other way, the others go through commands, the server, bad
//! input and the data folder.

#![allow(clippy::unwrap_used)] // A test that can't go on says where.

mod access;
mod api;
mod attacks;
mod bad_input;
mod begin;
mod borders;
mod branches;
mod canary;
mod change_events;
mod chaos;
mod commands;
mod crash;
mod crash_exchange;
mod crash_letters;
mod data_dir;
mod doors;
mod encodings;
mod endpoints;
mod event_time;
mod examples;
mod failures;
mod feeds;
mod first_steps;
mod folders;
mod golden;
mod guide;
mod memory;
mod model_commands;
mod models;
mod output;
mod reload;
mod repair;
mod secrets;
mod serve;
mod settings;
mod sink_troubles;
mod stops;
mod support;
mod taps;
mod tidy;
mod tls;
mod trials;
mod validate;
mod waiting;
mod yaml;
