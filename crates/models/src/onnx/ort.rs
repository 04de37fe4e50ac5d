//! A graph run by the ONNX Runtime library, which is loaded while Millstream runs: for operators that tract lacks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use millstream_core::{Error, Result};
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynMapValueType, DynValue, Tensor as OrtTensor};
use parking_lot::Mutex;

use super::file::OnnxFile;
use super::mapping::Mapping;
use super::tensor::{RunError, Tensor, Values};

/// The environment variable that names the library.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// One for the process; the library stays loaded.
static ENVIRONMENT: LazyLock<std::result::Result<Environment, String>> = LazyLock::new(|| {
    let path = library().map_err(|error| error.to_string())?;
    let shown = path.display().to_string();
    let environment = ort::init_from(&path)
        .map_err(|e| e.to_string())
        .and_then(|builder| builder.with_name("millstream").build().map_err(|e| e.to_string()));
    environment.map_err(|why| format!("ONNX Runtime can't be used from {shown} ({LIBRARY}): {why}"))
});

/// A graph in a session of ONNX Runtime; shared by all threads, one call at a time (it has threads of its own).
#[derive(Clone)]
pub(super) struct OrtGraph {
    session: Arc<Mutex<Session>>,
    /// Names of the inputs, in the order of the tensors.
    inputs: Vec<String>,
    output: String,
    /// The labels of the output, as the file has them.
    labels: Vec<Arc<str>>,
}

/// Where the library is.
///
/// # Errors
/// `Config`: nobody says, or nothing is there.
pub(super) fn library() -> Result<PathBuf> {
    let hint =
        "set it to the file libonnxruntime.so, as in the package `onnxruntime` of PyPI or the releases of ONNX Runtime";
    let path = std::env::var_os(LIBRARY).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path =
        path.ok_or_else(|| Error::setting("runtime", format!("`runtime: onnxruntime` needs {LIBRARY}: {hint}")))?;
    if !path.is_file() {
        return Err(Error::config(format!("{LIBRARY} is {}, where no file is: {hint}", path.display())));
    }
    Ok(path)
}

impl OrtGraph {
    /// Opens the file in a session.
    ///
    /// # Errors
    /// `Config`: the library can't be loaded, or refuses the file; the message has its reason.
    pub(super) fn new(file: &OnnxFile, mapping: &Mapping) -> Result<Self> {
        library()?;
        let environment = ENVIRONMENT.as_ref().map_err(|why| Error::config(why.clone()))?;
        let session = Session::builder(environment).and_then(|mut builder| builder.commit_from_file(&file.path));
        let session = session
            .map_err(|e| Error::config(format!("{}: ONNX Runtime refuses the file: {e}", file.path.display())))?;
        let inputs = mapping.feeds.iter().map(|feed| feed.name.clone()).collect();
        let output = mapping.answer.name.clone();
        let described = file.outputs.iter().find(|described| described.port.name == output);
        let labels = described.map_or_else(Vec::new, |described| described.labels.clone());
        Ok(Self { session: Arc::new(Mutex::new(session)), inputs, output, labels })
    }

    /// The answer's tensor.
    ///
    /// # Errors
    /// ONNX Runtime fails on these values. (It does not say whether others would do.)
    pub(super) fn run(&self, inputs: Vec<Tensor>) -> std::result::Result<Tensor, RunError> {
        let values = inputs.into_iter().map(to_ort).collect::<ort::Result<Vec<_>>>().map_err(run_error)?;
        let named: Vec<(&str, SessionInputValue<'_>)> = self.inputs.iter().map(String::as_str).zip(values).collect();
        let mut session = self.session.lock();
        let outputs = session.run(named).map_err(run_error)?;
        let output = outputs.get(&self.output).ok_or_else(|| RunError::graph("there is no such output"))?;
        from_ort(output, &self.labels).map_err(run_error)
    }
}

fn run_error(error: ort::Error) -> RunError {
    RunError { why: error.to_string().replace('\n', " "), is_about_values: true }
}

fn to_ort(tensor: Tensor) -> ort::Result<SessionInputValue<'static>> {
    let shape: Vec<i64> = tensor.shape.iter().map(|&size| size as i64).collect();
    Ok(match tensor.values {
        Values::F32(values) => OrtTensor::from_array((shape, values))?.into(),
        Values::F64(values) => OrtTensor::from_array((shape, values))?.into(),
        Values::I64(values) => OrtTensor::from_array((shape, values))?.into(),
        Values::I32(values) => OrtTensor::from_array((shape, values))?.into(),
        Values::Bool(values) => OrtTensor::from_array((shape, values))?.into(),
        Values::Text(values) => OrtTensor::from_string_array((shape, values.as_slice()))?.into(),
    })
}

fn from_ort(value: &DynValue, labels: &[Arc<str>]) -> ort::Result<Tensor> {
    let tensor =
        |shape: &[i64], values| Tensor { shape: shape.iter().map(|&size| size.max(0) as usize).collect(), values };
    if let Ok((shape, values)) = value.try_extract_tensor::<f32>() {
        return Ok(tensor(shape, Values::F32(values.to_vec())));
    }
    if let Ok((shape, values)) = value.try_extract_tensor::<f64>() {
        return Ok(tensor(shape, Values::F64(values.to_vec())));
    }
    if let Ok((shape, values)) = value.try_extract_tensor::<i64>() {
        return Ok(tensor(shape, Values::I64(values.to_vec())));
    }
    if let Ok((shape, values)) = value.try_extract_tensor::<i32>() {
        return Ok(tensor(shape, Values::I32(values.to_vec())));
    }
    if let Ok((shape, values)) = value.try_extract_tensor::<bool>() {
        return Ok(tensor(shape, Values::Bool(values.to_vec())));
    }
    if let Ok((shape, values)) = value.try_extract_strings() {
        return Ok(tensor(shape, Values::Text(values)));
    }
    from_maps(value, labels)
}

/// What a `ZipMap` gives: for each row a map from labels to scores, which is not in the order of the labels.
fn from_maps(value: &DynValue, labels: &[Arc<str>]) -> ort::Result<Tensor> {
    let maps = value.try_extract_sequence::<DynMapValueType>()?;
    let mut scores = Vec::with_capacity(maps.len() * labels.len());
    for map in &maps {
        let pairs: HashMap<String, f32> = match map.try_extract_key_values::<String, f32>() {
            Ok(pairs) => pairs.into_iter().collect(),
            Err(_) => {
                let pairs = map.try_extract_key_values::<i64, f32>()?;
                pairs.into_iter().map(|(label, score)| (label.to_string(), score)).collect()
            }
        };
        let score = |label: &Arc<str>| pairs.get(&**label).copied();
        let row: Option<Vec<f32>> = labels.iter().map(score).collect();
        scores.extend(row.ok_or_else(|| ort::Error::new("a label of the ZipMap has no score"))?);
    }
    Ok(Tensor { shape: vec![maps.len(), labels.len()], values: Values::F32(scores) })
}
