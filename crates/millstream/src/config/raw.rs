//! The pipeline file as it is written. The doc comments here are the text of the JSON Schema and of
//! `docs/pipeline-file.md`; nothing is checked here that needs a second entry to look at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use millstream_connectors::format::DecodeConfig;
use millstream_connectors::{SinkConfig, SourceConfig};
use millstream_core::{ByteSize, HumanDuration};
use millstream_engine::spec::{Metadata, Start};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::secrets::SecretConfig;

/// A Millstream pipeline: live feeds in, enriched by SQL and models, kept in tables, published onward.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RawPipeline {
    /// The pipeline's name.
    pub pipeline: PipelineName,
    /// Secrets that values refer to as `${secret:NAME}`, by name.
    pub secrets: Option<Section<SecretConfig>>,
    /// What holds for the whole pipeline.
    pub settings: Option<RawSettings>,
    /// Where records come from, by name.
    pub sources: Section<RawSource>,
    /// Models that `predict` uses, by name.
    pub models: Option<Section<millstream_models::ModelConfig>>,
    /// What is computed, by name: SQL, or a model's prediction.
    pub transforms: Option<Section<RawTransform>>,
    /// What is kept, by name: the newest row for each key. Every change of a table is in its change stream,
    /// `NAME.changes`.
    pub tables: Option<Section<RawTable>>,
    /// Where records go, by name.
    pub sinks: Option<Section<RawSink>>,
}

/// A map of named entries. Only its schema is used; entries are read one by one, so that a wrong one hides no other.
#[derive(Debug)]
pub struct Section<T>(PhantomData<T>);

/// The name of a pipeline. Only its schema is used.
#[derive(Debug)]
pub struct PipelineName;

const NAME_PATTERN: &str = "^[a-z][a-z0-9_]*$";
const NAME_HELP: &str = "a lower-case letter, then letters, digits and `_` (64 at most)";

/// What holds for the whole pipeline.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// How long streams are kept. A source may say otherwise.
    #[serde(default)]
    pub retention: RawRetention,
    /// How far the slowest reader of a stream may fall behind before its source is held back. Default: `256MiB`.
    pub max_backlog: Option<ByteSize>,
    /// Memory for the rows, keys and blocks of tables and caches of predictions, shared by all of the pipeline. It goes
    /// to what is used; beside it, each partition of a table needs one to two MiB. Default: `128MiB`.
    pub memory: Option<ByteSize>,
    /// When what was computed is committed.
    #[serde(default)]
    pub commit: RawCommit,
}

/// When what was computed is committed: as soon as either limit is reached. A record that comes alone does not wait.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCommit {
    /// The shortest time between two commits of a task, while less than `bytes` waits. Default: `0s`, at once.
    pub interval: Option<HumanDuration>,
    /// How much of its log, as stored, one commit of a task covers at most. Default: `512KiB`.
    pub bytes: Option<ByteSize>,
}

/// How long records stay in a log. The oldest are dropped once either limit is passed, but never before every reader
/// has committed them.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRetention {
    /// By age. Default: `7d`.
    pub time: Option<HumanDuration>,
    /// By size, of each stream. Default: `10GiB`.
    pub size: Option<ByteSize>,
}

/// A source: a connector, and how its records become rows.
pub type RawSource = Composed<RawSourceEntry, SourceConfig>;

/// A sink: what it takes, and a connector.
pub type RawSink = Composed<RawSinkEntry, SinkConfig>;

