//! The file source on real files: what it reads, in which order, and that a restart neither loses nor repeats.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use millstream_core::{Cursor, ErrorKind, FailureKind, HumanDuration, RawBatch, Source, SourceBatch, SourceRead};
use proptest::prelude::*;

use super::identity::FileId;
use super::{FileSource, FileSourceConfig, StartAt};
use crate::context::{SourceContext, SourceStatus};
use crate::format::framing::KEPT_BYTES_MAX;
use crate::format::{CsvDialect, Framing};

/// What a pipeline would keep: the records, and the cursor stored with them.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) cursor: Cursor,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) batches: Vec<RawBatch>,
}

impl Stored {
    pub(super) fn store(&mut self, batch: SourceBatch) {
        for (key, value) in batch.cursor {
            match value {
                Some(value) => self.cursor.insert(key, value),
                None => self.cursor.remove(&key),
            };
        }
        self.records.extend((0..batch.raw.len()).map(|i| batch.raw.record(i).to_vec()));
        self.batches.push(batch.raw);
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.records.iter().map(|record| String::from_utf8(record.clone()).unwrap()).collect()
    }

    /// Reads on, behind what is stored, until the source is idle or finished.
    pub(super) async fn read_all(&mut self, config: &FileSourceConfig, framing: Framing) {
        let mut source = open(config, framing, &self.cursor);
        self.drain(&mut source).await;
    }

    pub(super) async fn drain(&mut self, source: &mut FileSource) {
        while let SourceRead::Batch(batch) = source.next().await.unwrap() {
            self.store(batch);
        }
    }
}

pub(super) fn csv() -> Framing {
    Framing::Csv(CsvDialect::default())
}

pub(super) fn open(config: &FileSourceConfig, framing: Framing, cursor: &Cursor) -> FileSource {
    let context = SourceContext { cursor: cursor.clone(), ..SourceContext::new("wire", framing) };
    FileSource::new(&config.checked(Path::new("")).unwrap(), context).unwrap()
}

pub(super) fn bounded(path: &Path) -> FileSourceConfig {
    FileSourceConfig::new(path.to_str().unwrap())
}

pub(super) fn following(path: &Path) -> FileSourceConfig {
    FileSourceConfig { follow: true, poll_interval: HumanDuration(Duration::from_millis(2)), ..bounded(path) }
}

pub(super) fn append(path: &Path, text: impl AsRef<[u8]>) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_ref()).unwrap();
}

pub(super) fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}

#[tokio::test]
async fn a_folder_is_read_by_name_and_a_second_run_reads_only_what_is_new() {
    let (_dir, dir) = folder();
    for (name, text) in [
        ("b.log", "b1\r\n\nb2"),
        ("a.log", "a1\na2\n"),
        (".hidden", "x\n"),
        ("c.tmp", "x\n"),
        ("d.gz", "x\n"),
        ("e.log", ""),
    ] {
        append(&dir.join(name), text);
    }
    fs::create_dir(dir.join("sub")).unwrap();
    let config = FileSourceConfig { ignore: vec!["*.gz".into()], ..bounded(&dir) };
    let mut stored = Stored::default();
    stored.read_all(&config, Framing::Lines).await;
    assert_eq!(stored.lines(), ["a1", "a2", "b1", "b2"]);
    assert_eq!(stored.batches[1].positions, [0, 5]);
    assert!(stored.batches[1].origin.ends_with("b.log"));

    stored.read_all(&config, Framing::Lines).await;
    assert_eq!(stored.records.len(), 4, "nothing is new");

    append(&dir.join("a.log"), "a3\n");
    append(&dir.join("aa.log"), "aa1\n");
    stored.read_all(&config, Framing::Lines).await;
    assert_eq!(stored.lines()[4..], ["a3", "aa1"]);

    let config = bounded(&dir.join("*.gz"));
    stored.read_all(&config, Framing::Lines).await;
    assert_eq!(stored.lines()[6..], ["x"], "a glob");
}

#[tokio::test]
async fn a_missing_path_is_an_error_when_bounded_and_waited_for_when_following() {
    let (_dir, dir) = folder();
    let path = dir.join("wire.jsonl");
    let error = open(&bounded(&path), Framing::Lines, &Cursor::new()).next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("wire.jsonl"), "{error}");

    let mut stored = Stored::default();
    let mut source = open(&following(&path), Framing::Lines, &Cursor::new());
    stored.drain(&mut source).await;
    append(&path, "1\n");
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["1"]);
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_an_error_of_the_environment() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, dir) = folder();
    let path = dir.join("secret.log");
    append(&path, "1\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    let error = open(&bounded(&path), Framing::Lines, &Cursor::new()).next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("secret.log"), "{error}");
}

