//! From bytes to rows: what a source hands over and what a decoder makes of it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::{Failure, RowFailure};

/// Raw records of one source, still undecoded, in one shared buffer.
#[derive(Debug, Clone, Default)]
pub struct RawBatch {
    /// The buffer that holds all records.
    pub data: Bytes,
    /// Where each record lies in `data`, without its line end.
    pub spans: Vec<Range<usize>>,
    /// Where each record began upstream (a byte offset in its file, a sequence number); as long as `spans`, or empty.
    pub positions: Vec<u64>,
    /// What the records came from: a file's path, a URL. Empty where there is nothing to say.
    pub origin: Arc<str>,
    /// The header line of a CSV file, where it has one.
    pub header: Option<Bytes>,
    /// The type of each record's event, where the source has such (server-sent events); as long as `spans`, or empty.
    pub events: Vec<Arc<str>>,
    /// The encoding that came with the bytes, as in the `Content-Type` of HTTP. It overrules what a document declares.
    pub charset: Option<Arc<str>>,
    /// Records that the source itself had to refuse (a line over the limit): index into `spans` and why. The span then
    /// holds as much of the bytes as was kept.
    pub refused: Vec<RowFailure>,
}

impl RawBatch {
    /// One record from one buffer.
    pub fn single(data: Bytes, origin: Arc<str>) -> Self {
        let whole = 0..data.len();
        Self { spans: vec![whole], data, origin, ..Self::default() }
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True where there is no record.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The bytes of record `i`.
    pub fn record(&self, i: usize) -> &[u8] {
        &self.data[self.spans[i].clone()]
    }
}

/// Rows of the declared schema, and the records that did not make it.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The good rows, with the decoder's schema.
    pub batch: RecordBatch,
    /// `record[i]` is the raw record that row `i` came from (one document may give many rows); never decreasing.
    pub record: Vec<u32>,
    /// The raw records that failed, ascending; none of them has a row in `batch`.
    pub failures: Vec<RowFailure>,
}

/// Turns raw records into rows. Pure: no I/O, no clock; the same bytes give the same rows.
///
/// Each raw record ends up in `batch` or in `failures`, whole. A document with one bad row fails as a whole, so that a
/// redrive never doubles its good rows. A decoder never panics on bytes, and never holds more than a small multiple of
/// their size.
pub trait Decoder: std::fmt::Debug + Send + Sync {
    /// The schema of the rows.
    fn schema(&self) -> SchemaRef;

    /// Decodes every record of `raw` that the source did not refuse; refused ones are passed on as failures.
    fn decode(&self, raw: &RawBatch) -> Decoded;

    /// Splits a request body into records (JSON documents, a JSON array, CSV rows, lines), for sources that receive
    /// many records in one piece. `charset` is the encoding that came with it; formats made of text turn it into UTF-8.
    ///
    /// # Errors
    /// The body as a whole can't be read; nothing of it is taken.
    fn split(&self, body: Bytes, charset: Option<&str>) -> std::result::Result<RawBatch, Failure>;
}
