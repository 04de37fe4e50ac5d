//! `tei`: Hugging Face Text Embeddings Inference. Its answers are those of `json`.
//!
//! In a batch for `/predict` each text is a list of one: a flat list of two would be read as a pair of texts.
//! `truncate` is set, so that a long text is scored by its beginning, as by a model in the process, and not refused.
//! Source: the OpenAPI document of TEI.

use serde_json::{Value, json};

use crate::Task;

pub(super) fn encode(task: Task, texts: &[&str]) -> Value {
    match task {
        Task::Embedding | Task::TabularClassification | Task::TabularRegression => {
            json!({ "inputs": texts, "truncate": true })
        }
        Task::TextClassification => {
            let inputs: Vec<[&str; 1]> = texts.iter().map(|&text| [text]).collect();
            json!({ "inputs": inputs, "truncate": true })
        }
    }
}
