//! What can be written under `models:` in a pipeline file, and what it resolves to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Error, HumanDuration, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::huggingface::hub::{self, Hub};
use crate::onnx::config::{OnnxConfig, OnnxSettings};
use crate::remote::config::EndpointConfig;
use crate::sharing::SharedWeights;
use crate::source::{self, Source};
use crate::transformer::Precision;
use crate::{Model, ModelHandle, ModelInfo, Task, builtin, linear, onnx, remote, text_model};

/// The most texts that a batch may hold.
const BATCH_MAX: usize = 4096;

/// A model: one that comes with Millstream, one in a folder or of the Hugging Face hub, or one behind an endpoint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct ModelConfig {
    /// What the model does.
    pub task: Task,
    /// `builtin:headline-sentiment`, `builtin:headline-sentiment-linear`; a folder as Hugging Face's libraries save it
    /// (`./finbert`); a model of the hub (`hf://org/name`, `hf://org/name@revision`); an ONNX file (`./model.onnx`); or
    /// an endpoint (`http://…`, `https://…`, `sagemaker://…`, `lambda://…`).
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
    /// Models in the process only: how long a batch may take before the model counts as hanging, and a fresh thread
    /// takes over. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<HumanDuration>,
    /// The labels. At an endpoint: in the order in which it gives scores without names; needed for
    /// `text-classification`, so that the types of the pipeline are known without the network. Of an ONNX file: in the
    /// order of the scores; needed where the file does not name them. Of a folder or a model of the hub: other names
    /// for the model's labels, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Folders and models of the hub only: the numbers to compute in. Default: `auto`, the fastest on this processor.
    #[serde(default, skip_serializing_if = "PrecisionSetting::is_auto")]
    pub precision: PrecisionSetting,
    /// Folders, models of the hub, and ONNX files that read texts: the most tokens of a text; what is behind is cut
    /// off. Default: as the model's files say, else 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_length: Option<usize>,
    /// Folders and models of the hub only: threads that compute. Default: one for each core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub threads: Option<usize>,
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
    /// The most tokens in a batch, as the model guesses them (four bytes a token where it knows no better). A longer
    /// text gets a batch of its own.
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

/// The numbers that a model in this process computes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionSetting {
    /// The fastest on this processor.
    #[default]
    Auto,
    /// Single precision: the answers of `transformers`.
    F32,
    /// bfloat16 weights and activations.
    Bf16,
    /// 8-bit weights and activations.
    Int8,
}

impl PrecisionSetting {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    fn chosen(self) -> Option<Precision> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(Precision::F32),
            Self::Bf16 => Some(Precision::Bf16),
            Self::Int8 => Some(Precision::Int8),
        }
    }
}

