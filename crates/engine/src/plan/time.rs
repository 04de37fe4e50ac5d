//! Who has to know how far event time is, and who says so: only what leads to an operator that waits for it pays for
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{StagePlan, StreamKind, StreamPlan, Writer};
use crate::spec::TransformKind;

/// Marks the streams that keep time, and names whom each stage waits for. `stages` are upstream first, `sources` are
/// those that have an event time.
pub(super) fn keep(streams: &mut [StreamPlan], stages: &mut [StagePlan], sources: &BTreeSet<Arc<str>>) {
    let writers = writers(streams, stages, sources);
    let mut wanted: BTreeSet<Arc<str>> = BTreeSet::new();
    for stage in stages.iter_mut().rev() {
        let waits = stage.ops.iter().filter_map(|op| op.step.as_ref()).any(|step| waits(&step.kind));
        if !waits && !stage.streams().any(|stream| wanted.contains(&stream)) {
            continue;
        }
        wanted.insert(stage.input.clone());
        stage.timekeepers = writers.get(&stage.input).cloned().unwrap_or_default();
    }
    for stream in streams {
        stream.keeps_time = wanted.contains(&stream.name) && writers.contains_key(&stream.name);
    }
}

/// True for what does something when event time has passed.
fn waits(kind: &TransformKind) -> bool {
    match kind {
        TransformKind::Dedup(_) => true,
        TransformKind::Sql(_) | TransformKind::Predict(_) => false,
    }
}

/// Who says of each stream how far event time is.
fn writers(
    streams: &[StreamPlan],
    stages: &[StagePlan],
    sources: &BTreeSet<Arc<str>>,
) -> BTreeMap<Arc<str>, Vec<Writer>> {
    let mut writers: BTreeMap<Arc<str>, Vec<Writer>> =
        sources.iter().map(|source| (source.clone(), vec![Writer::Source(source.clone())])).collect();
    let is_keyed =
        |name: &Arc<str>| streams.iter().any(|stream| stream.name == *name && stream.kind == StreamKind::Exchange);
    for stage in stages {
        if !writers.contains_key(&stage.input) {
            continue;
        }
        for stream in stage.streams() {
            let writer = match is_keyed(&stream) {
                true => Writer::Tasks(stage.id.clone(), stage.partitions),
                false => Writer::Task(stage.id.clone()),
            };
            writers.entry(stream).or_default().push(writer);
        }
    }
    writers
}