#[tokio::test]
async fn a_restart_behind_any_batch_neither_loses_nor_repeats() {
    let (_dir, dir) = folder();
    let mut expected = Vec::new();
    for (file, lines, padding) in [("a", 20_000, 3), ("b", 3_000, 1_000), ("c", 3, 0)] {
        let mut text = String::new();
        for i in 0..lines {
            let line = format!("{file}{i} {}", "-".repeat(i % (padding + 1)));
            text += &line;
            text += "\n";
            expected.push(line);
        }
        append(&dir.join(file), text);
    }
    let config = bounded(&dir);
    let mut stored = Stored::default();
    loop {
        // A new source for each batch; the one it reads ahead is thrown away.
        let mut source = open(&config, Framing::Lines, &stored.cursor);
        match source.next().await.unwrap() {
            SourceRead::Batch(batch) => {
                assert!(batch.raw.len() <= 8192 && batch.raw.data.len() <= 1 << 20);
                stored.store(batch);
            }
            SourceRead::Finished => break,
            SourceRead::Idle => unreachable!("a bounded source is never idle"),
        }
    }
    assert!(stored.batches.len() > 5, "{}", stored.batches.len());
    assert!(stored.lines() == expected);
    for batch in &stored.batches {
        let text = fs::read(&*batch.origin).unwrap();
        for i in 0..batch.len() {
            assert!(
                text[batch.positions[i] as usize..].starts_with(batch.record(i)),
                "the position is the offset in the file"
            );
        }
    }
}

#[tokio::test]
async fn a_dropped_call_loses_no_record() {
    let (_dir, dir) = folder();
    let path = dir.join("wire");
    let lines: Vec<String> = (0..30_000).map(|i| i.to_string()).collect();
    append(&path, lines.join("\n"));
    let mut stored = Stored::default();
    let mut source = open(&bounded(&path), Framing::Lines, &Cursor::new());
    loop {
        match source.next().now_or_never() {
            None => tokio::task::yield_now().await,
            Some(Ok(SourceRead::Batch(batch))) => stored.store(batch),
            Some(Ok(SourceRead::Finished)) => break,
            Some(other) => panic!("{other:?}"),
        }
    }
    assert!(stored.lines() == lines);
}

#[tokio::test]
async fn a_line_that_is_too_large_is_refused_with_its_beginning_and_its_neighbours_pass() {
    let (_dir, dir) = folder();
    let path = dir.join("wire");
    let huge = 40 << 20;
    append(&path, "before\n");
    append(&path, vec![b'x'; huge]);
    append(&path, "\nafter\n");
    for config in [bounded(&path), following(&path)] {
        let mut stored = Stored::default();
        stored.read_all(&config, Framing::Lines).await;
        assert_eq!(stored.records.iter().map(Vec::len).collect::<Vec<_>>(), [6, KEPT_BYTES_MAX, 5]);
        assert!(stored.batches.iter().all(|batch| batch.data.len() <= KEPT_BYTES_MAX), "no batch holds the whole line");
        let refused: Vec<_> = stored.batches.iter().flat_map(|batch| &batch.refused).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].failure.kind, FailureKind::TooLarge);
        assert!(refused[0].failure.message.contains(&huge.to_string()), "{}", refused[0].failure.message);
    }
}

#[tokio::test]
async fn a_line_that_is_too_large_and_still_being_written_is_refused_once() {
    let (_dir, dir) = folder();
    let path = dir.join("wire");
    let config = FileSourceConfig { max_record: millstream_core::ByteSize(1000), ..following(&path) };
    let mut stored = Stored::default();
    let mut source = open(&config, Framing::Lines, &Cursor::new());
    for piece in [&"y".repeat(900), &"y".repeat(900), &"y".repeat(2 << 20), "y\r\nafter\n"] {
        append(&path, piece);
        stored.drain(&mut source).await;
    }
    assert_eq!(stored.records.iter().map(Vec::len).collect::<Vec<_>>(), [KEPT_BYTES_MAX, 5]);
    append(&path, format!("{}\r\n{}\n", "z".repeat(1000), "z".repeat(1001)));
    stored.drain(&mut source).await;
    assert_eq!(stored.batches.iter().map(|batch| batch.refused.len()).sum::<usize>(), 2);
    assert_eq!(stored.records[2].len(), 1000);
}

