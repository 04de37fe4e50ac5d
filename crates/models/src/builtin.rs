//! The models that come with Millstream.

use crate::linear;

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
    let linear = "linear classifier of financial headlines; microseconds";
    vec![
        Builtin { source: "builtin:headline-sentiment", about: linear, bytes: linear::bytes() },
        Builtin { source: "builtin:headline-sentiment-linear", about: linear, bytes: linear::bytes() },
    ]
}
