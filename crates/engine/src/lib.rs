//! A running pipeline, from sources to sinks. Read this file top to bottom and you have read the system:
//!
//! ```text
//!  Source ──ingest──▶ Log ──task──▶ steps (SQL, predict ▶ Model) ──commit──▶ Table ─▶ change stream
//!  HTTP   ──ingest──▶ Log                                            └─ outbox ───▶ Log ──deliver──▶ Sink
//! ```
//!
//! One file per arrow: [`ingest`], [`task`] (with [`graph`], [`predict`], [`scorer`]), [`deliver`]; what
//! both commit is [`outbox`], how both begin [`reopen`], and what both have heard of those before them [`heard`]. Where
//! event time comes from is [`event_time`], who waits for it is [`ops`].

pub mod at_rest;
pub mod catalog;
pub mod data_dir;
pub mod dead_letters;
pub mod deliver;
pub mod disk_room;
pub mod event_time;
pub mod failures;
pub mod graph;
pub mod health;
pub mod heard;
pub mod ingest;
pub mod metrics;
pub mod model_cache;
pub mod models;
mod open;
pub mod opening;
pub mod ops;
pub mod outbox;
pub mod outputs;
pub mod plan;
pub mod predict;
pub mod preflight;
pub mod progress;
pub mod push;
pub mod recompute;
pub mod relations;
pub mod reopen;
pub mod repair;
pub mod replay;
pub mod retention;
pub mod room;
pub mod scorer;
pub mod shadow;
pub mod spec;
pub mod step_waits;
pub mod streams;
pub mod summary;
pub mod supervise;
pub mod table;
pub mod tally;
pub mod target;
pub mod task;
pub mod trial;
pub mod watch;
pub mod whereabouts;
pub mod worker;

pub use data_dir::DataDir;
pub use plan::Plan;
pub use supervise::{Outcome, Supervisor};
pub use worker::{RunOptions, Running};