#[tokio::test]
async fn quoted_line_ends_across_buffer_borders_do_not_cut_csv_rows() {
    let (_dir, dir) = folder();
    let path = dir.join("rows.csv");
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(["id", "text"]).unwrap();
    let rows: Vec<[String; 2]> = (0..4000_usize)
        .map(|i| [i.to_string(), format!("a \"quoted\"\n{}\r\n, {}", "x".repeat(i * 7 % 2000), "\"\n".repeat(i % 9))])
        .collect();
    rows.iter().for_each(|row| writer.write_record(row).unwrap());
    fs::write(&path, [b"\xef\xbb\xbf".as_slice(), &writer.into_inner().unwrap()].concat()).unwrap();

    let mut stored = Stored::default();
    loop {
        let mut source = open(&bounded(&path), csv(), &stored.cursor);
        let SourceRead::Batch(batch) = source.next().await.unwrap() else { break };
        assert_eq!(batch.raw.header.as_deref(), Some(b"id,text".as_slice()), "behind a restart too");
        stored.store(batch);
    }
    assert!(stored.batches.len() > 3);
    let read: Vec<[String; 2]> = stored
        .records
        .iter()
        .map(|record| {
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(record.as_slice());
            reader.deserialize().next().unwrap().unwrap()
        })
        .collect();
    assert!(read == rows);
}

#[tokio::test]
async fn every_real_csv_file_gives_the_rows_that_the_csv_library_finds() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/sentiment");
    if !data.exists() {
        eprintln!("skipped: {} is not there", data.display());
        return;
    }
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "csv") {
            continue;
        }
        let expected = csv::ReaderBuilder::new().flexible(true).from_path(&path).unwrap().byte_records().count();
        let mut stored = Stored::default();
        stored.read_all(&bounded(&path), csv()).await;
        assert_eq!(stored.records.len(), expected, "{}", path.display());
    }
}

#[tokio::test]
async fn a_whole_file_is_one_record_and_is_read_again_only_when_its_content_changes() {
    let (_dir, dir) = folder();
    append(&dir.join("a.xml"), "<a>\n</a>\n");
    append(&dir.join("b.xml"), "");
    append(&dir.join("c.xml"), vec![b'x'; 101]);
    let config = FileSourceConfig { max_record: millstream_core::ByteSize(100), ..bounded(&dir) };
    let mut stored = Stored::default();
    stored.read_all(&config, Framing::Whole).await;
    assert_eq!(stored.lines()[..2], ["<a>\n</a>\n", ""]);
    assert_eq!(stored.batches[2].refused[0].failure.kind, FailureKind::TooLarge);

    fs::write(dir.join("a.xml"), "<a>\n</a>\n").unwrap();
    stored.read_all(&config, Framing::Whole).await;
    assert_eq!(stored.records.len(), 3, "touched, but the same");

    fs::write(dir.join("a.xml"), "<a>!</a>\n").unwrap();
    append(&dir.join("d.xml"), "<d/>");
    stored.read_all(&config, Framing::Whole).await;
    assert_eq!(stored.lines()[3..], ["<a>!</a>\n", "<d/>"]);
}

#[tokio::test]
async fn a_whole_file_that_is_being_written_is_read_when_it_is_complete() {
    let (_dir, dir) = folder();
    let mut source = open(&following(&dir), Framing::Whole, &Cursor::new());
    let mut stored = Stored::default();
    assert!(matches!(source.next().await.unwrap(), SourceRead::Idle));
    // Whatever moment the source looks at, it sees two different sizes as long as this goes on.
    let path = dir.join("a.xml");
    for _ in 0..50 {
        append(&path, "<a/>");
        assert!(source.next().now_or_never().is_none_or(|read| !matches!(read, Ok(SourceRead::Batch(_)))));
        tokio::task::yield_now().await;
    }
    stored.drain(&mut source).await;
    stored.drain(&mut source).await;
    assert_eq!(stored.lines().last().map(String::as_str), Some("<a/>".repeat(50).as_str()));
}

