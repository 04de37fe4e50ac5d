//! One-off queries over tables and streams: all of SELECT, and nothing that writes.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, execute_stream};
use datafusion::prelude::SQLOptions;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use millstream_core::{Error, Result};

use crate::culprit;
use crate::error::{SqlError, root, run_time_message};
use crate::exec::properties;
use crate::host::{QueryHost, QueryLimits};
use crate::plan::{at_once, register, unknown_relation};
use crate::shape::with_room;
use crate::types::{Unstorable, storable};
use crate::watched::{Stop, watched};
use crate::words::declared;
use crate::{functions, syntax, unnested};

/// A table or stream that queries can read.
#[async_trait]
pub trait Relation: Debug + Send + Sync {
    /// Its columns.
    fn schema(&self) -> SchemaRef;

    /// Its columns as they were declared, which is what DESCRIBE shows: not null where they may not be.
    fn declared(&self) -> SchemaRef {
        self.schema()
    }

    /// Reads it from its beginning to its end as of now: the columns at `projection`, in that order (all where it is
    /// none), and at least `limit` rows where there are so many (reading more does no harm). Batches have the schema
    /// projected likewise.
    async fn scan(
        &self,
        projection: Option<&[usize]>,
        limit: Option<usize>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>>;
}

/// Answers queries within the bounds of its host. Nothing is written to disk, and no file is read.
pub struct QueryEngine {
    relations: RwLock<BTreeMap<String, Arc<dyn Relation>>>,
    host: Arc<QueryHost>,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum QueryError {
    /// The SQL is wrong, or does something else than read.
    Sql(SqlError),
    /// So many queries are running that this one had no turn.
    Busy(usize),
    /// It was ended, or can't be planned.
    Ended(String),
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(e) => fmt::Display::fmt(e, f),
            Self::Busy(running) => {
                write!(f, "{running} queries are running, which is as many as may at once: ask again later")
            }
            Self::Ended(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for QueryError {}

impl From<SqlError> for QueryError {
    fn from(e: SqlError) -> Self {
        Self::Sql(e)
    }
}

impl Debug for QueryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryEngine").field("host", &self.host).finish_non_exhaustive()
    }
}

/// An answer, as it is being computed.
pub struct QueryResult {
    /// Its columns: stored types only, as in a stream; what can't be stored (a span of time) is text. Names may repeat.
    pub schema: SchemaRef,
    /// Its rows. An error ends it.
    pub stream: BoxStream<'static, Result<RecordBatch>>,
}

impl Debug for QueryResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryResult").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl QueryEngine {
    /// An engine on a host of its own, with so much memory.
    ///
    /// # Errors
    /// As [`QueryHost::new`].
    pub fn new(memory_bytes: usize) -> Result<Self> {
        Ok(Self::on(QueryHost::new(QueryLimits { memory_bytes, ..QueryLimits::default() })?))
    }

    /// An engine whose queries run on `host`.
    pub fn on(host: Arc<QueryHost>) -> Self {
        Self { relations: RwLock::default(), host }
    }

    /// Makes `relation` readable as `name`, in place of what had that name. `news.changes` can be written with and
    /// without quotes.
    pub fn register(&self, name: &str, relation: Arc<dyn Relation>) {
        let mut relations = self.relations.write().unwrap_or_else(|e| e.into_inner());
        relations.insert(name.to_owned(), relation);
    }

    /// Plans and starts a query: SELECT, EXPLAIN, SHOW TABLES or DESCRIBE. It ends where the answer is dropped.
    ///
    /// # Errors
    /// The SQL is wrong, or does something else than read; too many queries are running. Errors while reading are in
    /// the result's stream.
    pub async fn run(&self, sql: &str) -> Result<QueryResult, QueryError> {
        self.run_within(sql, self.host.limits().deadline).await
    }

    /// The same, with another time that it may take; none is as long as it takes.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_within(&self, sql: &str, deadline: Option<Duration>) -> Result<QueryResult, QueryError> {
        let relations = self.relations.read().unwrap_or_else(|e| e.into_inner()).clone();
        let sql = sql.to_owned();
        let host = self.host.clone();
        host.run(deadline, move |memory, limits, stop| start(&sql, &relations, memory, limits.memory_bytes, stop)).await
    }
}

