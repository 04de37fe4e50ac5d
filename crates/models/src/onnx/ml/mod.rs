//! Operators of the domain `ai.onnx.ml` that tract lacks, or that answer otherwise than ONNX Runtime there.
//!
//! scikit-learn, XGBoost and LightGBM are exported to these. Each is a [`Kernel`]: a function of whole tensors, which
//! keeps the batch's size symbolic. What they compute is written down in the ONNX operator reference ("Operators
//! ai.onnx.ml"); where that is silent (the scores of two classes in a tree ensemble), they do as ONNX Runtime does.

mod category;
mod classes;
mod columns;
mod linear;
mod trees;

use std::fmt::{self, Debug};
use std::sync::Arc;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

/// The type and shape of a tensor.
pub(super) type Fact = (DatumType, TVec<TDim>);

/// An operator with its attributes.
pub(super) trait Kernel: Debug + Send + Sync + 'static {
    /// The operator's name.
    fn name(&self) -> &'static str;
    /// How many outputs it has.
    fn output_count(&self) -> usize {
        1
    }
    /// The outputs' types and shapes.
    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>>;
    /// The outputs.
    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>>;
}

/// A value that is none of an encoder's categories, where the encoder does not allow that.
#[derive(Debug)]
pub(super) struct UnknownCategory(String);

impl fmt::Display for UnknownCategory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is none of the model's categories", self.0)
    }
}

impl std::error::Error for UnknownCategory {}

/// Adds the operators to those that tract knows.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    operators.insert("TreeEnsembleClassifier", |_, node| operator(trees::classifier(node)?));
    operators.insert("TreeEnsembleRegressor", |_, node| operator(trees::regressor(node)?));
    operators.insert("LinearClassifier", |_, node| operator(linear::LinearClassifier::new(node)?));
    operators.insert("LabelEncoder", |_, node| operator(category::LabelEncoder::new(node)?));
    operators.insert("OneHotEncoder", |_, node| operator(category::OneHotEncoder::new(node)?));
    operators.insert("Scaler", |_, node| operator(columns::Scaler::new(node)?));
    operators.insert("Imputer", |_, node| operator(columns::Imputer::new(node)?));
    operators.insert("Binarizer", |_, node| operator(columns::Binarizer::new(node)?));
    operators.insert("FeatureVectorizer", |_, _| operator(columns::FeatureVectorizer));
    operators.insert("ArrayFeatureExtractor", |_, _| operator(columns::ArrayFeatureExtractor));
}

fn operator(kernel: impl Kernel) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(MlOperator(Arc::new(kernel))), Vec::new()))
}

/// A kernel as tract wants it, both before and after types are known.
#[derive(Debug, Clone)]
struct MlOperator(Arc<dyn Kernel>);

impl PartialEq for MlOperator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for MlOperator {}

impl Expansion for MlOperator {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.0.output_count())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, self.0.output_count())?;
        solver.given_all(inputs.iter().map(|input| &input.shape), move |solver, shapes| {
            solver.given_all(inputs.iter().map(|input| &input.datum_type), move |solver, types| {
                let facts: Vec<Fact> = types.into_iter().zip(shapes.iter().cloned()).collect();
                for (output, (kind, shape)) in outputs.iter().zip(self.0.facts(&facts)?) {
                    solver.equals(&output.datum_type, kind)?;
                    solver.equals(&output.shape, ShapeFactoid::from(shape))?;
                }
                Ok(())
            })
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for MlOperator {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    op_as_typed_op!();
}

impl EvalOp for MlOperator {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(self.0.eval(&inputs)?.into_iter().map(Tensor::into_tvalue).collect())
    }
}

impl TypedOp for MlOperator {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let facts: Vec<Fact> = inputs.iter().map(|fact| (fact.datum_type, fact.shape.to_tvec())).collect();
        Ok(self.0.facts(&facts)?.into_iter().map(|(kind, shape)| kind.fact(&shape)).collect())
    }

    as_op!();
}

/// An attribute that is a list; empty where it is not there.
fn list<'a, T: tract_onnx::pb_helpers::AttrTVecType<'a>>(node: &'a NodeProto, name: &str) -> TractResult<Vec<T>> {
    Ok(node.get_attr_opt_vec(name)?.unwrap_or_default())
}

/// The only input.
fn only<T>(inputs: &[T]) -> TractResult<&T> {
    match inputs {
        [input] => Ok(input),
        _ => bail!("there are {} inputs; one is right", inputs.len()),
    }
}

/// Rows and columns: a list is one row.
fn rows_and_width(shape: &[usize]) -> TractResult<(usize, usize)> {
    match *shape {
        [width] => Ok((1, width)),
        [rows, width] => Ok((rows, width)),
        _ => bail!("the input has {} dimensions; 1 or 2 are right", shape.len()),
    }
}

/// The numbers of a tensor as f32.
fn floats(input: &TValue) -> TractResult<Vec<f32>> {
    Ok(input.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
}

/// The number of rows, known or not.
fn batch((_, shape): &Fact) -> TDim {
    if shape.len() == 1 { 1.to_dim() } else { shape.first().cloned().unwrap_or_else(|| 1.to_dim()) }
}
