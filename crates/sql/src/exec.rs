//! The places where batches enter a plan: a stream's table while planning, and a leaf that yields one batch.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};

/// Name of the hidden last column: the row's index in the batch that the step was given.
pub(crate) const ROW: &str = "__row";

/// `schema` with the hidden column behind it.
pub(crate) fn with_row_field(schema: &Schema) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(ROW, DataType::UInt32, false)));
    Arc::new(Schema::new(fields))
}

/// A stream, as far as planning needs to know it.
#[derive(Debug)]
pub(crate) struct StreamTable {
    /// The stream's name.
    pub name: String,
    /// Its columns, with or without the hidden one.
    pub schema: SchemaRef,
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let leaf = StreamLeaf { name: self.name.clone(), projection, batch: None, properties: properties(schema) };
        Ok(Arc::new(leaf))
    }
}

/// A leaf of a plan: a stream's columns while planning, one batch while running.
#[derive(Debug)]
pub(crate) struct StreamLeaf {
    /// The stream's name.
    pub name: String,
    /// The columns it reads.
    pub projection: Vec<usize>,
    batch: Option<RecordBatch>,
    properties: Arc<PlanProperties>,
}

impl StreamLeaf {
    /// A leaf that yields `batch` once, in the place of a plan with `properties`.
    pub(crate) fn of(batch: RecordBatch, properties: Arc<PlanProperties>) -> Self {
        Self { name: String::new(), projection: Vec::new(), batch: Some(batch), properties }
    }
}

/// Properties of a leaf that yields one batch of `schema`.
pub(crate) fn properties(schema: SchemaRef) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

impl DisplayAs for StreamLeaf {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamLeaf: {}", self.name)
    }
}

impl ExecutionPlan for StreamLeaf {
    fn name(&self) -> &str {
        "StreamLeaf"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(batch) = self.batch.clone() else {
            return internal_err!("the stream {} is read outside of a step", self.name);
        };
        let stream = futures::stream::once(std::future::ready(Ok(batch)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}
