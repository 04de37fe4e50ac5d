//! Tables and sinks.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_connectors::format::OP_COLUMN;
use millstream_sql::Predicate;
use millstream_storage::table::can_hold;

use super::{Checker, Kind, type_name};
use crate::config::diagnostics::{Problem, suggestion};
use crate::config::raw::{RawSink, RawTable};
use crate::config::tree::{Entry, Node, Place};
use millstream_engine::spec::{CHANGES_SUFFIX, SinkSpec, TableSpec};

impl<'a> Checker<'a> {
    /// The entries that are tables.
    pub(super) fn table_entries(&self) -> impl Iterator<Item = &'a Entry> {
        let is_table = |entry: &&Entry| self.is_table(&entry.key);
        self.section("tables").iter().filter(is_table).collect::<Vec<_>>().into_iter()
    }

    /// A table, when all that it reads has been checked.
    pub(super) fn table_of(&mut self, entry: &'a Entry) -> Option<TableSpec> {
        if self.is_wrong(entry) {
            self.table_despite_errors(entry);
            return None;
        }
        let raw = self.read::<RawTable>(entry, entry.value.to_json())?;
        let table = self.table(entry, &raw)?;
        self.set(&entry.key, table.schema.clone(), table.partitions);
        if let Some(relation) = self.relations.get_mut(entry.key.as_str()) {
            relation.changes = Some(table.change_schema());
        }
        Some(table)
    }

    /// What is right of a table that is wrong elsewhere is checked all the same.
    fn table_despite_errors(&mut self, entry: &'a Entry) -> Option<()> {
        self.sound(entry, &["from"])?;
        let schema = self.table_columns(entry.value.get("from")?)?;
        if self.sound(entry, &["key"]).is_some()
            && let Some(key) = entry.value.get("key")
        {
            self.key_columns(key, &schema);
        }
        self.delete_when(entry, &schema);
        Some(())
    }

    fn table_columns(&mut self, from: &Node) -> Option<SchemaRef> {
        self.common_schema(from, |checker, node, name| {
            checker.reference(&node.place, name, "table")?;
            checker.schema(name)
        })
    }

    /// As written; else, where rows say that they were deleted in the database, by that.
    fn delete_when(&mut self, entry: &Entry, schema: &SchemaRef) -> Option<Predicate> {
        let Some(node) = entry.value.get("delete_when").filter(|node| !node.is_null()) else {
            let has_op = schema.field_with_name(OP_COLUMN).is_ok_and(|field| *field.data_type() == DataType::Utf8);
            return has_op.then(|| Predicate::compile(&format!("{OP_COLUMN} = 'delete'"), schema).ok())?;
        };
        match Predicate::compile(node.text()?, schema) {
            Ok(predicate) => {
                self.sql_warnings(node, predicate.warnings());
                Some(predicate)
            }
            Err(error) => {
                self.sql_error(node, &error);
                None
            }
        }
    }

    fn table(&mut self, entry: &'a Entry, raw: &RawTable) -> Option<TableSpec> {
        let from = entry.value.get("from")?;
        let schema = self.table_columns(from)?;
        self.check_storable(&from.place, &schema);
        let key = self.key_columns(entry.value.get("key")?, &schema);
        let delete_when = self.delete_when(entry, &schema);
        let lost = raw.from.names().iter().find(|name| self.with_ops.contains(name.as_str()));
        if let Some(lost) = lost.filter(|_| delete_when.is_none()) {
            let message =
                format!("rows that were deleted in the database stay here: `{lost}` does not say which they are");
            let help =
                format!("select the column `{OP_COLUMN}` too, or write `WHERE {OP_COLUMN} <> 'delete'` to keep them");
            self.problems.push(Problem::warning(&from.place, message, Some(help)));
        }
        if raw.ttl.is_some_and(|ttl| ttl.0.is_zero())
            && let Some(node) = entry.value.get("ttl")
        {
            self.error(
                &node.place,
                "`ttl` is zero: no row would stay",
                Some("leave it out to keep rows for ever".into()),
            );
        }
        let inputs = raw.from.names().iter().map(|name| self.partitions(name)).max().unwrap_or(1);
        Some(TableSpec {
            name: entry.key.as_str().into(),
            from: names(&raw.from),
            start: raw.start,
            key,
            schema,
            ttl: raw.ttl.map(|ttl| ttl.0),
            delete_when,
            on_error: raw.on_error.into(),
            partitions: raw.partitions.unwrap_or(inputs),
        })
    }

    fn check_storable(&mut self, place: &Place, schema: &SchemaRef) {
        for field in schema.fields().iter().filter(|field| !can_hold(field.data_type())) {
            let message =
                format!("the column `{}` is {}, which a table can't hold", field.name(), type_name(field.data_type()));
            self.error(
                place,
                message,
                Some("leave it out, or make it a string or json, with SQL in a transform".into()),
            );
        }
    }

    pub(super) fn sinks(&mut self, tables: &[TableSpec]) -> Vec<SinkSpec> {
        let mut sinks = Vec::new();
        for entry in self.section("sinks") {
            if self.is_wrong(entry) {
                if self.sound(entry, &["from"]).is_some()
                    && let Some(from) = entry.value.get("from")
                {
                    self.common_schema(from, |checker, node, name| checker.sink_input(node, name, tables));
                }
                continue;
            }
            let read = RawSink::read(entry.value.to_json());
            let Some(raw) = self.found(entry, read) else { continue };
            if let Some(sink) = self.sink(entry, raw, tables) {
                sinks.push(sink);
            }
        }
        sinks
    }

    fn sink(&mut self, entry: &'a Entry, raw: RawSink, tables: &[TableSpec]) -> Option<SinkSpec> {
        let RawSink { entry: raw, connector } = raw;
        let from = entry.value.get("from")?;
        let schema = self.common_schema(from, |checker, node, name| checker.sink_input(node, name, tables))?;
        let checked = connector.settings().check(self.input.base, &schema);
        let connector = checked.map_err(|problems| self.connector_problems(entry, problems)).ok()?;
        Some(SinkSpec {
            name: entry.key.as_str().into(),
            from: names(&raw.from),
            start: raw.start,
            schema,
            connector,
            on_error: raw.on_error.into(),
        })
    }

    fn sink_input(&mut self, node: &Node, name: &str, tables: &[TableSpec]) -> Option<SchemaRef> {
        if let Some(table) = name.strip_suffix(CHANGES_SUFFIX).filter(|table| self.is_table(table)) {
            return tables.iter().find(|t| &*t.name == table).map(TableSpec::change_schema);
        }
        if self.is_table(name) {
            let help = format!("write `{name}{CHANGES_SUFFIX}` for its changes");
            self.error(&node.place, format!("`{name}` is a table: a sink reads streams"), Some(help));
            return None;
        }
        if self.relations.contains_key(name) {
            self.used.insert(name.to_owned());
            return self.schema(name);
        }
        let mut known: Vec<String> =
            self.names(&[Kind::Source, Kind::Transform]).into_iter().map(str::to_owned).collect();
        known.extend(self.names(&[Kind::Table]).into_iter().map(|table| format!("{table}{CHANGES_SUFFIX}")));
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        self.error(&node.place, format!("there is no stream `{name}`"), suggestion(name, "there are", &known));
        None
    }

    /// The columns of everything that a `from:` names; a problem where they differ.
    fn common_schema(
        &mut self,
        from: &Node,
        mut schema_of: impl FnMut(&mut Self, &Node, &str) -> Option<SchemaRef>,
    ) -> Option<SchemaRef> {
        let mut common: Option<(&str, SchemaRef)> = None;
        let mut complete = true;
        for (i, node) in from.items().iter().enumerate() {
            let Some(name) = node.text() else { continue };
            if from.items()[..i].iter().any(|n| n.text() == Some(name)) {
                self.error(&node.place, format!("`{name}` appears twice"), None);
                continue;
            }
            let Some(schema) = schema_of(self, node, name) else {
                complete = false;
                continue;
            };
            common = Some(match common {
                None => (name, schema),
                Some((first, known)) => match merged(&known, &schema) {
                    Ok(merged) => (first, merged),
                    Err(difference) => {
                        let help = "bring them to the same columns with SQL, or write one entry for each";
                        let message = format!("`{name}` has other columns than `{first}`: {difference}");
                        self.error(&node.place, message, Some(help.into()));
                        (first, known)
                    }
                },
            });
        }
        common.map(|(_, schema)| schema).filter(|_| complete)
    }
}

fn names(from: &crate::config::raw::OneOrMany) -> Vec<Arc<str>> {
    from.names().iter().map(|name| name.as_str().into()).collect()
}

/// Both schemas as one, nullable where either is; else the first difference.
fn merged(a: &SchemaRef, b: &SchemaRef) -> Result<SchemaRef, String> {
    if a.fields().len() != b.fields().len() {
        return Err(format!("{} instead of {}", b.fields().len(), a.fields().len()));
    }
    let merge = |(a, b): (&Arc<Field>, &Arc<Field>)| {
        if a.name() != b.name() {
            return Err(format!("`{}` in the place of `{}`", b.name(), a.name()));
        }
        if a.data_type() != b.data_type() {
            return Err(format!("`{}` is {}, not {}", a.name(), type_name(b.data_type()), type_name(a.data_type())));
        }
        Ok(a.as_ref().clone().with_nullable(a.is_nullable() || b.is_nullable()))
    };
    let fields: Vec<Field> = a.fields().iter().zip(b.fields()).map(merge).collect::<Result<_, _>>()?;
    Ok(Arc::new(Schema::new(fields)))
}
