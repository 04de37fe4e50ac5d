//! Models: the [`Model`] trait, the queue that batches calls in front of every model, and the backends.
//!
//! ```text
//! predict step ── ModelHandle::predict ──▶ queue ──batch──▶ a Model on its own threads   (linear, text_model, onnx)
//!   (many callers)                        (bounded)   └───▶ an endpoint, asynchronously  (remote)
//! ```
//!
//! A `text_model` is read by `huggingface` and computed by `transformer`.
//!
//! This is the only crate that names an inference library or a model server's protocol.

pub mod bench;
pub mod builtin;
pub mod config;
pub mod eval;
pub mod huggingface;
pub mod input;
pub mod labelled;
pub mod linear;
pub mod model;
pub mod onnx;
pub mod output;
pub mod queue;
pub mod regression;
pub mod remote;
pub mod secrets;
pub mod sharing;
pub mod source;
pub mod text_model;
pub mod transformer;

pub use builtin::{Builtin, builtins};
pub use config::{BatchConfig, CacheConfig, ModelConfig, PrecisionSetting};
pub use eval::{EvalReport, EvalRow, evaluate, evaluate_with_progress};
pub use input::{Cell, Column, ColumnKind, Input, Reads};
pub use labelled::{Picked, read_inputs, sample_rows};
pub use model::{Model, ModelFactory, ModelInfo, Prediction, Scored, Task, TokenEstimate};
pub use output::{highest, output_column, output_column_from, output_type};
pub use queue::{Histogram, ModelHandle, ModelStats};
pub use regression::{RegressionReport, evaluate_regression};
pub use remote::breaker::BreakerState;
pub use remote::fallback::{Fallback, FallbackConfig, check as check_fallback};
pub use remote::gate::EndpointStats;
pub use remote::protocol::Protocol;
pub use remote::rate::Rate;
pub use sharing::SharedWeights;
pub use source::Source;
pub use text_model::TextModel;
