//! SQL in the stream: parse → plan → lower to steps. The only crate that names DataFusion.
//!
//! Three things leave this crate, none of which shows a DataFusion type:
//!
//! * [`SqlTransform`] and [`SqlStep`]: a SELECT that keeps no state, run batch by batch, synchronously; each output row
//!   knows the input row it came from, and a row that fails takes no other row with it;
//! * [`Predicate`]: one boolean expression over a batch;
//! * [`QueryEngine`]: one-off queries over tables and streams, with joins, aggregates, sorts and windows.
//!
//! SQL is PostgreSQL's as DataFusion speaks it, with the JSON operators `->`, `->>` and `?`, SQL's own functions for
//! JSON (`JSON_VALUE(payload, '$.n' RETURNING int)`), and `* EXCLUDE (…)`. Names
//! of columns and streams are case-sensitive, as they stand in the pipeline file; keywords and functions are not.

mod bounded;
mod catalog;
mod checked;
mod culprit;
mod dialect;
mod error;
mod exec;
mod functions;
mod guard;
mod host;
mod json;
mod moments;
mod plain;
mod plan;
mod predicate;
mod provenance;
mod query;
mod shape;
mod spellings;
mod step;
mod syntax;
mod texts;
mod types;
mod unnested;
mod watched;
mod words;

pub use catalog::{Function, FunctionKind, functions};
pub use error::SqlError;
pub use host::{QueryHost, QueryLimits};
pub use plan::SqlTransform;
pub use predicate::Predicate;
pub use query::{QueryEngine, QueryError, QueryResult, Relation};
pub use step::SqlStep;
