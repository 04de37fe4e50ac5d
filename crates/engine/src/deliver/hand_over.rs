//! Giving rows to a sink, and putting aside what it refuses for good.

use millstream_core::{AnySink, DeadLetter, Error, Result, RowFailure, SinkBatch, Stage};

use super::commit::Delivered;
use super::input::DELIVER_ROWS;
use super::trouble::Halt;
use super::{Deliver, Wish};
use crate::dead_letters::FailedRows;
use crate::spec::OnError;
use crate::streams::StreamBatch;

impl Deliver {
    /// Delivers what there is in one partition, up to one read; false where there is nothing.
    pub(super) async fn advance(&mut self, input: usize, partition: u32) -> Result<bool, Halt> {
        let batches = self.ledger.inputs[input].read(partition, &self.spec.schema)?;
        if batches.is_empty() {
            return Ok(false);
        }
        for batch in batches {
            let ours = batch.target.as_ref().is_none_or(|target| *target == self.ledger.producer);
            if ours {
                self.deliver(input, batch).await?;
            } else {
                let end = batch.end_offset();
                let (rows, failures, letters) = (0, Vec::new(), None);
                self.ledger.add(Delivered { input, partition, end, rows, failures, letters });
            }
            self.commit_if_due().await?;
            if self.is_due() {
                self.publish().await?;
            }
            if *self.wish.borrow() == Wish::Stop {
                break;
            }
        }
        Ok(true)
    }

    /// Delivers a batch in pieces.
    async fn deliver(&mut self, input: usize, batch: StreamBatch) -> Result<(), Halt> {
        let batch = batch.conform(&self.spec.schema)?;
        let mut start = 0;
        while start < batch.batch.num_rows() {
            let rows = (batch.batch.num_rows() - start).min(DELIVER_ROWS);
            let first = batch.base_offset + start as u64;
            let out = SinkBatch {
                folder: self.context.folder.clone(),
                stream: self.ledger.inputs[input].stream.name().clone(),
                partition: batch.partition,
                offsets: (first..first + rows as u64).collect(),
                batch: batch.batch.slice(start, rows),
            };
            let failures = self.hand_over(&out).await?;
            let sent = rows - failures.len();
            let delivered = self.judged(input, &out, failures, batch.attempt).await?;
            self.ledger.add(delivered);
            match &mut self.staged_rows {
                // Counted when they are published: what is discarded comes again.
                Some(staged) => *staged += sent,
                None => self.context.metrics.sent("sink", &self.spec.name, sent),
            }
            if let Some(newest) = batch.event_time_max_us {
                let seconds = (self.context.clock.now_us() - newest) as f64 / 1e6;
                self.context.metrics.latency(&self.spec.name, seconds.max(0.0));
            }
            self.commit_if_due().await?;
            start += rows;
        }
        Ok(())
    }

    /// Gives rows to the sink until it has taken them. What was delivered before is committed meanwhile.
    ///
    /// # Errors
    /// [`Halt::Stopped`] where the pipeline stops before that, [`Halt::Trouble`] where a staged sink has to begin anew.
    async fn hand_over(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>, Halt> {
        self.context.metrics.received("sink", &self.spec.name, batch.batch.num_rows());
        let is_staged = matches!(self.sink, AnySink::Staged(_));
        loop {
            match self.attempt(batch).await? {
                Ok(failures) => {
                    self.works();
                    return Ok(failures);
                }
                // It has to begin anew.
                Err(e) if is_staged => return Err(Halt::Trouble(e)),
                Err(e) if self.may_pass(&e) => {
                    self.ledger.commit(None).await?;
                    if self.wait_after(&e).await {
                        return Err(Halt::Stopped);
                    }
                }
                Err(e) => return Err(Halt::Trouble(e)),
            }
        }
    }

    /// Gives rows to the sink once.
    ///
    /// # Errors
    /// Outside: the pipeline stops, or what is due can't be committed. Inside: what the sink says.
    async fn attempt(&mut self, batch: &SinkBatch) -> Result<Result<Vec<RowFailure>>, Halt> {
        let (sink, staged, ledger) = (&mut self.sink, &mut self.staged_rows, &mut self.ledger);
        let is_staged = matches!(sink, AnySink::Staged(_));
        let delivering = async {
            match sink {
                AnySink::Direct(sink) => sink.deliver(batch).await,
                AnySink::Staged(sink) => {
                    staged.get_or_insert(0);
                    sink.stage(batch).await
                }
            }
        };
        tokio::pin!(delivering);
        loop {
            let due = ledger.due();
            tokio::select! {
                delivered = &mut delivering => return Ok(delivered),
                () = self.context.hurry.sinks.cancelled() => return Err(Halt::Stopped),
                () = due, if !is_staged => ledger.commit(None).await?,
            }
        }
    }

    /// What became of rows that the sink has judged.
    ///
    /// # Errors
    /// It has refused some, and `on_error` is `fail`.
    async fn judged(
        &mut self,
        input: usize,
        batch: &SinkBatch,
        failures: Vec<RowFailure>,
        attempt: u32,
    ) -> Result<Delivered> {
        let letters = match (failures.first(), self.spec.on_error) {
            (None, _) | (_, OnError::Skip) => None,
            (Some(first), OnError::Fail) => {
                self.keep_delivered().await?;
                return Err(Error::input(format!(
                    "sink {} refused {}: {} (on_error: fail)",
                    self.spec.name,
                    batch.id(first.row as usize),
                    first.failure.message
                )));
            }
            (Some(_), OnError::DeadLetter | OnError::Default) => {
                let letters = self.letters(batch, &failures, attempt)?;
                self.ledger.inputs[input].stream.dead_letters_chunk(&letters, self.context.clock.now_us())?
            }
        };
        let end = batch.offsets.last().map_or(0, |last| last + 1);
        Ok(Delivered { input, partition: batch.partition, end, rows: batch.offsets.len(), failures, letters })
    }

    fn letters(&self, batch: &SinkBatch, failures: &[RowFailure], attempt: u32) -> Result<Vec<DeadLetter>> {
        let rows = FailedRows {
            stage: Stage::Deliver,
            component: &self.spec.name,
            stream: &batch.stream,
            partition: batch.partition,
            offset_of: &|row| batch.offsets[row as usize],
            rows: &batch.batch,
            event_time_us: None,
            now_us: self.context.clock.now_us(),
            attempts: attempt,
            pipeline_version: &self.context.pipeline_version,
            model_version: None,
        };
        rows.letters(failures)
    }
}
