//! From a log to a sink: a reader with its own committed offsets. A sink that is down delays nobody but itself.
//!
//! A direct sink commits after the other side has accepted a batch: a crash in between delivers that batch again, with the
//! same ids. A staged sink commits offsets and token together before it publishes: a crash in between publishes at the
//! next start. What a sink refuses for good becomes a dead letter, durable before the offset moves past it.
//!
//! A sink's trouble is the sink's. Whatever is in its way (a service that is away, a disk that is full, a folder that is
//! gone), it waits, says for what, and goes on by itself: a direct sink with the same rows, a staged one from its committed
//! offsets, with what it had staged discarded. Only damage, and settings that never worked, end the pipeline.

mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::select_all;
use millstream_core::{AnySink, Error, ErrorKind, Result, RowFailure, Rows, SinkBatch, Stage};
use millstream_storage::checkpoint::Checkpoint;
use millstream_storage::log::Append;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::trouble::{Halt, RETRY_PAUSE};
use crate::failures::{FailedRows, Reject};
use crate::health::{ComponentKind, Part};
use crate::progress::ReaderProgress;
use crate::spec::{OnError, SinkSpec, Start};
use crate::streams::{Stream, StreamBatch, StreamReader};
use crate::tally::Fate;
use crate::task::TaskContext;

const READ_BYTES: usize = 256 << 10;
/// Rows handed to a direct sink at once: what a crash may deliver again.
const DELIVER_ROWS: usize = 1024;
/// How often a staged sink is asked whether it is due.
const DUE_EVERY: Duration = Duration::from_millis(100);

/// What a sink's reader has stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Committed {
    /// Next offset by stream and partition.
    pub(super) offsets: BTreeMap<String, Vec<u64>>,
    /// What a staged sink is publishing.
    pub(super) token: Option<Vec<u8>>,
}

/// What the pipeline wants of its sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Run,
    /// Everything upstream is at its end: deliver all there is, publish what is staged.
    Drain,
    /// Finish the batch under way, publish what is staged, and return.
    Stop,
}

/// A sink with its place.
pub struct Deliver {
    context: TaskContext,
    spec: Arc<SinkSpec>,
    sink: AnySink,
    inputs: Vec<Input>,
    checkpoint: Checkpoint,
    target: Arc<str>,
    wish: watch::Receiver<Wish>,
    part: Part,
    /// How long to wait after the next failure.
    pause: Duration,
    /// The sink has taken rows in this run, so its settings can work.
    has_worked: bool,
    /// Of a staged sink: it has begun anew after a failure, and has published nothing since.
    is_troubled: bool,
    /// Of a staged sink: what the last run, or a failure, has left has to be finished before anything else.
    is_unsettled: bool,
    /// Of a staged sink: the token of the last commit, until it is published.
    sealed: Option<Bytes>,
    /// Rows staged since the last commit.
    staged_rows: Option<usize>,
}

struct Input {
    stream: Stream,
    /// One a partition.
    readers: Vec<StreamReader>,
    /// Next offset to read; ahead of the committed one while rows are staged.
    offsets: Vec<u64>,
    committed: Vec<u64>,
    position: Arc<ReaderProgress>,
}

/// Name under which a sink's own redriven records are addressed.
pub fn sink_target(name: &str) -> Arc<str> {
    format!("sink:{name}").into()
}

