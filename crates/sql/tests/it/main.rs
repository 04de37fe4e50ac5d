//! What the crate promises, through its public API only.

// A test that can't go on says where: that is what `unwrap` does.
#![allow(clippy::unwrap_used)] // A test that can't go on says where.

mod bounds;
mod catalog;
mod json_paths;
mod queries;
mod safety;
mod support;
mod transforms;
