//! Deleting old segments: by age and by size, whole segments only, oldest first, and none that is still to be read.

use std::io;

use millstream_core::{Result, ResultExt};

use super::segment::{index_path, segment_path};
use super::shared::{Segment, Shared, partition_of_slot};

/// What [`super::DiskLog::retain`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetainReport {
    /// Segments deleted.
    pub segments: usize,
    /// Their size, in bytes.
    pub bytes: u64,
    /// True where more was due, but a consumer has not read it yet.
    pub held_back: bool,
}

pub(super) fn retain(shared: &Shared, now_ms: i64, keep_from: &dyn Fn(u32) -> u64) -> Result<RetainReport> {
    if shared.read_only {
        return Err(shared.stopped());
    }
    let mut report = RetainReport::default();
    let keep_from: Vec<u64> = partition_of_slot(shared.partitions).map(keep_from).collect();
    // One at a time, and what could not be deleted the last time goes first: a gap between segments is corruption.
    let mut doomed = shared.doomed.lock();
    loop {
        if doomed.is_empty() {
            match next_due(shared, now_ms, &keep_from) {
                Due::Segment(segment) => doomed.push_back((segment.base_group, segment.len)),
                Due::HeldBack => report.held_back = true,
                Due::None => {}
            }
        }
        let Some(&(base_group, len)) = doomed.front() else { return Ok(report) };
        delete(shared, base_group)
            .doing(|| format!("delete the old segment {}", segment_path(&shared.dir, base_group).display()))?;
        doomed.pop_front();
        report.segments += 1;
        report.bytes += len;
    }
}

enum Due {
    /// Taken out of the list, so that no reader opens it any more.
    Segment(Segment),
    HeldBack,
    None,
}

fn next_due(shared: &Shared, now_ms: i64, keep_from: &[u64]) -> Due {
    let mut state = shared.state.write();
    let bytes = state.bytes();
    let (Some(oldest), Some(next)) = (state.segments.front(), state.segments.get(1)) else { return Due::None };
    let too_old = shared.retention.age_ms.is_some_and(|age| now_ms.saturating_sub(oldest.last_time_ms) > age);
    let too_large = shared.retention.bytes.is_some_and(|limit| bytes > limit);
    if !too_old && !too_large {
        return Due::None;
    }
    let spans = oldest.starts.iter().zip(&next.starts).zip(keep_from);
    if spans.into_iter().any(|((start, end), keep)| start < end && keep < end) {
        return Due::HeldBack;
    }
    state.segments.pop_front().map_or(Due::None, Due::Segment)
}

fn delete(shared: &Shared, base_group: u64) -> io::Result<()> {
    for path in [index_path(&shared.dir, base_group), segment_path(&shared.dir, base_group)] {
        match shared.disk.remove(&path) {
            // An index that was never written, or the second try.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    // Segment by segment: after a crash the ones that are left must still follow on each other.
    shared.disk.sync_dir(&shared.dir)
}
