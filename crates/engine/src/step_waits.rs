//! A `predict` step that waits for its model is a transform that waits, whatever the number of partitions and calls.

use std::sync::Arc;

use crate::health::Part;
use crate::scorer::waiting::Told;

/// Tells of one `predict` step that it waits.
#[derive(Debug)]
pub struct StepWaits {
    model: Arc<str>,
    part: Part,
}

impl StepWaits {
    /// A step that does not wait for `model`.
    pub fn new(model: Arc<str>, part: Part) -> Self {
        Self { model, part }
    }
}

impl Told for StepWaits {
    fn waits(&self, reason: &str) {
        self.part.waits(&format!("model {}: {reason}", self.model));
    }

    fn answered(&self) {
        self.part.works();
    }
}
