//! Transforms: SQL with its types, and predictions.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_connectors::format::OP_COLUMN;
use millstream_models::output_type;
use millstream_sql::{SqlError, SqlTransform};
use millstream_storage::table::can_hold;
use serde_json::Value;

use super::{Checker, Kind};
use crate::config::diagnostics::{Problem, suggestion};
use crate::config::interpolate::position_in;
use crate::config::raw::{self, RawDedup, RawPredict, RawPredictOnError, RawTransform};
use crate::config::traps::comment_behind;
use crate::config::tree::{Content, Entry, LineIndex, Node, Place};
use millstream_engine::spec::{DedupSpec, ModelSpec, OnError, PredictSpec, RetrySpec, TransformKind, TransformSpec};

/// A transform that is well-formed by itself.
pub(super) struct Candidate<'a> {
    pub entry: &'a Entry,
    raw: RawTransform,
    /// The relations that it reads; none where one of its references is wrong.
    pub inputs: Option<Vec<String>>,
}

impl<'a> Checker<'a> {
    /// The transforms that are well-formed by themselves.
    pub(super) fn transform_candidates(&mut self) -> Vec<Candidate<'a>> {
        let mut candidates = Vec::new();
        for entry in self.section("transforms") {
            if self.relations.get(entry.key.as_str()).is_none_or(|r| r.kind != Kind::Transform) {
                continue;
            }
            let raw = match self.is_wrong(entry) {
                true => {
                    // What is right of it is checked all the same.
                    let sound = self.sound(entry, &["sql", "from", "predict", "dedup", "on_error"]);
                    sound.and_then(|value| raw::read::<RawTransform>(value).ok())
                }
                false => self.read::<RawTransform>(entry, entry.value.to_json()),
            };
            let Some(raw) = raw.filter(|raw| {
                raw.sql.is_some() || !self.is_wrong(entry) || raw.predict.is_some() || raw.dedup.is_some()
            }) else {
                continue;
            };
            if self.is_one_thing(entry, &raw) {
                let inputs = self.inputs(entry, &raw);
                candidates.push(Candidate { entry, raw, inputs });
            }
        }
        candidates
    }

    /// What a candidate is, when all that it reads has been checked.
    pub(super) fn transform(&mut self, candidate: &Candidate<'a>, models: &[ModelSpec]) -> Option<TransformSpec> {
        let spec = match (&candidate.raw.predict, &candidate.raw.dedup) {
            (Some(predict), _) => self.predict(candidate, predict, models),
            (None, Some(dedup)) => self.dedup(candidate, dedup),
            (None, None) => self.sql(candidate),
        }?;
        self.set_event_time(&candidate.entry.key, spec.event_time);
        let partitions = candidate.inputs.iter().flatten().map(|name| self.partitions(name)).max().unwrap_or(1);
        self.set(&candidate.entry.key, spec.schema.clone(), partitions);
        let reads_ops = candidate.inputs.iter().flatten().any(|name| self.with_ops.contains(name.as_str()));
        // SQL that names the column has seen to it.
        let is_aware = candidate.raw.sql.as_ref().is_some_and(|sql| sql.contains(OP_COLUMN));
        if reads_ops && (!is_aware || spec.schema.index_of(OP_COLUMN).is_ok()) {
            self.with_ops.insert(&candidate.entry.key);
        }
        Some(spec)
    }

    /// Either `sql`, or `from` and one of `predict` and `dedup`.
    fn is_one_thing(&mut self, entry: &Entry, raw: &RawTransform) -> bool {
        let at = |key: &str| entry.value.entry(key).map_or(&entry.place, |e| &e.place);
        let name = &entry.key;
        let step = match (&raw.predict, &raw.dedup) {
            (Some(_), Some(_)) => {
                let message = format!("`{name}` has both `predict` and `dedup`");
                self.error(at("dedup"), message, Some("make two transforms, one reading the other".into()));
                return false;
            }
            (Some(_), None) => Some("predict"),
            (None, Some(_)) => Some("dedup"),
            (None, None) => None,
        };
        let (place, message, help) = match (&raw.sql, &raw.from, step) {
            (Some(_), _, Some(step)) => (
                at(step),
                format!("`{name}` has both `sql` and `{step}`"),
                "make two transforms, one reading the other",
            ),
            (Some(_), Some(_), None) => {
                (at("from"), "`from` beside `sql`".to_owned(), "the SELECT says what it reads: remove `from`")
            }
            (None, Some(_), None) => (
                &entry.place,
                format!("missing key `predict` or `dedup` in `transforms.{name}`"),
                "or write `sql` instead of `from`",
            ),
            (None, None, Some(_)) => (
                &entry.place,
                format!("missing key `from` in `transforms.{name}`"),
                "`from`: the source or transform whose rows it takes",
            ),
            (None, None, None) => (
                &entry.place,
                format!("`{name}` does nothing"),
                "write `sql`, or `from` and one of `predict` and `dedup`",
            ),
            (None, Some(_), Some("predict")) if raw.on_error.is_some() => {
                (at("on_error"), "`on_error` beside `predict`".to_owned(), "write it inside of `predict`")
            }
            _ => return true,
        };
        self.error(place, message, Some(help.to_owned()));
        false
    }

    fn inputs(&mut self, entry: &'a Entry, raw: &RawTransform) -> Option<Vec<String>> {
        let Some(sql) = &raw.sql else {
            let (node, name) = (entry.value.get("from")?, raw.from.as_ref()?);
            return self.reference(&node.place, name, "transform").map(|()| vec![name.clone()]);
        };
        let node = entry.value.get("sql")?;
        let names = match SqlTransform::relations(sql) {
            Ok(names) => names,
            Err(error) => {
                self.sql_error(node, &error);
                return None;
            }
        };
        let mut complete = true;
        for name in &names {
            let place = self.place_in(node, word_index(sql, name).unwrap_or(0), name.chars().count());
            complete &= self.reference(&place, name, "transform").is_some();
        }
        complete.then_some(names)
    }

    fn sql(&mut self, candidate: &Candidate<'a>) -> Option<TransformSpec> {
        let inputs = candidate.inputs.as_ref()?;
        let schemas: Option<BTreeMap<String, SchemaRef>> =
            inputs.iter().map(|name| Some((name.clone(), self.schema(name)?))).collect();
        let node = candidate.entry.value.get("sql")?;
        let schemas = schemas?;
        match SqlTransform::plan(candidate.raw.sql.as_deref()?, &schemas) {
            Ok(sql) => {
                self.sql_warnings(node, sql.warnings());
                Some(TransformSpec {
                    name: candidate.entry.key.as_str().into(),
                    schema: sql.schema(),
                    event_time: self.time_through(&sql),
                    on_error: candidate.raw.on_error.unwrap_or_default().into(),
                    kind: TransformKind::Sql(sql),
                })
            }
            Err(error) => {
                self.sql_error(node, &error);
                None
            }
        }
    }

    fn predict(&mut self, candidate: &Candidate<'a>, raw: &RawPredict, models: &[ModelSpec]) -> Option<TransformSpec> {
        let node = candidate.entry.value.get("predict")?;
        let model = self.model(node, &raw.model, models);
        let on_error = on_error(raw.on_error);
        self.check_predict_settings(node, raw, on_error);
        let from = candidate.inputs.as_ref()?.first()?;
        let schema = self.schema(from)?;
        // A model that is wrong itself was reported already.
        let input = model.and_then(|model| self.predict_input(node.get("input")?, &raw.input, &schema, model));
        if schema.index_of(&raw.output).is_ok() {
            let message = format!("`{from}` already has a column `{}`", raw.output);
            self.error(&node.get("output")?.place, message, Some("give the prediction another name".into()));
            return None;
        }
        let model = model?;
        let kind = output_type(&model.info);
        if let Some(default) = &raw.default {
            self.check_default(node, default, &kind);
        }
        let nullable = on_error == OnError::Default && raw.default.is_none();
        let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(&raw.output, kind, nullable)));
        let spec = PredictSpec {
            from: from.as_str().into(),
            model: raw.model.as_str().into(),
            fallback: model.config.endpoint.fallback.clone().map(Box::new),
            input: input?,
            output: raw.output.clone(),
            timeout: raw.timeout.map_or(std::time::Duration::from_secs(2), |t| t.0),
            max_in_flight: raw.max_in_flight.unwrap_or(64),
            retry: retry(raw),
            give_up_after: raw.give_up_after.map(|time| time.0),
            default: raw.default.clone(),
        };
        let name = candidate.entry.key.as_str().into();
        Some(TransformSpec {
            name,
            schema: Arc::new(Schema::new(fields)),
            event_time: self.time_of(from),
            on_error,
            kind: TransformKind::Predict(Box::new(spec)),
        })
    }

    fn dedup(&mut self, candidate: &Candidate<'a>, raw: &RawDedup) -> Option<TransformSpec> {
        let node = candidate.entry.value.get("dedup")?;
        let from = candidate.inputs.as_ref()?.first()?;
        let schema = self.schema(from)?;
        let key = self.key_columns(node.get("key")?, &schema);
        if raw.within.0.is_zero() {
            let within = node.entry("within").map_or(&node.place, |within| &within.place);
            self.error(within, "`within` is zero: nothing would be a repeat", None);
        }
        if let Some(field) = schema.fields().iter().find(|field| !can_hold(field.data_type())) {
            let message = format!("`{}` of `{from}` is {}, which can't be kept", field.name(), field.data_type());
            self.error(&node.place, message, Some("cast it in a transform in front of this one".into()));
            return None;
        }
        let Some(event_time) = self.time_of(from) else {
            let place = candidate.entry.value.get("from").map_or(&candidate.entry.place, |from| &from.place);
            let help = match self.relations.get(from.as_str()).map(|relation| relation.kind) {
                Some(Kind::Source) => format!("say when it happened: `event_time` in `sources.{from}`"),
                Some(Kind::Transform) => {
                    format!("let `{from}` select the column that is the `event_time` of its source, unchanged")
                }
                _ => "take a source or a transform".to_owned(),
            };
            self.error(place, format!("`{from}` has no event time, which `within` is counted in"), Some(help));
            return None;
        };
        let kind = DedupSpec { from: from.as_str().into(), key, event_time, within: raw.within.0 };
        Some(TransformSpec {
            name: candidate.entry.key.as_str().into(),
            schema,
            event_time: Some(event_time),
            on_error: candidate.raw.on_error.unwrap_or_default().into(),
            kind: TransformKind::Dedup(kind),
        })
    }

    /// The column of a relation that is its event time.
    fn time_of(&self, name: &str) -> Option<usize> {
        self.relations.get(name)?.event_time
    }

    /// The column of a SELECT that is the event time of all that it reads, unchanged.
    fn time_through(&self, sql: &SqlTransform) -> Option<usize> {
        let through = |name: &String| {
            let time = self.time_of(name)?;
            sql.lineage(name).iter().position(|column| *column == Some(time))
        };
        let mut columns = sql.inputs().iter().map(through);
        let first = columns.next()??;
        columns.all(|column| column == Some(first)).then_some(first)
    }

    fn model<'m>(&mut self, node: &Node, name: &str, models: &'m [ModelSpec]) -> Option<&'m ModelSpec> {
        self.used.insert(format!("model {name}"));
        let known: Vec<&str> = self.section("models").iter().map(|e| e.key.as_str()).collect();
        if !known.contains(&name) {
            let help = if known.is_empty() {
                Some("define it below `models:`".to_owned())
            } else {
                suggestion(name, "there are", &known)
            };
            self.error(&node.get("model")?.place, format!("there is no model `{name}`"), help);
        }
        models.iter().find(|m| &*m.name == name)
    }

    fn check_predict_settings(&mut self, node: &Node, raw: &RawPredict, on_error: OnError) {
        if raw.timeout.is_some_and(|t| t.0.is_zero())
            && let Some(timeout) = node.get("timeout")
        {
            self.error(&timeout.place, "`timeout` is zero: no call could be answered", None);
        }
        let pauses = retry(raw);
        if pauses.initial > pauses.max
            && let Some(retry) = node.entry("retry")
        {
            self.error(&retry.place, "`initial`, the first pause, is longer than `max`", None);
        }
        if let Some(default) = node.entry("default").filter(|_| on_error != OnError::Default) {
            self.error(
                &default.place,
                "`default` is never used",
                Some("write `on_error: default` beside it, or remove it".into()),
            );
        }
    }

    /// The default must have the shape of a prediction.
    fn check_default(&mut self, node: &Node, default: &Value, kind: &DataType) {
        let (Some(at), DataType::Struct(fields)) = (node.get("default"), kind) else { return };
        let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
        if !default.is_object() {
            let message = format!("`default` must be a map with {}, or null", names.join(", "));
            self.error(&at.place, message, None);
        }
        for entry in at.entries().iter().filter(|e| !names.contains(&e.key.as_str())) {
            let message = format!("a prediction has no `{}`", entry.key);
            self.error(&entry.place, message, suggestion(&entry.key, "it has", &names));
        }
    }

    /// Warnings about the SQL at `node`.
    pub(super) fn sql_warnings(&mut self, node: &Node, warnings: &[SqlError]) {
        for warning in warnings {
            let place = self.sql_place(node, warning);
            self.problems.push(Problem::warning(&place, warning.message.clone(), warning.help.clone()));
        }
    }

    /// An error in the SQL at `node`, at its place in the file.
    pub(super) fn sql_error(&mut self, node: &Node, error: &SqlError) {
        if let Some(comment) = comment_behind(node, self.input.source) {
            let message = format!("in YAML ` #` begins a comment, so the SQL ends here: {}", error.message);
            let help = "quote the SQL, or use `|`: write `sql: |` and the SQL in the lines below";
            return self.error(&comment, message, Some(help.into()));
        }
        let place = self.sql_place(node, error);
        self.error(&place, error.message.clone(), error.help.clone());
    }

    fn sql_place(&self, node: &Node, error: &SqlError) -> Place {
        let sql = node.text().unwrap_or_default();
        let index = match (error.line, error.column) {
            (Some(line), Some(column)) => char_index(sql, line as usize, column as usize),
            _ => None,
        };
        match index {
            Some(index) => self.place_in(node, index, word_length(sql, index)),
            None => Place { bytes: node.place.bytes.start..node.place.bytes.start, ..node.place.clone() },
        }
    }

    /// The place of `length` characters of a text, from character `index` on.
    fn place_in(&self, node: &Node, index: usize, length: usize) -> Place {
        let Content::Scalar(scalar) = &node.content else { return node.place.clone() };
        let at = position_in(scalar, &node.place, self.input.source, index);
        let lines = LineIndex::new(self.input.source);
        let line = lines.line(at.line);
        let offset = |column: usize| line.char_indices().nth(column).map_or(line.len(), |(i, _)| i);
        let start = lines.line_start(at.line);
        Place { at, bytes: start + offset(at.column - 1)..start + offset(at.column - 1 + length) }
    }
}

