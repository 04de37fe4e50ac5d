//! Control chunks, and what a chunk says of who appended it.

use super::*;

#[tokio::test]
async fn a_reader_at_the_end_is_woken_by_a_control_chunk_and_gets_it_once() {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(1)).unwrap();
    log.append(append("wire", 1, vec![chunk(0, 3, "abc")])).await.unwrap();
    let mut reader = log.reader(0, 3).unwrap();
    assert!(reader.read(100).unwrap().is_empty());
    for (sequence, watermark) in [(2, Watermark::At(-7)), (3, Watermark::Idle), (4, Watermark::End)] {
        let waiting = log.changed(0, reader.position());
        let answer = log.append(append("wire", sequence, vec![Chunk::control(0, watermark)])).await.unwrap();
        waiting.await.unwrap();
        let found = reader.read(100).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].is_control());
        assert_eq!((found[0].base_offset, found[0].watermark), (answer.first_offsets[0], Some(watermark)));
        assert!(reader.read(100).unwrap().is_empty(), "not a second time");
        assert_eq!(reader.position(), log.end_offset(0));
    }
    // The same from the files, whatever the reader begins with.
    log.close().await.unwrap();
    let log = open(&disk, small_segments(1)).unwrap();
    for from in 0..=log.end_offset(0) {
        let offsets: Vec<u64> = read_from(&log, 0, from).unwrap().iter().map(|c| c.base_offset).collect();
        assert_eq!(
            offsets,
            [0, 3, 4, 5].into_iter().filter(|&o| o >= from || (o == 0 && from < 3)).collect::<Vec<_>>()
        );
    }
    assert_eq!(log.append(append("wire", 5, vec![chunk(0, 1, "d")])).await.unwrap().first_offsets, [6]);
}

#[tokio::test]
async fn a_chunk_names_its_producer_sequence_number_and_watermark() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions::new(2)).unwrap();
    let rows = |partition| Chunk { watermark: Some(Watermark::At(40)), ..chunk(partition, 2, "ab") };
    let appends = [
        append("task/0", 7, vec![rows(0), rows(1), Chunk::control(0, Watermark::At(50))]),
        append("wire", None, vec![chunk(1, 1, "c")]),
        append("task/1", 9, vec![]),
        append("task/0", 8, vec![chunk(0, 1, "d")]),
        append("task/0", 8, vec![chunk(0, 1, "a repeat")]),
    ];
    join_all(appends.map(|a| log.append(a))).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    let said = |chunks: Vec<LogChunk>| {
        chunks.into_iter().map(|c| (c.producer.to_string(), c.sequence, c.index, c.watermark)).collect::<Vec<_>>()
    };
    let task = |sequence, index, watermark| ("task/0".to_owned(), Some(sequence), index, watermark);
    for _ in 0..2 {
        let (first, second) = (Some(Watermark::At(40)), Some(Watermark::At(50)));
        assert_eq!(said(read_all(&log, 0).unwrap()), [task(7, 0, first), task(7, 2, second), task(8, 0, None)]);
        assert_eq!(said(read_all(&log, 1).unwrap()), [task(7, 1, first), ("wire".to_owned(), None, 0, None)]);
        log.close().await.unwrap();
        assert_eq!(said(read_all(&open(&disk, LogOptions::new(2)).unwrap(), 0).unwrap()).len(), 3);
    }
    let log = open(&disk, LogOptions::new(2)).unwrap();
    assert_eq!(log.producer("task/1").unwrap().sequence, Some(9));
    assert_eq!(log.producer("wire"), None, "it gave neither sequence nor cursor");
}

#[tokio::test]
async fn what_is_no_chunk_is_refused() {
    let log = open(&FaultyDisk::new(), LogOptions::new(1)).unwrap();
    let control = Chunk::control(0, Watermark::Idle);
    let wrong = [
        chunk(0, 0, "no records"),
        Chunk { watermark: None, ..control.clone() },
        Chunk { partition: DEAD_LETTERS, ..control.clone() },
        Chunk { payload: "x".into(), ..control.clone() },
        Chunk { target: Some("step".into()), ..control.clone() },
        Chunk { watermark: Some(Watermark::Idle), ..chunk(0, 1, "x") },
        Chunk { watermark: Some(Watermark::End), ..chunk(0, 1, "x") },
        Chunk { late: [Late { row: 1, watermark_us: 0 }].into(), ..chunk(0, 1, "x") },
        Chunk { late: [Late { row: 0, watermark_us: 0 }].into(), ..control.clone() },
    ];
    for chunk in wrong {
        let error = log.append(append("wire", None, vec![chunk])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
    assert_eq!(log.end_offset(0), 0);
}
