//! Giving rows to a sink, and putting aside what it refuses for good.

use millstream_core::{AnySink, Error, Result, RowFailure, Rows, SinkBatch, Stage};

use super::commit::Delivered;
use super::input::DELIVER_ROWS;
use super::trouble::Halt;
use super::{Deliver, Wish};
use crate::failures::{FailedRows, Reject};
use crate::spec::OnError;
use crate::streams::StreamBatch;

impl Deliver {
    /// Delivers what there is in one partition, up to one read; false where there is nothing.
    pub(super) async fn advance(&mut self, input: usize, partition: u32) -> Result<bool, Halt> {
        let batches = self.ledger.inputs[input].read(partition).await?;
        if batches.is_empty() {
            return Ok(false);
        }
        for batch in batches {
            let ours = batch.target.as_ref().is_none_or(|target| target.component == self.ledger.producer);
            if ours && !batch.is_empty() {
                self.deliver(input, batch).await?;
            } else {
                self.ledger.add(Delivered::nothing(input, &batch));
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
        let mut rest = Some(batch);
        while let Some(batch) = rest {
            let until = batch.base_offset + DELIVER_ROWS as u64;
            rest = (batch.end_offset() > until).then(|| batch.clone().from_offset(until));
            let Some(piece) = batch.before_offset(until) else { continue };
            if piece.is_empty() {
                self.ledger.add(Delivered::nothing(input, &piece));
                continue;
            }
            self.deliver_piece(input, &piece).await?;
            self.commit_if_due().await?;
        }
        Ok(())
    }

    async fn deliver_piece(&mut self, input: usize, piece: &StreamBatch) -> Result<(), Halt> {
        let (rows, mut failures) = piece.fit(&self.spec.schema)?;
        let out = SinkBatch {
            folder: self.context.folder.clone(),
            stream: self.ledger.inputs[input].stream.name().clone(),
            partition: piece.partition,
            offsets: rows.origin.iter().map(|&row| piece.base_offset + u64::from(row)).collect(),
            batch: rows.batch,
        };
        let refused = if out.offsets.is_empty() { Vec::new() } else { self.hand_over(&out).await? };
        let sent = out.offsets.len() - refused.len();
        failures.extend(refused.into_iter().map(|f| RowFailure { row: rows.origin[f.row as usize], ..f }));
        failures.sort_by_key(|failure| failure.row);
        let delivered = self.judged(input, piece, failures).await?;
        self.ledger.add(delivered);
        match &mut self.staged_rows {
            // Counted when they are published: what is discarded comes again.
            Some(staged) => *staged += sent,
            None => self.context.metrics.sent("sink", &self.spec.name, sent),
        }
        let seconds = (self.context.clock.now_us() - piece.newest_us()) as f64 / 1e6;
        self.context.metrics.latency(&self.spec.name, seconds.max(0.0));
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

    /// What became of rows that the sink has judged; those that it refused, or was not even given.
    ///
    /// # Errors
    /// There are some, and `on_error` is `fail`.
    async fn judged(&mut self, input: usize, piece: &StreamBatch, failures: Vec<RowFailure>) -> Result<Delivered> {
        let stream = self.ledger.inputs[input].stream.clone();
        let letters = match (failures.first(), self.spec.on_error) {
            (None, _) | (_, OnError::Skip) => None,
            (Some(first), OnError::Fail) => {
                self.keep_delivered().await?;
                return Err(Error::input(format!(
                    "sink {} refused {}/{}/{}/{}: {} (on_error: fail)",
                    self.spec.name,
                    self.context.folder,
                    stream.name(),
                    piece.partition,
                    piece.base_offset + u64::from(first.row),
                    first.failure.message
                )));
            }
            (Some(_), OnError::DeadLetter | OnError::Default) => {
                let reject = Reject {
                    component: &self.spec.name,
                    component_kind: "sink",
                    on_error: self.spec.on_error,
                    stream: stream.name(),
                    input: piece,
                    now_us: self.context.clock.now_us(),
                    pipeline_version: &self.context.pipeline_version,
                };
                let rows = Rows::all(piece.batch.clone());
                let letters = reject.letters(&FailedRows::of(Stage::Deliver, &rows, &failures))?;
                stream.dead_letters_chunk(&letters)?
            }
        };
        let rows = piece.batch.num_rows();
        Ok(Delivered { rows, failures, letters, ..Delivered::nothing(input, piece) })
    }
}