/// The keys that every source has.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSourceEntry {
    /// The format of the records. Default: `json`. A feed needs none.
    #[serde(default)]
    pub decode: DecodeConfig,
    /// The fields of a record, and their types: `string`, `int`, `float`, `bool`, `timestamp`, `bytes`, `json`, a list
    /// (`[string]`) or a nested map. A `?` behind the type, or behind the name, makes a field optional. A record that
    /// does not fit goes to the dead letter queue. A feed has its fields by itself (`docs/decoding.md`), and so have
    /// XML presets: there a schema chooses among them.
    pub schema: Option<RawSchema>,
    /// The field that says when it happened; a timestamp. Without it, records have no event time.
    pub event_time: Option<String>,
    /// With `event_time`: how much later than its successors a record may arrive (default: `0s`); or that and more, as
    /// a map.
    pub watermark: Option<RawWatermark>,
    /// The fields that records are partitioned by; order is kept for each key.
    #[serde(default)]
    pub key: Vec<String>,
    /// How many partitions the stream has: how many tasks can work on it at once. Default: `1`.
    #[schemars(range(min = 1, max = 1024))]
    pub partitions: Option<u32>,
    /// What happens to a record that can't be decoded. Default: `dead_letter`.
    #[serde(default)]
    pub on_error: RawOnError,
    /// How long the stream is kept. Default: what `settings` says.
    #[serde(default)]
    pub retention: RawRetention,
    /// What else becomes a column: `raw` (`_raw`, the bytes as received), `origin` (`_origin`, a path or URL),
    /// `received_at` (`_received_at`, a timestamp); and where the system has it, `position` (`_position`, where it
    /// began there), `key` (`_key`, bytes), `headers` (`_headers`, json), `timestamp` (`_timestamp`, when it was made),
    /// `tombstone` (`_tombstone`, its key is gone), `event` (`_event`, the type of a server-sent event). Which source
    /// has what is in `docs/decoding.md`.
    #[serde(default)]
    pub metadata: Vec<Metadata>,
}

/// How much later than its successors a record may arrive, alone or with more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RawWatermark {
    /// The delay alone.
    Delay(HumanDuration),
    /// All of it.
    Full(RawWatermarkSpec),
}

/// When event time has passed. The watermark is the newest event time, less `delay`; with `per`, the newest of the
/// sender that is furthest behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawWatermarkSpec {
    /// How much later than its successors a record may arrive. Default: `0s`.
    pub delay: Option<HumanDuration>,
    /// How far ahead of the clock an event time may be; one that is further does not move the watermark. Default: `1d`.
    pub max_ahead: Option<HumanDuration>,
    /// The fields that tell senders apart, such as the id of a device: each has an event time of its own.
    #[serde(default)]
    pub per: Vec<String>,
    /// After how long without a record nobody waits for this source, or for a sender of it, any more. Default:
    /// everybody does.
    pub idle: Option<HumanDuration>,
}

/// The keys that every sink has.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSinkEntry {
    /// What it takes: a source, a transform, or a table's change stream (`news.changes`); or a list of such with the
    /// same columns.
    pub from: OneOrMany,
    /// Where it begins when it is new and its stream holds older records: `earliest` or `latest`. Default: `latest`.
    #[serde(default)]
    pub start: Start,
    /// What happens to a record that the other side refuses. Default: `dead_letter`.
    #[serde(default)]
    pub on_error: RawOnError,
}

/// Something computed: either `sql`, or `from` and one of `predict` and `dedup`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTransform {
    /// A SELECT over sources, other transforms and the changes of tables (`news.changes`).
    pub sql: Option<String>,
    /// What `predict` or `dedup` takes: a source or a transform; `predict` also the changes of a table.
    pub from: Option<String>,
    /// Adds a model's prediction as a column.
    pub predict: Option<RawPredict>,
    /// Lets only the first row with a key through, and drops its repeats.
    pub dedup: Option<RawDedup>,
    /// With `sql` or `dedup`: what happens to a row that an expression fails on, has no key or time, or comes too late.
    /// Default: `dead_letter`.
    pub on_error: Option<RawOnError>,
}

