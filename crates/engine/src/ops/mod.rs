//! Operators that keep state by key.

pub mod dedup;