fn on_error(raw: RawPredictOnError) -> OnError {
    match raw {
        RawPredictOnError::Fail => OnError::Fail,
        RawPredictOnError::Skip => OnError::Skip,
        RawPredictOnError::DeadLetter => OnError::DeadLetter,
        RawPredictOnError::Default => OnError::Default,
    }
}

fn retry(raw: &RawPredict) -> RetrySpec {
    let duration =
        |value: Option<millstream_core::HumanDuration>, ms| value.map_or(std::time::Duration::from_millis(ms), |d| d.0);
    RetrySpec {
        attempts: raw.retry.attempts.unwrap_or(3),
        initial: duration(raw.retry.initial, 100),
        max: duration(raw.retry.max, 5_000),
    }
}

/// The character index of a line and column, both from 1.
fn char_index(text: &str, line: usize, column: usize) -> Option<usize> {
    let before: usize = text.split('\n').take(line.checked_sub(1)?).map(|l| l.chars().count() + 1).sum();
    let index = before + column.checked_sub(1)?;
    Some(index.min(text.trim_end().chars().count()))
}

/// The length of the word that begins at a character.
fn word_length(text: &str, index: usize) -> usize {
    text.chars().skip(index).take_while(|c| c.is_alphanumeric() || *c == '_').count().max(1)
}

/// The character at which `name` stands as a word, behind FROM, JOIN or a comma if possible.
fn word_index(sql: &str, name: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let stands_alone = |at: &usize| !sql[..*at].ends_with(is_word) && !sql[*at + name.len()..].starts_with(is_word);
    let read_from = |at: &usize| {
        let before = sql[..*at].trim_end_matches(['"', ' ', '\t', '\n', '\r']).to_lowercase();
        before.ends_with("from") || before.ends_with("join") || before.ends_with(',')
    };
    let found: Vec<usize> = sql.match_indices(name).map(|(at, _)| at).filter(stands_alone).collect();
    let at = found.iter().copied().find(|at| read_from(at)).or_else(|| found.first().copied())?;
    Some(sql[..at].chars().count())
}
