//! What can be written under `models:` in a pipeline file, and what it resolves to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::units::redact_url;
use millstream_core::{Error, HumanDuration, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::onnx::config::{OnnxConfig, OnnxSettings};
use crate::remote::config::EndpointConfig;
use crate::{ModelHandle, ModelInfo, Task, linear, onnx, remote};

/// The most texts that a batch may hold.
const BATCH_MAX: usize = 4096;
/// The models that come with Millstream.
const BUILTINS: [&str; 2] = ["builtin:headline-sentiment", "builtin:headline-sentiment-linear"];

/// A model: one that comes with Millstream, or one behind an endpoint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct ModelConfig {
    /// What the model does.
    pub task: Task,
    /// `builtin:headline-sentiment`, `builtin:headline-sentiment-linear`, an ONNX file: `./model.onnx`, or an endpoint:
    /// `http://…`, `https://…`, `sagemaker://…`, `lambda://…`.
    #[serde(serialize_with = "serialize_source")]
    pub source: String,
    /// How calls are put together.
    #[serde(default)]
    pub batch: BatchConfig,
    /// Keeps predictions, so that the same text is answered again without asking the model. Default: no cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheConfig>,
    /// The name of another model, with the same task and labels, that scores the same records on the side. It changes
    /// nothing and delays nothing; how often it disagrees is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
    /// Models in the process only: how long a batch may take before the model counts as hanging, and a fresh thread takes
    /// over. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<HumanDuration>,
    /// The labels, in the order of the scores. Needed for `text-classification` at an endpoint, so that the types of the
    /// pipeline are known without the network, and for an ONNX file that does not name them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// ONNX files that read texts only: the most tokens of a text; what is behind is cut off. Default: what
    /// `tokenizer.json` says, else 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_length: Option<usize>,
    /// The settings of ONNX files.
    #[serde(flatten)]
    pub onnx: OnnxConfig,
    /// The settings of endpoints.
    #[serde(flatten)]
    pub endpoint: EndpointConfig,
}

/// How calls are put together into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct BatchConfig {
    /// The most texts in a batch.
    #[serde(default = "default_batch_max")]
    #[schemars(range(min = 1, max = 4096))]
    pub max: usize,
    /// The most tokens in a batch, as the model guesses them (four bytes a token where it knows no better). A longer text
    /// gets a batch of its own.
    #[serde(default = "default_batch_max_tokens")]
    #[schemars(range(min = 1))]
    pub max_tokens: usize,
    /// How long a batch that is not full waits for more texts while others are under way. Where the model is idle, it
    /// does not wait.
    #[serde(default = "default_batch_max_delay")]
    pub max_delay: HumanDuration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max: default_batch_max(), max_tokens: default_batch_max_tokens(), max_delay: default_batch_max_delay() }
    }
}

/// How long predictions are kept, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct CacheConfig {
    /// How long a prediction is used again.
    pub ttl: HumanDuration,
    /// The most predictions that are kept; the oldest go first. Default: no limit but `ttl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_entries: Option<u64>,
}

fn default_batch_max() -> usize {
    32
}

fn default_batch_max_tokens() -> usize {
    8192
}

fn default_batch_max_delay() -> HumanDuration {
    HumanDuration(Duration::from_millis(5))
}

/// What `source` names.
enum Backend {
    HeadlineSentimentLinear,
    Onnx(PathBuf, OnnxSettings),
    Remote(Box<remote::Endpoint>),
}

impl ModelConfig {
    /// A model from `source`, with every other setting at its default.
    pub fn new(task: Task, source: impl Into<String>) -> Self {
        Self {
            task,
            source: source.into(),
            batch: BatchConfig::default(),
            cache: None,
            shadow: None,
            stall_timeout: None,
            labels: Vec::new(),
            max_length: None,
            onnx: OnnxConfig::default(),
            endpoint: EndpointConfig::default(),
        }
    }

    /// The same with the path of a file that starts from the folder `base`.
    pub fn relative_to(mut self, base: &Path) -> Self {
        if is_onnx(&self.source) && Path::new(&self.source).is_relative() && !base.as_os_str().is_empty() {
            let relative = self.source.strip_prefix("./").unwrap_or(&self.source);
            self.source = base.join(relative).to_string_lossy().into_owned();
        }
        self
    }

    /// Whether the settings can work, and what the model will be. Touches no network.
    ///
    /// # Errors
    /// `Config`: what is wrong, and what to write instead.
    pub fn check(&self) -> Result<ModelInfo> {
        Ok(self.resolve()?.1)
    }

    /// Makes the model ready for calls. `name` is the one in the pipeline file. An endpoint is not called yet.
    ///
    /// # Errors
    /// As [`ModelConfig::check`]; `Bug` where an endpoint's model is loaded outside a Tokio runtime.
    pub fn load(&self, name: &str) -> Result<ModelHandle> {
        let (backend, info) = self.resolve().map_err(|e| e.context(format!("load model `{name}`")))?;
        let info = ModelInfo { name: name.into(), ..info };
        let handle = match backend {
            Backend::HeadlineSentimentLinear => linear::load(info, self.batch),
            Backend::Onnx(path, settings) => onnx::load(name, &path, self.task, &self.labels, &settings, self.batch),
            Backend::Remote(endpoint) => remote::load(info, self.batch, *endpoint),
        }
        .map_err(|e| e.context(format!("load model `{name}`")))?;
        if let Some(timeout) = self.stall_timeout {
            handle.set_stall_timeout(timeout.0);
        }
        Ok(handle)
    }

