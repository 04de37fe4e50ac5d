//! From the tree to a [`Pipeline`]: every name resolved, every type known. Looks at neither disk nor network, with one
//! exception: a model in a folder says in its files what its labels are.
//!
//! An entry that is wrong does not hide what is wrong with the others: what reads from it is checked as far as its
//! columns are not needed.

mod computed;
mod outputs;
mod predict_input;
mod sources;
mod transforms;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use millstream_core::Result;
use millstream_core::partition::can_be_key;
use millstream_models::{FallbackConfig, ModelConfig, ModelInfo, Task, check_fallback};
use millstream_storage::keyed::MEMORY_BYTES;

use crate::config::diagnostics::{Problem, suggestion};
use crate::config::raw::{self, RawOnError, RawRetention, RawSettings};
use crate::config::tree::{Content, Entry, Node, Place};
use millstream_engine::spec::{CHANGES_SUFFIX, CommitSpec, ModelSpec, OnError, Pipeline, RetentionSpec, Settings};

/// What the checks need to know beside the tree.
pub struct Input<'a> {
    /// The text of the file, for places inside of SQL.
    pub source: &'a str,
    /// The folder that relative paths start from.
    pub base: &'a Path,
    /// The digest of the file.
    pub version: Arc<str>,
    /// What is already known to be wrong; entries with errors are not checked any further.
    pub known: &'a [Problem],
    /// Where a value is not known: nothing is said there.
    pub unknown: &'a [Range<usize>],
    /// Called with each model before it is checked: the place to download what is not on this machine.
    pub fetch: &'a dyn Fn(&ModelConfig) -> Result<()>,
}

/// Checks everything. The pipeline is only there where nothing is wrong.
pub fn check(root: &Node, input: &Input<'_>) -> (Option<Pipeline>, Vec<Problem>) {
    let mut checker = Checker {
        root,
        input,
        problems: Vec::new(),
        relations: BTreeMap::new(),
        used: BTreeSet::new(),
        with_ops: BTreeSet::new(),
    };
    let pipeline = checker.pipeline();
    if checker.problems.iter().chain(input.known).any(Problem::is_error) {
        // What reads a source may be the very thing that is wrong: nothing is called unused before all is right.
        return (None, checker.problems);
    }
    checker.warn_unused();
    (Some(pipeline), checker.problems)
}

/// The kinds of relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Source,
    Transform,
    Table,
}

/// Something that has rows.
struct Relation<'a> {
    kind: Kind,
    entry: &'a Entry,
    /// The columns; none where the entry is wrong.
    schema: Option<SchemaRef>,
    /// Of a table: the columns of its changes.
    changes: Option<SchemaRef>,
    /// The column of its event time, where it has one.
    event_time: Option<usize>,
    partitions: u32,
}

struct Checker<'a> {
    root: &'a Node,
    input: &'a Input<'a>,
    problems: Vec<Problem>,
    relations: BTreeMap<&'a str, Relation<'a>>,
    /// Names of relations (as they are) and models (as `model NAME`) that something refers to.
    used: BTreeSet<String>,
    /// Sources and transforms whose rows say what became of them in the database, in a column or (where a transform has
    /// dropped it) no more.
    with_ops: BTreeSet<&'a str>,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Transform => "transform",
            Self::Table => "table",
        }
    }
}

impl<'a> Checker<'a> {
    fn pipeline(&mut self) -> Pipeline {
        let name = self.root.get("pipeline").and_then(Node::text).unwrap_or_default();
        let (settings, retention) = self.settings();
        self.declare("sources", Kind::Source);
        self.declare("transforms", Kind::Transform);
        self.declare("tables", Kind::Table);
        let sources = self.sources(&retention);
        let models = self.models();
        let (transforms, tables) = self.computed(&models);
        let sinks = self.sinks(&tables);
        if let Some(entry) = self.root.entry("sources").filter(|e| e.value.entries().is_empty() && !self.is_wrong(e)) {
            let help = "name one below `sources:`, such as `wire: { type: file, path: ./wire.jsonl, … }`";
            self.error(&entry.place, "there is no source", Some(help.into()));
        }
        let version = self.input.version.clone();
        Pipeline { name: name.into(), version, settings, sources, models, transforms, tables, sinks }
    }

