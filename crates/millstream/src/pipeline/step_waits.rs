//! Whether a `predict` step waits for its model: one line in the log when it begins to, one when it is over, whatever the
//! number of partitions and calls.

use std::sync::Arc;

use parking_lot::Mutex;

use super::scorer::waiting::Told;

/// What one `predict` step waits for.
#[derive(Debug)]
pub struct StepWaits {
    component: Arc<str>,
    model: Arc<str>,
    reason: Mutex<Option<String>>,
}

impl StepWaits {
    /// A step that does not wait.
    pub fn new(component: Arc<str>, model: Arc<str>) -> Self {
        Self { component, model, reason: Mutex::default() }
    }

    /// Why it waits, where it does.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }
}

impl Told for StepWaits {
    fn waits(&self, reason: &str) {
        let mut known = self.reason.lock();
        if known.as_deref() == Some(reason) {
            return;
        }
        let began = known.replace(reason.to_owned()).is_none();
        drop(known);
        if began {
            tracing::warn!(
                transform = %self.component, model = %self.model, reason,
                "the model is not available; records wait until it is"
            );
        }
    }

    fn answered(&self) {
        if self.reason.lock().take().is_some() {
            tracing::info!(transform = %self.component, model = %self.model, "the model answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_waits_from_the_first_call_that_does_until_one_is_answered() {
        let step = StepWaits::new("scored".into(), "tone".into());
        assert_eq!(step.reason(), None);
        step.waits("can't connect");
        step.waits("it answered 503");
        assert_eq!(step.reason().as_deref(), Some("it answered 503"));
        step.answered();
        step.answered();
        assert_eq!(step.reason(), None);
    }
}