/// What `source` names, found and checked.
enum Backend {
    HeadlineSentimentLinear,
    Text(Box<text_model::Found>),
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
            precision: PrecisionSetting::Auto,
            max_length: None,
            threads: None,
            onnx: OnnxConfig::default(),
            endpoint: EndpointConfig::default(),
        }
    }

    /// Makes a relative path in `source` start from `folder`.
    pub fn start_from(&mut self, folder: &Path) {
        if (source::is_path(&self.source) || source::is_onnx(&self.source))
            && Path::new(&self.source).is_relative()
            && !folder.as_os_str().is_empty()
        {
            let path = folder.join(self.source.strip_prefix("./").unwrap_or(&self.source));
            self.source = path.to_string_lossy().into_owned();
        }
    }

    /// Downloads the model into the hub's cache, where it is one of the hub and not there yet. With `HF_HUB_OFFLINE` it
    /// does nothing, and [`ModelConfig::check`] says what is missing.
    ///
    /// # Errors
    /// As [`hub::pull`].
    pub fn fetch(&self, progress: &mut (dyn FnMut(hub::Progress<'_>) + Send)) -> Result<()> {
        // A source of no known form is left to the check.
        let Ok(Source::Hub(repository)) = Source::parse(&self.source) else { return Ok(()) };
        let hub = Hub::from_env()?;
        if !hub.offline && hub.cached(&repository).is_none() {
            hub::pull_blocking(&hub, &repository, progress)?;
        }
        Ok(())
    }

    /// Whether the settings can work, and what the model will be. Touches no network: a model of the hub has to be in
    /// the cache. Of a folder, names and shapes of all tensors are compared with its configuration.
    ///
    /// # Errors
    /// `Config`: what is wrong, and what to write instead. `Corruption`: a file of the model is damaged.
    pub fn check(&self) -> Result<ModelInfo> {
        Ok(self.resolve()?.1)
    }

    /// Looks whether a model's endpoint can be reached, and requests to it signed; none where the model runs in this
    /// process. Nothing is asked of it.
    ///
    /// # Errors
    /// `Retry`: not now. Others: what a person has to mend.
    pub async fn probe(&self) -> Result<Option<String>> {
        match self.resolve()? {
            (Backend::Remote(endpoint), info) => crate::remote::probe::probe(*endpoint, info).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Makes the model ready for calls. `name` is the one in the pipeline file. An endpoint is not called yet.
    ///
    /// # Errors
    /// As [`ModelConfig::check`]; `Bug` where an endpoint's model is loaded outside a Tokio runtime.
    pub fn load(&self, name: &str) -> Result<ModelHandle> {
        self.load_sharing(name, &SharedWeights::default())
    }

    /// The same; what is in `weights` already is not read a second time.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn load_sharing(&self, name: &str, weights: &SharedWeights) -> Result<ModelHandle> {
        let (backend, info) = self.resolve().map_err(|e| e.context(format!("load model `{name}`")))?;
        let info = ModelInfo { name: name.into(), ..info };
        let handle = match backend {
            Backend::HeadlineSentimentLinear => linear::load(info, self.batch),
            Backend::Text(found) => text_model::load(info, self.batch, &found, weights),
            Backend::Onnx(path, settings) => {
                onnx::load(name, &path, self.task, &self.labels, &settings, self.batch, weights)
            }
            Backend::Remote(endpoint) => remote::load(info, self.batch, *endpoint),
        }
        .map_err(|e| e.context(format!("load model `{name}`")))?;
        if let Some(timeout) = self.stall_timeout {
            handle.set_stall_timeout(timeout.0);
        }
        Ok(handle)
    }

    /// One copy of the model without a queue, to measure what the queue adds; none for endpoints.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn open(&self, name: &str) -> Result<Option<Box<dyn Model>>> {
        let (backend, info) = self.resolve().map_err(|e| e.context(format!("load model `{name}`")))?;
        let info = ModelInfo { name: name.into(), ..info };
        match backend {
            Backend::HeadlineSentimentLinear => linear::open(info).map(Some),
            Backend::Text(found) => text_model::TextModel::new(info, &found).map(|model| Some(Box::new(model) as _)),
            #[cfg(feature = "onnx")]
            Backend::Onnx(path, settings) => {
                onnx::OnnxModel::open(&path, self.task, &self.labels, &settings).map(|model| Some(Box::new(model) as _))
            }
            #[cfg(not(feature = "onnx"))]
            Backend::Onnx(..) => Ok(None),
            Backend::Remote(_) => Ok(None),
        }
        .map_err(|e| e.context(format!("load model `{name}`")))
    }

    /// How a model from files computes, with all defaults filled in; none for other models.
    ///
    /// # Errors
    /// As [`ModelConfig::check`].
    pub fn computing(&self) -> Result<Option<text_model::Computing>> {
        match self.resolve()?.0 {
            Backend::Text(found) => Ok(Some(found.computing())),
            Backend::HeadlineSentimentLinear | Backend::Onnx(..) | Backend::Remote(_) => Ok(None),
        }
    }

    /// True where the model is behind an endpoint: it has nothing to load or to warm up.
    pub fn is_endpoint(&self) -> bool {
        remote::config::is_endpoint(&self.source)
    }

    /// Where the model comes from, without credentials.
    pub fn shown_source(&self) -> String {
        source::shown(&self.source)
    }

    fn check_queue(&self) -> Result<()> {
        if !(1..=BATCH_MAX).contains(&self.batch.max) {
            return Err(Error::setting(
                "batch.max",
                format!("`batch.max` is {}: write 1 to {BATCH_MAX}", self.batch.max),
            ));
        }
        if self.batch.max_tokens == 0 {
            return Err(Error::setting(
                "batch.max_tokens",
                "`batch.max_tokens` is 0: write how many tokens a batch may have, such as 8192",
            ));
        }
        if self.cache.is_some_and(|cache| cache.ttl.0.is_zero() || cache.max_entries == Some(0)) {
            return Err(Error::setting(
                "cache",
                "`cache` keeps nothing: write `ttl` and `max_entries` above zero, or remove it",
            ));
        }
        if self.stall_timeout.is_some() && self.is_endpoint() {
            return Err(Error::setting(
                "stall_timeout",
                "`stall_timeout` is for models in the process; an endpoint has `timeout`",
            ));
        }
        if self.stall_timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            return Err(Error::setting(
                "stall_timeout",
                "`stall_timeout` is zero: write how long a batch may take, such as 60s",
            ));
        }
        Ok(())
    }

    fn resolve(&self) -> Result<(Backend, ModelInfo)> {
        self.check_queue()?;
        let source = Source::parse(&self.source)?;
        if !matches!(source, Source::Onnx(_)) {
            self.refuse_onnx_settings()?;
        }
        match source {
            Source::HeadlineSentiment => {
                self.refuse_endpoint_settings()?;
                let found = builtin::headline_sentiment(&self.text_model_settings())?;
                let info = found.info.clone();
                self.compare_with(&info)?;
                Ok((Backend::Text(Box::new(found)), info))
            }
            Source::HeadlineSentimentLinear => {
                self.refuse_endpoint_settings()?;
                self.refuse_text_model_settings()?;
                let info = linear::info()?;
                self.compare_with(&info)?;
                Ok((Backend::HeadlineSentimentLinear, info))
            }
            Source::Folder(folder) => self.text_model(&folder),
            Source::Hub(repository) => {
                let (backend, info) = self.text_model(&hub::locate(&Hub::from_env()?, &repository)?)?;
                Ok((backend, ModelInfo { name: repository.id.into(), ..info }))
            }
            Source::Onnx(path) => {
                self.refuse_endpoint_settings()?;
                self.refuse_encoder_settings()?;
                let settings = self.onnx_settings();
                let info = onnx::check(&path, self.task, &self.labels, &settings)?;
                Ok((Backend::Onnx(path, settings), info))
            }
            Source::Endpoint(_) => {
                self.refuse_text_model_settings()?;
                let (endpoint, info) = self.endpoint.resolve(&self.source, self.task, &self.labels)?;
                Ok((Backend::Remote(Box::new(endpoint)), info))
            }
        }
    }

    fn text_model(&self, folder: &Path) -> Result<(Backend, ModelInfo)> {
        self.refuse_endpoint_settings()?;
        check_labels_differ(&self.labels)?;
        let settings = text_model::Settings { labels: self.labels.clone(), ..self.text_model_settings() };
        let found = text_model::find(folder, self.task, &settings)?;
        let info = found.info.clone();
        Ok((Backend::Text(Box::new(found)), info))
    }

    /// The settings of a model that keeps its own labels.
    fn text_model_settings(&self) -> text_model::Settings {
        text_model::Settings {
            precision: self.precision.chosen(),
            max_length: self.max_length,
            threads: self.threads,
            labels: Vec::new(),
        }
    }

    fn refuse_endpoint_settings(&self) -> Result<()> {
        match self.endpoint.first_set() {
            None => Ok(()),
            Some(key) => Err(Error::setting(key, format!("`{key}` is for endpoints; `{}` takes none", self.source))),
        }
    }

    /// Neither those of encoders nor a length.
    fn refuse_text_model_settings(&self) -> Result<()> {
        match self.max_length {
            Some(_) => Err(self.only_for("max_length", "folders, models of the hub and ONNX files")),
            None => self.refuse_encoder_settings(),
        }
    }

    /// What only encoders of our own have.
    fn refuse_encoder_settings(&self) -> Result<()> {
        let set = [("precision", !self.precision.is_auto()), ("threads", self.threads.is_some())];
        match set.iter().find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some((key, _)) => Err(self.only_for(key, "folders and models of the hub")),
        }
    }

    fn only_for(&self, key: &str, kinds: &str) -> Error {
        Error::setting(key, format!("`{key}` is for {kinds}; `{}` takes none", self.shown_source()))
    }

    fn onnx_settings(&self) -> OnnxSettings {
        OnnxSettings::new(&self.onnx, self.max_length)
    }

    /// The model without a queue, for tests of it.
    #[cfg(all(test, feature = "onnx"))]
    pub(crate) fn open_onnx(&self) -> Result<onnx::OnnxModel> {
        onnx::OnnxModel::open(Path::new(&self.source), self.task, &self.labels, &self.onnx_settings())
    }

    fn refuse_onnx_settings(&self) -> Result<()> {
        if let Some(key) = self.onnx.first_set() {
            return Err(self.only_for(key, "ONNX files"));
        }
        if self.task.is_tabular() {
            let (task, shown) = (self.task.as_str(), self.shown_source());
            return Err(Error::setting("task", format!("`task: {task}` is for ONNX files; `{shown}` reads texts")));
        }
        Ok(())
    }

    /// What a built-in is can't be changed, but may be repeated.
    fn compare_with(&self, info: &ModelInfo) -> Result<()> {
        if self.task != info.task {
            let (wanted, is) = (self.task.as_str(), info.task.as_str());
            return Err(Error::setting(
                "task",
                format!("`{}` does {is}, not {wanted}: write `task: {is}`", self.source),
            ));
        }
        let same = self.labels.iter().map(String::as_str).eq(info.labels.iter().map(|l| l.as_ref()));
        if !self.labels.is_empty() && !same {
            let labels = info.labels.join(", ");
            return Err(Error::setting(
                "labels",
                format!("the labels of `{}` are [{labels}]: leave out `labels`", self.source),
            ));
        }
        Ok(())
    }
}

