//! Whom redriven rows are for.

use std::sync::Arc;

use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The component that redriven rows go back to, and how often they have been tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// A transform or table, the stream itself (all that read it), or `sink:NAME`.
    pub component: Arc<str>,
    /// The relation that it took them from, where it may read several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Arc<str>>,
    /// Which attempt at these rows it is, from 2.
    pub attempt: u32,
}

impl Target {
    /// As the log keeps it, beside the rows.
    ///
    /// # Errors
    /// None that can happen: `Bug`.
    pub fn encode(&self) -> Result<Arc<str>> {
        serde_json::to_string(self).map(Into::into).map_err(|e| Error::bug(e.to_string()))
    }

    /// From what [`Target::encode`] made.
    ///
    /// # Errors
    /// `Corruption`.
    pub fn decode(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|e| Error::corruption("a redriven record does not say whom it is for").caused_by(e))
    }
}