    fn settings(&mut self) -> (Settings, RawRetention) {
        let raw = match self.root.entry("settings") {
            Some(entry) if !self.is_wrong(entry) => self.read::<RawSettings>(entry, entry.value.to_json()),
            _ => None,
        };
        let raw = raw.unwrap_or_default();
        let retention = raw.retention.or(&RawRetention::standard());
        let settings = Settings {
            retention: retention_spec(&retention),
            max_backlog: raw.max_backlog.map_or(256 << 20, |size| size.0),
            commit: CommitSpec {
                interval: raw.commit.interval.map_or(Duration::ZERO, |interval| interval.0),
                bytes: raw.commit.bytes.map_or(512 << 10, |size| size.0.max(1)),
            },
            memory: raw.memory.map_or(MEMORY_BYTES as u64, |size| size.0),
        };
        (settings, retention)
    }

    fn models(&mut self) -> Vec<ModelSpec> {
        let mut models = Vec::new();
        for entry in self.section("models") {
            if self.is_wrong(entry) {
                continue;
            }
            let Some(mut config) = self.read::<ModelConfig>(entry, entry.value.to_json()) else {
                continue;
            };
            config.start_from(self.input.base);
            match (self.input.fetch)(&config).and_then(|()| config.check()) {
                Ok(info) => {
                    let name: Arc<str> = entry.key.as_str().into();
                    let info = ModelInfo { name: name.clone(), ..info };
                    models.push(ModelSpec { name, config, info });
                }
                Err(error) => {
                    let place = place_of(entry, error.key().unwrap_or("source"));
                    self.error(place, error.to_string(), None);
                }
            }
        }
        self.fallbacks(&models);
        self.shadows(&models);
        models
    }

    /// What answers for a model must be known, and answer alike.
    fn fallbacks(&mut self, models: &[ModelSpec]) {
        for model in models {
            let Some(fallback) = &model.config.endpoint.fallback else { continue };
            if let FallbackConfig::Model(name) = fallback {
                self.used.insert(format!("model {name}"));
            }
            let known = |name: &str| models.iter().find(|m| &*m.name == name).map(|m| &m.info);
            let Some(entry) = self.section("models").iter().find(|e| e.key == *model.name) else { continue };
            let Some(place) = entry.value.get("fallback").map(|node| node.place.clone()) else { continue };
            if let Err(error) = check_fallback(&model.info, fallback, known) {
                // A model that is wrong itself was reported already.
                let is_written = |name: &String| self.section("models").iter().any(|e| e.key == *name);
                let is_reported =
                    matches!(fallback, FallbackConfig::Model(name) if known(name).is_none() && is_written(name));
                if !is_reported {
                    self.error(&place, error.to_string(), None);
                }
            }
        }
    }

    /// A shadow is another model that does the same.
    fn shadows(&mut self, models: &[ModelSpec]) {
        for model in models {
            let Some(shadow) = &model.config.shadow else { continue };
            self.used.insert(format!("model {shadow}"));
            let Some(entry) = self.section("models").iter().find(|e| e.key == *model.name) else { continue };
            let Some(node) = entry.value.get("shadow") else { continue };
            let known: Vec<&str> = self.section("models").iter().map(|e| e.key.as_str()).collect();
            if !known.contains(&shadow.as_str()) {
                let help = suggestion(shadow, "there are", &known);
                self.error(&node.place, format!("there is no model `{shadow}`"), help);
                continue;
            }
            // A shadow that is wrong itself was reported already.
            let Some(other) = models.iter().find(|m| *m.name == **shadow) else { continue };
            let labels = |m: &ModelSpec| m.info.labels.iter().cloned().collect::<BTreeSet<_>>();
            let problem = if other.name == model.name {
                "a model can't be its own shadow"
            } else if other.info.task != model.info.task {
                "its shadow has another task"
            } else if labels(other) != labels(model) {
                "its shadow has other labels"
            } else if other.info.reads != model.info.reads {
                "its shadow reads other columns"
            } else if model.info.task == Task::TabularRegression {
                "labels and embeddings can be compared, values can't"
            } else {
                continue;
            };
            let help = "name another model that does the same, so that the two can be compared";
            self.error(&node.place, problem, Some(help.into()));
        }
    }

    /// Makes the names of a section known.
    fn declare(&mut self, section: &str, kind: Kind) {
        for entry in self.section(section) {
            if let Some(first) = self.relations.get(entry.key.as_str()) {
                let line = first.entry.place.at.line;
                let message = format!("`{}` is already the name of a {}", entry.key, first.kind.name());
                let help = Some(format!("it is in line {line}; sources, transforms and tables need different names"));
                self.error(&entry.place, message, help);
                continue;
            }
            self.relations.insert(
                &entry.key,
                Relation { kind, entry, schema: None, changes: None, event_time: None, partitions: 1 },
            );
        }
    }

