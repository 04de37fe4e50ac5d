//! What every source and every sink promises, as tests that all of them pass. Whoever writes another one gives it a
//! system to speak to, and adds it to the list at the end of [`sources`], [`sinks`] or [`staged`], in one line.
//!
//! Each promise is a function; which of them hold for a connector is said where it is listed, by their groups.

mod files;
mod queue;
mod services;
mod sinks;
mod sources;
mod staged;
mod systems;
mod targets;

use std::path::Path;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use millstream_core::AnySink;
use serde_json::Value;

use crate::SinkConfig;
use crate::payload::tests::context;

/// Longer than anything takes: a test that waits for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tests of one connector: every promise of the groups that hold for it. Those that need a server are left out unless
/// they are asked for.
macro_rules! suite {
    ($name:ident: $kind:ty => $($group:ident)*) => {
        mod $name {
            use super::*;
            type Kind = $kind;
            $($group!();)*
        }
    };
    ($name:ident: $kind:ty, $needs:literal => $($group:ident)*) => {
        mod $name {
            use super::*;
            type Kind = $kind;
            $($group!($needs);)*
        }
    };
}

/// A group of promises, as the tests of one connector.
macro_rules! group {
    ($group:ident: $($promise:ident)*) => {
        macro_rules! $group {
            () => {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let kept = tokio::time::timeout(PATIENCE, super::$promise(&Kind::start().await)).await;
                    kept.expect("it never came");
                })*
            };
            ($needs:literal) => {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = $needs]
                async fn $promise() {
                    let kept = tokio::time::timeout(PATIENCE, super::$promise(&Kind::start().await)).await;
                    kept.expect("it never came");
                })*
            };
        }
    };
}

use {group, suite};

/// A sink of these settings for rows with the columns of `schema`.
fn open_sink(settings: Value, schema: &SchemaRef) -> AnySink {
    let config: SinkConfig = serde_json::from_value(settings).unwrap();
    config.settings().check(Path::new(""), schema).unwrap().open(context()).unwrap()
}
