//! Damage: every byte of a small log is flipped, segments and indexes vanish, and newer versions are met.

use super::*;

/// A log of several segments, closed, and what it holds.
async fn sample() -> (FaultyDisk, [Vec<LogChunk>; 3]) {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(2)).unwrap();
    for i in 0..7_u8 {
        let mut append = append("task", u64::from(i), vec![chunk(u32::from(i % 2), 2, vec![i; 101])]);
        append.cursor = vec![("at".into(), Some(vec![i].into()))];
        append.chunks[0].target = Some("step".into());
        append.chunks[0].event_time_max_us = Some(5);
        append.chunks[0].watermark = Some(Watermark::At(4));
        append.chunks.push(Chunk::control(u32::from(i % 2), [Watermark::At(6), Watermark::End][usize::from(i % 2)]));
        if i % 3 == 0 {
            append.chunks.push(chunk(DEAD_LETTERS, 1, vec![i; 20]));
        }
        log.append(append).await.unwrap();
    }
    log.close().await.unwrap();
    let all = [0, 1, DEAD_LETTERS].map(|p| read_all(&log, p).unwrap());
    (disk, all)
}

fn files(disk: &FaultyDisk) -> Vec<String> {
    disk.list(Path::new(DIR)).unwrap()
}

/// Checks what can be read of a log whose file `name` was damaged; true where nothing at all was noticed.
fn check(log: Result<DiskLog>, name: &str, is_last: bool, all: &[Vec<LogChunk>; 3]) -> bool {
    let log = match log {
        Ok(log) => log,
        Err(error) => {
            let text = error.to_string();
            let base = name.split('.').next().unwrap();
            assert!(text.contains(base), "{text}");
            assert!(text.contains("byte") || text.contains("log format"), "{text}");
            return false;
        }
    };
    let mut whole = true;
    for (partition, all) in [0, 1, DEAD_LETTERS].into_iter().zip(all) {
        let mut reader = log.reader(partition, 0).unwrap();
        let mut found = Vec::new();
        loop {
            match reader.read(1) {
                Ok(chunks) if chunks.is_empty() => {
                    assert!(found.len() == all.len() || is_last, "lost in silence: {name}");
                    break;
                }
                Ok(chunks) => found.extend(chunks),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corruption);
                    assert!(error.to_string().contains(name) && error.to_string().contains("byte"), "{error}");
                    break;
                }
            }
        }
        assert_eq!(found, all[..found.len()], "never wrong data");
        whole &= found.len() == all.len();
    }
    // What was cut off is cut off for the producer too.
    let sequence = log.producer("task").unwrap().sequence.unwrap();
    assert_eq!(&log.producer("task").unwrap().cursor["at"][..], [sequence as u8]);
    assert!(sequence == 6 || is_last && sequence == 5, "{sequence}");
    whole
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_an_error_or_the_cut_off_tail_but_never_wrong_data() {
    let (disk, all) = sample().await;
    let names = files(&disk);
    let last = names.iter().rfind(|n| n.ends_with(".seg")).unwrap();
    assert!(names.iter().filter(|n| n.ends_with(".seg")).count() >= 3, "{names:?}");
    for name in &names {
        let path = Path::new(DIR).join(name);
        let (mut noticed, mut position) = (0, 0);
        loop {
            let damaged = disk.copy();
            if !damaged.flip(&path, position, 1 << (position % 8)) {
                break;
            }
            let at_rest = DiskLog::open_read_only(Arc::new(damaged.clone()), Path::new(DIR), "wire");
            check(at_rest, name, name == last, &all);
            let whole = check(open(&damaged, small_segments(2)), name, name == last, &all);
            noticed += u64::from(!whole);
            position += 1;
        }
        assert!(position > 20);
        if name.ends_with(".seg") {
            // Not looked at in a sealed segment: padding, and the snapshot, which the newest segment's replaces.
            let bytes = millstream_core::disk::read_all(&disk, &path).unwrap();
            let snapshot_len = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
            let unread = if name == last { 0 } else { snapshot_len + 3 * 8 };
            assert!(noticed + unread >= position, "{name}: {noticed} of {position}");
        }
    }
}