/// A model's prediction as a new column.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawPredict {
    /// The model, by its name in `models`.
    pub model: String,
    /// What the model reads: a column with a text; or columns, as a list in the model's order, or as a map from the
    /// model's names for them.
    pub input: RawPredictInput,
    /// The name of the new column.
    #[schemars(length(min = 1, max = 64))]
    pub output: String,
    /// How long the model may take for one call, not counting the time that it waits for its turn. Default: `2s`.
    pub timeout: Option<HumanDuration>,
    /// How many records may wait for their prediction at once, in each partition. Default: `64`.
    #[schemars(range(min = 1, max = 65536))]
    pub max_in_flight: Option<usize>,
    /// What a call that failed, but may work later, gets.
    #[serde(default)]
    pub retry: RawRetry,
    /// How long records wait while the model as a whole is away or busy, before `on_error` applies to them; `0s`: not
    /// at all. Default: as long as it takes.
    pub give_up_after: Option<HumanDuration>,
    /// What happens to a record that got no prediction. Default: `dead_letter`.
    #[serde(default)]
    pub on_error: RawPredictOnError,
    /// With `on_error: default`: what is written instead. Default: `null`.
    #[serde(default)]
    pub default: Option<Value>,
}

/// Of the rows with the same key only the first, by event time. A later row is a repeat as long as its event time is
/// less than `within` behind that of the one that went through.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDedup {
    /// The columns that tell rows apart.
    #[schemars(length(min = 1))]
    pub key: Vec<String>,
    /// For how long, in event time, a row has no repeat. What is kept of a row is dropped when the watermark has passed
    /// that.
    pub within: HumanDuration,
}

/// A column, a list of columns, or a map from a model's names to columns.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RawPredictInput {
    /// One column.
    One(String),
    /// Several columns.
    Many(#[schemars(length(min = 1))] Vec<String>),
    /// The model's name for a column → the column.
    Named(#[schemars(length(min = 1))] BTreeMap<String, String>),
}

/// How often a call is tried, and the pause in between, which doubles.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRetry {
    /// How often a call is made, the first one included. Default: `3`.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: Option<u32>,
    /// The first pause. Default: `100ms`.
    pub initial: Option<HumanDuration>,
    /// The longest pause. Default: `5s`.
    pub max: Option<HumanDuration>,
}

/// A table: the newest row for each key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTable {
    /// What it takes rows from: a source, a transform or the changes of another table (`news.changes`), or a list of
    /// such with the same columns.
    pub from: OneOrMany,
    /// Where it begins when it is new and what it takes rows from holds older records: `earliest` or `latest`. Default:
    /// `latest`.
    #[serde(default)]
    pub start: Start,
    /// The columns that tell rows apart.
    #[schemars(length(min = 1))]
    pub key: Vec<String>,
    /// How long a row is kept after its last change. Default: for ever.
    pub ttl: Option<HumanDuration>,
    /// A condition on the incoming row, in SQL: where it is true, the row with that key is deleted. Default: of rows
    /// with a column `_op`, as a source with an `envelope` gives them, `_op = 'delete'`.
    pub delete_when: Option<String>,
    /// What happens to a row that can't be kept: its key is null, or `delete_when` fails on it. Default: `dead_letter`.
    #[serde(default)]
    pub on_error: RawOnError,
    /// How many partitions the table has. Default: as many as what it takes rows from.
    #[schemars(range(min = 1, max = 1024))]
    pub partitions: Option<u32>,
}

/// What happens to a record that fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawOnError {
    /// The pipeline stops.
    Fail,
    /// The record is counted and dropped.
    Skip,
    /// The record goes to the dead letter queue.
    #[default]
    DeadLetter,
}

/// What happens to a record that got no prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawPredictOnError {
    /// The pipeline stops.
    Fail,
    /// The record is counted and dropped.
    Skip,
    /// The record goes to the dead letter queue.
    #[default]
    DeadLetter,
    /// `default` is written as the prediction.
    Default,
}