/// Labels that are written are no empty texts, and each stands there once.
pub(crate) fn check_labels_differ(labels: &[String]) -> Result<()> {
    for (i, label) in labels.iter().enumerate() {
        if label.trim().is_empty() {
            return Err(Error::setting("labels", "a label is empty"));
        }
        if labels[..i].contains(label) {
            return Err(Error::setting("labels", format!("the label `{label}` stands twice in `labels`")));
        }
    }
    Ok(())
}

/// The first 16 hexadecimal digits of SHA-256.
pub(crate) fn short_digest(bytes: &[u8]) -> Arc<str> {
    short_hex(&Sha256::digest(bytes))
}

/// The first 16 hexadecimal digits.
pub(crate) fn short_hex(digest: &[u8]) -> Arc<str> {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

fn serialize_source<S: Serializer>(source: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&source::shown(source))
}

impl fmt::Debug for ModelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelConfig")
            .field("task", &self.task)
            .field("source", &source::shown(&self.source))
            .field("batch", &self.batch)
            .field("cache", &self.cache)
            .field("shadow", &self.shadow)
            .field("stall_timeout", &self.stall_timeout)
            .field("labels", &self.labels)
            .field("precision", &self.precision)
            .field("max_length", &self.max_length)
            .field("threads", &self.threads)
            .field("onnx", &self.onnx)
            .field("endpoint", &self.endpoint)
            .finish()
    }
}

#[cfg(test)]
mod tests;
