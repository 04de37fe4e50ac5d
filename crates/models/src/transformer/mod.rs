//! BERT-family encoders in this process: from token ids to hidden states, as fast as the processor allows.
//!
//! `spec` is the seam: a loader fills an [`EncoderSpec`] and [`EncoderWeights`] from a model's files, an encoder packs them
//! once for the processor it runs on and turns [`Tokens`] into hidden states. `reference` does the same in plain code, as
//! the measure of what is right.

pub mod encoder;
pub mod kernels;
pub mod random;
pub mod reference;
pub mod spec;

pub use encoder::{Encoder, PackedEncoder, default_precision};
pub use random::{random_tokens, random_weights};
pub use reference::Reference;
pub use spec::{Activation, EncoderSpec, EncoderWeights, LayerWeights, NormWeights, Precision, Projection, Tokens};
