//! The pipeline file as the rest of the program may rely on it: every name resolved, every type known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use millstream_connectors::format::DecodeConfig;
use millstream_connectors::{SinkConnector, SourceConnector};
pub use millstream_core::Metadata;
use millstream_core::StreamSchema;
use millstream_models::{ColumnKind, FallbackConfig, ModelConfig, ModelInfo};
use millstream_sql::{Predicate, SqlTransform};
use millstream_storage::keyed::MemoryBudget;
use schemars::JsonSchema;
use serde::Deserialize;

/// A checked pipeline.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its name.
    pub name: Arc<str>,
    /// Digest of the file with its variables replaced, 12 hexadecimal digits; secrets and layout do not count.
    pub version: Arc<str>,
    /// What holds for all of it.
    pub settings: Settings,
    /// Sources, as in the file.
    pub sources: Vec<SourceSpec>,
    /// Models, as in the file.
    pub models: Vec<ModelSpec>,
    /// Transforms, each after those it reads.
    pub transforms: Vec<TransformSpec>,
    /// Tables, as in the file.
    pub tables: Vec<TableSpec>,
    /// Sinks, as in the file.
    pub sinks: Vec<SinkSpec>,
}

/// What holds for the whole pipeline.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long streams are kept where their source does not say.
    pub retention: RetentionSpec,
    /// Bytes that the slowest reader of a stream may fall behind before its source is held back.
    pub max_backlog: u64,
    /// When what was computed is committed.
    pub commit: CommitSpec,
    /// Bytes that all states and caches of the process share.
    pub memory: u64,
}

/// When what was computed is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitSpec {
    /// The shortest time between two commits of a task, while less than `bytes` waits.
    pub interval: Duration,
    /// Bytes of the log, as stored, that one commit covers at most; at least 1.
    pub bytes: u64,
}

/// How long a stream is kept. Each limit alone is enough to drop the oldest records; without one it is kept for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionSpec {
    /// By age.
    pub time: Option<Duration>,
    /// By size, in bytes.
    pub size: Option<u64>,
}

/// A source.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// Its name, and that of its stream.
    pub name: Arc<str>,
    /// What it connects to.
    pub connector: Arc<dyn SourceConnector>,
    /// The format of its records.
    pub decode: DecodeConfig,
    /// The fields that the decoder yields: as declared, or as the format itself says.
    pub declared: StreamSchema,
    /// The stream's columns: those fields, then one column for each entry of `metadata`.
    pub schema: SchemaRef,
    /// The column of the event time.
    pub event_time: Option<usize>,
    /// How far its event time is, when it is.
    pub watermark: WatermarkSpec,
    /// The columns that records are partitioned by.
    pub key: Vec<usize>,
    /// The number of partitions, at least 1.
    pub partitions: u32,
    /// What happens to a record that can't be decoded.
    pub on_error: OnError,
    /// The metadata columns, in their order.
    pub metadata: Vec<Metadata>,
    /// How long the stream is kept.
    pub retention: RetentionSpec,
}

/// When event time has passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatermarkSpec {
    /// How much later than its successors a record may arrive.
    pub delay: Duration,
    /// How far ahead of the clock an event time may be and still be believed.
    pub max_ahead: Duration,
    /// The columns that tell senders apart: each has a time of its own. Empty: the source has one.
    pub per: Vec<usize>,
    /// After how long without a record nobody waits for it, or for a sender of it; none: everybody does.
    pub idle: Option<Duration>,
}

/// A model.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Where it comes from and how it is called.
    pub config: ModelConfig,
    /// What it does. `info.name` is the name here.
    pub info: ModelInfo,
}

/// Something computed.
#[derive(Debug, Clone)]
pub struct TransformSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Its columns.
    pub schema: SchemaRef,
    /// The column that is the event time of what it reads, unchanged.
    pub event_time: Option<usize>,
    /// What happens to a row that fails.
    pub on_error: OnError,
    /// What it does.
    pub kind: TransformKind,
}

impl TransformSpec {
    /// The relations that it reads.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        let (sql, from) = match &self.kind {
            TransformKind::Sql(sql) => (sql.inputs(), None),
            TransformKind::Predict(predict) => (&[] as &[String], Some(&*predict.from)),
            TransformKind::Dedup(dedup) => (&[] as &[String], Some(&*dedup.from)),
        };
        sql.iter().map(String::as_str).chain(from)
    }
}

/// What a transform does.
#[derive(Debug, Clone)]
pub enum TransformKind {
    /// SQL.
    Sql(SqlTransform),
    /// A model's prediction as a new, last column.
    Predict(Box<PredictSpec>),
    /// Of the rows with a key only the first.
    Dedup(DedupSpec),
}

/// De-duplication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupSpec {
    /// The source or transform that it reads.
    pub from: Arc<str>,
    /// The columns that tell rows apart; at least one.
    pub key: Vec<usize>,
    /// The column of the event time.
    pub event_time: usize,
    /// How long a row has no repeat, in event time.
    pub within: Duration,
}

/// A prediction.
#[derive(Debug, Clone)]
pub struct PredictSpec {
    /// The source or transform that it reads.
    pub from: Arc<str>,
    /// The model.
    pub model: Arc<str>,
    /// What answers where it can't.
    pub fallback: Option<Box<FallbackConfig>>,
    /// What the model reads.
    pub input: PredictInput,
    /// The name of the new column.
    pub output: String,
    /// How long one call may take.
    pub timeout: Duration,
    /// How many records may wait at once, in each partition; at least 1.
    pub max_in_flight: usize,
    /// What a call that failed, but may work later, gets.
    pub retry: RetrySpec,
    /// How long a record waits for a model that is away before it counts as failed; none: for ever.
    pub give_up_after: Option<Duration>,
    /// With [`OnError::Default`]: what is written instead; `None` is null.
    pub default: Option<serde_json::Value>,
}