/// A name, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(#[schemars(length(min = 1))] Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// The declared fields, in the order of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct RawSchema(pub Map<String, Value>);

/// The schema of a declared type.
struct RawFieldType;

/// An entry that has keys of its own (`C`) and, beside them, those of a connector (`K`), told apart by `type`.
#[derive(Debug, Clone)]
pub struct Composed<C, K> {
    /// The keys of the entry.
    pub entry: C,
    /// The keys of the connector.
    pub connector: K,
}

impl<C: DeserializeOwned + JsonSchema, K: DeserializeOwned> Composed<C, K> {
    /// Reads an entry. Not by serde's `flatten`, which would let unknown keys pass.
    ///
    /// # Errors
    /// The path of what is wrong inside of the entry, as far as it is known, and what is wrong.
    pub fn read(entry: Value) -> Result<Self, (String, String)> {
        let own = SchemaGenerator::default().into_root_schema_for::<C>();
        let own = own.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let keys = entry.as_object().cloned().unwrap_or_default();
        let (entry, connector): (Map<_, _>, Map<_, _>) = keys.into_iter().partition(|(key, _)| own.contains_key(key));
        Ok(Self { entry: read(Value::Object(entry))?, connector: read(Value::Object(connector))? })
    }
}

/// Reads a value.
///
/// # Errors
/// The path of what is wrong, as far as it is known (empty: somewhere), and what is wrong.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        (if path == "." { String::new() } else { path }, e.into_inner().to_string())
    })
}

impl<C: JsonSchema, K: JsonSchema> JsonSchema for Composed<C, K> {
    fn schema_name() -> Cow<'static, str> {
        K::schema_name().replace("Config", "").into()
    }

    /// `oneOf` beside `properties`; [`crate::config::schema`] puts the properties into each branch.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = C::json_schema(generator);
        let connector = K::json_schema(generator);
        if let Some(branches) = connector.get("oneOf") {
            schema.insert("oneOf".into(), branches.clone());
        }
        schema.remove("description");
        schema
    }
}

impl<T: JsonSchema> JsonSchema for Section<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("SectionOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let entry = generator.subschema_for::<T>();
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": NAME_PATTERN, "maxLength": 64, "description": NAME_HELP },
            "additionalProperties": entry
        })
    }
}

impl JsonSchema for PipelineName {
    fn schema_name() -> Cow<'static, str> {
        "PipelineName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[a-z][a-z0-9_-]*$",
            "maxLength": 64,
            "description": "a lower-case letter, then letters, digits, `_` and `-` (64 at most)"
        })
    }
}

impl JsonSchema for RawSchema {
    fn schema_name() -> Cow<'static, str> {
        "Fields".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kind = generator.subschema_for::<RawFieldType>();
        json_schema!({ "type": "object", "minProperties": 1, "additionalProperties": kind })
    }
}

impl JsonSchema for RawFieldType {
    fn schema_name() -> Cow<'static, str> {
        crate::config::named::FIELD_TYPE.into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let nested = generator.subschema_for::<Self>();
        json_schema!({
            "description": "a type such as `string` or `int?`, a map of fields, or a list with the type of its items",
            "anyOf": [
                { "type": "string", "pattern": r"^\s*\[*(string|int|float|bool|timestamp|bytes|json)(\]\s*)*\??\s*$" },
                { "type": "object", "minProperties": 1, "additionalProperties": nested },
                { "type": "array", "minItems": 1, "maxItems": 1, "items": nested }
            ]
        })
    }
}

impl RawRetention {
    /// What it says, with what it leaves out taken from `default`.
    pub fn or(&self, default: &Self) -> Self {
        Self { time: self.time.or(default.time), size: self.size.or(default.size) }
    }

    /// Seven days and 10 GiB.
    pub fn standard() -> Self {
        Self { time: Some(HumanDuration(Duration::from_secs(7 * 86_400))), size: Some(ByteSize(10 << 30)) }
    }
}
