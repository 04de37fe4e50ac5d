//! Sources: their columns, event time and key, and what their connectors and formats say.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use millstream_connectors::{Carries, SourceSettings, Unfit, format};
use millstream_core::schema::timestamp_type;
use millstream_core::{Field, FieldType, StreamSchema};

use super::{Checker, retention_spec, type_name};
use crate::config::raw::{self, RawRetention, RawSource, RawSourceEntry, RawWatermark, RawWatermarkSpec};
use crate::config::tree::{Content, Entry, Node};
use millstream_engine::spec::{Metadata, SourceSpec, WatermarkSpec};

/// How far ahead of the clock an event time may be, where the file does not say: clocks and time zones that are wrong
/// are believed, other nonsense is not.
const MAX_AHEAD: Duration = Duration::from_secs(86_400);

impl<'a> Checker<'a> {
    pub(super) fn sources(&mut self, retention: &RawRetention) -> Vec<SourceSpec> {
        let mut sources = Vec::new();
        for entry in self.section("sources") {
            if self.is_wrong(entry) {
                self.columns_despite_errors(entry);
                continue;
            }
            let read = RawSource::read(entry.value.to_json());
            let Some(raw) = self.found(entry, read) else { continue };
            sources.extend(self.source(entry, raw, retention));
        }
        sources
    }

    /// The columns of a source that is wrong elsewhere: what reads it is checked all the same.
    fn columns_despite_errors(&mut self, entry: &'a Entry) -> Option<()> {
        let keys = ["schema", "decode", "metadata", "event_time", "key"];
        let raw = raw::read::<RawSourceEntry>(self.sound(entry, &keys)?).ok()?;
        let declared = self.declared(entry)??;
        let declared = format::effective_schema(&raw.decode, Some(&declared)).ok()?;
        let schema = self.with_metadata(entry, &format::columns(&raw.decode, &declared), &raw.metadata);
        if let Some(node) = entry.value.get("event_time") {
            let event_time = self.event_time(node, &schema);
            self.set_event_time(&entry.key, event_time);
        }
        if let Some(node) = entry.value.get("key") {
            self.key_columns(node, &schema);
        }
        self.set(&entry.key, schema, 1);
        Some(())
    }

    fn source(&mut self, entry: &'a Entry, raw: RawSource, retention: &RawRetention) -> Option<SourceSpec> {
        let RawSource { entry: raw, connector } = raw;
        let settings = connector.settings();
        let checked = settings.check(self.input.base);
        let connector = checked.map_err(|problems| self.connector_problems(entry, problems)).ok();
        let declared = self.declared(entry)?;
        let at = entry.value.entry("schema").or_else(|| entry.value.entry("decode")).unwrap_or(entry);
        if let Some(Unfit { message, help }) = settings.unfit(&raw.decode) {
            let at = entry.value.entry("decode").unwrap_or(entry);
            self.error(&at.place, message, Some(help));
            return None;
        }
        let declared = match settings.fields(&raw.decode, declared.as_ref()) {
            Ok(schema) => schema,
            Err(message) => {
                self.error(&at.place, message, None);
                return None;
            }
        };
        if let Err(message) = format::build(&raw.decode, &declared) {
            let at = entry.value.entry("decode").unwrap_or(at);
            self.error(&at.place, message, None);
        }
        self.metadata_fits(entry, settings, &raw.metadata);
        let schema = self.with_metadata(entry, &format::columns(&raw.decode, &declared), &raw.metadata);
        let event_time = entry.value.get("event_time").and_then(|node| self.event_time(node, &schema));
        let key = entry.value.get("key").map(|node| self.key_columns(node, &schema)).unwrap_or_default();
        let partitions = raw.partitions.unwrap_or(1);
        // What reads it is checked even where the connector's settings are wrong.
        self.set(&entry.key, schema.clone(), partitions);
        self.set_event_time(&entry.key, event_time);
        if format::envelope(&raw.decode).is_some() {
            self.with_ops.insert(&entry.key);
        }
        let watermark = self.watermark(entry, raw.watermark.as_ref(), event_time.is_some(), &schema);
        Some(SourceSpec {
            name: entry.key.as_str().into(),
            connector: connector?,
            decode: raw.decode,
            declared,
            schema,
            event_time,
            watermark,
            key,
            partitions,
            on_error: raw.on_error.into(),
            metadata: raw.metadata,
            retention: retention_spec(&raw.retention.or(retention)),
        })
    }

    /// The declared fields: `None` where they are wrong, `Some(None)` where nothing is declared.
    #[allow(clippy::option_option)] // Wrong and absent are two things.
    fn declared(&mut self, entry: &Entry) -> Option<Option<StreamSchema>> {
        let Some(node) = entry.value.get("schema").filter(|node| !node.is_null()) else { return Some(None) };
        self.fields(node).map(|fields| Some(StreamSchema { fields }))
    }

    fn fields(&mut self, map: &Node) -> Option<Vec<Field>> {
        let fields: Vec<Option<Field>> = map.entries().iter().map(|entry| self.field(entry)).collect();
        fields.into_iter().collect()
    }