/// Plans a query and starts it, on a thread of the host.
fn start(
    sql: &str,
    relations: &BTreeMap<String, Arc<dyn Relation>>,
    memory: &Arc<RuntimeEnv>,
    limit: usize,
    stop: &Arc<Stop>,
) -> Result<QueryResult, SqlError> {
    if let Some(name) = with_room(|| syntax::described(sql))? {
        return describe(sql, &name, relations);
    }
    let planned = with_room(|| plan(sql, relations, memory))?;
    let Some(Planned { plan, schema, context }) = planned else { return show_tables(relations) };
    let plan = watched(plan, stop).map_err(|e| SqlError::from_datafusion(sql, &e))?;
    let stream = execute_stream(plan, context).map_err(|e| SqlError::from_datafusion(sql, &e))?;
    let given = Arc::clone(&schema);
    let stream = stream.map(move |batch| {
        let batch = batch.map_err(|e| run_error(e, limit))?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&given), batch.columns().to_vec(), &options)?)
    });
    Ok(QueryResult { schema, stream: stream.boxed() })
}

/// A query that is ready to run.
struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    /// What its batches are given as.
    schema: SchemaRef,
    context: Arc<TaskContext>,
}

/// Plans a query; none for SHOW TABLES, which needs no plan.
fn plan(
    sql: &str,
    relations: &BTreeMap<String, Arc<dyn Relation>>,
    runtime: &Arc<RuntimeEnv>,
) -> Result<Option<Planned>, SqlError> {
    let mut statement = syntax::parse(sql)?;
    let kind = kind_of(&statement)?;
    if kind == Kind::ShowTables {
        return Ok(None);
    }
    if let Some(query) = query_in(&mut statement) {
        unnested::rewrite(query)?;
    }
    let query = query_in(&mut statement);
    let named = query.map(|query| {
        syntax::name_paths(query);
        query.clone()
    });
    let asked = statement.clone();
    let mut state = functions::query_state(Arc::clone(runtime))?;
    // `now()` is the moment the query began.
    state.mark_start_execution();
    for name in syntax::relations(sql, &statement)? {
        if !relations.contains_key(&name) && !state.table_functions().contains_key(&name.to_lowercase()) {
            return Err(unknown_relation(sql, &name, relations.keys().map(String::as_str)));
        }
    }
    let explain = |e: DataFusionError| culprit::explain(sql, &asked, &state, &e);
    for (name, relation) in relations {
        register(&state, name, Arc::new(RelationTable(Arc::clone(relation)))).map_err(explain)?;
    }
    let plan = at_once(state.statement_to_plan(statement)).map_err(explain)?;
    let only_reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    only_reads.verify_plan(&plan).map_err(|_| only_read_error())?;

    let (plan, schema) = if kind == Kind::Select {
        let analyzed = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).map_err(explain)?;
        let columns = analyzed.schema().fields().len();
        let output = storable(analyzed, columns, Unstorable::Text)?;
        let names = named.map(|query| syntax::written_names(&query, columns)).unwrap_or_default();
        (output.plan, Some(renamed(&output.schema, names)))
    } else {
        (plan, None)
    };
    let plan = at_once(state.create_physical_plan(&plan)).map_err(explain)?;
    let schema = schema.unwrap_or_else(|| plan.schema());
    Ok(Some(Planned { plan, schema, context: state.task_ctx() }))
}

/// The SELECT of a statement, that of an EXPLAIN too.
fn query_in(statement: &mut Statement) -> Option<&mut Query> {
    match statement {
        Statement::Statement(inner) => match &mut **inner {
            SqlStatement::Query(query) => Some(query),
            _ => None,
        },
        Statement::Explain(explain) => query_in(&mut explain.statement),
        _ => None,
    }
}

