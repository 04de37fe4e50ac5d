//! From bytes to rows: what a source hands over and what a decoder makes of it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::{Failure, RowFailure};

/// The headers of a record, each with its name; shared by records that came together.
pub type Headers = Arc<[(Arc<str>, Bytes)]>;

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
    /// The key that the system keeps beside each record, where it has one; as long as `spans`, or empty.
    pub keys: Vec<Option<Bytes>>,
    /// The headers of each record; as long as `spans`, or empty.
    pub headers: Vec<Headers>,
    /// When each record was made, as the system says, in microseconds since the epoch; as long as `spans`, or empty.
    pub timestamps_us: Vec<Option<i64>>,
    /// Whether each record says that its key is gone, and has no value; as long as `spans`, or empty.
    pub tombstones: Vec<bool>,
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

    /// The records `chosen`, with what is known of each.
    #[must_use]
    pub fn slice(&self, chosen: Range<usize>) -> Self {
        fn of<T: Clone>(all: &[T], chosen: &Range<usize>) -> Vec<T> {
            all.get(chosen.clone()).map(<[T]>::to_vec).unwrap_or_default()
        }
        let first = chosen.start as u32;
        let refused = self.refused.iter().filter(|r| chosen.contains(&(r.row as usize)));
        Self {
            data: self.data.clone(),
            spans: of(&self.spans, &chosen),
            positions: of(&self.positions, &chosen),
            events: of(&self.events, &chosen),
            keys: of(&self.keys, &chosen),
            headers: of(&self.headers, &chosen),
            timestamps_us: of(&self.timestamps_us, &chosen),
            tombstones: of(&self.tombstones, &chosen),
            refused: refused.map(|r| RowFailure { row: r.row - first, ..r.clone() }).collect(),
            origin: self.origin.clone(),
            header: self.header.clone(),
            charset: self.charset.clone(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureKind;

    #[test]
    fn a_slice_has_all_that_is_known_of_its_records_and_nothing_of_others() {
        let text = |n: usize| Bytes::from(n.to_string());
        let refused = |row| RowFailure { row, failure: Failure::new(FailureKind::TooLarge, "large") };
        let raw = RawBatch {
            data: "0123".into(),
            spans: (0..4).map(|n| n..n + 1).collect(),
            positions: vec![10, 11, 12, 13],
            events: (0..4).map(|n| n.to_string().into()).collect(),
            keys: (0..4).map(|n| (n % 2 == 0).then(|| text(n))).collect(),
            headers: (0..4).map(|n| Headers::from([("h".into(), text(n))])).collect(),
            timestamps_us: vec![Some(0), None, Some(2), Some(3)],
            tombstones: vec![false, true, false, true],
            origin: "here".into(),
            header: Some("a,b".into()),
            charset: Some("latin1".into()),
            refused: vec![refused(0), refused(2)],
        };
        let slice = raw.slice(1..3);
        assert_eq!((slice.record(0), slice.record(1), slice.len()), (&b"1"[..], &b"2"[..], 2));
        assert_eq!((slice.positions, slice.timestamps_us), (vec![11, 12], vec![None, Some(2)]));
        assert_eq!((slice.keys, slice.tombstones), (vec![None, Some(text(2))], vec![true, false]));
        assert_eq!(slice.events, ["1".into(), "2".into()] as [Arc<str>; 2]);
        assert_eq!(slice.headers.iter().map(|h| h[0].1.clone()).collect::<Vec<_>>(), [text(1), text(2)]);
        assert_eq!(slice.refused, [refused(1)]);
        assert_eq!(
            (&*slice.origin, slice.header, slice.charset.as_deref()),
            ("here", Some("a,b".into()), Some("latin1"))
        );
        // What is not known of any is not known of these.
        let bare = RawBatch { spans: raw.spans.clone(), data: raw.data.clone(), ..RawBatch::default() }.slice(1..3);
        assert_eq!((bare.len(), bare.keys.len(), bare.positions.len()), (2, 0, 0));
    }
}
