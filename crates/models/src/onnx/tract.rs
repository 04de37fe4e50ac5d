//! A graph run by tract, in this process.

use std::sync::Arc;

use millstream_core::{Error, Result};
use tract_onnx::Onnx;
use tract_onnx::tract_hir::internal::*;

use super::file::{OnnxFile, reason, unknown_operators};
use super::mapping::{Content, Feed, Mapping};
use super::ml;
use super::tensor::{Kind, RunError, Tensor as Plain, Values};

/// A graph, planned and ready; shared by all threads.
#[derive(Clone)]
pub(super) struct TractGraph {
    plan: Arc<TypedRunnableModel>,
}

/// tract with the operators that we add.
fn framework() -> Onnx {
    let mut framework = tract_onnx::onnx().with_ignore_output_types(true).with_ignore_value_info(true);
    ml::register(&mut framework.op_register);
    framework
}

/// Whether all that the answer needs can be computed.
///
/// # Errors
/// `Config`: the operators that can't, all of them, with the names of their nodes.
pub(super) fn check_operators(file: &OnnxFile, mapping: &Mapping) -> Result<()> {
    let known = framework().op_register.0;
    let unknown = unknown_operators(&file.reduced(&[&mapping.answer.tensor])?, &|name| known.contains_key(name));
    if unknown.is_empty() {
        return Ok(());
    }
    let (path, unknown) = (file.path.display(), unknown.join("; "));
    Err(Error::config(format!(
        "{path}: operators that the engine does not have: {unknown}. Export the model without them, or write `runtime: onnxruntime`"
    )))
}

impl TractGraph {
    /// Plans the part of the graph that the answer needs.
    ///
    /// # Errors
    /// `Config`: a node can't be planned; the message names it.
    pub(super) fn new(file: &OnnxFile, mapping: &Mapping) -> Result<Self> {
        check_operators(file, mapping)?;
        let proto = file.reduced(&[&mapping.answer.tensor])?;
        let folder = file.path.parent().and_then(|folder| folder.to_str());
        let plan = plan(&proto, folder, mapping);
        let plan = plan.map_err(|e| Error::config(format!("{}: {}", file.path.display(), reason(&e))))?;
        Ok(Self { plan })
    }

    /// The answer's tensor.
    ///
    /// # Errors
    /// A node fails on these values; the message names it.
    pub(super) fn run(&self, inputs: Vec<Plain>) -> std::result::Result<Plain, RunError> {
        let inputs = inputs.into_iter().map(to_tract).collect::<TractResult<TVec<TValue>>>();
        let outputs = inputs.and_then(|inputs| self.plan.run(inputs)).map_err(|e| run_error(&e))?;
        let output = outputs.first().ok_or_else(|| RunError::graph("the graph gave no output"))?;
        from_tract(output).map_err(|e| run_error(&e))
    }
}

fn run_error(error: &TractError) -> RunError {
    RunError { why: reason(error), is_about_values: error.chain().any(|cause| cause.is::<ml::UnknownCategory>()) }
}

fn plan(
    proto: &tract_onnx::pb::ModelProto,
    folder: Option<&str>,
    mapping: &Mapping,
) -> TractResult<Arc<TypedRunnableModel>> {
    let parsed = framework().parse(proto, folder)?;
    ensure!(parsed.unresolved_inputs.is_empty(), "nothing makes the tensors {:?}", parsed.unresolved_inputs);
    let mut model = parsed.model;
    let batch = match mapping.fixed_batch {
        Some(size) => size.to_dim(),
        None => model.symbols.sym("rows").to_dim(),
    };
    let tokens = match mapping.fixed_tokens {
        Some(size) => size.to_dim(),
        None => model.symbols.sym("tokens").to_dim(),
    };
    for (i, feed) in mapping.feeds.iter().enumerate() {
        let mut shape = tvec![batch.clone()];
        if feed.rank == 2 {
            shape.push(second_dimension(feed, &tokens));
        }
        model.set_input_fact(i, InferenceFact::dt_shape(datum_type(feed.kind), shape))?;
    }
    model.into_optimized()?.into_runnable()
}

fn second_dimension(feed: &Feed, tokens: &TDim) -> TDim {
    match &feed.content {
        Content::Columns(columns) => columns.len().to_dim(),
        Content::Text => 1.to_dim(),
        Content::Tokens(_) => tokens.clone(),
    }
}

fn datum_type(kind: Kind) -> DatumType {
    match kind {
        Kind::F32 => f32::datum_type(),
        Kind::F64 => f64::datum_type(),
        Kind::I64 => i64::datum_type(),
        Kind::I32 => i32::datum_type(),
        Kind::Bool => bool::datum_type(),
        Kind::Text => String::datum_type(),
    }
}

fn to_tract(tensor: Plain) -> TractResult<TValue> {
    let shape = &tensor.shape;
    let tensor = match tensor.values {
        Values::F32(values) => Tensor::from_shape(shape, &values)?,
        Values::F64(values) => Tensor::from_shape(shape, &values)?,
        Values::I64(values) => Tensor::from_shape(shape, &values)?,
        Values::I32(values) => Tensor::from_shape(shape, &values)?,
        Values::Bool(values) => Tensor::from_shape(shape, &values)?,
        Values::Text(values) => tensor1(&values).into_shape(shape)?,
    };
    Ok(tensor.into_tvalue())
}

fn from_tract(tensor: &TValue) -> TractResult<Plain> {
    fn all<T: Datum>(tensor: &Tensor) -> TractResult<Vec<T>> {
        Ok(tensor.try_as_plain_ram()?.as_slice::<T>()?.to_vec())
    }
    let values = match tensor.datum_type() {
        DatumType::F32 => Values::F32(all(tensor)?),
        DatumType::F64 => Values::F64(all(tensor)?),
        DatumType::I64 => Values::I64(all(tensor)?),
        DatumType::I32 => Values::I32(all(tensor)?),
        DatumType::Bool => Values::Bool(all(tensor)?),
        DatumType::String => Values::Text(all(tensor)?),
        _ => Values::F32(all(&*tensor.cast_to::<f32>()?)?),
    };
    Ok(Plain { shape: tensor.shape().to_vec(), values })
}
