//! Models: the [`Model`] trait, the queue that batches calls in front of every model, and the backends.
//!
//! ```text
//! predict step ── ModelHandle::predict ──▶ queue ──batch──▶ a Model on its own threads   (linear)
//!   (many callers)                        (bounded)   └───▶ an endpoint, asynchronously  (remote)
//! ```
//!
//! This is the only crate that names an inference library or a model server's protocol.

pub mod bench;
pub mod builtin;
pub mod config;
pub mod eval;
pub mod linear;
pub mod model;
pub mod output;
pub mod queue;
pub mod remote;
pub mod transformer;

pub use builtin::{Builtin, builtins};
pub use config::{BatchConfig, ModelConfig, Protocol};
pub use eval::{EvalReport, EvalRow, evaluate, evaluate_with_progress, read_texts};
pub use model::{Model, ModelInfo, Prediction, Task};
pub use output::{output_column, output_type};
pub use queue::{Histogram, ModelHandle, ModelStats};
