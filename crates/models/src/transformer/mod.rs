//! BERT-family encoders in this process: from token ids to hidden states, as fast as the processor allows.
//!
//! `spec` is the seam: a loader fills an [`EncoderSpec`] and [`EmbeddingWeights`] from a model's files, and
//! [`LayerWeights`] one block at a time; a [`PackedEncoder`] packs each for the processor it runs on before it asks for
//! the next, and an [`Encoder`] turns [`Tokens`] into hidden states. `reference` does the same in plain code on whole
//! [`EncoderWeights`], as the measure of what is right.

pub mod encoder;
pub mod kernels;
pub mod random;
pub mod reference;
pub mod spec;

pub use encoder::{Encoder, PackedEncoder, default_precision};
pub use random::{random_tokens, random_weights};
pub use reference::Reference;
pub use spec::{
    Activation, EmbeddingWeights, EncoderSpec, EncoderWeights, LayerWeights, NormWeights, Precision, Projection, Tokens,
};
