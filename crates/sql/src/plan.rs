//! A transform: SQL that is parsed, checked, typed and lowered once, before any record is read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::memory::{MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::catalog::{CatalogProvider, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use futures::FutureExt;

use crate::culprit;
use crate::error::{SqlError, not_there};
use crate::exec::StreamTable;
use crate::functions;
use crate::provenance;
use crate::shape::with_room;
use crate::step::{Lowered, SqlStep};
use crate::syntax;
use crate::types::{Unstorable, storable};

/// A SELECT that keeps no state, planned and checked. Cheap to clone; never changes.
///
/// It may filter, compute, `UNNEST` lists, read subqueries and CTEs, and put several inputs together with `UNION ALL`:
/// a batch of one input then yields that input's branches only. Whatever would need other records (aggregates, joins,
/// sorts, limits, windows, DISTINCT) is refused when it is planned, and so are functions whose answer differs from run
/// to run. A list that is null or empty gives no row under `UNNEST`, as in PostgreSQL.
#[derive(Clone)]
pub struct SqlTransform(Arc<Inner>);

struct Inner {
    inputs: Vec<String>,
    schema: SchemaRef,
    lineage: BTreeMap<String, Vec<Option<usize>>>,
    lowered: Arc<Lowered>,
    warnings: Vec<SqlError>,
}

impl fmt::Debug for SqlTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlTransform").field("inputs", &self.0.inputs).field("schema", &self.0.schema).finish()
    }
}

impl SqlTransform {
    /// Plans `sql`. `inputs` holds every name that it may read, with its columns; those it does not read are ignored.
    ///
    /// # Errors
    /// The SQL does not parse, names what is not there, does not type-check, or needs what a step can't do.
    pub fn plan(sql: &str, inputs: &BTreeMap<String, SchemaRef>) -> Result<Self, SqlError> {
        with_room(|| Self::plan_here(sql, inputs))
    }

    fn plan_here(sql: &str, inputs: &BTreeMap<String, SchemaRef>) -> Result<Self, SqlError> {
        let state = functions::stream_state()?;
        let statement = syntax::parse_transform(sql, &state)?;
        let names = syntax::relations(sql, &statement)?;
        register_streams(sql, &state, &names, inputs)?;

        let asked = statement.clone();
        let explain = |e: DataFusionError| culprit::explain(sql, &asked, &state, &e);
        let written = at_once(state.statement_to_plan(statement)).map_err(explain)?;
        functions::refuse_unrepeatable(sql, &written)?;
        check_output_names(sql, &written)?;
        let columns = written.schema().fields().len();
        let traced = provenance::with_row(&written).map_err(|refusal| refusal.into_sql_error(sql))?;
        let analyzed =
            state.analyzer().execute_and_check(traced, state.config_options(), |_, _| {}).map_err(explain)?;
        let output = storable(analyzed, columns, Unstorable::Refuse)?;

        let lineage = names.iter().map(|name| (name.clone(), input_columns(&output.plan, name, columns))).collect();
        let physical = at_once(state.create_physical_plan(&output.plan)).map_err(explain)?;
        let lowered = Lowered::new(&physical, &names, inputs, output.schema.clone(), state.task_ctx())?;
        let warnings = culprit::always_failing(&asked, &state);
        let (schema, lowered) = (output.schema, Arc::new(lowered));
        Ok(Self(Arc::new(Inner { inputs: names, schema, lineage, lowered, warnings })))
    }

    /// The names that `sql` reads (sources, transforms, change streams), sorted, without those of its own CTEs. Quoted
    /// and dotted names come out as the pipeline file writes them: `news.changes`.
    ///
    /// # Errors
    /// The SQL does not parse.
    pub fn relations(sql: &str) -> Result<Vec<String>, SqlError> {
        with_room(|| syntax::relations(sql, &syntax::parse(sql)?))
    }

    /// The names it reads, sorted.
    pub fn inputs(&self) -> &[String] {
        &self.0.inputs
    }

    /// Parts of it that fail whatever the record is: `1/0` say. A record that does not reach them passes.
    pub fn warnings(&self) -> &[SqlError] {
        &self.0.warnings
    }

    /// The exact columns of every batch it yields; stored types only.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    /// For each output column, the column of `input` that it is, value for value (renamed or not); `None` where it is
    /// computed, or where two branches of a union that read `input` disagree. All `None` for an input it does not read.
    pub fn lineage(&self, input: &str) -> Vec<Option<usize>> {
        self.0.lineage.get(input).cloned().unwrap_or_else(|| vec![None; self.0.schema.fields().len()])
    }

