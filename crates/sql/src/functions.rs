//! The functions SQL may call, and those that a stream must not: the ones whose answer differs at the next run.

use std::sync::Arc;

use datafusion::common::config::Dialect;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::prelude::SessionConfig;

use crate::bounded;
use crate::checked::{CheckedArithmetic, checked_sum};
use crate::dialect::DeclaredTypes;
use crate::error::{SqlError, locate};
use crate::guard::{self, GuardingPlanner};
use crate::json;
use crate::{moments, texts};

/// How SQL is read, the same everywhere: PostgreSQL's syntax, names as they are written.
fn config() -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(false);
    let options = config.options_mut();
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    options.execution.time_zone = Some("UTC".into());
    options.execution.collect_statistics = false;
    config
}

/// Plans steps: one partition, one batch in and one out, and no rule that would add an exchange or a buffer.
pub(crate) fn stream_state() -> Result<SessionState, SqlError> {
    // `UNNEST` is not to cut its output into pieces that are put together again at once.
    let config = config().with_target_partitions(1).with_batch_size(1 << 20);
    let builder = builder(config);
    with_own(builder.with_physical_optimizer_rules(Vec::new()).build())
}

/// Plans queries, within the memory of `runtime`.
pub(crate) fn query_state(runtime: Arc<RuntimeEnv>) -> Result<SessionState, SqlError> {
    with_own(builder(config()).with_runtime_env(runtime).build())
}

/// Functions about the inside of DataFusion and Arrow.
const OF_NO_USE: &[&str] = &[
    "arrow_field",
    "arrow_metadata",
    "file_row_index",
    "input_file_name",
    "json_union_to_text",
    "union_extract",
    "union_tag",
    "version",
    "with_metadata",
];

fn builder(config: SessionConfig) -> SessionStateBuilder {
    SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_type_planner(Arc::new(DeclaredTypes))
        .with_analyzer_rule(Arc::new(CheckedArithmetic))
        .with_optimizer_rules(guard::optimizer_rules())
        .with_physical_optimizer_rules(guard::physical_rules())
        .with_query_planner(Arc::new(GuardingPlanner))
}

fn with_own(mut state: SessionState) -> Result<SessionState, SqlError> {
    let registered = state.register_udaf(checked_sum());
    registered.map_err(|e| SqlError::new(format!("the aggregates can't be registered: {e}")))?;
    for function in [moments::functions(), json::functions(), texts::functions()].concat() {
        let registered = state.register_udf(function);
        registered.map_err(|e| SqlError::new(format!("the functions can't be registered: {e}")))?;
    }
    datafusion_functions_json::register_all(&mut state)
        .map_err(|e| SqlError::new(format!("the JSON functions can't be registered: {e}")))?;
    for name in OF_NO_USE {
        // What is not there need not be taken away.
        let _ = state.deregister_udf(name);
    }
    bounded::bound_functions(&mut state)
        .map_err(|e| SqlError::new(format!("the functions can't be registered: {e}")))?;
    Ok(state)
}

/// Refuses calls whose answer is not fixed by their arguments: a replay must give what the first run gave.
pub(crate) fn refuse_unrepeatable(sql: &str, plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found = unrepeatable(expr);
            Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })
    .map_err(|e| SqlError::from_datafusion(sql, &e))?;
    found.map_or(Ok(()), |name| Err(unrepeatable_error(sql, &name)))
}

/// As [`refuse_unrepeatable`], for one expression.
pub(crate) fn refuse_unrepeatable_expr(sql: &str, expr: &Expr) -> Result<(), SqlError> {
    unrepeatable(expr).map_or(Ok(()), |name| Err(unrepeatable_error(sql, &name)))
}

fn unrepeatable(expr: &Expr) -> Option<String> {
    let mut found = None;
    // The closure never fails.
    let _ = expr.apply(|e| {
        let name = match e {
            Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => f.func.name(),
            Expr::ScalarVariable(_, _) => "a session variable",
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        found = Some(name.to_owned());
        Ok(TreeNodeRecursion::Stop)
    });
    found
}

fn unrepeatable_error(sql: &str, name: &str) -> SqlError {
    let advice = match name {
        "now" | "current_date" | "current_time" => ": use the event time column of the stream",
        "uuid" | "random" => ": build it from the record's own columns, with md5(…) or sha256(…) say",
        _ => "",
    };
    let call = if name.contains(' ') { name.to_owned() } else { format!("{name}()") };
    // `now` and `current_date` have other spellings.
    let word = [name, "current_timestamp", "today"].into_iter().find(|word| locate(sql, word).is_some());
    let message = format!("{call} gives another answer each time, so a replay would not give the same rows{advice}");
    SqlError::at(sql, word.unwrap_or(name), message)
}
