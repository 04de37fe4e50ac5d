//! `sum` with an accumulator that is wider than its result, so that it can't wrap around: integers are added as
//! decimals of 38 digits, decimals as ones of 76.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
};

/// The aggregate `sum`, in the place of DataFusion's.
pub(crate) fn checked_sum() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(CheckedSum { inner: Sum::new() }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Sum,
}

/// What sums of `kind` are added up as; none where nothing can wrap.
fn wide(kind: &DataType) -> Option<DataType> {
    match kind {
        DataType::Int64 | DataType::UInt64 => Some(DataType::Decimal128(38, 0)),
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
            Some(DataType::Decimal256(76, *scale))
        }
        _ => None,
    }
}

/// The arguments for DataFusion's accumulators, with the wide type as their result.
fn widened<'a>(args: &AccumulatorArgs<'a>) -> Option<(AccumulatorArgs<'a>, DataType)> {
    let kind = args.return_field.data_type().clone();
    let return_field = Arc::new(Field::new(args.return_field.name(), wide(&kind)?, true));
    Some((AccumulatorArgs { return_field, ..args.clone() }, kind))
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let Some((wide, kind)) = widened(&args) else { return self.inner.accumulator(args) };
        let inner_type = wide.return_field.data_type().clone();
        Ok(Box::new(Widened { inner: self.inner.accumulator(wide)?, wide: inner_type, kind }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        match wide(args.return_field.data_type()) {
            Some(wide) => {
                let return_field = Arc::new(Field::new(args.return_field.name(), wide, true));
                self.inner.state_fields(StateFieldsArgs { return_field, ..args })
            }
            None => self.inner.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let Some((wide, kind)) = widened(&args) else { return self.inner.create_groups_accumulator(args) };
        let inner_type = wide.return_field.data_type().clone();
        let inner = self.inner.create_groups_accumulator(wide)?;
        Ok(Box::new(WidenedGroups { inner, wide: inner_type, kind }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        // DataFusion slides over distinct values of one type only.
        let Some((wide, kind)) = widened(&args).filter(|(args, _)| !args.is_distinct) else {
            return self.inner.create_sliding_accumulator(args);
        };
        let inner_type = wide.return_field.data_type().clone();
        Ok(Box::new(Widened { inner: self.inner.create_sliding_accumulator(wide)?, wide: inner_type, kind }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

const EXACT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

fn widen(values: &[ArrayRef], wide: &DataType) -> Result<Vec<ArrayRef>> {
    values.iter().map(|array| Ok(cast_with_options(array, wide, &EXACT)?)).collect()
}

fn narrow(sums: &ArrayRef, kind: &DataType) -> Result<ArrayRef> {
    let what = if kind.is_integer() { "an int".to_owned() } else { format!("a {kind}") };
    cast_with_options(sums, kind, &EXACT)
        .map_err(|_| DataFusionError::Execution(format!("out of range: the result of sum does not fit into {what}")))
}

#[derive(Debug)]
struct Widened {
    inner: Box<dyn Accumulator>,
    wide: DataType,
    kind: DataType,
}

impl Accumulator for Widened {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(&widen(values, &self.wide)?)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.inner.evaluate()?.to_array()?;
        ScalarValue::try_from_array(&narrow(&sum, &self.kind)?, 0)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(&widen(values, &self.wide)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

struct WidenedGroups {
    inner: Box<dyn GroupsAccumulator>,
    wide: DataType,
    kind: DataType,
}

impl GroupsAccumulator for WidenedGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.inner.update_batch(&widen(values, &self.wide)?, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        narrow(&self.inner.evaluate(emit_to)?, &self.kind)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.inner.merge_batch(values, groups, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(&widen(values, &self.wide)?, filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
