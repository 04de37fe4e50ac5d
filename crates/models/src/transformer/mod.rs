//! BERT-family encoders in this process: from token ids to hidden states, as fast as the processor allows.
//!
//! `spec` is the seam: a loader fills an [`EncoderSpec`] and [`EncoderWeights`] from a model's files, an encoder packs them
//! once for the processor it runs on and turns [`Tokens`] into hidden states.

pub mod spec;

pub use spec::{Activation, EncoderSpec, EncoderWeights, LayerWeights, NormWeights, Precision, Projection, Tokens};
