//! Tests of chunks and batches: which event time they have.

use std::path::Path;

use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use millstream_core::ManualClock;
use millstream_core::disk::FaultyDisk;
use millstream_storage::log::{Append, LogOptions};

use super::*;
use crate::spec::RetentionSpec;

fn rows(times: &[Option<i64>]) -> RecordBatch {
    let times = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
    let ids = Int64Array::from_iter_values(0..times.len() as i64);
    let columns: [(&str, ArrayRef, bool); 2] = [("id", Arc::new(ids), false), ("at", Arc::new(times), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

struct World {
    _folder: tempfile::TempDir,
    stream: Stream,
}

fn world(event_time: Option<usize>, disk: &FaultyDisk) -> World {
    let folder = tempfile::tempdir().unwrap();
    let schemas = SchemaStore::open(folder.path()).unwrap();
    let plan = StreamPlan {
        name: "wire".into(),
        partitions: 1,
        schema: rows(&[]).schema(),
        key: Vec::new(),
        event_time,
        retention: RetentionSpec { time: None, size: None },
        kind: StreamKind::Source,
    };
    let clock = Arc::new(ManualClock::new(9_000_000));
    let log = Log::open(Arc::new(disk.clone()), Path::new("/wire"), "wire", LogOptions::new(1), clock).unwrap();
    World { _folder: folder, stream: Stream::new(plan, log, schemas).unwrap() }
}

async fn read(stream: &Stream) -> Vec<StreamBatch> {
    stream.reader(0, 0).unwrap().read(1 << 20).await.unwrap()
}

#[tokio::test]
async fn a_row_has_its_own_event_time_or_none_and_never_the_present() {
    for event_time in [Some(1), None] {
        let world = world(event_time, &FaultyDisk::new());
        let stream = &world.stream;
        let chunks = stream.chunks(&rows(&[Some(5), None, Some(3)]), 0, None).unwrap();
        assert_eq!(chunks[0].event_time_max_us, event_time.map(|_| 5));
        stream.log.append(Append { producer: "wire".into(), chunks, ..Append::default() }).await.unwrap();
        let batch = read(stream).await.remove(0);
        let times: Vec<_> = (0..4).map(|row| batch.event_time_us(row)).collect();
        assert_eq!(times, if event_time.is_some() { [Some(5), None, Some(3), None] } else { [None; 4] });
        assert_eq!(batch.newest_us(), if event_time.is_some() { 5 } else { 9_000_000 });
        let behind = batch.from_offset(2);
        assert_eq!(behind.event_time_us(0), event_time.map(|_| 3), "cut with its rows");
    }
}