impl Deliver {
    /// Opens the sink's place.
    pub async fn open(
        context: TaskContext,
        spec: Arc<SinkSpec>,
        sink: AnySink,
        positions: Vec<Arc<ReaderProgress>>,
        checkpoint: Checkpoint,
        wish: watch::Receiver<Wish>,
    ) -> Result<Self> {
        let committed = match checkpoint.load()? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::corruption(format!("the offsets of sink {} are damaged", spec.name)).caused_by(e)
            })?,
            None => Committed::default(),
        };
        let (mut inputs, mut begins) = (Vec::new(), Vec::new());
        for (name, position) in spec.from.iter().zip(positions) {
            let stream = context.streams.get(name).ok_or_else(|| Error::bug(format!("no stream {name}")))?.clone();
            let known = committed.offsets.get(&**name).cloned();
            let begins_at = |p: u32| match (&known, spec.start) {
                (None, Start::Latest) => stream.log.end_offset(p),
                (known, _) => known.as_ref().and_then(|known| known.get(p as usize).copied()).unwrap_or(0),
            };
            let offset = |p: u32| begins_at(p).max(stream.log.start_offset(p));
            let offsets: Vec<u64> = (0..stream.plan.partitions).map(offset).collect();
            for (partition, &offset) in offsets.iter().enumerate() {
                if offset > stream.log.end_offset(partition as u32) {
                    return Err(Error::corruption(format!(
                        "sink {} is at offset {offset} of {name} partition {partition}, behind the end of that log: \
                         the log folder was removed or replaced",
                        spec.name
                    )));
                }
                context.progress.advance(&position, partition as u32, offset);
            }
            if known.is_none() {
                begins.push((name.clone(), offsets.clone()));
            }
            let reader = |(partition, &offset): (u32, &u64)| stream.reader(partition, offset);
            let readers = (0..).zip(&offsets).map(reader).collect::<Result<_>>()?;
            inputs.push(Input { stream, readers, committed: offsets.clone(), offsets, position });
        }
        let target = sink_target(&spec.name);
        let mut deliver = Self {
            part: context.health.of(ComponentKind::Sink, &spec.name, &context.clock).part(),
            is_unsettled: matches!(sink, AnySink::Staged(_)),
            sealed: committed.token.map(Bytes::from),
            context,
            spec,
            sink,
            inputs,
            checkpoint,
            target,
            wish,
            pause: RETRY_PAUSE.0,
            has_worked: false,
            is_troubled: false,
            staged_rows: None,
        };
        if !begins.is_empty() {
            // At once: what has begun has begun, also where this run ends before the first delivery.
            deliver.commit(deliver.sealed.clone())?;
            deliver.announce(&begins);
        }
        Ok(deliver)
    }

    /// Says where a new sink begins in streams that hold older records.
    fn announce(&self, begins: &[(Arc<str>, Vec<u64>)]) {
        for (name, offsets) in begins.iter().filter(|(_, offsets)| offsets.iter().any(|&offset| offset > 0)) {
            let offsets = offsets.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            let (sink, plural) = (&self.spec.name, if offsets.contains(',') { "offsets" } else { "offset" });
            tracing::info!(
                "`{sink}` begins at {plural} {offsets} of `{name}`; what is older is not sent (`start: earliest` in a sink \
                 that is new sends it)"
            );
        }
    }

    /// Delivers until told to stop.
    pub async fn run(mut self) -> Result<()> {
        let name = self.spec.name.clone();
        let failed = |e: Error| e.context(format!("sink {name}"));
        loop {
            let trouble = match self.work().await {
                Ok(()) => return Ok(()),
                Err(Halt::Stopped) => return Err(Error::new(ErrorKind::Stopped, STOPPED)),
                Err(Halt::Failed(e)) => return Err(e),
                Err(Halt::Trouble(e)) if self.may_pass(&e) => e,
                Err(Halt::Trouble(e)) => return Err(failed(e)),
            };
            self.begin_anew();
            if self.wait_after(&trouble).await {
                return Err(Error::new(ErrorKind::Stopped, STOPPED));
            }
        }
    }

    async fn work(&mut self) -> Result<(), Halt> {
        self.settle().await?;
        loop {
            let wish = *self.wish.borrow_and_update();
            if wish == Wish::Stop {
                return self.publish().await;
            }
            let mut moved = false;
            for input in 0..self.inputs.len() {
                for partition in 0..self.inputs[input].offsets.len() {
                    moved |= self.advance(input, partition as u32).await?;
                    if *self.wish.borrow() == Wish::Stop {
                        return self.publish().await;
                    }
                }
            }
            let due = matches!(&self.sink, AnySink::Staged(sink) if sink.due(self.context.clock.now_us()));
            if due || (!moved && wish == Wish::Drain) {
                self.publish().await?;
            }
            if !moved {
                self.wait().await?;
            }
        }
    }

    /// Delivers what there is in one partition, up to one read; false where there is nothing.
    async fn advance(&mut self, input: usize, partition: u32) -> Result<bool, Halt> {
        let Input { stream, offsets, readers, .. } = &mut self.inputs[input];
        let (offset, reader) = (&mut offsets[partition as usize], &mut readers[partition as usize]);
        if stream.log.end_offset(partition) <= *offset {
            return Ok(false);
        }
        let stream = stream.clone();
        reader.seek(*offset);
        let batches = reader.read(READ_BYTES).await?;
        if batches.is_empty() {
            // Behind control chunks, of which nothing is delivered.
            *offset = reader.position();
        }
        let batches = join_small(batches, &self.spec.schema)?;
        self.deliver_all(&stream, input, batches).await?;
        Ok(true)
    }

    async fn deliver_all(&mut self, stream: &Stream, input: usize, batches: Vec<StreamBatch>) -> Result<(), Halt> {
        for batch in batches {
            let (partition, end) = (batch.partition, batch.end_offset());
            let ours = batch.target.as_ref().is_none_or(|target| target.component == self.target);
            if ours {
                self.deliver(stream, input, batch).await?;
            }
            self.inputs[input].offsets[partition as usize] = end;
            self.commit_direct()?;
            let due = matches!(&self.sink, AnySink::Staged(sink) if sink.due(self.context.clock.now_us()));
            if due {
                self.publish().await?;
            }
            if *self.wish.borrow() == Wish::Stop {
                break;
            }
        }
        Ok(())
    }

    /// Delivers a batch in pieces. All but the last, which is the caller's, are committed one by one: a run that is killed
    /// again and again must get on all the same.
    async fn deliver(&mut self, stream: &Stream, input: usize, batch: StreamBatch) -> Result<(), Halt> {
        let batch = batch.conform(&self.spec.schema)?;
        let mut start = 0;
        while start < batch.batch.num_rows() {
            let rows = (batch.batch.num_rows() - start).min(DELIVER_ROWS);
            let first = batch.base_offset + start as u64;
            let out = SinkBatch {
                folder: self.context.folder.clone(),
                stream: stream.name().clone(),
                partition: batch.partition,
                offsets: (first..first + rows as u64).collect(),
                batch: batch.batch.slice(start, rows),
            };
            let failures = self.hand_over(&out).await?;
            let piece = batch.clone().before_offset(first + rows as u64).map(|piece| piece.from_offset(first));
            self.put_aside(stream, &out, piece.as_ref(), &failures).await?;
            let sent = rows - failures.len();
            match &mut self.staged_rows {
                // Counted when they are published: what is discarded comes again.
                Some(staged) => *staged += sent,
                None => self.context.metrics.sent("sink", &self.spec.name, sent),
            }
            let seconds = (self.context.clock.now_us() - batch.newest_us()) as f64 / 1e6;
            self.context.metrics.latency(&self.spec.name, seconds.max(0.0));
            start += rows;
            if start < batch.batch.num_rows() {
                self.inputs[input].offsets[batch.partition as usize] = first + rows as u64;
                self.commit_direct()?;
            }
        }
        Ok(())
    }

    /// Gives rows to the sink until it has taken them.
    ///
    /// # Errors
    /// [`Halt::Stopped`] where the pipeline stops before that, [`Halt::Trouble`] where a staged sink has to begin anew.
    async fn hand_over(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>, Halt> {
        self.context.metrics.received("sink", &self.spec.name, batch.batch.num_rows());
        loop {
            let is_staged = matches!(self.sink, AnySink::Staged(_));
            let (sink, staged) = (&mut self.sink, &mut self.staged_rows);
            let delivering = async {
                match sink {
                    AnySink::Direct(sink) => sink.deliver(batch).await,
                    AnySink::Staged(sink) => {
                        staged.get_or_insert(0);
                        sink.stage(batch).await
                    }
                }
            };
            let delivered = tokio::select! {
                delivered = delivering => delivered,
                () = self.context.hurry.sinks.cancelled() => return Err(Halt::Stopped),
            };
            match delivered {
                Ok(failures) => {
                    self.works();
                    return Ok(failures);
                }
                // It has to begin anew.
                Err(e) if is_staged => return Err(Halt::Trouble(e)),
                Err(e) if self.may_pass(&e) => {
                    if self.wait_after(&e).await {
                        return Err(Halt::Stopped);
                    }
                }
                Err(e) => return Err(Halt::Trouble(e)),
            }
        }
    }

    async fn put_aside(
        &mut self,
        stream: &Stream,
        batch: &SinkBatch,
        piece: Option<&StreamBatch>,
        failures: &[RowFailure],
    ) -> Result<()> {
        let (Some(first), Some(piece)) = (failures.first(), piece) else { return Ok(()) };
        let (name, metrics) = (&self.spec.name, &self.context.metrics);
        let count = |fate| metrics.failed("sink", Stage::Deliver, name, failures, fate);
        match self.spec.on_error {
            OnError::Fail => Err(Error::input(format!(
                "sink {name} refused {}: {} (on_error: fail)",
                batch.id(first.row as usize),
                first.failure.message
            ))),
            OnError::Skip => {
                count(Fate::Skipped);
                Ok(())
            }
            OnError::DeadLetter | OnError::Default => {
                count(Fate::DeadLetter);
                let reject = Reject {
                    component: name,
                    component_kind: "sink",
                    on_error: self.spec.on_error,
                    stream: stream.name(),
                    input: piece,
                    now_us: self.context.clock.now_us(),
                    pipeline_version: &self.context.pipeline_version,
                };
                let rows = Rows::all(piece.batch.clone());
                let letters = reject.letters(&FailedRows::of(Stage::Deliver, &rows, failures))?;
                let chunks = stream.dead_letters_chunk(&letters)?.into_iter().collect();
                let append = Append { producer: self.target.clone(), sequence: None, cursor: Vec::new(), chunks };
                stream.log.append(append).await.map(drop)
            }
        }
    }

    fn commit_direct(&mut self) -> Result<()> {
        match self.sink {
            AnySink::Direct(_) => self.commit(None),
            // Committed when published.
            AnySink::Staged(_) => Ok(()),
        }
    }

    /// Seals, commits offsets and token together, publishes.
    async fn publish(&mut self) -> Result<(), Halt> {
        let AnySink::Staged(sink) = &mut self.sink else {
            self.commit(None)?;
            return Ok(());
        };
        let sealed = sink.seal(self.context.clock.now_us()).await.map_err(Halt::Trouble)?;
        self.commit(sealed.clone())?;
        let rows = self.staged_rows.take().unwrap_or(0);
        self.sealed = sealed;
        while let Some(token) = self.sealed.clone() {
            let AnySink::Staged(sink) = &mut self.sink else { break };
            // Once the token is stored the output must appear, however often it takes.
            match sink.publish(token).await {
                Ok(()) => self.sealed = None,
                Err(e) if self.may_pass(&e) => {
                    if self.wait_after(&e).await {
                        return Err(Halt::Stopped);
                    }
                    continue;
                }
                Err(e) => return Err(Halt::Trouble(e)),
            }
            self.is_troubled = false;
            self.works();
        }
        self.context.metrics.sent("sink", &self.spec.name, rows);
        self.report();
        Ok(())
    }

    fn commit(&mut self, token: Option<Bytes>) -> Result<()> {
        let offsets = self.inputs.iter().map(|i| (i.stream.name().to_string(), i.offsets.clone())).collect();
        let committed = Committed { offsets, token: token.map(|t| t.to_vec()) };
        let bytes = serde_json::to_vec(&committed).map_err(|e| Error::bug(e.to_string()))?;
        self.checkpoint.store(&bytes).map_err(|e| e.context(format!("commit sink {}", self.spec.name)))?;
        self.inputs.iter_mut().for_each(|input| input.committed.clone_from(&input.offsets));
        if matches!(self.sink, AnySink::Direct(_)) {
            self.report();
        }
        Ok(())
    }

    fn report(&self) {
        for input in &self.inputs {
            for (partition, &offset) in input.offsets.iter().enumerate() {
                self.context.progress.advance(&input.position, partition as u32, offset);
                self.context.metrics.committed(&self.target, partition as u32, offset);
            }
        }
    }

    /// Waits for more to deliver, for a wish, or for a staged output to become due.
    async fn wait(&mut self) -> Result<()> {
        let more = self.inputs.iter().flat_map(|input| {
            let changed = |(p, &offset): (usize, &u64)| input.stream.log.changed(p as u32, offset).boxed();
            input.offsets.iter().enumerate().map(changed)
        });
        let more: Vec<_> = more.collect();
        let timer = if self.staged_rows.is_some() { DUE_EVERY } else { Duration::from_secs(3600) };
        tokio::select! {
            (changed, _, _) = select_all(more) => changed,
            _ = self.wish.changed() => Ok(()),
            () = tokio::time::sleep(timer) => Ok(()),
        }
    }
}

/// Small neighbours as one batch, so that a system is asked once for many rows. Redriven rows stay alone: their schema is
/// that of the step they are for.
fn join_small(batches: Vec<StreamBatch>, schema: &SchemaRef) -> Result<Vec<StreamBatch>> {
    let mut groups: Vec<Vec<StreamBatch>> = Vec::new();
    let mut rows = 0;
    for batch in batches {
        let batch = if batch.target.is_none() { batch.conform(schema)? } else { batch };
        rows += batch.batch.num_rows();
        match groups.last_mut() {
            Some(group) if rows <= DELIVER_ROWS && batch.target.is_none() && group[0].target.is_none() => {
                group.push(batch)
            }
            _ => {
                rows = batch.batch.num_rows();
                groups.push(vec![batch]);
            }
        }
    }
    groups.into_iter().map(StreamBatch::join).collect()
}

/// What [`Deliver::run`] fails with when it is stopped while its system is away; not an error of the pipeline.
pub const STOPPED: &str = "stopped while the sink was not available";
