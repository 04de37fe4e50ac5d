//! What a `predict` reads: whether its columns are those that the model takes.

use arrow::datatypes::{DataType, SchemaRef};
use millstream_models::{Column, ColumnKind, Reads};

use super::{Checker, type_name};
use crate::config::diagnostics::suggestion;
use crate::config::raw::RawPredictInput;
use crate::config::tree::Node;
use millstream_engine::spec::{ModelSpec, PredictInput};

impl Checker<'_> {
    /// The columns that `input`, written at `node`, names; a problem where the model can't take them.
    pub(super) fn predict_input(
        &mut self,
        node: &Node,
        input: &RawPredictInput,
        schema: &SchemaRef,
        model: &ModelSpec,
    ) -> Option<PredictInput> {
        match (&model.info.reads, input) {
            (Reads::Text, RawPredictInput::One(name)) => self.text_column(node, name, schema).map(PredictInput::Text),
            (Reads::Text, _) => {
                let message = format!("the model `{}` reads one text, not columns", model.name);
                let help = "name one column; to join several, use SQL in a transform before it: a || ' ' || b";
                self.error(&node.place, message, Some(help.into()));
                None
            }
            (Reads::Row(columns), RawPredictInput::Named(_)) => self.columns_by_map(node, schema, model, columns),
            (Reads::Row(columns), _) => self.columns_by_list(node, schema, model, columns),
        }
    }

    fn text_column(&mut self, node: &Node, name: &str, schema: &SchemaRef) -> Option<usize> {
        let index = self.column(node, name, schema)?;
        let field = schema.field(index);
        if *field.data_type() != DataType::Utf8 {
            let message = format!("a model reads a string; `{}` is {}", field.name(), type_name(field.data_type()));
            let help = "make one with SQL in a transform before it: CAST(… AS string), or a || ' ' || b";
            self.error(&node.place, message, Some(help.into()));
            return None;
        }
        Some(index)
    }

    /// A list: by name where the model names its columns, else by place.
    fn columns_by_list(
        &mut self,
        node: &Node,
        schema: &SchemaRef,
        model: &ModelSpec,
        columns: &[Column],
    ) -> Option<PredictInput> {
        let listed = node.items();
        if listed.len() != columns.len() {
            let (name, wanted) = (&model.name, model.info.reads.to_string());
            let message = format!("`input` names {}; the model `{name}` reads {wanted}", counted(listed.len()));
            self.error(&node.place, message, None);
            return None;
        }
        let mut found = Vec::with_capacity(columns.len());
        for (i, column) in columns.iter().enumerate() {
            let at = match &column.name {
                None => listed.get(i),
                Some(name) => listed.iter().find(|item| item.text() == Some(name)),
            };
            match at {
                Some(item) => found.push(self.model_column(item, schema, column, i)),
                None => {
                    let message = format!("the column `{column}` of the model `{}` is not in `input`", model.name);
                    let help = format!("where yours is called otherwise, write a map: {{ {}: … }}", named(columns));
                    self.error(&node.place, message, Some(help));
                    found.push(None);
                }
            }
        }
        found.into_iter().collect::<Option<Vec<_>>>().map(PredictInput::Row)
    }

    /// A map from the model's names.
    fn columns_by_map(
        &mut self,
        node: &Node,
        schema: &SchemaRef,
        model: &ModelSpec,
        columns: &[Column],
    ) -> Option<PredictInput> {
        if columns.iter().any(|column| column.name.is_none()) {
            let message = format!("the columns of the model `{}` have no names", model.name);
            let help = "write a list in the model's order, or name them in `inputs` of the model";
            self.error(&node.place, message, Some(help.into()));
            return None;
        }
        let names: Vec<&str> = columns.iter().filter_map(|column| column.name.as_deref()).collect();
        let mut is_right = true;
        for entry in node.entries().iter().filter(|entry| !names.contains(&entry.key.as_str())) {
            let message = format!("the model `{}` reads no column `{}`", model.name, entry.key);
            self.error(&entry.place, message, suggestion(&entry.key, "it reads", &names));
            is_right = false;
        }
        let mut found = Vec::with_capacity(columns.len());
        for (i, column) in columns.iter().enumerate() {
            match node.get(names[i]) {
                Some(item) => found.push(self.model_column(item, schema, column, i)),
                None => {
                    let message = format!("the column `{column}` of the model `{}` is not in `input`", model.name);
                    self.error(&node.place, message, None);
                    is_right = false;
                }
            }
        }
        let found = found.into_iter().collect::<Option<Vec<_>>>();
        found.filter(|_| is_right).map(PredictInput::Row)
    }

    /// The column that stands at `item`; a problem where its cells are not what the model takes.
    fn model_column(
        &mut self,
        item: &Node,
        schema: &SchemaRef,
        column: &Column,
        place: usize,
    ) -> Option<(usize, ColumnKind)> {
        let index = self.column(item, item.text()?, schema)?;
        let field = schema.field(index);
        if fits(field.data_type(), column.kind) {
            return Some((index, column.kind));
        }
        let called = column.name.as_ref().map_or_else(|| format!("column {}", place + 1), |name| format!("`{name}`"));
        let wanted = column.kind.as_str();
        let is = type_name(field.data_type());
        let message = format!("the model takes {called} as {wanted}; `{}` is {is}", field.name());
        let help = format!("change it with SQL in a transform before it: CAST({} AS {wanted})", field.name());
        self.error(&item.place, message, Some(help));
        None
    }
}

/// Whether every cell of a type can become one of a kind.
fn fits(data_type: &DataType, kind: ColumnKind) -> bool {
    match kind {
        ColumnKind::Float => data_type.is_numeric() || *data_type == DataType::Boolean,
        // Not UInt64, which has numbers that are beyond it.
        ColumnKind::Int => {
            (data_type.is_integer() && *data_type != DataType::UInt64) || *data_type == DataType::Boolean
        }
        ColumnKind::Bool => *data_type == DataType::Boolean,
        ColumnKind::Text => matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}

fn counted(columns: usize) -> String {
    if columns == 1 { "one column".into() } else { format!("{columns} columns") }
}

/// The first named column, for an example.
fn named(columns: &[Column]) -> &str {
    columns.iter().find_map(|column| column.name.as_deref()).unwrap_or("name")
}

#[cfg(test)]
mod tests;
