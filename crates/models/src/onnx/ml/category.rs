//! `LabelEncoder` and `OneHotEncoder`: what is done to categories.

use std::collections::HashMap;
use std::fmt;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::{Fact, Kernel, UnknownCategory, floats, list, only};

/// A category. Floats are compared by their bits, so that NaN can be one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Int(i64),
    Float(u32),
    Text(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(bits) => write!(f, "{}", f32::from_bits(*bits)),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// Values of one type.
#[derive(Debug)]
enum Values {
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
}

/// A table from keys to values.
#[derive(Debug)]
pub(super) struct LabelEncoder {
    index: HashMap<Key, usize>,
    values: Values,
    /// For a key that is not in the table; of the values' type.
    default: Values,
}

impl LabelEncoder {
    pub(super) fn new(node: &NodeProto) -> TractResult<Self> {
        let mut keys = keys(node, "keys_strings", "keys_int64s", "keys_floats")?;
        let mut values = if let Some(ints) = node.get_attr_opt_vec("values_int64s")? {
            Values::Ints(ints)
        } else if let Some(floats) = node.get_attr_opt_vec("values_floats")? {
            Values::Floats(floats)
        } else {
            Values::Texts(list(node, "values_strings")?)
        };
        // Version 1 of the operator: a list of words, which stand for their places in it.
        if let Some(classes) = node.get_attr_opt_vec::<String>("classes_strings")? {
            values = Values::Ints((0..classes.len() as i64).collect());
            keys = classes.into_iter().map(Key::Text).collect();
        }
        let (count, default) = match &values {
            Values::Ints(values) => {
                (values.len(), Values::Ints(vec![node.get_attr_opt("default_int64")?.unwrap_or(-1)]))
            }
            Values::Floats(values) => {
                (values.len(), Values::Floats(vec![node.get_attr_opt("default_float")?.unwrap_or(-0.0)]))
            }
            Values::Texts(values) => {
                let default = node.get_attr_opt("default_string")?;
                (values.len(), Values::Texts(vec![default.unwrap_or_else(|| "_Unused".to_owned())]))
            }
        };
        ensure!(count > 0, "there is no table in lists (`values_…`); tensors as attributes are not supported");
        ensure!(keys.len() == count, "there are {} keys for {count} values", keys.len());
        Ok(Self { index: keys.into_iter().enumerate().map(|(i, key)| (key, i)).collect(), values, default })
    }
}

impl Kernel for LabelEncoder {
    fn name(&self) -> &'static str {
        "LabelEncoder"
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        let kind = match self.values {
            Values::Ints(_) => i64::datum_type(),
            Values::Floats(_) => f32::datum_type(),
            Values::Texts(_) => String::datum_type(),
        };
        Ok(vec![(kind, only(inputs)?.1.clone())])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = only(inputs)?;
        let found: Vec<Option<usize>> = keys_of(input)?.iter().map(|key| self.index.get(key).copied()).collect();
        let output = match (&self.values, &self.default) {
            (Values::Ints(values), Values::Ints(default)) => look_up(&found, values, default),
            (Values::Floats(values), Values::Floats(default)) => look_up(&found, values, default),
            (Values::Texts(values), Values::Texts(default)) => look_up(&found, values, default),
            _ => bail!("the default is of another type than the values"),
        };
        Ok(vec![output.into_shape(input.shape())?])
    }
}

fn look_up<T: Datum>(found: &[Option<usize>], values: &[T], default: &[T]) -> Tensor {
    tensor1(&found.iter().map(|at| at.map_or(&default[0], |at| &values[at]).clone()).collect::<Vec<_>>())
}

/// A row of zeros with a one for each value, in a new last dimension.
#[derive(Debug)]
pub(super) struct OneHotEncoder {
    index: HashMap<Key, usize>,
    /// A value that is no category gets zeros only; else it is an error.
    zeros: bool,
}

impl OneHotEncoder {
    pub(super) fn new(node: &NodeProto) -> TractResult<Self> {
        let keys = keys(node, "cats_strings", "cats_int64s", "")?;
        ensure!(!keys.is_empty(), "there are no categories");
        let zeros = node.get_attr_opt::<i64>("zeros")?.unwrap_or(1) != 0;
        Ok(Self { index: keys.into_iter().enumerate().map(|(i, key)| (key, i)).collect(), zeros })
    }
}

impl Kernel for OneHotEncoder {
    fn name(&self) -> &'static str {
        "OneHotEncoder"
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        let mut shape = only(inputs)?.1.clone();
        shape.push(self.index.len().to_dim());
        Ok(vec![(f32::datum_type(), shape)])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = only(inputs)?;
        let width = self.index.len();
        let mut output = vec![0.0_f32; input.len() * width];
        // Floats stand for whole numbers here.
        let input_as_ints =
            if input.datum_type().is_float() { Some(input.cast_to::<i64>()?.into_owned().into_tvalue()) } else { None };
        for (row, key) in keys_of(input_as_ints.as_ref().unwrap_or(input))?.iter().enumerate() {
            match self.index.get(key) {
                Some(&at) => output[row * width + at] = 1.0,
                None if self.zeros => {}
                None => return Err(UnknownCategory(key.to_string()).into()),
            }
        }
        let mut shape: TVec<usize> = input.shape().into();
        shape.push(width);
        Ok(vec![Tensor::from_shape(&shape, &output)?])
    }
}

fn keys(node: &NodeProto, texts: &str, ints: &str, floats: &str) -> TractResult<Vec<Key>> {
    let texts: Vec<String> = list(node, texts)?;
    let ints: Vec<i64> = list(node, ints)?;
    let floats: Vec<f32> = list(node, floats)?;
    let texts = texts.into_iter().map(Key::Text);
    Ok(texts.chain(ints.into_iter().map(Key::Int)).chain(floats.into_iter().map(|f| Key::Float(f.to_bits()))).collect())
}

fn keys_of(input: &TValue) -> TractResult<Vec<Key>> {
    let kind = input.datum_type();
    if kind == String::datum_type() {
        let values = input.try_as_plain_ram()?;
        return Ok(values.as_slice::<String>()?.iter().cloned().map(Key::Text).collect());
    }
    if kind.is_float() {
        return Ok(floats(input)?.into_iter().map(|float| Key::Float(float.to_bits())).collect());
    }
    let values = input.cast_to::<i64>()?;
    let values = values.try_as_plain_ram()?;
    Ok(values.as_slice::<i64>()?.iter().copied().map(Key::Int).collect())
}
