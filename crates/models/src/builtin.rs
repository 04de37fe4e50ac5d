//! The models that come with Millstream.

use millstream_core::Result;

use crate::text_model::{self, Found, Settings};
use crate::{Task, linear};

/// A small transformer of ours, in the packed form; how it was made is in `training/`.
static HEADLINE_SENTIMENT: &[u8] = include_bytes!("../weights/headline-sentiment.safetensors");

/// A model inside of the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Builtin {
    /// What `source` says.
    pub source: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Bytes of its files in the binary.
    pub bytes: usize,
}

/// All of them, the one to use first.
pub fn builtins() -> Vec<Builtin> {
    vec![
        Builtin {
            source: "builtin:headline-sentiment",
            about: "transformer for financial headlines; under a millisecond",
            bytes: HEADLINE_SENTIMENT.len(),
        },
        Builtin {
            source: "builtin:headline-sentiment-linear",
            about: "linear classifier of financial headlines; microseconds",
            bytes: linear::bytes(),
        },
    ]
}

/// `builtin:headline-sentiment`, checked but not unpacked.
///
/// # Errors
/// `Config`: a setting does not fit the model.
pub(crate) fn headline_sentiment(settings: &Settings) -> Result<Found> {
    text_model::find_packed("headline-sentiment", HEADLINE_SENTIMENT, Task::TextClassification, settings)
}

#[cfg(test)]
mod tests;
