//! Collects records that arrive one by one into a batch.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Failure, RawBatch, RowFailure};

use crate::context::SourceContext;
use crate::format::TextEncoding;
use crate::format::encoding::to_utf8;
use crate::format::framing::{Framing, cut};

/// A batch is full at this many bytes, or at [`BATCH_RECORDS_MAX`].
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The most records in one batch.
const BATCH_RECORDS_MAX: usize = 8_192;

/// Records of one origin, back to back in one buffer.
#[derive(Debug, Default)]
pub(crate) struct RecordBuffer {
    origin: Arc<str>,
    /// The encoding that came with what the records were cut out of.
    pub(crate) charset: Option<Arc<str>>,
    framing: Option<Framing>,
    encoding: Option<TextEncoding>,
    data: Vec<u8>,
    spans: Vec<Range<usize>>,
    refused: Vec<RowFailure>,
    events: Vec<Arc<str>>,
    keys: Vec<Option<Bytes>>,
}

impl RecordBuffer {
    /// No record yet.
    pub(crate) fn new(origin: Arc<str>) -> Self {
        Self { origin, ..Self::default() }
    }

    /// The same, for messages that may hold several records, as the source was told.
    pub(crate) fn for_messages(origin: Arc<str>, context: &SourceContext) -> Self {
        Self { framing: Some(context.framing), encoding: context.encoding, ..Self::new(origin) }
    }

    /// Adds the records of a message: the documents of JSON, the rows of CSV; else it is one record. A message in which
    /// there is nothing is a record too, and fails as one.
    pub(crate) fn push_message(&mut self, message: &[u8]) {
        let framing = match self.framing {
            Some(framing @ (Framing::Json | Framing::Csv(_))) => framing,
            Some(Framing::Lines) => Framing::Whole,
            Some(Framing::Whole) | None => return self.push(message),
        };
        let text = match to_utf8(Bytes::copy_from_slice(message), self.charset.as_deref(), self.encoding) {
            Ok(text) => text,
            Err(failure) => return self.push_refused(message, failure),
        };
        if text.trim_ascii().is_empty() {
            return self.push(&text);
        }
        cut(framing, &text).spans.into_iter().for_each(|span| self.push(&text[span]));
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: &[u8]) {
        let start = self.data.len();
        self.data.extend_from_slice(record);
        self.spans.push(start..self.data.len());
    }

    /// Adds what was kept of a record that can't be used, and why.
    pub(crate) fn push_refused(&mut self, kept: &[u8], failure: Failure) {
        self.refused.push(RowFailure { row: self.spans.len() as u32, failure });
        self.push(kept);
    }

    /// Adds the records of an event's data with the event's type and id, and why they can't be used. A buffer has only
    /// records with a type, or only records without.
    pub(crate) fn push_event(&mut self, kind: &str, id: &[u8], data: &[u8], refused: Option<Failure>) {
        match refused {
            None => self.push_message(data),
            Some(failure) => self.push_refused(data, failure),
        }
        let kind = match self.events.last() {
            // Most streams have one type.
            Some(last) if **last == *kind => last.clone(),
            _ => kind.into(),
        };
        self.events.resize(self.spans.len(), kind);
        self.keys.resize(self.spans.len(), (!id.is_empty()).then(|| Bytes::copy_from_slice(id)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// True where the batch should be handed out before more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.data.len() >= BATCH_BYTES_MAX || self.spans.len() >= BATCH_RECORDS_MAX
    }

    /// The batch; the buffer is empty again.
    pub(crate) fn take(&mut self) -> RawBatch {
        RawBatch {
            data: Bytes::from(std::mem::take(&mut self.data)),
            spans: std::mem::take(&mut self.spans),
            refused: std::mem::take(&mut self.refused),
            events: std::mem::take(&mut self.events),
            keys: std::mem::take(&mut self.keys),
            origin: self.origin.clone(),
            charset: self.charset.clone(),
            ..RawBatch::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(framing: Framing, messages: &[&[u8]]) -> Vec<String> {
        let mut buffer = RecordBuffer::for_messages("ws".into(), &SourceContext::new("in", framing));
        messages.iter().for_each(|message| buffer.push_message(message));
        let batch = buffer.take();
        (0..batch.len()).map(|i| String::from_utf8_lossy(batch.record(i)).into_owned()).collect()
    }

    #[test]
    fn a_message_gives_each_document_that_it_holds() {
        let messages: [&[u8]; 5] = [b"{\"a\":1}", b"[{\"a\":2},{\"a\":3}]", b"{\"a\":4}{\"a\":", b"", b"[]"];
        assert_eq!(
            records(Framing::Json, &messages),
            ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}", "{\"a\":4}", "{\"a\":", ""]
        );
        assert_eq!(records(Framing::Lines, &[b"one\ntwo"]), ["one\ntwo"], "a message of text is one");
        assert_eq!(records(Framing::Json, &[b"\xff\xfe{\0}\0"]), ["{}"], "UTF-16 by its mark");
    }
}
