//! Pipelines that are written in a line for each part, and plans as text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_connectors::{SinkConfig, SourceConfig};
use millstream_core::StreamSchema;
use millstream_sql::SqlTransform;
use serde_json::json;

use crate::plan::{Plan, StagePlan, StreamKind};
use crate::spec::{
    CommitSpec, DedupSpec, OnError, Pipeline, PredictInput, PredictSpec, RetentionSpec, RetrySpec, Settings, SinkSpec,
    SourceSpec, Start, TableSpec, TransformKind, TransformSpec, WatermarkSpec,
};

/// A pipeline of nothing yet.
pub(super) fn pipeline() -> Written {
    let retention = RetentionSpec { time: None, size: None };
    let commit = CommitSpec { interval: Duration::ZERO, bytes: 1 << 20 };
    Written(Pipeline {
        name: "p".into(),
        version: "1".into(),
        settings: Settings { retention, max_backlog: 1 << 20, commit, memory: 1 << 20 },
        sources: Vec::new(),
        models: Vec::new(),
        transforms: Vec::new(),
        tables: Vec::new(),
        sinks: Vec::new(),
    })
}

/// A pipeline that grows by its parts. Several names are written with blanks between them.
pub(super) struct Written(Pipeline);

impl Written {
    /// A source whose columns are all ints.
    pub(super) fn source(mut self, name: &str, columns: &str, key: &str, partitions: u32) -> Self {
        let fields: Vec<Field> = words(columns).map(|name| Field::new(name, DataType::Int64, true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let file: SourceConfig = serde_json::from_value(json!({ "type": "file", "path": "./in" })).unwrap();
        self.0.sources.push(SourceSpec {
            name: name.into(),
            connector: file.settings().check(Path::new("")).unwrap_or_else(|_| panic!("sound settings")),
            decode: serde_json::from_value(json!("json")).unwrap(),
            declared: StreamSchema::default(),
            key: indices(&schema, key),
            schema,
            event_time: None,
            watermark: WatermarkSpec::default(),
            partitions,
            on_error: OnError::DeadLetter,
            metadata: Vec::new(),
            retention: self.0.settings.retention.clone(),
        });
        self
    }

    pub(super) fn sql(mut self, name: &str, sql: &str) -> Self {
        let sql = SqlTransform::plan(sql, &self.0.relations()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (schema, kind) = (sql.schema(), TransformKind::Sql(sql));
        self.0.transforms.push(transform(name, schema, None, kind));
        self
    }

    /// The first column of the last source is its event time.
    pub(super) fn timed(mut self) -> Self {
        self.0.sources.last_mut().unwrap().event_time = Some(0);
        self
    }

    /// De-duplication of a relation whose first column is the event time.
    pub(super) fn dedup(mut self, name: &str, from: &str, key: &str) -> Self {
        let schema = self.columns(from);
        let (key, within) = (indices(&schema, key), Duration::from_secs(1));
        let kind = TransformKind::Dedup(DedupSpec { from: from.into(), key, event_time: 0, within });
        self.0.transforms.push(transform(name, schema, Some(0), kind));
        self
    }

    /// A prediction as another column, `score`.
    pub(super) fn predict(mut self, name: &str, from: &str) -> Self {
        let columns = self.columns(from);
        let score = Arc::new(Field::new("score", DataType::Float64, true));
        let schema = Arc::new(Schema::new(columns.fields().iter().cloned().chain([score]).collect::<Vec<_>>()));
        let kind = TransformKind::Predict(Box::new(PredictSpec {
            from: from.into(),
            model: "model".into(),
            fallback: None,
            input: PredictInput::Text(0),
            output: "score".into(),
            timeout: Duration::from_secs(1),
            max_in_flight: 1,
            retry: RetrySpec { attempts: 1, initial: Duration::ZERO, max: Duration::ZERO },
            give_up_after: None,
            default: None,
        }));
        self.0.transforms.push(transform(name, schema, None, kind));
        self
    }

    pub(super) fn table(mut self, name: &str, from: &str, key: &str, partitions: u32) -> Self {
        let schema = self.columns(from);
        self.0.tables.push(TableSpec {
            name: name.into(),
            from: words(from).map(Arc::from).collect(),
            start: Start::Latest,
            key: indices(&schema, key),
            schema,
            ttl: None,
            delete_when: None,
            on_error: OnError::DeadLetter,
            partitions,
        });
        self
    }

    pub(super) fn sink(mut self, name: &str, from: &str) -> Self {
        let stdout: SinkConfig = serde_json::from_value(json!({ "type": "stdout" })).unwrap();
        let schema = self.columns(from);
        self.0.sinks.push(SinkSpec {
            name: name.into(),
            from: words(from).map(Arc::from).collect(),
            start: Start::Latest,
            schema: schema.clone(),
            connector: stdout.settings().check(Path::new(""), &schema).unwrap_or_else(|_| panic!("sound settings")),
            on_error: OnError::DeadLetter,
        });
        self
    }

    pub(super) fn plan(&self) -> Shown {
        Shown(Plan::new(&self.0).unwrap())
    }

    /// Compares the plan with how it is written.
    #[track_caller]
    pub(super) fn plans(&self, expected: &str) {
        let plan = self.plan().to_string();
        assert!(plan == expected, "the plan is\n{plan}\nnot\n{expected}");
    }

    /// The columns of the first of `from`.
    fn columns(&self, from: &str) -> SchemaRef {
        let relations: BTreeMap<String, SchemaRef> = self.0.relations();
        relations[words(from).next().unwrap()].clone()
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
}

fn indices(schema: &Schema, names: &str) -> Vec<usize> {
    words(names).map(|name| schema.index_of(name).unwrap()).collect()
}

/// A plan as text:
///
/// ```text
/// KIND STREAM COLUMNS /PARTITIONS by KEY
///
/// stage ID /PARTITIONS
///   OPERATOR = sql(INPUTS)
///   OPERATORS > table NAME by KEY > CHANGES
///   OPERATORS > STREAM for SINKS
/// ```
pub(super) struct Shown(pub(super) Plan);

impl Shown {
    pub(super) fn for_table(self, table: &str) -> Self {
        Self(self.0.for_table(table))
    }

    fn stage(stage: &StagePlan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nstage {} /{}", stage.id, stage.partitions)?;
        let named = |inputs: &[usize], between: &str| {
            inputs.iter().map(|&input| &*stage.ops[input].name).collect::<Vec<_>>().join(between)
        };
        for op in &stage.ops {
            let Some(step) = &op.step else { continue };
            let kind = match step.kind {
                TransformKind::Sql(_) => "sql",
                TransformKind::Predict(_) => "predict",
                TransformKind::Dedup(_) => "dedup",
            };
            writeln!(f, "  {} = {kind}({})", op.name, named(&op.inputs, ", "))?;
        }
        for table in &stage.tables {
            let key = by(&table.spec.schema, &table.spec.key);
            writeln!(f, "  {} > table {}{key} > {}", named(&table.inputs, " + "), table.spec.name, table.changes)?;
        }
        for emit in &stage.emits {
            let written = &stage.written[&emit.stream];
            let whom = written.table.iter().map(|table| format!("table {table}"));
            let mut whom: Vec<String> = whom.chain(written.sinks.iter().map(ToString::to_string)).collect();
            if whom.is_empty() {
                // The exchange of a transform.
                whom.push(stage.shown(&emit.stream).replace('`', ""));
            }
            writeln!(f, "  {} > {} for {}", named(&emit.inputs, " + "), emit.stream, whom.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for stream in &self.0.streams {
            let kind = match stream.kind {
                StreamKind::Source => "source",
                StreamKind::Transform => "transform",
                StreamKind::Changes => "changes",
                StreamKind::Exchange => "exchange",
            };
            let columns = list(&stream.schema, 0..stream.schema.fields().len());
            let key = by(&stream.schema, &stream.key);
            writeln!(f, "{kind} {} {columns} /{}{key}", stream.name, stream.partitions)?;
        }
        self.0.stages.iter().try_for_each(|stage| Self::stage(stage, f))
    }
}

fn list(schema: &Schema, columns: impl IntoIterator<Item = usize>) -> String {
    columns.into_iter().map(|column| schema.field(column).name().as_str()).collect::<Vec<_>>().join(",")
}

fn by(schema: &Schema, key: &[usize]) -> String {
    if key.is_empty() { String::new() } else { format!(" by {}", list(schema, key.iter().copied())) }
}

fn transform(name: &str, schema: SchemaRef, event_time: Option<usize>, kind: TransformKind) -> TransformSpec {
    TransformSpec { name: name.into(), schema, event_time, on_error: OnError::DeadLetter, kind }
}
