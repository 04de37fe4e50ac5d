//! Reading all of a log at rest, to say what is damaged in it.

use std::path::Path;
use std::sync::Arc;

use millstream_core::disk::Disk;
use millstream_core::{Error, ErrorKind, Result};

use super::recovery::{check_is_torn, open_read_only, scan, scan_sealed, segments};
use super::segment::{SegmentReader, segment_path};

/// Everything in the log of `dir` that is not what was written: one error of kind `Corruption` for each file, which it
/// names. Every byte is read, nothing is changed; a torn end, which an open cuts off, is none. Blocks.
///
/// # Errors
/// The files can't be read, or are of a newer version.
pub fn damage(disk: &Arc<dyn Disk>, dir: &Path, name: &str) -> Result<Vec<Error>> {
    let mut found = Vec::new();
    let bases = segments(disk.as_ref(), dir)?;
    if bases.is_empty() {
        return Ok(found);
    }
    for (i, &base) in bases.iter().enumerate() {
        let read = if i + 1 < bases.len() {
            scan_sealed(disk.as_ref(), dir, base, None).map(drop)
        } else {
            newest(disk.as_ref(), dir, base)
        };
        keep_damage(read, &mut found)?;
    }
    if found.is_empty() {
        // How the segments follow on each other.
        keep_damage(open_read_only(disk.clone(), dir, name).map(drop), &mut found)?;
    }
    Ok(found)
}

fn newest(disk: &dyn Disk, dir: &Path, base: u64) -> Result<()> {
    let mut segment = SegmentReader::open(disk, segment_path(dir, base), None)?;
    let (scanned, bad) = scan(&mut segment, base)?;
    let group = scanned.map_or(base, |scanned| scanned.index.last_group + 1);
    bad.map_or(Ok(()), |bad| check_is_torn(&mut segment, &bad, group))
}

fn keep_damage(read: Result<()>, found: &mut Vec<Error>) -> Result<()> {
    match read {
        Err(e) if e.kind() == ErrorKind::Corruption => found.push(e),
        read => read?,
    }
    Ok(())
}
