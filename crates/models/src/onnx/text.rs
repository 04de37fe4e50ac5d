//! From texts to the token tensors that a graph takes.

use std::path::Path;

use millstream_core::{Error, Failure, FailureKind, Result};
use tokenizers::{Tokenizer, TruncationParams};

use super::mapping::{Feed, TokenPart};
use super::tensor::{Kind, Tensor, Values};

/// The most tokens of a text where neither the pipeline file nor `tokenizer.json` says it.
const TOKENS_MAX: usize = 512;
/// Bytes of a text that are read for each token it may have: the longest sensible word. What is behind can't matter.
const BYTES_PER_TOKEN_MAX: usize = 64;

/// The tokenizer of a graph.
#[derive(Clone)]
pub(super) struct TextTokenizer {
    tokenizer: Tokenizer,
    tokens_max: usize,
    pad_id: u32,
    pad_type: u32,
}

/// The tokens of one text.
pub(super) struct TextTokens {
    ids: Vec<u32>,
    types: Vec<u32>,
}

impl TextTokens {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}

impl TextTokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// `Config`: it is not there, or not a tokenizer.
    pub(super) fn read(path: &Path, max_length: Option<usize>, fixed_tokens: Option<usize>) -> Result<Self> {
        let shown = path.display();
        if !path.exists() {
            let message = format!("{shown} is missing: the graph takes tokens, and only its tokenizer can make them");
            return Err(Error::config(message));
        }
        let wrong = |e: tokenizers::Error| Error::config(format!("{shown} is no tokenizer: {e}"));
        let mut tokenizer = Tokenizer::from_file(path).map_err(wrong)?;
        let from_file = tokenizer.get_truncation().map(|truncation| truncation.max_length);
        let tokens_max = max_length.or(from_file).unwrap_or(TOKENS_MAX);
        let tokens_max = fixed_tokens.map_or(tokens_max, |fixed| fixed.min(tokens_max));
        let padding = tokenizer.get_padding();
        let (pad_id, pad_type) = match padding {
            Some(padding) => (padding.pad_id, padding.pad_type_id),
            None => {
                let known = ["[PAD]", "<pad>"].iter().find_map(|token| tokenizer.token_to_id(token));
                (known.unwrap_or(0), 0)
            }
        };
        let truncation = TruncationParams { max_length: tokens_max, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(wrong)?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer, tokens_max, pad_id, pad_type })
    }

    /// The most tokens of one text.
    pub(super) fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// # Errors
    /// `Model`: the tokenizer can't digest the text.
    pub(super) fn tokens(&self, text: &str) -> std::result::Result<TextTokens, Failure> {
        let end = text.floor_char_boundary(self.tokens_max.saturating_mul(BYTES_PER_TOKEN_MAX));
        let encoding = self.tokenizer.encode_fast(&text[..end], true);
        let encoding = encoding
            .map_err(|e| Failure::new(FailureKind::Model, format!("the tokenizer can't digest the text: {e}")))?;
        let mut tokens = TextTokens { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec() };
        if tokens.ids.is_empty() {
            // A graph can't be run on nothing.
            tokens.ids.push(self.pad_id);
            tokens.types.push(self.pad_type);
        }
        Ok(tokens)
    }

    /// The tensor for one input: texts filled up to `length` tokens, the last text again, up to `rows`.
    pub(super) fn tensor(
        &self,
        feed: &Feed,
        part: TokenPart,
        batch: &[&TextTokens],
        rows: usize,
        length: usize,
    ) -> Tensor {
        let mut values: Vec<i64> = Vec::with_capacity(rows * length);
        for tokens in batch.iter().chain(batch.last().into_iter().cycle()).take(rows) {
            let padding = length - tokens.len();
            match part {
                TokenPart::Ids => values.extend(tokens.ids.iter().map(|&id| i64::from(id))),
                TokenPart::Mask => values.extend(std::iter::repeat_n(1, tokens.len())),
                TokenPart::Types => values.extend(tokens.types.iter().map(|&kind| i64::from(kind))),
            }
            let filler = match part {
                TokenPart::Ids => i64::from(self.pad_id),
                TokenPart::Mask => 0,
                TokenPart::Types => i64::from(self.pad_type),
            };
            values.extend(std::iter::repeat_n(filler, padding));
        }
        let values = match feed.kind {
            Kind::I32 => Values::I32(values.into_iter().map(|value| value as i32).collect()),
            _ => Values::I64(values),
        };
        Tensor { shape: vec![rows, length], values }
    }
}
