//! Models: the [`Model`] trait, the queue that batches calls in front of every model, and the backends.
//!
//! ```text
//! predict step ── ModelHandle::predict ──▶ queue ──batch──▶ a Model on its own threads   (linear, onnx)
//!   (many callers)                        (bounded)   └───▶ an endpoint, asynchronously  (remote)
//! ```
//!
//! This is the only crate that names an inference library or a model server's protocol.

pub mod config;
pub mod eval;
pub mod input;
pub mod linear;
pub mod model;
pub mod onnx;
pub mod output;
pub mod queue;
pub mod remote;
pub mod transformer;

pub use config::{BatchConfig, CacheConfig, ModelConfig};
pub use eval::{EvalReport, EvalRow, evaluate};
pub use input::{Cell, Column, ColumnKind, Input, Reads};
pub use model::{Model, ModelFactory, ModelInfo, Prediction, Scored, Task, TokenEstimate};
pub use output::{highest, output_column, output_column_from, output_type};
pub use queue::{Histogram, ModelHandle, ModelStats};
pub use remote::breaker::BreakerState;
pub use remote::fallback::{Fallback, FallbackConfig, check as check_fallback};
pub use remote::gate::EndpointStats;
pub use remote::protocol::Protocol;
pub use remote::rate::Rate;
