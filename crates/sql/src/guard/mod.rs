//! A condition guards what stands behind it: `s ~ '^[0-9]+$' AND CAST(s AS int) > 5` never casts what is no number.
//!
//! DataFusion puts conditions in any order, moves them below joins and projections, and computes both sides of an AND
//! for a whole batch at once. For expressions that can't fail that is right, and fast. Those that can
//! ([`is_fallible`]) are kept where they were written ([`filters`]), and computed only for the rows that reach them
//! ([`lazy`]). Conditions that can't fail go first: a row that one of them excludes can't fail.

mod fallible;
mod filters;
mod joins;
mod lazy;

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use crate::bounded::BoundConstants;
use crate::checked::checked_plan;

pub(crate) use fallible::is_fallible;
pub(crate) use joins::guard_keys;
pub(crate) use lazy::lazy_condition;

/// DataFusion's optimizer rules, with ours in the place of the one that moves filters.
pub(crate) fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let rules = Optimizer::new().rules.into_iter();
    rules
        .map(|rule| match rule.name() {
            "push_down_filter" => Arc::new(filters::PushDownSafeFilters::new(rule)) as _,
            _ => rule,
        })
        // What is constant has been computed by then.
        .chain([Arc::new(BoundConstants) as _])
        .collect()
}

/// DataFusion's rules for physical plans, without those that swap filters with what is computed above them. They would
/// gain nothing: a relation reads the columns that the logical plan asks for, and filters nothing.
pub(crate) fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let swaps = |name: &str| name == "ProjectionPushdown" || name.starts_with("FilterPushdown");
    PhysicalOptimizer::new().rules.into_iter().filter(|rule| !swaps(rule.name())).collect()
}

/// The last step before a plan is physical: what can fail becomes lazy.
#[derive(Debug)]
pub(crate) struct GuardingPlanner;

#[async_trait]
impl QueryPlanner for GuardingPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        // Once more: the optimizer may have brought in arithmetic of its own.
        let plan = lazy::lazy_plan(checked_plan(plan.clone())?)?;
        DefaultPhysicalPlanner::default().create_physical_plan(&plan, session).await
    }
}