#[tokio::test]
async fn start_at_the_end_passes_over_what_is_there_but_not_over_what_comes_while_stopped() {
    let (_dir, dir) = folder();
    append(&dir.join("a.log"), "old\nhal");
    let config = FileSourceConfig { start: StartAt::End, ..following(&dir) };
    let mut stored = Stored::default();
    stored.read_all(&config, Framing::Lines).await;
    assert!(stored.records.is_empty());
    append(&dir.join("a.log"), "f\n");
    append(&dir.join("b.log"), "new\n");
    stored.read_all(&config, Framing::Lines).await;
    assert_eq!(stored.lines(), ["half", "new"]);
}

#[tokio::test]
async fn a_renamed_log_is_read_to_its_end_before_the_one_that_took_its_name() {
    let (_dir, dir) = folder();
    let path = dir.join("app.log");
    let mut stored = Stored::default();
    append(&path, "1\n");
    let mut source = open(&following(&path), Framing::Lines, &Cursor::new());
    stored.drain(&mut source).await;
    append(&path, "2\n");
    fs::rename(&path, dir.join("app.log.1")).unwrap();
    append(&path, "4\n");
    append(&dir.join("app.log.1"), "3 without a line end");
    stored.drain(&mut source).await;
    for _ in 0..12 {
        stored.drain(&mut source).await;
    }
    let mut lines = stored.lines();
    assert_eq!(lines[..2], ["1", "2"]);
    lines.sort();
    assert_eq!(lines, ["1", "2", "3 without a line end", "4"]);
    assert_eq!(stored.cursor.len(), 1, "the old file is forgotten: {:?}", stored.cursor);
}