    /// A step that runs it: one for each task.
    ///
    /// # Errors
    /// None today: all that can be wrong was found by [`SqlTransform::plan`].
    pub fn step(&self) -> Result<SqlStep, SqlError> {
        Ok(SqlStep::new(Arc::clone(&self.0.lowered)))
    }
}

/// Puts the streams that `names` names into the catalog of `state`.
fn register_streams(
    sql: &str,
    state: &SessionState,
    names: &[String],
    inputs: &BTreeMap<String, SchemaRef>,
) -> Result<(), SqlError> {
    if names.is_empty() {
        return Err(SqlError::new("a transform reads at least one stream: write FROM and its name"));
    }
    for name in names {
        let schema = inputs.get(name).ok_or_else(|| unknown_relation(sql, name, inputs.keys().map(String::as_str)))?;
        if let Some(field) = schema.fields().iter().find(|f| provenance::is_reserved(f.name())) {
            return Err(SqlError::new(format!("`{name}` has a column called `{}`, a reserved name", field.name())));
        }
        let table = StreamTable { name: name.clone(), schema: Arc::clone(schema) };
        register(state, name, Arc::new(table)).map_err(|e| SqlError::from_datafusion(sql, &e))?;
    }
    Ok(())
}

/// The error for a name in FROM that nothing has.
pub(crate) fn unknown_relation<'a>(sql: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> SqlError {
    let last = name.rsplit('.').next().unwrap_or(name);
    let word = if crate::error::locate(sql, name).is_some() { name } else { last };
    not_there(format!("there is nothing called `{name}`"), name, known).placed(crate::error::locate(sql, word))
}

/// Makes `name` readable, quoted as a whole and, where it has dots, part by part (`news.changes` as the table `changes`
/// of the schema `news`).
pub(crate) fn register(state: &SessionState, name: &str, table: Arc<dyn TableProvider>) -> Result<(), DataFusionError> {
    let defaults = state.config_options().catalog.clone();
    let (catalog, schema) = (defaults.default_catalog.as_str(), defaults.default_schema.as_str());
    insert(state, [catalog, schema, name], &table)?;
    match name.split('.').collect::<Vec<_>>().as_slice() {
        [part, last] => insert(state, [catalog, part, last], &table),
        [first, part, last] => insert(state, [first, part, last], &table),
        _ => Ok(()),
    }
}

fn insert(
    state: &SessionState,
    [catalog, schema, name]: [&str; 3],
    table: &Arc<dyn TableProvider>,
) -> Result<(), DataFusionError> {
    let catalogs = state.catalog_list();
    let catalog = catalogs.catalog(catalog).unwrap_or_else(|| {
        let new: Arc<dyn CatalogProvider> = Arc::new(MemoryCatalogProvider::new());
        catalogs.register_catalog(catalog.to_owned(), Arc::clone(&new));
        new
    });
    let schema = match catalog.schema(schema) {
        Some(found) => found,
        None => {
            let new = Arc::new(MemorySchemaProvider::new());
            catalog.register_schema(schema, Arc::clone(&new) as _)?;
            new
        }
    };
    schema.register_table(name.to_owned(), Arc::clone(table)).map(|_| ())
}

/// The answer of a future that has nothing to wait for: every table is in memory.
pub(crate) fn at_once<T>(future: impl Future<Output = Result<T, DataFusionError>>) -> Result<T, DataFusionError> {
    future.now_or_never().unwrap_or_else(|| Err(DataFusionError::Internal("planning waits for something".into())))
}

fn check_output_names(sql: &str, plan: &LogicalPlan) -> Result<(), SqlError> {
    let names: Vec<&str> = plan.schema().fields().iter().map(|f| f.name().as_str()).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let message = format!("two output columns are called `{name}`: give one another name with AS");
            return Err(SqlError::at(sql, name, message));
        }
        if provenance::is_reserved(name) {
            return Err(SqlError::at(
                sql,
                name,
                format!("`{name}` is a reserved name: give the column another with AS"),
            ));
        }
    }
    Ok(())
}

fn input_columns(plan: &LogicalPlan, input: &str, columns: usize) -> Vec<Option<usize>> {
    let mut lineage = provenance::lineage(plan, input).unwrap_or_default();
    lineage.resize(columns, None);
    lineage
}
