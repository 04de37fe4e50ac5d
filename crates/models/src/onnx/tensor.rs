//! Tensors on their way into a graph and out of it, whatever runs it.

/// Numbers or texts, row after row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
}

/// Values of one type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    Bool(Vec<bool>),
    Text(Vec<String>),
}

/// The types of values that go in and come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F64,
    I64,
    I32,
    Bool,
    Text,
}

impl Kind {
    /// The ONNX name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::F64 => "double",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::Bool => "bool",
            Self::Text => "string",
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }
}

impl Tensor {
    /// The values as f32, if they are numbers.
    pub(super) fn to_f32(&self) -> Option<Vec<f32>> {
        Some(match &self.values {
            Values::F32(values) => values.clone(),
            Values::F64(values) => values.iter().map(|&value| value as f32).collect(),
            Values::I64(values) => values.iter().map(|&value| value as f32).collect(),
            Values::I32(values) => values.iter().map(|&value| value as f32).collect(),
            Values::Bool(values) => values.iter().map(|&value| f32::from(u8::from(value))).collect(),
            Values::Text(_) => return None,
        })
    }

    /// The values as words; numbers as they are written.
    pub(super) fn to_words(&self) -> Vec<String> {
        fn written<T: ToString>(values: &[T]) -> Vec<String> {
            values.iter().map(T::to_string).collect()
        }
        match &self.values {
            Values::F32(values) => written(values),
            Values::F64(values) => written(values),
            Values::I64(values) => written(values),
            Values::I32(values) => written(values),
            Values::Bool(values) => written(values),
            Values::Text(values) => values.clone(),
        }
    }
}

/// Why a graph gave no answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RunError {
    /// What happened, with the node's name where it is known.
    pub(super) why: String,
    /// Other values would do.
    pub(super) is_about_values: bool,
}

impl RunError {
    /// The graph can't be run, whatever goes in.
    pub(super) fn graph(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_about_values: false }
    }
}
