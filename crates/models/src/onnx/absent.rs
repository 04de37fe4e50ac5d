//! What a build without the feature `onnx` says to an `.onnx` file.

use std::path::Path;

use millstream_core::{Error, Result};

use super::config::OnnxSettings;
use crate::{BatchConfig, ModelHandle, ModelInfo, SharedWeights, Task};

pub(crate) fn check(path: &Path, _: Task, _: &[String], _: &OnnxSettings) -> Result<ModelInfo> {
    let path = path.display();
    Err(Error::config(format!("{path}: this build can't run ONNX files; build it with `--features onnx`")))
}

pub(crate) fn load(
    _: &str,
    path: &Path,
    task: Task,
    labels: &[String],
    settings: &OnnxSettings,
    _: BatchConfig,
    _: &SharedWeights,
) -> Result<ModelHandle> {
    check(path, task, labels, settings)?;
    Err(Error::bug("an ONNX file was found fit for a build that can't run it"))
}
