//! The types Millstream stores, and how any other type that SQL can yield becomes one of them.
//!
//! | SQL yields | stored as |
//! |---|---|
//! | any string type, `NULL` without a type | `Utf8` |
//! | any integer | `Int64`; a `UInt64` beyond it fails on that row |
//! | `Float16`, `Float32`, decimals | `Float64`; inside a list floats of 16 and 32 bits are `Float32`, as in embeddings |
//! | any timestamp | `Timestamp(µs, "UTC")`; without a zone it is read as UTC; nanoseconds are cut off |
//! | dates, times | `Utf8`, ISO 8601 (`2024-05-01`, `13:45:00`), which sorts and prints as people expect |
//! | any binary type | `Binary` |
//! | any list | `List`, with the item type stored in the same way |
//! | structs | `Struct`, field by field |
//! | the JSON value that `->` and `json_get` give | `Utf8` marked as JSON |
//! | durations, intervals, maps | refused, with what to write instead |

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use datafusion_functions_json::{JSON_UNION_DATA_TYPE, udfs};
use millstream_core::schema::{TYPE_KEY, timestamp_type};

use crate::error::SqlError;

/// What to do with a type that can't be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unstorable {
    /// A stream keeps it: refuse.
    Refuse,
    /// A person reads it: make it text.
    Text,
}

/// The stored type for `data_type`; the error says what to write instead.
fn stored(data_type: &DataType, in_list: bool) -> Result<DataType, &'static str> {
    use DataType as T;
    Ok(match data_type {
        T::Utf8 | T::Utf8View | T::LargeUtf8 | T::Null | T::Date32 | T::Date64 | T::Time32(_) | T::Time64(_) => T::Utf8,
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => T::Int64,
        T::Float16 | T::Float32 if in_list => T::Float32,
        T::Float16 | T::Float32 | T::Float64 => T::Float64,
        T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => T::Float64,
        T::Boolean => T::Boolean,
        T::Timestamp(_, _) => timestamp_type(),
        T::Binary | T::BinaryView | T::LargeBinary | T::FixedSizeBinary(_) => T::Binary,
        T::Dictionary(_, values) => stored(values, in_list)?,
        T::RunEndEncoded(_, values) => stored(values.data_type(), in_list)?,
        T::List(item) | T::LargeList(item) | T::ListView(item) | T::LargeListView(item) | T::FixedSizeList(item, _) => {
            let kind = stored(item.data_type(), true)?;
            let metadata = json_metadata(item, &kind);
            T::List(Arc::new(Field::new("item", kind, true).with_metadata(metadata)))
        }
        T::Struct(fields) => T::Struct(
            fields
                .iter()
                .map(|field| {
                    let kind = stored(field.data_type(), in_list)?;
                    let metadata = json_metadata(field, &kind);
                    Ok(Field::new(field.name(), kind, field.is_nullable()).with_metadata(metadata))
                })
                .collect::<Result<_, &'static str>>()?,
        ),
        T::Duration(_) | T::Interval(_) => {
            return Err(
                "is a span of time: take a number from it with date_part('epoch', …), or text with CAST(… AS string)",
            );
        }
        T::Map(_, _) => return Err("is a map: take map_keys(…), map_values(…) or one entry"),
        T::Union(_, _) => {
            return Err("holds values of several types: take one with ->>, json_get_str, json_get_int, …");
        }
    })
}

/// The one key that Millstream keeps on a field: that its text is JSON.
fn json_metadata(field: &Field, stored: &DataType) -> HashMap<String, String> {
    let marked = field.metadata().get(TYPE_KEY).is_some_and(|t| t == "json")
        || field.metadata().get("ARROW:extension:name").is_some_and(|t| t == "arrow.json");
    match stored {
        DataType::Utf8 if marked => HashMap::from([(TYPE_KEY.into(), "json".into())]),
        _ => HashMap::new(),
    }
}

/// The projection on top of a plan that makes its output storable, and the exact schema behind it.
pub(crate) struct Storable {
    /// `plan`, or a projection over it; the first `columns` of its columns are the stored ones.
    pub plan: LogicalPlan,
    /// Names, types, nullability and JSON marks of those columns.
    pub schema: SchemaRef,
}

/// Makes the first `columns` columns of an analyzed plan storable, and passes the others on as they are.
pub(crate) fn storable(plan: LogicalPlan, columns: usize, otherwise: Unstorable) -> Result<Storable, SqlError> {
    let schema = Arc::clone(plan.schema());
    let mut exprs = Vec::with_capacity(schema.fields().len());
    let mut fields = Vec::with_capacity(columns);
    let mut changed = false;
    for i in 0..schema.fields().len() {
        let column = column(&schema, i);
        if i >= columns {
            exprs.push(Expr::Column(column));
            continue;
        }
        let (expr, field) = storable_column(column.clone(), schema.field(i), otherwise)?;
        changed |= expr.is_some();
        exprs.push(match expr {
            Some(expr) => expr.alias_qualified(column.relation.clone(), column.name.clone()),
            None => Expr::Column(column),
        });
        fields.push(field);
    }
    let plan = if changed {
        let projection = Projection::try_new(exprs, Arc::new(plan));
        LogicalPlan::Projection(projection.map_err(|e| SqlError::from_datafusion("", &e))?)
    } else {
        plan
    };
    Ok(Storable { plan, schema: Arc::new(Schema::new(fields)) })
}

/// The column at `index` of `schema`, with its qualifier.
pub(crate) fn column(schema: &DFSchema, index: usize) -> Column {
    let (qualifier, field) = schema.qualified_field(index);
    Column::new(qualifier.cloned(), field.name())
}

/// The expression that makes one column storable (none where it is already), and its stored field.
fn storable_column(column: Column, field: &FieldRef, otherwise: Unstorable) -> Result<(Option<Expr>, Field), SqlError> {
    let name = field.name();
    if field.data_type() == &*JSON_UNION_DATA_TYPE {
        let text =
            Expr::ScalarFunction(ScalarFunction::new_udf(udfs::json_union_to_text_udf(), vec![Expr::Column(column)]));
        let marked = Field::new(name, DataType::Utf8, true)
            .with_metadata(HashMap::from([(TYPE_KEY.to_owned(), "json".to_owned())]));
        return Ok((Some(Expr::Cast(Cast::new(Box::new(text), DataType::Utf8))), marked));
    }
    let kind = match (stored(field.data_type(), false), otherwise) {
        (Ok(kind), _) => kind,
        (Err(_), Unstorable::Text) => DataType::Utf8,
        (Err(why), Unstorable::Refuse) => return Err(SqlError::new(format!("the output column `{name}` {why}"))),
    };
    let metadata = json_metadata(field, &kind);
    let expr =
        (field.data_type() != &kind).then(|| Expr::Cast(Cast::new(Box::new(Expr::Column(column)), kind.clone())));
    Ok((expr, Field::new(name, kind, field.is_nullable()).with_metadata(metadata)))
}