/// `schema` with the names that were written.
fn renamed(schema: &SchemaRef, names: Vec<Option<String>>) -> SchemaRef {
    let names = names.into_iter().chain(std::iter::repeat(None));
    let fields = schema.fields().iter().zip(names).map(|(field, name)| match name {
        Some(name) => Arc::new(field.as_ref().clone().with_name(name)),
        None => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Select,
    ShowTables,
    /// EXPLAIN, DESCRIBE.
    About,
}

fn kind_of(statement: &Statement) -> Result<Kind, SqlError> {
    match statement {
        Statement::Statement(inner) => match &**inner {
            SqlStatement::Query(_) => Ok(Kind::Select),
            SqlStatement::ShowTables { .. } => Ok(Kind::ShowTables),
            SqlStatement::ExplainTable { .. } => Ok(Kind::About),
            SqlStatement::Explain { statement, .. } if matches!(**statement, SqlStatement::Query(_)) => Ok(Kind::About),
            _ => Err(only_read_error()),
        },
        Statement::Explain(explain) => match kind_of(&explain.statement)? {
            Kind::Select => Ok(Kind::About),
            _ => Err(only_read_error()),
        },
        _ => Err(only_read_error()),
    }
}

fn only_read_error() -> SqlError {
    SqlError::new("a query only reads: write SELECT, EXPLAIN, SHOW TABLES or DESCRIBE")
}

/// One row for each relation: its name and its columns.
fn show_tables(relations: &BTreeMap<String, Arc<dyn Relation>>) -> Result<QueryResult, SqlError> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("columns", DataType::Utf8, false),
    ]));
    let names = StringArray::from_iter_values(relations.keys());
    let columns = relations.values().map(|relation| {
        let schema = relation.schema();
        schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
    });
    let columns = StringArray::from_iter_values(columns);
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(names), Arc::new(columns)])
        .map_err(|e| SqlError::new(e.to_string()))?;
    Ok(QueryResult { schema, stream: futures::stream::once(std::future::ready(Ok(batch))).boxed() })
}

/// One row for each column of a relation: its name, its type as a pipeline file declares it, whether it may be null.
fn describe(sql: &str, name: &str, relations: &BTreeMap<String, Arc<dyn Relation>>) -> Result<QueryResult, SqlError> {
    let known = relations.keys().map(String::as_str);
    let described = relations.get(name).ok_or_else(|| unknown_relation(sql, name, known))?.declared();
    let names = ["column_name", "data_type", "is_nullable"];
    let schema = Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::Utf8, false)).to_vec()));
    let fields = described.fields();
    let columns = StringArray::from_iter_values(fields.iter().map(|f| f.name()));
    let types = StringArray::from_iter_values(fields.iter().map(|f| declared(f)));
    let nullable = fields.iter().map(|f| if f.is_nullable() { "YES" } else { "NO" });
    let nullable = StringArray::from_iter_values(nullable);
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(columns), Arc::new(types), Arc::new(nullable)])
        .map_err(|e| SqlError::new(e.to_string()))?;
    Ok(QueryResult { schema, stream: futures::stream::once(std::future::ready(Ok(batch))).boxed() })
}

/// What went wrong while a query ran: the relation's own error, or what a value or the limit caused.
fn run_error(error: DataFusionError, memory_limit_bytes: usize) -> Error {
    if let DataFusionError::External(inner) = error {
        return match inner.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => Error::input(other.to_string()),
        };
    }
    match root(&error) {
        DataFusionError::ResourcesExhausted(_) => Error::input(format!(
            "the query needs more than its {} MiB of memory: select fewer columns, filter earlier, or add a LIMIT",
            memory_limit_bytes >> 20
        )),
        DataFusionError::Internal(_) => Error::bug("the query can't be run").caused_by(error),
        _ => Error::input(run_time_message(&error)),
    }
}

/// A relation as DataFusion's table.
#[derive(Debug)]
struct RelationTable(Arc<dyn Relation>);

#[async_trait]
impl TableProvider for RelationTable {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.0.schema().project(columns)?),
            None => self.0.schema(),
        };
        let scan = RelationScan {
            relation: Arc::clone(&self.0),
            projection: projection.cloned(),
            limit,
            properties: properties(schema),
        };
        Ok(Arc::new(scan))
    }
}

/// The scan of a relation, started when its first batch is asked for.
#[derive(Debug)]
struct RelationScan {
    relation: Arc<dyn Relation>,
    projection: Option<Vec<usize>>,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for RelationScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema();
        let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        write!(f, "RelationScan: columns=[{}]", columns.join(", "))?;
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }
}

impl ExecutionPlan for RelationScan {
    fn name(&self) -> &str {
        "RelationScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let external = |e: Error| DataFusionError::External(Box::new(e));
        let (relation, projection, limit) = (Arc::clone(&self.relation), self.projection.clone(), self.limit);
        let batches = async move { relation.scan(projection.as_deref(), limit).await };
        let stream = futures::stream::once(batches).try_flatten().map_err(external);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}