#[tokio::test]
async fn a_log_renamed_between_two_runs_is_read_to_its_end() {
    let (_dir, dir) = folder();
    let path = dir.join("app.log");
    let mut stored = Stored::default();
    append(&path, "1\n");
    stored.read_all(&following(&path), Framing::Lines).await;
    append(&path, "2\n");
    fs::rename(&path, dir.join("app.log.1")).unwrap();
    append(&path, "3\n");
    stored.read_all(&following(&path), Framing::Lines).await;
    assert_eq!(stored.lines(), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_file_that_is_deleted_is_read_to_its_end_and_forgotten() {
    let (_dir, dir) = folder();
    let path = dir.join("app.log");
    let mut stored = Stored::default();
    append(&path, "1\n");
    let mut source = open(&following(&dir), Framing::Lines, &Cursor::new());
    stored.drain(&mut source).await;
    append(&path, "2\n3 without a line end");
    fs::remove_file(&path).unwrap();
    for _ in 0..12 {
        stored.drain(&mut source).await;
    }
    assert_eq!(stored.lines(), ["1", "2", "3 without a line end"]);
    assert!(stored.cursor.is_empty(), "{:?}", stored.cursor);
    append(&path, "a new file\n");
    stored.drain(&mut source).await;
    assert_eq!(stored.lines()[3..], ["a new file"]);
}

#[tokio::test]
async fn a_file_that_is_cut_or_rewritten_is_read_from_its_beginning() {
    let (_dir, dir) = folder();
    let path = dir.join("app.log");
    let mut stored = Stored::default();
    append(&path, "one\ntwo\n");
    let mut source = open(&following(&path), Framing::Lines, &Cursor::new());
    stored.drain(&mut source).await;
    fs::write(&path, "1\n").unwrap();
    stored.drain(&mut source).await;
    fs::write(&path, "3\n4\n5\n6\n").unwrap();
    stored.drain(&mut source).await;
    drop(source);
    fs::write(&path, "7\n8\n9\n0\n").unwrap();
    stored.read_all(&following(&path), Framing::Lines).await;
    assert_eq!(stored.lines(), ["one", "two", "1", "3", "4", "5", "6", "7", "8", "9", "0"]);
}

/// What may happen to a log while it is followed.
#[derive(Debug, Clone)]
enum Event {
    /// The writer adds lines.
    Lines(usize),
    /// The writer adds a piece of a line; the next lines end it.
    Piece,
    /// `mv app.log app.log.N`; the writer goes on with the old file for some lines, then opens the new one.
    Rotate { late: usize },
    /// `cp app.log …; truncate app.log`, as far as it was read.
    Truncate,
    /// The source reads this many times.
    Read { times: usize, store: bool },
    /// The source stops and starts again behind what was stored.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1_usize..5).prop_map(Event::Lines),
        1 => Just(Event::Lines(9_000)),
        2 => Just(Event::Piece),
        2 => (0_usize..3).prop_map(|late| Event::Rotate { late }),
        1 => Just(Event::Truncate),
        5 => (1_usize..4, any::<bool>()).prop_map(|(times, store)| Event::Read { times, store }),
        2 => Just(Event::Restart),
    ]
}

struct Writer {
    dir: PathBuf,
    path: PathBuf,
    written: usize,
    rotations: usize,
    half: bool,
}

impl Writer {
    fn lines(&mut self, path: &Path, count: usize) {
        let mut text = String::new();
        for _ in 0..count {
            if !std::mem::take(&mut self.half) {
                text += &format!("line {}", self.written);
            }
            text += "\n";
            self.written += 1;
        }
        append(path, text);
    }

    fn piece(&mut self) {
        if !std::mem::replace(&mut self.half, true) {
            append(&self.path, format!("line {}", self.written));
        }
    }

    fn rotate(&mut self, late: usize) {
        if !self.path.exists() {
            return;
        }
        self.rotations += 1;
        let old = self.dir.join(format!("app.log.{}", self.rotations));
        fs::rename(&self.path, &old).unwrap();
        self.lines(&old.clone(), late.max(usize::from(self.half)));
    }
}

/// What the cursor says of the file that now has this path.
fn entry(path: &Path, cursor: &Cursor) -> Option<bytes::Bytes> {
    let meta = path.metadata().ok()?;
    cursor.get(&FileId { dev: meta.dev(), inode: meta.ino() }.key()).cloned()
}

async fn play(events: Vec<Event>, glob: bool) {
    let (_dir, dir) = folder();
    let path = dir.join("app.log");
    let mut writer = Writer { dir: dir.clone(), path: path.clone(), written: 0, rotations: 0, half: false };
    let config = FileSourceConfig {
        poll_interval: HumanDuration(Duration::from_micros(100)),
        ..following(&if glob { dir.join("app.log*") } else { path.clone() })
    };
    let mut stored = Stored::default();
    let mut source = open(&config, Framing::Lines, &stored.cursor);
    let mut cut = None;
    for event in events.into_iter().chain([Event::Lines(1)]) {
        match event {
            Event::Lines(count) => writer.lines(&path, count),
            Event::Piece => writer.piece(),
            // What had gone before it was ever read, or ever read since it was cut, can't be known to have been there.
            Event::Rotate { late } if glob || entry(&path, &stored.cursor).is_some_and(|entry| Some(entry) != cut) => {
                writer.rotate(late)
            }
            Event::Rotate { .. } => {}
            Event::Truncate => {
                // Cutting loses what was not read; here only what comes after it matters.
                source = open(&config, Framing::Lines, &stored.cursor);
                stored.drain(&mut source).await;
                if path.exists() && !writer.half {
                    fs::write(&path, "").unwrap();
                    stored.drain(&mut source).await;
                    cut = entry(&path, &stored.cursor);
                }
            }
            Event::Read { times, store } => {
                for _ in 0..times {
                    match source.next().await.unwrap() {
                        SourceRead::Batch(batch) if store => stored.store(batch),
                        SourceRead::Batch(_) => {
                            // Not stored: the pipeline crashed here.
                            source = open(&config, Framing::Lines, &stored.cursor);
                        }
                        SourceRead::Idle => break,
                        SourceRead::Finished => unreachable!("a followed source never finishes"),
                    }
                }
            }
            Event::Restart => source = open(&config, Framing::Lines, &stored.cursor),
        }
    }
    stored.drain(&mut source).await;
    stored.drain(&mut source).await;
    let mut read: Vec<usize> = stored.lines().iter().map(|line| line["line ".len()..].parse().unwrap()).collect();
    read.sort_unstable();
    assert!(read == (0..writer.written).collect::<Vec<_>>(), "every line once: {} of {}", read.len(), writer.written);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_read_once_across_rotation_truncation_and_restart(
        events in proptest::collection::vec(event(), 1..40),
        glob: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(events, glob));
    }
}

#[tokio::test]
async fn the_status_says_what_is_waited_for() {
    let (_dir, dir) = folder();
    let said = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = said.clone();
    let context = SourceContext {
        status: Arc::new(move |status: SourceStatus<'_>| heard.lock().push(format!("{status:?}"))),
        ..SourceContext::new("wire", Framing::Lines)
    };
    let mut source =
        FileSource::new(&following(&dir.join("none.log")).checked(Path::new("")).unwrap(), context).unwrap();
    assert!(matches!(source.next().await.unwrap(), SourceRead::Idle));
    assert!(said.lock()[0].contains("none.log"));
}
