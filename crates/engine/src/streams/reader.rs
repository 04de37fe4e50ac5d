//! Reading a stream: chunks from its log, decoded. What is at hand and small is given at once; a file, or much to
//! decode, is a thread's work that others do not wait for.

use std::sync::Arc;

use millstream_core::{Result, blocking};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Log, LogChunk, LogReader};

use super::{Stream, StreamBatch, decode_chunk};

/// Reads one partition of a stream in order. Whoever goes on reading keeps it: it knows its place in the files.
#[derive(Debug)]
pub struct StreamReader {
    log: LogReader,
    decoder: Decoder,
}

#[derive(Debug, Clone)]
struct Decoder {
    stream: Arc<str>,
    schemas: Arc<SchemaStore>,
    event_time: Option<Arc<str>>,
}

impl Stream {
    /// A reader of a partition from offset `from` on.
    ///
    /// # Errors
    /// `Input` where `from` lies beyond the end; `Bug` where there is no such partition.
    pub fn reader(&self, partition: u32, from: u64) -> Result<StreamReader> {
        let mut reader = StreamReader::new(&self.log, &self.schemas, partition, from)?;
        reader.decoder.event_time.clone_from(&self.event_time);
        Ok(reader)
    }
}

impl StreamReader {
    /// A reader of a log that is at rest.
    ///
    /// # Errors
    /// As [`Stream::reader`].
    pub fn new(log: &Log, schemas: &Arc<SchemaStore>, partition: u32, from: u64) -> Result<Self> {
        let decoder = Decoder { stream: log.name().into(), schemas: schemas.clone(), event_time: None };
        Ok(Self { log: log.reader(partition, from)?, decoder })
    }

    /// The offset that comes next: behind everything that was read, control chunks too.
    pub fn position(&self) -> u64 {
        self.log.position()
    }

    /// Goes to another offset: see [`LogReader::seek`].
    pub fn seek(&mut self, offset: u64) {
        self.log.seek(offset);
    }

    /// How many records this reader has missed since the last call: retention had removed them before it got there.
    pub fn skipped(&mut self) -> u64 {
        self.log.skipped()
    }

    /// The next rows: those of whole chunks up to about `bytes_max`, the first cut to the position; none at the end.
    /// Control chunks are passed over.
    ///
    /// # Errors
    /// `Corruption`, `Environment`: the log can't be read, or what is in it. The position stays.
    pub async fn read(&mut self, bytes_max: usize) -> Result<Vec<StreamBatch>> {
        loop {
            let mut batches = self.read_all(bytes_max).await?;
            if batches.is_empty() {
                return Ok(batches);
            }
            batches.retain(|batch| !batch.is_empty());
            if !batches.is_empty() {
                return Ok(batches);
            }
        }
    }

    /// The same with control chunks.
    ///
    /// # Errors
    /// As [`StreamReader::read`].
    pub async fn read_all(&mut self, bytes_max: usize) -> Result<Vec<StreamBatch>> {
        let from = self.log.position();
        let Some(chunks) = self.log.read_kept(bytes_max) else {
            let decoder = self.decoder.clone();
            let read = move |log: &mut LogReader| decoder.decode(log.blocking_read(bytes_max)?, from);
            return self.log.apart(read).await;
        };
        let bytes = chunks.iter().map(|chunk| chunk.payload.len()).sum();
        let decoded = blocking::with_bytes(bytes, || self.decoder.decode(chunks, from));
        if decoded.is_err() {
            self.log.seek(from);
        }
        decoded
    }
}

impl Decoder {
    fn decode(&self, chunks: Vec<LogChunk>, from: u64) -> Result<Vec<StreamBatch>> {
        let decode = |chunk| {
            let batch = decode_chunk(&self.schemas, chunk)?.from_offset(from);
            Ok(StreamBatch { event_time: self.event_time.clone(), ..batch })
        };
        let decoded: Result<_> = chunks.into_iter().map(decode).collect();
        decoded.map_err(|e| e.context(format!("read stream {}", self.stream)))
    }
}
