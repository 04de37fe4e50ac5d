//! Models from `.onnx` files, for columns and for texts.
//!
//! ```text
//! config, file ──▶ mapping ──▶ rows | text ──tensors──▶ tract ──tensor──▶ answers ──▶ predictions
//!  (what was set, (which column                        (or ort)
//!   what is there)  goes where)
//! ```
//!
//! A file is read, mapped and checked for operators that can't be run before a pipeline starts ([`check`]); it is
//! planned and tried out when the pipeline opens ([`load`]). Batch size and number of tokens stay open in the plan, so
//! that no batch is filled up to a fixed size, unless the graph itself fixes them.

pub mod config;

#[cfg(feature = "onnx")]
mod answers;
#[cfg(feature = "onnx")]
mod file;
#[cfg(feature = "onnx")]
mod mapping;
#[cfg(feature = "onnx")]
mod ml;
#[cfg(feature = "onnx")]
mod model;
#[cfg(feature = "onnxruntime")]
mod ort;
#[cfg(feature = "onnx")]
mod rows;
#[cfg(feature = "onnx")]
mod tensor;
#[cfg(feature = "onnx")]
mod text;
#[cfg(feature = "onnx")]
mod tract;

#[cfg(not(feature = "onnx"))]
#[path = "absent.rs"]
mod model;

#[cfg(feature = "onnx")]
pub use model::OnnxModel;
pub(crate) use model::{check, load};

#[cfg(feature = "onnx")]
#[cfg(test)]
mod tests;
