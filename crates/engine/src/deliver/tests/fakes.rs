//! Sinks that take even numbers and refuse odd ones.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use millstream_core::{AnySink, Error, Failure, FailureKind, Result, RowFailure, Sink, SinkBatch, StagedSink};
use parking_lot::Mutex;

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn numbers(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// Odd numbers are refused.
fn refused(batch: &RecordBatch) -> Vec<RowFailure> {
    let failure = || Failure::new(FailureKind::Rejected, "it is odd");
    let odd = (0..).zip(numbers(batch)).filter(|(_, n)| n % 2 == 1);
    odd.map(|(row, _)| RowFailure { row, failure: failure() }).collect()
}

fn taken(batch: &RecordBatch) -> impl Iterator<Item = i64> {
    numbers(batch).into_iter().filter(|n| n % 2 == 0)
}

/// What they have taken.
pub(super) type Got = Arc<Mutex<Vec<i64>>>;

/// A system that answers so many times, then never again.
struct Direct {
    got: Got,
    answers: usize,
}

#[async_trait]
impl Sink for Direct {
    async fn deliver(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        if self.answers == 0 {
            return std::future::pending().await;
        }
        self.answers -= 1;
        self.got.lock().extend(taken(&batch.batch));
        Ok(refused(&batch.batch))
    }
}

/// A shelf that is full once, at its second piece; what a start finds sealed is not in `staged` any more.
struct Staged {
    staged: Vec<i64>,
    got: Got,
    pieces: usize,
    recovered: Option<Bytes>,
}

#[async_trait]
impl StagedSink for Staged {
    async fn recover(&mut self, token: Option<Bytes>) -> Result<()> {
        self.staged.clear();
        assert_eq!(token, self.recovered.take());
        Ok(())
    }

    async fn stage(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        self.pieces += 1;
        if self.pieces == 2 {
            return Err(Error::environment("the shelf is full"));
        }
        self.staged.extend(taken(&batch.batch));
        Ok(refused(&batch.batch))
    }

    fn due(&self, _now_us: i64) -> bool {
        false
    }

    async fn seal(&mut self, _now_us: i64) -> Result<Option<Bytes>> {
        Ok((!self.staged.is_empty()).then(|| Bytes::from_static(b"sealed")))
    }

    async fn publish(&mut self, _token: Bytes) -> Result<()> {
        self.got.lock().append(&mut self.staged);
        Ok(())
    }
}

pub(super) fn direct(got: &Got, answers: usize) -> AnySink {
    AnySink::Direct(Box::new(Direct { got: got.clone(), answers }))
}

pub(super) fn staged(got: &Got, recovered: Option<Bytes>) -> AnySink {
    AnySink::Staged(Box::new(Staged { staged: Vec::new(), got: got.clone(), pieces: 0, recovered }))
}