    fn field(&mut self, entry: &Entry) -> Option<Field> {
        let (name, marked) = match entry.key.strip_suffix('?') {
            Some(name) => (name.trim_end(), true),
            None => (entry.key.as_str(), false),
        };
        if name.is_empty() {
            self.error(&entry.place, "a field needs a name", None);
            return None;
        }
        let (kind, optional) = self.field_type(&entry.value)?;
        Some(Field { name: name.to_owned(), kind, optional: optional || marked })
    }

    fn field_type(&mut self, node: &Node) -> Option<(FieldType, bool)> {
        match &node.content {
            Content::Map(_) => Some((FieldType::Struct(self.fields(node)?), false)),
            Content::List(items) => {
                let [item] = items.as_slice() else {
                    let message = "a list has one type of items";
                    self.error(&node.place, message, Some("write `[string]`, or `json` for a list of anything".into()));
                    return None;
                };
                let (kind, optional) = self.field_type(item)?;
                if optional {
                    let help = format!(
                        "write `[{kind}]`; for an optional list put the `?` behind the name: `tags?: [{kind}]`"
                    );
                    self.error(&item.place, "list items can't be optional", Some(help));
                    return None;
                }
                Some((FieldType::List(Box::new(kind)), false))
            }
            Content::Scalar(_) => match FieldType::parse(node.text().unwrap_or_default()) {
                Ok(kind) => Some(kind),
                Err(message) => {
                    self.error(&node.place, message, None);
                    None
                }
            },
        }
    }

    fn with_metadata(&mut self, entry: &Entry, schema: &SchemaRef, metadata: &[Metadata]) -> SchemaRef {
        let mut fields: Vec<Arc<ArrowField>> = schema.fields().iter().cloned().collect();
        let nodes = entry.value.get("metadata").map(Node::items).unwrap_or_default();
        for (item, node) in metadata.iter().zip(nodes) {
            let field = item.field();
            if fields.iter().any(|f| f.name() == field.name()) {
                self.error(&node.place, format!("there is already a column `{}`", field.name()), None);
            }
            fields.push(Arc::new(field));
        }
        Arc::new(Schema::new(fields))
    }

    fn watermark(
        &mut self,
        entry: &Entry,
        raw: Option<&RawWatermark>,
        has_event_time: bool,
        schema: &SchemaRef,
    ) -> WatermarkSpec {
        if let (Some(at), false) =
            (entry.value.entry("watermark"), has_event_time || entry.value.get("event_time").is_some())
        {
            let help = "name the field that says when it happened: `event_time: …`";
            self.warning(&at.place, "`watermark` without `event_time` does nothing", Some(help.into()));
        }
        let spec = match raw {
            None => RawWatermarkSpec::default(),
            Some(RawWatermark::Delay(delay)) => RawWatermarkSpec { delay: Some(*delay), ..RawWatermarkSpec::default() },
            Some(RawWatermark::Full(spec)) => spec.clone(),
        };
        let idle = spec.idle.map(|idle| idle.0);
        if let (Some(at), true) = (entry.value.get("watermark"), idle.is_some_and(|idle| idle.is_zero())) {
            let place = at.entry("idle").map_or(&at.place, |idle| &idle.place);
            self.error(place, "`idle` is zero: nobody would ever wait for this source", None);
        }
        let senders = entry.value.get("watermark").and_then(|at| at.get("per"));
        let per = senders.map(|node| self.key_columns(node, schema)).unwrap_or_default();
        if let (Some(node), None) = (senders, idle) {
            let help = "write `idle: 1m` beside it";
            let message = "one sender that falls silent holds the watermark back for ever";
            self.warning(&node.place, message, Some(help.into()));
        }
        WatermarkSpec {
            per,
            delay: spec.delay.map(|delay| delay.0).unwrap_or_default(),
            max_ahead: spec.max_ahead.map_or(MAX_AHEAD, |ahead| ahead.0),
            idle,
        }
    }

    /// What the source's system does not know of a record is refused, rather than null for ever.
    fn metadata_fits(&mut self, entry: &Entry, source: &dyn SourceSettings, metadata: &[Metadata]) {
        let has = |metadata: Metadata| metadata.is_of_every_source() || source.carries(metadata) == Carries::Yes;
        let nodes = entry.value.get("metadata").map(Node::items).unwrap_or_default();
        for (&item, node) in metadata.iter().zip(nodes).filter(|(item, _)| !has(**item)) {
            let help = match source.carries(item) {
                Carries::With(setting) => setting.to_owned(),
                Carries::Yes | Carries::No => {
                    let known: Vec<&str> =
                        Metadata::ALL.into_iter().filter(|m| has(*m)).map(Metadata::as_str).collect();
                    format!("it has {}", known.join(", "))
                }
            };
            let message = format!("a source of `type: {}` has no `{}` of a record", source.kind(), item.as_str());
            self.error(&node.place, message, Some(help));
        }
    }

    fn event_time(&mut self, node: &Node, schema: &SchemaRef) -> Option<usize> {
        let index = self.column(node, node.text()?, schema)?;
        let kind = schema.field(index).data_type();
        if *kind != timestamp_type() {
            let message =
                format!("`event_time` must name a timestamp; `{}` is {}", schema.field(index).name(), type_name(kind));
            let help = format!("declare it as one: `{}: timestamp`", schema.field(index).name());
            self.error(&node.place, message, Some(help));
            return None;
        }
        Some(index)
    }
}