    /// True where the model is behind an endpoint: it has nothing to load or to warm up.
    pub fn is_endpoint(&self) -> bool {
        remote::config::is_endpoint(&self.source)
    }

    /// Where the model comes from, without credentials.
    pub fn shown_source(&self) -> String {
        shown_source(&self.source)
    }

    fn check_queue(&self) -> Result<()> {
        if !(1..=BATCH_MAX).contains(&self.batch.max) {
            return Err(Error::config(format!("`batch.max` is {}: write 1 to {BATCH_MAX}", self.batch.max)));
        }
        if self.batch.max_tokens == 0 {
            return Err(Error::config("`batch.max_tokens` is 0: write how many tokens a batch may have, such as 8192"));
        }
        if self.cache.is_some_and(|cache| cache.ttl.0.is_zero() || cache.max_entries == Some(0)) {
            return Err(Error::config("`cache` keeps nothing: write `ttl` and `max_entries` above zero, or remove it"));
        }
        if self.stall_timeout.is_some() && self.is_endpoint() {
            return Err(Error::config("`stall_timeout` is for models in the process; an endpoint has `timeout`"));
        }
        if self.stall_timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            return Err(Error::config("`stall_timeout` is zero: write how long a batch may take, such as 60s"));
        }
        Ok(())
    }

    fn resolve(&self) -> Result<(Backend, ModelInfo)> {
        self.check_queue()?;
        if is_onnx(&self.source) {
            self.refuse_endpoint_settings()?;
            let (path, settings) = (PathBuf::from(&self.source), self.onnx_settings());
            let info = onnx::check(&path, self.task, &self.labels, &settings)?;
            return Ok((Backend::Onnx(path, settings), info));
        }
        self.refuse_onnx_settings()?;
        if BUILTINS.contains(&self.source.as_str()) {
            self.refuse_endpoint_settings()?;
            let info = linear::info()?;
            self.compare_with(&info)?;
            Ok((Backend::HeadlineSentimentLinear, info))
        } else if remote::config::is_endpoint(&self.source) {
            let (endpoint, info) = self.endpoint.resolve(&self.source, self.task, &self.labels)?;
            Ok((Backend::Remote(Box::new(endpoint)), info))
        } else {
            Err(Error::config(format!(
                "unknown model source `{}`: write {}, an ONNX file such as ./model.onnx, or an endpoint such as https://host/path",
                shown_source(&self.source),
                BUILTINS.join(", ")
            )))
        }
    }

    fn refuse_endpoint_settings(&self) -> Result<()> {
        match self.endpoint.first_set() {
            None => Ok(()),
            Some(key) => Err(Error::config(format!("`{key}` is for endpoints; `{}` takes none", self.source))),
        }
    }

    fn onnx_settings(&self) -> OnnxSettings {
        OnnxSettings::new(&self.onnx, self.max_length)
    }

    /// The model without a queue, for tests of it.
    #[cfg(all(test, feature = "onnx"))]
    pub(crate) fn open_onnx(&self) -> Result<onnx::OnnxModel> {
        onnx::OnnxModel::open(std::path::Path::new(&self.source), self.task, &self.labels, &self.onnx_settings())
    }

    fn refuse_onnx_settings(&self) -> Result<()> {
        let shown = self.shown_source();
        if let Some(key) = self.onnx.first_set().or(self.max_length.map(|_| "max_length")) {
            return Err(Error::config(format!("`{key}` is for ONNX files; `{shown}` takes none")));
        }
        if self.task.is_tabular() {
            let task = self.task.as_str();
            return Err(Error::config(format!("`task: {task}` is for ONNX files; `{shown}` reads texts")));
        }
        Ok(())
    }

    /// What a built-in is can't be changed, but may be repeated.
    fn compare_with(&self, info: &ModelInfo) -> Result<()> {
        if self.task != info.task {
            let (wanted, is) = (self.task.as_str(), info.task.as_str());
            return Err(Error::config(format!("`{}` does {is}, not {wanted}: write `task: {is}`", self.source)));
        }
        let same = self.labels.iter().map(String::as_str).eq(info.labels.iter().map(|l| l.as_ref()));
        if !self.labels.is_empty() && !same {
            let labels = info.labels.join(", ");
            return Err(Error::config(format!("the labels of `{}` are [{labels}]: leave out `labels`", self.source)));
        }
        Ok(())
    }
}

/// Whether a source is an ONNX file: a path that ends so.
pub(crate) fn is_onnx(source: &str) -> bool {
    !source.contains("://") && !source.starts_with("builtin:") && source.to_ascii_lowercase().ends_with(".onnx")
}

/// The first 16 hexadecimal digits of SHA-256.
pub(crate) fn short_digest(bytes: &[u8]) -> Arc<str> {
    short_hex(&Sha256::digest(bytes))
}

/// The first 16 hexadecimal digits.
pub(crate) fn short_hex(digest: &[u8]) -> Arc<str> {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// A URL may hold a password or a token.
fn shown_source(source: &str) -> String {
    if source.contains("://") { redact_url(source) } else { source.to_owned() }
}

fn serialize_source<S: Serializer>(source: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown_source(source))
}

impl fmt::Debug for ModelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelConfig")
            .field("task", &self.task)
            .field("source", &shown_source(&self.source))
            .field("batch", &self.batch)
            .field("cache", &self.cache)
            .field("shadow", &self.shadow)
            .field("stall_timeout", &self.stall_timeout)
            .field("labels", &self.labels)
            .field("max_length", &self.max_length)
            .field("onnx", &self.onnx)
            .field("endpoint", &self.endpoint)
            .finish()
    }
}

#[cfg(test)]
mod tests;