    fn section(&self, name: &str) -> &'a [Entry] {
        self.root.get(name).map_or(&[], Node::entries)
    }

    fn error(&mut self, place: &Place, message: impl Into<String>, help: Option<String>) {
        if self.input.unknown.iter().any(|bytes| bytes.contains(&place.bytes.start)) {
            return;
        }
        self.problems.push(Problem::error(place, message, help));
    }

    /// True where an error in this entry is known.
    fn is_wrong(&self, entry: &Entry) -> bool {
        let range = entry.place.bytes.start..entry.value.end().max(entry.place.bytes.end);
        let inside = |p: &Problem| p.is_error() && range.contains(&p.place.bytes.start);
        self.input.known.iter().chain(&self.problems).any(inside)
    }

    /// Those of `keys` of an entry that nothing is known to be wrong with, so that one mistake hides no other; none
    /// where one that is written is wrong.
    fn sound(&self, entry: &Entry, keys: &[&str]) -> Option<serde_json::Value> {
        let mut sound = serde_json::Map::new();
        for part in entry.value.entries().iter().filter(|part| keys.contains(&part.key.as_str())) {
            let range = part.place.bytes.start..=part.value.end().max(part.place.bytes.end);
            let inside = |p: &Problem| p.is_error() && range.contains(&p.place.bytes.start);
            if self.input.known.iter().chain(&self.problems).any(inside) {
                return None;
            }
            sound.insert(part.key.clone(), part.value.to_json());
        }
        Some(sound.into())
    }

    /// Reads a value of `entry` by serde, which finds what a schema can't say.
    fn read<T: serde::de::DeserializeOwned>(&mut self, entry: &Entry, value: serde_json::Value) -> Option<T> {
        self.found(entry, raw::read(value))
    }

    fn found<T>(&mut self, entry: &Entry, read: Result<T, (String, String)>) -> Option<T> {
        read.map_err(|(path, message)| self.error(place_of(entry, &path), message, None)).ok()
    }

    fn warning(&mut self, place: &Place, message: impl Into<String>, help: Option<String>) {
        self.problems.push(Problem::warning(place, message.into(), help));
    }

    /// What a connector says about its settings.
    fn connector_problems(&mut self, entry: &Entry, problems: Vec<millstream_connectors::Problem>) {
        for millstream_connectors::Problem { field, message } in problems {
            self.error(place_of(entry, &field), format!("`{field}` {message}"), None);
        }
    }

    /// The columns called as the texts of `list` say; problems where they are not there, or can't be a key.
    fn key_columns(&mut self, list: &Node, schema: &SchemaRef) -> Vec<usize> {
        let mut key = Vec::new();
        for node in list.items() {
            let Some(name) = node.text() else { continue };
            let Some(index) = self.column(node, name, schema) else { continue };
            let kind = schema.field(index).data_type();
            if !can_be_key(kind) {
                let message = format!("`{name}` is {}, which can't be part of a key", type_name(kind));
                self.error(
                    &node.place,
                    message,
                    Some("a key is made of strings, bytes, numbers, bools or timestamps".into()),
                );
            } else if key.contains(&index) {
                self.error(&node.place, format!("`{name}` appears twice in the key"), None);
            } else {
                key.push(index);
            }
        }
        key
    }

    /// The column called `name`; a problem where there is none.
    fn column(&mut self, node: &Node, name: &str, schema: &SchemaRef) -> Option<usize> {
        let index = schema.index_of(name).ok();
        if index.is_none() {
            let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            self.error(
                &node.place,
                format!("there is no column `{}`", node.typed()),
                suggestion(name, "there are", &columns),
            );
        }
        index
    }

    /// The relation that a `from:` names: a source, a transform or a change stream; a problem where it is none of them.
    fn reference(&mut self, place: &Place, name: &str, by: &str) -> Option<()> {
        match self.relations.get(name).map(|r| r.kind) {
            Some(Kind::Source | Kind::Transform) => {
                self.used.insert(name.to_owned());
                Some(())
            }
            Some(Kind::Table) => {
                let help =
                    format!("write `{name}{CHANGES_SUFFIX}` for its changes, or name what it takes its rows from");
                self.error(place, format!("`{name}` is a table: a {by} reads streams"), Some(help));
                None
            }
            None if self.is_changes(name) => Some(()),
            None => {
                let known: Vec<&str> = self.names(&[Kind::Source, Kind::Transform]);
                let help = suggestion(name, "there are", &known);
                self.error(place, format!("there is no source or transform `{name}`"), help);
                None
            }
        }
    }

    fn is_changes(&self, name: &str) -> bool {
        name.strip_suffix(CHANGES_SUFFIX).is_some_and(|table| self.is_table(table))
    }

    fn is_table(&self, name: &str) -> bool {
        self.relations.get(name).is_some_and(|r| r.kind == Kind::Table)
    }

    fn names(&self, kinds: &[Kind]) -> Vec<&'a str> {
        self.relations.iter().filter(|(_, r)| kinds.contains(&r.kind)).map(|(name, _)| *name).collect()
    }

    /// The columns of a source, transform, table or change stream; none where its entry is wrong.
    fn schema(&self, name: &str) -> Option<SchemaRef> {
        match self.relations.get(name) {
            Some(relation) => relation.schema.clone(),
            None => self.relations.get(name.strip_suffix(CHANGES_SUFFIX)?)?.changes.clone(),
        }
    }

    fn partitions(&self, name: &str) -> u32 {
        let table = name.strip_suffix(CHANGES_SUFFIX);
        let relation = self.relations.get(name).or_else(|| self.relations.get(table?));
        relation.map_or(1, |r| r.partitions)
    }

    fn set(&mut self, name: &str, schema: SchemaRef, partitions: u32) {
        if let Some(relation) = self.relations.get_mut(name) {
            relation.schema = Some(schema);
            relation.partitions = partitions;
        }
    }

    fn set_event_time(&mut self, name: &str, event_time: Option<usize>) {
        if let Some(relation) = self.relations.get_mut(name) {
            relation.event_time = event_time;
        }
    }

    fn warn_unused(&mut self) {
        let unused = |r: &&Relation<'_>| r.kind != Kind::Table && !self.used.contains(r.entry.key.as_str());
        let mut warnings: Vec<Problem> = self
            .relations
            .values()
            .filter(unused)
            .map(|r| {
                let (kind, name) = (r.kind.name(), &r.entry.key);
                Problem::warning(&r.entry.place, format!("nothing reads the {kind} `{name}`"), None)
            })
            .collect();
        for entry in self.section("models") {
            if !self.used.contains(&format!("model {}", entry.key)) {
                warnings.push(Problem::warning(&entry.place, format!("nothing uses the model `{}`", entry.key), None));
            }
        }
        self.problems.extend(warnings);
    }
}

