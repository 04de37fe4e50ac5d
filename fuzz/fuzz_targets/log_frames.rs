//! Bytes of a log's files. A log opens and reads, or says what is damaged; and what opened can be appended to.

#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_core::disk::{Disk, FaultyDisk, OpenMode, read_all};
use millstream_core::{ManualClock, Result};
use millstream_storage::log::{Append, Chunk, Late, DEAD_LETTERS, Log, LogOptions, Watermark};

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));
const DIR: &str = "/data/wire";

/// The files of a log with some records, as they are on the disk.
static WHOLE: LazyLock<FaultyDisk> = LazyLock::new(|| {
    let disk = FaultyDisk::new();
    let log = open(&disk).expect("a new log");
    for n in 0..6_u64 {
        append(&log, n).expect("an append to a new log");
    }
    disk
});

fn open(disk: &FaultyDisk) -> Result<Log> {
    let options = LogOptions { segment_bytes_max: 500, ..LogOptions::new(2) };
    Log::open(Arc::new(disk.clone()), Path::new(DIR), "wire", options, Arc::new(ManualClock::new(1_000_000)))
}

fn append(log: &Log, n: u64) -> Result<()> {
    let chunk = |partition, payload: &'static str| Chunk {
        partition,
        count: 2,
        event_time_max_us: Some(n as i64),
        watermark: (n % 3 == 1).then_some(Watermark::At(n as i64)),
        late: (0..n as u32 % 3).take(2).map(|row| Late { row, watermark_us: 5 }).collect(),
        target: (n % 2 == 1).then(|| "scored".into()),
        schema: 7,
        payload: Bytes::from_static(payload.as_bytes()),
    };
    let control = Chunk::control(0, Watermark::Idle);
    let chunks = vec![chunk(0, "first"), control, chunk(1, "second, which is longer"), chunk(DEAD_LETTERS, "bad")];
    let cursor = vec![("file".into(), Some(format!("{n}").into()))];
    RUNTIME.block_on(log.append(Append { producer: "file".into(), sequence: None, cursor, chunks })).map(|_| ())
}

// What comes is a list of changes: which file, where, what (five bytes each), or, from an odd first byte on, the whole
// text of the file that the second byte names.
fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = millstream_fuzz::choice(data) else { return };
    let disk = WHOLE.copy();
    let Ok(names) = disk.list(Path::new(DIR)) else { return };
    if choice % 2 == 1 {
        let Some((&which, text)) = rest.split_first() else { return };
        let path = Path::new(DIR).join(&names[usize::from(which) % names.len()]);
        let _ = disk.remove(&path);
        let Ok(file) = disk.open(&path, OpenMode::CreateNew) else { return };
        let _ = file.write_all_at(text, 0);
    } else {
        for change in rest.chunks_exact(5) {
            let path = Path::new(DIR).join(&names[usize::from(change[0]) % names.len()]);
            let length = read_all(&disk, &path).map_or(0, |bytes| bytes.len() as u64).max(1);
            let at = u64::from(u16::from_le_bytes([change[1], change[2]])) % length;
            disk.flip(&path, at, change[3]);
        }
    }
    let Ok(log) = open(&disk) else { return };
    for partition in [0, 1, DEAD_LETTERS] {
        let Ok(mut reader) = log.reader(partition, 0) else { continue };
        let mut next = 0;
        while let Ok(chunks) = reader.blocking_read(1 << 20) {
            let Some(last) = chunks.last() else { break };
            assert!(chunks[0].base_offset >= next, "offsets go up");
            next = last.end_offset();
        }
    }
    let _ = append(&log, 99);
});
