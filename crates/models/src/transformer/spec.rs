//! What an encoder is made of, independent of the files it came from and of the processor it runs on.
//!
//! Every encoder here is the post-norm transformer of BERT (Devlin et al. 2018): embeddings, layer norm, then per layer
//! self-attention, add and norm, two dense layers with an activation between them, add and norm. DistilBERT lacks token
//! types; RoBERTa and XLM-R count positions from `pad_token_id + 1`. Heads and pooling are not part of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The numbers in which the large matrix products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision: the answers of the reference implementation, within rounding.
    F32,
    /// Weights and activations rounded to bfloat16, sums in single precision.
    Bf16,
    /// Weights and activations as 8-bit integers with a scale per output and per token, sums in 32-bit integers.
    Int8,
}

/// The function between the two dense layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · Φ(x)`, with the error function.
    Gelu,
    /// The approximation of GELU with `tanh` (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// The shape of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; `hidden` is a multiple of it.
    pub heads: usize,
    /// Width between the two dense layers of a block.
    pub intermediate: usize,
    /// Rows of the table of tokens.
    pub vocabulary: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// The row of the table of positions that a text's first token has (0; RoBERTa: `pad_token_id + 1`).
    pub first_position: usize,
    /// Rows of the table of token types; 0: there is none.
    pub token_types: usize,
    /// The function between the dense layers.
    pub activation: Activation,
    /// Added to the variance in layer norms.
    pub norm_epsilon: f32,
}

impl EncoderSpec {
    /// The most tokens of one text.
    pub fn tokens_max(&self) -> usize {
        self.positions - self.first_position
    }
}

/// Scale and shift of a layer norm, each of the width of the hidden states.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// Multiplied with.
    pub scale: Vec<f32>,
    /// Added.
    pub shift: Vec<f32>,
}

/// A dense layer, `y = x · weightᵀ + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// Row-major, `outputs × inputs` (as PyTorch stores it).
    pub weight: Vec<f32>,
    /// One per output.
    pub bias: Vec<f32>,
}

/// One block.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// `hidden → hidden`; the heads lie side by side.
    pub query: Projection,
    /// `hidden → hidden`.
    pub key: Projection,
    /// `hidden → hidden`.
    pub value: Projection,
    /// `hidden → hidden`, behind the attention.
    pub attention_output: Projection,
    /// Behind the attention and its residual.
    pub attention_norm: NormWeights,
    /// `hidden → intermediate`.
    pub expand: Projection,
    /// `intermediate → hidden`.
    pub contract: Projection,
    /// Behind the dense layers and their residual.
    pub output_norm: NormWeights,
}

/// What stands in front of the blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingWeights {
    /// `vocabulary × hidden`; the largest tensor of most models.
    pub token_table: Vec<f32>,
    /// `positions × hidden`.
    pub position_table: Vec<f32>,
    /// `token_types × hidden`.
    pub type_table: Vec<f32>,
    /// Behind the sum of the embeddings.
    pub norm: NormWeights,
}

/// Everything that an encoder was trained to, in single precision. A model's files are never read like this: it can be
/// several times what a packed encoder needs. It is for the reference and for random weights.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderWeights {
    /// In front of the blocks.
    pub embeddings: EmbeddingWeights,
    /// The blocks, first to last.
    pub layers: Vec<LayerWeights>,
}

/// The tokens of a batch, text after text, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids, special tokens included; all of them are rows of the table.
    pub ids: Vec<u32>,
    /// Token types, as many as `ids`; ignored where the encoder has none.
    pub types: Vec<u32>,
    /// Tokens of each text, at least 1 each; together as many as `ids`.
    pub lengths: Vec<usize>,
}
