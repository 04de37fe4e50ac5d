//! `Scaler`, `Imputer`, `Binarizer`, `FeatureVectorizer`, `ArrayFeatureExtractor`: what is done to columns of numbers.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::{Fact, Kernel, floats, list, only, rows_and_width};

/// `(x - offset) · scale`, each of one value or of one for each column.
#[derive(Debug)]
pub(super) struct Scaler {
    offset: Vec<f32>,
    scale: Vec<f32>,
}

impl Scaler {
    pub(super) fn new(node: &NodeProto) -> TractResult<Self> {
        let or = |values: Vec<f32>, default| if values.is_empty() { vec![default] } else { values };
        Ok(Self { offset: or(list(node, "offset")?, 0.0), scale: or(list(node, "scale")?, 1.0) })
    }
}

impl Kernel for Scaler {
    fn name(&self) -> &'static str {
        "Scaler"
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        Ok(vec![(f32::datum_type(), only(inputs)?.1.clone())])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = only(inputs)?;
        let width = last(input.shape());
        fits("offset", self.offset.len(), width)?;
        fits("scale", self.scale.len(), width)?;
        let mut values = floats(input)?;
        for (i, value) in values.iter_mut().enumerate() {
            *value = (*value - of_column(&self.offset, i % width)) * of_column(&self.scale, i % width);
        }
        Ok(vec![Tensor::from_shape(input.shape(), &values)?])
    }
}

/// Puts a value where one is missing.
#[derive(Debug)]
pub(super) enum Imputer {
    /// What is missing (often NaN), and what takes its place.
    Floats(f32, Vec<f32>),
    /// The same for whole numbers.
    Ints(i64, Vec<i64>),
}

impl Imputer {
    pub(super) fn new(node: &NodeProto) -> TractResult<Self> {
        let (floats, ints) = (list(node, "imputed_value_floats")?, list(node, "imputed_value_int64s")?);
        if ints.is_empty() {
            ensure!(!floats.is_empty(), "there is no `imputed_value_floats`");
            Ok(Self::Floats(node.get_attr_opt("replaced_value_float")?.unwrap_or(0.0), floats))
        } else {
            Ok(Self::Ints(node.get_attr_opt("replaced_value_int64")?.unwrap_or(0), ints))
        }
    }
}

impl Kernel for Imputer {
    fn name(&self) -> &'static str {
        "Imputer"
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        let kind = match self {
            Self::Floats(..) => f32::datum_type(),
            Self::Ints(..) => i64::datum_type(),
        };
        Ok(vec![(kind, only(inputs)?.1.clone())])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = only(inputs)?;
        let width = last(input.shape());
        Ok(vec![match self {
            Self::Floats(missing, by) => {
                fits("imputed_value_floats", by.len(), width)?;
                let is_missing = |value: f32| value == *missing || (missing.is_nan() && value.is_nan());
                let mut values = floats(input)?;
                for (i, value) in values.iter_mut().enumerate().filter(|(_, value)| is_missing(**value)) {
                    *value = of_column(by, i % width);
                }
                Tensor::from_shape(input.shape(), &values)?
            }
            Self::Ints(missing, by) => {
                fits("imputed_value_int64s", by.len(), width)?;
                let mut values = input.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec();
                for (i, value) in values.iter_mut().enumerate().filter(|(_, value)| **value == *missing) {
                    *value = of_column(by, i % width);
                }
                Tensor::from_shape(input.shape(), &values)?
            }
        }])
    }
}

/// 1 where a number is above the threshold, else 0.
#[derive(Debug)]
pub(super) struct Binarizer(f32);

impl Binarizer {
    pub(super) fn new(node: &NodeProto) -> TractResult<Self> {
        Ok(Self(node.get_attr_opt("threshold")?.unwrap_or(0.0)))
    }
}

impl Kernel for Binarizer {
    fn name(&self) -> &'static str {
        "Binarizer"
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        Ok(vec![(f32::datum_type(), only(inputs)?.1.clone())])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = only(inputs)?;
        let values: Vec<f32> = floats(input)?.iter().map(|&x| if x > self.0 { 1.0 } else { 0.0 }).collect();
        Ok(vec![Tensor::from_shape(input.shape(), &values)?])
    }
}

/// Columns of any numbers side by side, as floats.
#[derive(Debug)]
pub(super) struct FeatureVectorizer;

impl Kernel for FeatureVectorizer {
    fn name(&self) -> &'static str {
        "FeatureVectorizer"
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        let rows = inputs.first().and_then(|(_, shape)| shape.first()).context("an input has no rows")?.clone();
        let width = inputs.iter().map(|(_, shape)| shape.get(1).cloned().unwrap_or_else(|| 1.to_dim()));
        Ok(vec![(f32::datum_type(), tvec![rows, width.sum()])])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let rows = inputs.first().and_then(|input| input.shape().first()).copied().context("an input has no rows")?;
        let parts = inputs.iter().map(floats).collect::<TractResult<Vec<_>>>()?;
        let mut all = Vec::new();
        for row in 0..rows {
            for part in &parts {
                ensure!(part.len() % rows == 0, "the inputs differ in their number of rows");
                let width = part.len() / rows;
                all.extend_from_slice(&part[row * width..][..width]);
            }
        }
        let width = all.len().checked_div(rows).unwrap_or(0);
        Ok(vec![Tensor::from_shape(&[rows, width], &all)?])
    }
}

/// Some columns, by their index.
#[derive(Debug)]
pub(super) struct ArrayFeatureExtractor;

impl Kernel for ArrayFeatureExtractor {
    fn name(&self) -> &'static str {
        "ArrayFeatureExtractor"
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        let [(kind, shape), (_, indices)] = inputs else { bail!("there are {} inputs; two are right", inputs.len()) };
        let rows = if shape.len() == 1 { 1.to_dim() } else { shape.first().context("no rows")?.clone() };
        Ok(vec![(*kind, tvec![rows, indices.iter().product()])])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let [input, indices] = inputs else { bail!("there are {} inputs; two are right", inputs.len()) };
        let (rows, width) = rows_and_width(input.shape())?;
        let indices = indices.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec();
        let bad = indices.iter().find(|&&i| usize::try_from(i).map_or(true, |i| i >= width));
        ensure!(bad.is_none(), "there is no column {bad:?}, only {width}");
        let picked: Vec<usize> =
            (0..rows).flat_map(|row| indices.iter().map(move |&i| row * width + i as usize)).collect();
        let shape = [rows, indices.len()];
        dispatch_datum!(pick(input.datum_type())(input, &picked, &shape)).map(|tensor| vec![tensor])
    }
}

fn pick<T: Datum>(input: &TValue, picked: &[usize], shape: &[usize]) -> TractResult<Tensor> {
    let values = input.try_as_plain_ram()?;
    let values = values.as_slice::<T>()?;
    tensor1(&picked.iter().map(|&i| values[i].clone()).collect::<Vec<_>>()).into_shape(shape)
}

fn last(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1).max(1)
}

fn fits(name: &str, values: usize, width: usize) -> TractResult<()> {
    ensure!(values == 1 || values == width, "`{name}` has {values} values for {width} columns");
    Ok(())
}

fn of_column<T: Copy>(values: &[T], column: usize) -> T {
    if values.len() == 1 { values[0] } else { values[column] }
}
