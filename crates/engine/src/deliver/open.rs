//! Opening a sink: what its last run has left, and where it begins in streams that are new to it.

use std::sync::Arc;

use millstream_core::{AnySink, Error, Result};
use millstream_storage::state::State;
use tokio::sync::watch;
use tokio::time::Instant;

use super::commit::{Ledger, Pending};
use super::input::Input;
use super::trouble::RETRY_PAUSE;
use super::{Deliver, Wish, sink_target};
use crate::health::ComponentKind;
use crate::heard::Heard;
use crate::progress::ReaderProgress;
use crate::reopen::{Reader, ReaderKind, Reopened, reopen};
use crate::spec::{SinkSpec, Start};
use crate::streams::Stream;
use crate::task::TaskContext;

/// How a sink is opened.
pub struct Opening {
    /// Its state.
    pub state: State,
    /// Its positions, in the order of its inputs.
    pub positions: Vec<Arc<ReaderProgress>>,
    /// The data folder has had a sink of this name before.
    pub is_known: bool,
}

/// What was found in the logs and the state of a sink.
struct Found {
    inputs: Vec<Input>,
    /// Where it begins in streams that are new to it.
    begins: Vec<(Arc<str>, Vec<u64>)>,
    /// Retention has removed records that it has not read.
    has_missed: bool,
}

impl Deliver {
    /// Opens the sink's place: reads its last commit and appends whatever that still owes.
    ///
    /// # Errors
    /// A state that does not belong to its logs is `Corruption`: one of them was replaced.
    pub async fn open(
        context: TaskContext,
        spec: Arc<SinkSpec>,
        sink: AnySink,
        opening: Opening,
        wish: watch::Receiver<Wish>,
    ) -> Result<Self> {
        let Opening { state, positions, is_known } = opening;
        let producer = sink_target(&spec.name);
        let reader = Reader { kind: ReaderKind::Sink, id: &spec.name, producer: &producer };
        let reopened = reopen(reader, &state, &context.streams).await?;
        let is_lost = reopened.is_lost() || (reopened.is_fresh && is_known);
        if is_lost {
            tracing::warn!(
                "sink {} has no state: it begins with the oldest record of its streams, and delivers again what it has \
                 delivered",
                spec.name
            );
        }
        let start = if is_lost { Start::Earliest } else { spec.start };
        let Found { inputs, begins, has_missed } =
            find_inputs(&context, (reader, &reopened), &spec.from, positions, start)?;
        let sealed = reopened.commit.token.clone();
        let ledger = Ledger {
            name: spec.name.clone(),
            producer,
            on_error: spec.on_error,
            state,
            inputs,
            sequence: reopened.commit.sequence,
            has_token: sealed.is_some(),
            pending: Pending::default(),
            due_at: Instant::now(),
            context: context.clone(),
        };
        let mut deliver = Self {
            part: context.health.of(ComponentKind::Sink, &spec.name, &context.clock).part(),
            is_unsettled: matches!(sink, AnySink::Staged(_)),
            sealed,
            context,
            spec,
            sink,
            ledger,
            wish,
            pause: RETRY_PAUSE.0,
            has_worked: false,
            is_troubled: false,
            staged_rows: None,
        };
        if has_missed || !begins.is_empty() {
            // At once: what has begun has begun, also where this run ends before the first delivery.
            deliver.ledger.begin(deliver.sealed.clone()).await?;
        }
        if !is_lost {
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
                "`{sink}` begins at {plural} {offsets} of `{name}`; what is older is not sent (`start: earliest` in a \
                 sink that is new sends it)"
            );
        }
    }
}

fn find_inputs(
    context: &TaskContext,
    (reader, reopened): (Reader<'_>, &Reopened),
    from: &[Arc<str>],
    positions: Vec<Arc<ReaderProgress>>,
    start: Start,
) -> Result<Found> {
    let mut found = Found { inputs: Vec::new(), begins: Vec::new(), has_missed: false };
    for (name, position) in from.iter().zip(positions) {
        let stream = context.streams.get(name).ok_or_else(|| Error::bug(format!("no stream {name}")))?.clone();
        let partitions = 0..stream.plan.partitions;
        let stored = |partition| reopened.commit.next_offset(name, partition);
        let offsets: Vec<u64> = if partitions.clone().any(|partition| stored(partition).is_some()) {
            // A partition that was added meanwhile begins with its first record.
            let goes_on = |p: u32| reader.goes_on_at(stored(p).unwrap_or(0), &stream, p, &context.metrics);
            let offsets: Vec<u64> = partitions.map(goes_on).collect();
            found.has_missed |= (0..).zip(&offsets).any(|(p, at)| stored(p).unwrap_or(0) < *at);
            offsets
        } else {
            let offsets: Vec<u64> = partitions.map(|p| begins_at(&stream, p, start)).collect();
            found.begins.push((name.clone(), offsets.clone()));
            offsets
        };
        for (partition, &offset) in (0..).zip(&offsets) {
            context.progress.advance(&position, partition, offset);
        }
        let readers = (0..).zip(&offsets).map(|(partition, &offset)| stream.reader(partition, offset));
        let readers = readers.collect::<Result<_>>()?;
        let heard = |partition: u32| reopened.commit.offset(name, partition).map(|at| at.heard.clone());
        let heard: Vec<Heard> = (0..stream.plan.partitions).map(|p| heard(p).unwrap_or_default()).collect();
        let (committed, committed_heard) = (offsets.clone(), heard.clone());
        found.inputs.push(Input { stream, readers, offsets, committed, heard, committed_heard, position });
    }
    Ok(found)
}

fn begins_at(stream: &Stream, partition: u32, start: Start) -> u64 {
    match start {
        Start::Latest => stream.log.end_offset(partition),
        Start::Earliest => stream.log.start_offset(partition),
    }
}
