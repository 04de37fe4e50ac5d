//! What `source` of a model names. Nothing is looked up here: each kind checks its own settings in its own module.

use std::path::PathBuf;

use millstream_core::units::redact_url;
use millstream_core::{Error, Result};

use crate::huggingface::hub::{Repository, SCHEME};
use crate::remote::config::is_endpoint;

/// The models that come with Millstream, the one to use first.
pub const BUILTINS: [&str; 2] = ["builtin:headline-sentiment", "builtin:headline-sentiment-linear"];

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The transformer for headlines that comes with Millstream.
    HeadlineSentiment,
    /// The linear classifier of headlines.
    HeadlineSentimentLinear,
    /// An ONNX file.
    Onnx(PathBuf),
    /// A folder as Hugging Face's libraries save it.
    Folder(PathBuf),
    /// A model of the Hugging Face hub.
    Hub(Repository),
    /// An endpoint: `http://…`, `https://…`, `sagemaker://…` or `lambda://…`.
    Endpoint(String),
}

impl Source {
    /// Reads what was written.
    ///
    /// # Errors
    /// `Config`: it is of no known form; with those that are known.
    pub fn parse(source: &str) -> Result<Self> {
        if source == BUILTINS[0] {
            Ok(Self::HeadlineSentiment)
        } else if source == BUILTINS[1] {
            Ok(Self::HeadlineSentimentLinear)
        } else if is_endpoint(source) {
            Ok(Self::Endpoint(source.to_owned()))
        } else if source.starts_with(SCHEME) {
            Ok(Self::Hub(Repository::parse(source)?))
        } else if is_onnx(source) {
            Ok(Self::Onnx(PathBuf::from(source)))
        } else if is_path(source) {
            Ok(Self::Folder(PathBuf::from(source)))
        } else {
            let builtins = BUILTINS.join(", ");
            // Of an address of a kind that is not known, nobody knows what in it is secret.
            let source = source.split_once("://").map_or(source.into(), |(scheme, _)| format!("{scheme}://***"));
            Err(Error::config(format!(
                "unknown model source `{}`: write {builtins}, a folder such as ./model, a model of the hub such as \
                 hf://org/name, an ONNX file such as ./model.onnx, or an endpoint such as https://host/path",
                shown(&source)
            )))
        }
    }
}

/// Whether a source is a path: it starts with `.`, `/`, `~` or a drive, or has a `/` and no scheme.
pub fn is_path(source: &str) -> bool {
    let has_scheme = source.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    });
    let has_drive = source.as_bytes().get(1) == Some(&b':');
    has_drive || (!has_scheme && (source.starts_with('.') || source.contains(['/', '\\'])))
}

/// Whether a source is an ONNX file: a path that ends so.
pub fn is_onnx(source: &str) -> bool {
    !source.contains("://") && !source.starts_with("builtin:") && source.to_ascii_lowercase().ends_with(".onnx")
}

/// As it may be printed: a URL may hold a password or a token.
pub fn shown(source: &str) -> String {
    if source.contains("://") { redact_url(source) } else { source.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_source_is_told_from_the_others() {
        let folder = |path: &str| Source::Folder(path.into());
        for path in ["./finbert", "../m", "/models/m", "models/m", ".", "C:\\m"] {
            assert_eq!(Source::parse(path).unwrap(), folder(path), "{path}");
        }
        assert_eq!(Source::parse("fraud.ONNX").unwrap(), Source::Onnx("fraud.ONNX".into()));
        let hub = |id: &str, revision: &str| Source::Hub(Repository { id: id.into(), revision: revision.into() });
        assert_eq!(Source::parse("hf://ProsusAI/finbert").unwrap(), hub("ProsusAI/finbert", "main"));
        assert_eq!(Source::parse("hf://a/b@refs/pr/1").unwrap(), hub("a/b", "refs/pr/1"));
        assert_eq!(Source::parse("hf://bert-base-uncased@v1.0").unwrap(), hub("bert-base-uncased", "v1.0"));
        assert!(matches!(Source::parse("https://h/x").unwrap(), Source::Endpoint(_)));
        for wrong in
            ["finbert", "builtin:x", "s3://b/m", "hf://", "hf://a/b/c", "hf://a/../b", "hf://a/b@", "hf://a/b@../c"]
        {
            let message = Source::parse(wrong).unwrap_err().to_string();
            assert!(message.contains("hf://org/name"), "{wrong}: {message}");
        }
    }
}
