//! `sagemaker`: the JSON of containers on SageMaker. Source: SageMaker batch transform and TensorFlow Serving JSON.

use millstream_core::{Failure, Result};
use serde_json::{Value, json};

use super::failure;

pub(super) fn encode(texts: &[&str]) -> Value {
    json!({ "instances": texts })
}

pub(super) fn items(body: Value) -> Result<Vec<Value>, Failure> {
    match body {
        Value::Object(mut object) => match object.remove("predictions") {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(failure("the endpoint's answer has no list `predictions`")),
        },
        _ => Err(failure("the endpoint's answer is no object with `predictions`")),
    }
}
