//! What is known about a record beside its fields, and the columns that it becomes.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{TYPE_KEY, timestamp_type};

/// Something known about a record beside its fields, as a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metadata {
    /// Column `_raw`, bytes: the record as it was received.
    Raw,
    /// Column `_origin`, string: what it came from, such as a file's path or a URL.
    Origin,
    /// Column `_position`, int: where it began there, such as a byte offset.
    Position,
    /// Column `_event`, string: the type of a server-sent event.
    Event,
    /// Column `_key`, bytes: the key that its system keeps beside it, such as the id of a server-sent event.
    Key,
    /// Column `_headers`, json: the headers that came with it, an object of strings (`_headers ->> 'X-Trace'`). Of a
    /// value that is not UTF-8, what is wrong is replaced.
    // No map: transforms and tables can't hold one, and JSON goes through everything, dead letters too.
    Headers,
    /// Column `_timestamp`, timestamp: when it was made, as its system says.
    Timestamp,
    /// Column `_tombstone`, bool: its system says that the key is gone.
    Tombstone,
    /// Column `_received_at`, timestamp: when it was read.
    ReceivedAt,
}

impl Metadata {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Raw,
        Self::Origin,
        Self::Position,
        Self::Event,
        Self::Key,
        Self::Headers,
        Self::Timestamp,
        Self::Tombstone,
        Self::ReceivedAt,
    ];

    /// The name in the pipeline file. The column's has a `_` in front.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Origin => "origin",
            Self::Position => "position",
            Self::Event => "event",
            Self::Key => "key",
            Self::Headers => "headers",
            Self::Timestamp => "timestamp",
            Self::Tombstone => "tombstone",
            Self::ReceivedAt => "received_at",
        }
    }

    /// True for what is known of every record, whatever its source.
    pub fn is_of_every_source(self) -> bool {
        matches!(self, Self::Raw | Self::Origin | Self::ReceivedAt)
    }

    /// The column.
    pub fn field(self) -> Field {
        match self {
            Self::Raw => Field::new("_raw", DataType::Binary, false),
            Self::Origin => Field::new("_origin", DataType::Utf8, true),
            Self::Position => Field::new("_position", DataType::Int64, true),
            Self::Event => Field::new("_event", DataType::Utf8, true),
            Self::Key => Field::new("_key", DataType::Binary, true),
            Self::Headers => Field::new("_headers", DataType::Utf8, true)
                .with_metadata(HashMap::from([(TYPE_KEY.into(), "json".into())])),
            Self::Timestamp => Field::new("_timestamp", timestamp_type(), true),
            Self::Tombstone => Field::new("_tombstone", DataType::Boolean, true),
            Self::ReceivedAt => Field::new("_received_at", timestamp_type(), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_called_as_in_the_pipeline_file_with_a_line_in_front() {
        for metadata in Metadata::ALL {
            assert_eq!(*metadata.field().name(), format!("_{}", metadata.as_str()));
            assert_eq!(serde_json::to_value(metadata).unwrap(), metadata.as_str());
        }
    }
}
