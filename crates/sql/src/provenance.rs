//! The way back from an output row to its input row, and from an output column to its input column.
//!
//! Every stream gets a hidden last column, [`ROW`]; [`with_row`] rewrites a plan so that each of its nodes passes that
//! column through, once and last. `SELECT *` was expanded before, so it does not see it.

use std::sync::Arc;

use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{
    Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, TableScan, Union, Unnest,
};

use crate::error::SqlError;
use crate::exec::{ROW, StreamTable, with_row_field};
use crate::types::column;

/// Why a plan can't carry its rows' origin.
pub(crate) enum Refusal {
    /// The plan holds something that a step can't do.
    Unsupported(String),
    /// DataFusion's own error.
    DataFusion(DataFusionError),
}

impl From<DataFusionError> for Refusal {
    fn from(e: DataFusionError) -> Self {
        Self::DataFusion(e)
    }
}

impl Refusal {
    pub(crate) fn into_sql_error(self, sql: &str) -> SqlError {
        match self {
            Self::Unsupported(message) => SqlError::new(message),
            Self::DataFusion(e) => SqlError::from_datafusion(sql, &e),
        }
    }
}

/// The same plan with [`ROW`] as the last column of every node.
pub(crate) fn with_row(plan: &LogicalPlan) -> Result<LogicalPlan, Refusal> {
    Ok(match plan {
        LogicalPlan::TableScan(scan) => {
            let table = stream_table(scan)?;
            let table = StreamTable { name: table.name.clone(), schema: with_row_field(&table.schema) };
            LogicalPlanBuilder::scan(scan.table_name.clone(), provider_as_source(Arc::new(table)), None)?.build()?
        }
        LogicalPlan::Projection(projection) => {
            let input = with_row(&projection.input)?;
            let last = input.schema().fields().len() - 1;
            let mut exprs = projection.expr.clone();
            exprs.push(Expr::Column(column(input.schema(), last)));
            LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?)
        }
        LogicalPlan::Filter(filter) => {
            let input = Arc::new(with_row(&filter.input)?);
            LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), input)?)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let input = Arc::new(with_row(&alias.input)?);
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, alias.alias.clone())?)
        }
        LogicalPlan::Unnest(unnest) => {
            if !unnest.struct_type_columns.is_empty() {
                return Err(Refusal::Unsupported(
                    "UNNEST takes a list: name the fields of a struct one by one (sentiment.label, …)".into(),
                ));
            }
            let input = Arc::new(with_row(&unnest.input)?);
            LogicalPlan::Unnest(Unnest::try_new(input, unnest.exec_columns.clone(), unnest.options.clone())?)
        }
        LogicalPlan::Union(union) => {
            let inputs = union.inputs.iter().map(|input| with_row(input).map(Arc::new)).collect::<Result<_, _>>()?;
            LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)
        }
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
            return Err(Refusal::Unsupported(
                "each SELECT of a transform reads a stream: write FROM and its name".into(),
            ));
        }
        other => {
            let what = other.display().to_string();
            return Err(Refusal::Unsupported(format!(
                "this needs more than the record at hand, which a transform does not keep yet ({what})"
            )));
        }
    })
}

fn stream_table(scan: &TableScan) -> Result<Arc<StreamTable>, Refusal> {
    let provider = source_as_provider(&scan.source)?;
    match provider.downcast_ref::<StreamTable>() {
        Some(table) => Ok(Arc::new(StreamTable { name: table.name.clone(), schema: Arc::clone(&table.schema) })),
        None => Err(Refusal::Unsupported(format!(
            "`{}` is no stream: a transform reads sources and transforms",
            scan.table_name
        ))),
    }
}

/// For each column of `plan`, the column of the stream `input` that it is, unchanged; none where the plan does not
/// read `input`.
pub(crate) fn lineage(plan: &LogicalPlan, input: &str) -> Option<Vec<Option<usize>>> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = stream_table(scan).ok().filter(|table| table.name == input)?;
            let all = || (0..table.schema.fields().len()).collect();
            let columns = scan.projection.clone().unwrap_or_else(all);
            Some(columns.into_iter().map(Some).collect())
        }
        LogicalPlan::Filter(filter) => lineage(&filter.input, input),
        LogicalPlan::SubqueryAlias(alias) => lineage(&alias.input, input),
        LogicalPlan::Projection(projection) => {
            let below = lineage(&projection.input, input)?;
            let schema = projection.input.schema();
            let of = |expr: &Expr| below[schema.maybe_index_of_column(unchanged_column(expr, schema)?)?];
            Some(projection.expr.iter().map(of).collect())
        }
        LogicalPlan::Unnest(unnest) => {
            let below = lineage(&unnest.input, input)?;
            let unnested = |index: &usize| {
                unnest.struct_type_columns.contains(index) || unnest.list_type_columns.iter().any(|(i, _)| i == index)
            };
            let of = |index: &usize| if unnested(index) { None } else { below[*index] };
            Some(unnest.dependency_indices.iter().map(of).collect())
        }
        LogicalPlan::Union(union) => {
            let branches = union.inputs.iter().filter_map(|branch| lineage(branch, input));
            branches.reduce(|a, b| a.into_iter().zip(b).map(|(a, b)| if a == b { a } else { None }).collect())
        }
        _ => None,
    }
}

/// The column that `expr` is under its names and casts to the type it has already.
fn unchanged_column<'a>(expr: &'a Expr, schema: &DFSchema) -> Option<&'a Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => unchanged_column(&alias.expr, schema),
        Expr::Cast(cast) => {
            let column = unchanged_column(&cast.expr, schema)?;
            let index = schema.maybe_index_of_column(column)?;
            (schema.field(index).data_type() == cast.field.data_type()).then_some(column)
        }
        _ => None,
    }
}

/// True where `name` is the hidden column's.
pub(crate) fn is_reserved(name: &str) -> bool {
    name == ROW
}