impl From<RawOnError> for OnError {
    fn from(raw: RawOnError) -> Self {
        match raw {
            RawOnError::Fail => Self::Fail,
            RawOnError::Skip => Self::Skip,
            RawOnError::DeadLetter => Self::DeadLetter,
        }
    }
}

fn retention_spec(raw: &RawRetention) -> RetentionSpec {
    RetentionSpec { time: raw.time.map(|time| time.0), size: raw.size.map(|size| size.0) }
}

/// The place of the value at `path` in an entry; that of the entry's key where the path leads nowhere.
fn place_of<'n>(entry: &'n Entry, path: &str) -> &'n Place {
    let node = entry.value.at_path(path);
    if matches!(node.content, Content::Map(_)) {
        holder(&entry.value, node).unwrap_or(&entry.place)
    } else {
        &node.place
    }
}

/// The place of the key that holds `wanted`, somewhere below `root`.
fn holder<'n>(root: &'n Node, wanted: &Node) -> Option<&'n Place> {
    root.entries()
        .iter()
        .find_map(|e| if std::ptr::eq(&e.value, wanted) { Some(&e.place) } else { holder(&e.value, wanted) })
}

/// An Arrow type in the words of the pipeline file.
fn type_name(data_type: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType as T;
    match data_type {
        T::Utf8 => "a string".into(),
        T::Int64 => "an int".into(),
        T::Float64 => "a float".into(),
        T::Boolean => "a bool".into(),
        T::Timestamp(_, _) => "a timestamp".into(),
        T::Binary => "bytes".into(),
        T::List(_) => "a list".into(),
        T::Struct(_) => "a map".into(),
        other => format!("of type {other}"),
    }
}
