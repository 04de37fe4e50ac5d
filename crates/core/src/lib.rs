//! What every part of Millstream shares: declared schemas, batches with their origin, failures and dead letters, the
//! traits of sources, decoders, encoders and sinks, errors, and the seams (clock, disk) that make tests repeatable.
//!
//! This crate names no database, no broker, no model library and no SQL engine.

pub mod batch;
pub mod blocking;
pub mod clock;
pub mod dead_letter;
pub mod decode;
pub mod descriptors;
pub mod disk;
pub mod encode;
pub mod error;
pub mod hidden;
pub mod json;
pub mod metadata;
pub mod names;
pub mod partition;
pub mod schema;
pub mod sink;
pub mod source;
pub mod terminal;
pub mod units;

pub use batch::{Failure, FailureKind, RowFailure, Rows};
pub use clock::{Clock, ManualClock, SystemClock};
pub use dead_letter::{DeadLetter, Stage};
pub use decode::{Decoded, Decoder, Headers, RawBatch};
pub use encode::{Encoded, Encoder};
pub use error::{Error, ErrorKind, Result, ResultExt};
pub use hidden::Hidden;
pub use metadata::Metadata;
pub use schema::{Field, FieldType, StreamSchema};
pub use sink::{AnySink, Sink, SinkBatch, StagedSink};
pub use source::{Cursor, CursorDelta, Source, SourceBatch, SourceRead};
pub use units::{ByteSize, HumanDuration, Secret, SecretValue};
