//! A plan that can be stopped in the middle of its work.
//!
//! An operator that has nobody to wait for keeps its thread: a join whose condition nothing meets computes for hours
//! within one poll. So every operator's output passes a [`Watched`], which looks whether the query has been stopped and
//! gives the thread back every few batches, and the conditions of joins are [`WatchedExpr`]s, which look each time they
//! are computed.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, exec_err};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, HashJoinExecBuilder, NestedLoopJoinExec};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt, stream};

use crate::bounded::pieces;

/// Batches that pass before the thread is given back.
const BATCHES_A_TURN: u32 = 16;

/// Why a query was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its time is over.
    Late,
    /// The process has grown too much.
    Memory,
    /// Nobody reads the answer.
    Gone,
}

/// Whether a query is to end.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    /// When it is.
    pub(crate) until: Option<Instant>,
    why: AtomicU8,
}

impl Stop {
    pub(crate) fn new(until: Option<Instant>) -> Arc<Self> {
        Arc::new(Self { until, why: AtomicU8::new(0) })
    }

    /// Stops it; what stopped it first counts.
    pub(crate) fn stop(&self, why: Why) {
        let _ = self.why.compare_exchange(0, why as u8 + 1, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// What stopped it.
    pub(crate) fn why(&self) -> Option<Why> {
        [Why::Late, Why::Memory, Why::Gone].get(usize::from(self.why.load(Ordering::SeqCst)).checked_sub(1)?).copied()
    }

    fn check(&self) -> Result<()> {
        if self.why.load(Ordering::Relaxed) == 0 { Ok(()) } else { exec_err!("the query was stopped") }
    }
}

/// `plan`, stopped by `stop`.
pub(crate) fn watched(plan: Arc<dyn ExecutionPlan>, stop: &Arc<Stop>) -> Result<Arc<dyn ExecutionPlan>> {
    let filter = |filter: &JoinFilter| {
        let inner = WatchedExpr { inner: filter.expression().clone(), stop: stop.clone() };
        JoinFilter::new(Arc::new(inner), filter.column_indices().to_vec(), filter.schema().clone())
    };
    let watched = plan.transform_up(|node| {
        let node: Arc<dyn ExecutionPlan> = if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            let projection = join.projection().as_ref().map(|columns| columns.to_vec());
            let (left, right) = (join.left().clone(), join.right().clone());
            let filter = join.filter().map(filter);
            Arc::new(NestedLoopJoinExec::try_new(left, right, filter, join.join_type(), projection)?)
        } else if let Some(join) = node.downcast_ref::<HashJoinExec>().filter(|join| join.filter().is_some()) {
            let filter = join.filter().map(filter);
            Arc::new(HashJoinExecBuilder::from(join).with_filter(filter).build()?)
        } else if let Some(unnest) = node.downcast_ref::<UnnestExec>() {
            let lists = unnest.list_column_indices().iter().map(|list| list.index_in_input_schema).collect();
            let input: Arc<dyn ExecutionPlan> = Arc::new(Cut { inner: unnest.input().clone(), lists });
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
            node.replace_children(vec![input], options)?
        } else {
            node
        };
        Ok(Transformed::yes(Arc::new(Watched { inner: node, stop: stop.clone() }) as Arc<dyn ExecutionPlan>))
    })?;
    Ok(watched.data)
}

/// An operator whose output is watched.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn ExecutionPlan>,
    stop: Arc<Stop>,
}

impl DisplayAs for Watched {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched")
    }
}

impl ExecutionPlan for Watched {
    fn name(&self) -> &str {
        "Watched"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = children.pop().unwrap_or_else(|| self.inner.clone());
        Ok(Arc::new(Self { inner, stop: self.stop.clone() }))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let inner = self.inner.execute(partition, context)?;
        Ok(Box::pin(WatchedStream { inner, stop: self.stop.clone(), passed: 0 }))
    }
}

/// What an UNNEST reads, cut into batches of which it does not make too much.
#[derive(Debug)]
struct Cut {
    inner: Arc<dyn ExecutionPlan>,
    /// Where the lists are.
    lists: Vec<usize>,
}

impl DisplayAs for Cut {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cut")
    }
}

impl ExecutionPlan for Cut {
    fn name(&self) -> &str {
        "Cut"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = children.pop().unwrap_or_else(|| self.inner.clone());
        Ok(Arc::new(Self { inner, lists: self.lists.clone() }))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (whole, lists) = (self.inner.execute(partition, context)?, self.lists.clone());
        let cut = whole.map(move |batch| {
            let pieces = batch.and_then(|batch| pieces(&batch, &lists));
            let (pieces, failed) = match pieces {
                Ok(pieces) => (pieces, None),
                Err(e) => (Vec::new(), Some(e)),
            };
            stream::iter(pieces.into_iter().map(Ok).chain(failed.map(Err)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.inner.schema(), cut.flatten())))
    }
}

struct WatchedStream {
    inner: SendableRecordBatchStream,
    stop: Arc<Stop>,
    passed: u32,
}

impl Stream for WatchedStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(stopped) = self.stop.check() {
            return Poll::Ready(Some(Err(stopped)));
        }
        if self.passed >= BATCHES_A_TURN {
            self.passed = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.passed += 1;
        self.inner.as_mut().poll_next(context)
    }
}

impl RecordBatchStream for WatchedStream {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

/// A condition that fails once its query is stopped.
#[derive(Debug)]
struct WatchedExpr {
    inner: Arc<dyn PhysicalExpr>,
    stop: Arc<Stop>,
}

impl PartialEq for WatchedExpr {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for WatchedExpr {}

impl Hash for WatchedExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for WatchedExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for WatchedExpr {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.stop.check()?;
        self.inner.evaluate(batch)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().unwrap_or_else(|| self.inner.clone());
        Ok(Arc::new(Self { inner, stop: self.stop.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