impl PredictSpec {
    /// True where it needs the model called `name`.
    pub fn uses_model(&self, name: &str) -> bool {
        &*self.model == name || matches!(self.fallback.as_deref(), Some(FallbackConfig::Model(model)) if model == name)
    }
}

/// What a model reads of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PredictInput {
    /// The column of `from` with this index; a string.
    Text(usize),
    /// Columns of `from`, by their index, and what their cells become; in the order of the model.
    Row(Vec<(usize, ColumnKind)>),
}

/// How often a call is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySpec {
    /// Calls in all, at least 1.
    pub attempts: u32,
    /// The first pause; each next one is twice as long.
    pub initial: Duration,
    /// The longest pause.
    pub max: Duration,
}

/// A table.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Its name.
    pub name: Arc<str>,
    /// The sources, transforms and change streams (`TABLE.changes`) that it takes rows from.
    pub from: Vec<Arc<str>>,
    /// Where it begins when it is new.
    pub start: Start,
    /// The columns that tell rows apart; at least one.
    pub key: Vec<usize>,
    /// Its columns.
    pub schema: SchemaRef,
    /// How long a row is kept after its last change; none: for ever.
    pub ttl: Option<Duration>,
    /// Where it is true for an incoming row, the row with that key is deleted.
    pub delete_when: Option<Predicate>,
    /// What happens to a row that can't be kept.
    pub on_error: OnError,
    /// The number of partitions, at least 1.
    pub partitions: u32,
}

/// A sink.
#[derive(Debug, Clone)]
pub struct SinkSpec {
    /// Its name.
    pub name: Arc<str>,
    /// The streams it reads: those of sources and transforms, and `TABLE.changes`.
    pub from: Vec<Arc<str>>,
    /// Where it begins when it is new.
    pub start: Start,
    /// The columns of all of them.
    pub schema: SchemaRef,
    /// What it connects to.
    pub connector: Arc<dyn SinkConnector>,
    /// What happens to a record that the other side refuses.
    pub on_error: OnError,
}

/// What happens to a record that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The pipeline stops.
    Fail,
    /// It is counted and dropped.
    Skip,
    /// It goes to the dead letter queue.
    DeadLetter,
    /// Of a prediction: a default is written instead.
    Default,
}

/// Where something new begins in a stream that holds older records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest record that is kept.
    Earliest,
    /// With the next record.
    #[default]
    Latest,
}

/// What follows the name of a table in that of its change stream.
pub const CHANGES_SUFFIX: &str = ".changes";

impl Settings {
    /// The memory that the states of a pipeline share.
    pub fn memory_budget(&self) -> MemoryBudget {
        MemoryBudget::new(usize::try_from(self.memory).unwrap_or(usize::MAX))
    }
}

impl Pipeline {
    /// The columns of a source, transform, table or change stream (`news.changes`).
    pub fn relation_schema(&self, name: &str) -> Option<SchemaRef> {
        if let Some(table) = name.strip_suffix(CHANGES_SUFFIX) {
            return self.table(table).map(TableSpec::change_schema);
        }
        let source = self.source(name).map(|s| s.schema.clone());
        source
            .or_else(|| self.transforms.iter().find(|t| &*t.name == name).map(|t| t.schema.clone()))
            .or_else(|| self.table(name).map(|t| t.schema.clone()))
    }

    /// The column of a source or transform that is its event time; none of other relations.
    pub fn event_time(&self, name: &str) -> Option<usize> {
        let source = self.source(name).and_then(|source| source.event_time);
        source.or_else(|| self.transforms.iter().find(|t| &*t.name == name)?.event_time)
    }

    /// Every relation with its columns, by name: sources, transforms, tables and change streams.
    pub fn relations(&self) -> BTreeMap<String, SchemaRef> {
        let sources = self.sources.iter().map(|s| (s.name.to_string(), s.schema.clone()));
        let transforms = self.transforms.iter().map(|t| (t.name.to_string(), t.schema.clone()));
        let tables = self.tables.iter().map(|t| (t.name.to_string(), t.schema.clone()));
        let changes = self.tables.iter().map(|t| (format!("{}{CHANGES_SUFFIX}", t.name), t.change_schema()));
        sources.chain(transforms).chain(tables).chain(changes).collect()
    }

    /// The source called `name`.
    pub fn source(&self, name: &str) -> Option<&SourceSpec> {
        self.sources.iter().find(|s| &*s.name == name)
    }

    /// The table called `name`.
    pub fn table(&self, name: &str) -> Option<&TableSpec> {
        self.tables.iter().find(|t| &*t.name == name)
    }

    /// The number of models with a cache of predictions.
    pub fn model_caches(&self) -> usize {
        self.models.iter().filter(|m| m.config.cache.is_some()).count()
    }

    /// The model called `name`.
    pub fn model(&self, name: &str) -> Option<&ModelSpec> {
        self.models.iter().find(|m| &*m.name == name)
    }
}

impl TableSpec {
    /// The columns of the table's change stream.
    pub fn change_schema(&self) -> SchemaRef {
        let (name, key, schema) = (self.name.clone(), self.key.clone(), self.schema.clone());
        millstream_storage::table::change_schema(&millstream_storage::table::TableSpec {
            name,
            key,
            schema,
            ttl_us: None,
        })
    }
}