#[tokio::test]
async fn a_damaged_or_missing_index_is_made_again() {
    let (disk, all) = sample().await;
    let before = files(&disk);
    let indexes: Vec<_> = before.iter().filter(|n| n.ends_with(".idx")).map(|n| Path::new(DIR).join(n)).collect();
    disk.remove(&indexes[0]).unwrap();
    disk.flip(&indexes[1], 30, 1);
    let stored =
        |disk: &FaultyDisk| indexes.iter().map(|i| millstream_core::disk::read_all(disk, i).unwrap()).collect();
    let log = open(&disk, small_segments(2)).unwrap();
    assert_eq!([0, 1, DEAD_LETTERS].map(|p| read_all(&log, p).unwrap()), all);
    log.close().await.unwrap();
    let again: Vec<Vec<u8>> = stored(&disk);
    assert_eq!(again, stored(&sample().await.0));
    assert_eq!(files(&disk), before);
}

#[tokio::test]
async fn a_missing_or_shortened_segment_is_an_error_that_names_it() {
    let (disk, _) = sample().await;
    let segments: Vec<_> = files(&disk).into_iter().filter(|n| n.ends_with(".seg")).collect();
    let path = Path::new(DIR).join(&segments[1]);
    let gap = disk.copy();
    gap.remove(&path).unwrap();
    let error = open(&gap, small_segments(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.to_string().contains("a segment is missing"), "{error}");
    let file = disk.open(&path, millstream_core::disk::OpenMode::Write).unwrap();
    file.truncate(file.file_len().unwrap() - 8).unwrap();
    let error = open(&disk, small_segments(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.to_string().contains(&segments[1]), "{error}");
}

#[tokio::test]
async fn another_format_is_named_and_left_alone() {
    for (version, says) in [(4, "written by a newer version of Millstream"), (2, "before the first release")] {
        is_left_alone(version, says).await;
    }
}

async fn is_left_alone(version: u8, says: &str) {
    let (disk, _) = sample().await;
    let format = Path::new(DIR).join("format");
    assert!(disk.flip(&format, 22, b'3' ^ (b'0' + version)));
    for attempt in 0..2 {
        if attempt == 1 {
            // Without the file, the frames say it. Their version is checked with the header's CRC.
            disk.remove(&format).unwrap();
            let last = files(&disk).into_iter().rfind(|n| n.ends_with(".seg")).unwrap();
            let file = disk.open(&Path::new(DIR).join(last), millstream_core::disk::OpenMode::Write).unwrap();
            let mut header = [0; 64];
            file.read_exact_at(&mut header, 0).unwrap();
            header[4] = version;
            let crc = crc32c::crc32c(&header[..60]).to_le_bytes();
            header[60..].copy_from_slice(&crc);
            file.write_all_at(&header, 0).unwrap();
        }
        let (before, steps) = (files(&disk), disk.steps());
        let error = open(&disk, small_segments(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Environment);
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(files(&disk).len(), before.len() + attempt, "only the `format` file may come back");
        assert!(attempt == 1 || disk.steps() <= steps + 1, "at most a sync of the parent folder");
    }
}

#[tokio::test]
async fn a_frame_inside_a_torn_payload_is_not_taken_for_a_frame_of_the_log() {
    let (disk, _) = sample().await;
    let last = files(&disk).into_iter().rfind(|n| n.ends_with(".seg")).unwrap();
    // Records that are themselves a segment of a log, with frames far ahead of ours.
    let segment = millstream_core::disk::read_all(&disk, &Path::new(DIR).join(last)).unwrap();
    for cut in [64, 300, 1000] {
        let disk = FaultyDisk::new();
        let log = open(&disk, LogOptions::new(1)).unwrap();
        log.append(append("task", 1, vec![chunk(0, 1, "kept")])).await.unwrap();
        disk.fail_at(disk.steps(), Fault::Torn(cut));
        assert!(log.append(append("task", 2, vec![chunk(0, 1, segment.repeat(4))])).await.is_err());
        drop(log);
        let log = open(&disk, LogOptions::new(1)).unwrap();
        assert_eq!(read_all(&log, 0).unwrap().len(), 1);
    }
}
