//! Files as they are found in the wild: every kind of line end, quotes that stay open, files that can't be read,
//! copies, other encodings, gzip.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::clock::ManualClock;
use millstream_core::{Cursor, FailureKind, HumanDuration, SourceRead};

use super::tests::{Stored, append, bounded, csv, folder, following, open};
use super::{Compression, FileSource, FileSourceConfig, Identity};
use crate::context::{SourceContext, SourceStatus};
use crate::format::{CsvDialect, Framing, TextEncoding};

fn refusals(stored: &Stored) -> Vec<FailureKind> {
    stored.batches.iter().flat_map(|batch| &batch.refused).map(|refused| refused.failure.kind).collect()
}

/// A source that tells what it has trouble with.
fn telling(config: &FileSourceConfig, context: SourceContext) -> (FileSource, Arc<parking_lot::Mutex<Vec<String>>>) {
    let said = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = said.clone();
    let status = Arc::new(move |status: SourceStatus<'_>| {
        if let SourceStatus::Trouble { why } = status {
            heard.lock().push(why.to_owned());
        }
    });
    (FileSource::new(&config.checked(Path::new("")).unwrap(), SourceContext { status, ..context }).unwrap(), said)
}

#[tokio::test]
async fn a_file_whose_lines_end_with_a_carriage_return_gives_its_rows() {
    let (_dir, dir) = folder();
    for (name, text) in
        [("cr", "id,name\r1,a\r2,b\r"), ("crlf", "id,name\r\n1,a\r\n2,b"), ("lf", "id,name\n1,a\n2,b\n")]
    {
        let path = dir.join(name);
        append(&path, text);
        let mut stored = Stored::default();
        stored.read_all(&bounded(&path), csv()).await;
        assert_eq!(stored.lines(), ["1,a", "2,b"], "{name}");
        assert_eq!(stored.batches[0].header.as_deref(), Some(&b"id,name"[..]));
        let mut stored = Stored::default();
        stored.read_all(&bounded(&path), Framing::Lines).await;
        assert_eq!(stored.lines(), ["id,name", "1,a", "2,b"], "{name}");
    }
    let path = dir.join("followed");
    let mut stored = Stored::default();
    let mut source = open(&following(&path), Framing::Lines, &Cursor::new());
    for piece in ["a\r", "\nb\r", "c\r\n", "\rd\r"] {
        append(&path, piece);
        stored.drain(&mut source).await;
    }
    assert_eq!(stored.lines(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_header_that_no_row_follows_is_said() {
    let (_dir, dir) = folder();
    append(&dir.join("a.csv"), "id,name\n");
    append(&dir.join("b.csv"), "\"id,name\n1,a\n");
    append(&dir.join("c.csv"), "");
    let (mut source, said) = telling(&bounded(&dir), SourceContext::new("in", csv()));
    let mut stored = Stored::default();
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["1,a"], "an open quote does not make a header of all rows");
    let said = said.lock();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("a.csv") && said[0].contains("no row behind its header"), "{said:?}");
}

#[tokio::test]
async fn a_quote_that_stays_open_in_a_followed_file_is_said_and_then_costs_one_row() {
    let (_dir, dir) = folder();
    let path = dir.join("rows.csv");
    append(&path, "id,name\n1,a\n2,\"open\n3,c\n");
    let clock = Arc::new(ManualClock::new(0));
    let context = SourceContext { clock: clock.clone(), ..SourceContext::new("in", csv()) };
    let (mut source, said) = telling(&following(&path), context);
    let mut stored = Stored::default();
    stored.drain(&mut source).await;
    clock.advance_us(5_000_000);
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["1,a"]);
    assert!(said.lock().is_empty());
    clock.advance_us(10_000_000);
    append(&path, "4,d\n");
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["1,a"]);
    assert!(said.lock()[0].contains("rows wait behind it"), "{:?}", said.lock());
    clock.advance_us(20_000_000);
    stored.drain(&mut source).await;
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["1,a", "2,\"open", "3,c", "4,d"]);
    assert_eq!(said.lock().len(), 2, "{:?}", said.lock());

    // A limit of lines ends it without any wait.
    append(&path, "5,\"open\n");
    (0..1100).for_each(|i| append(&path, format!("{i},x\n")));
    stored.drain(&mut source).await;
    assert_eq!(stored.records.len(), 4 + 1101);
}

#[tokio::test]
async fn a_quote_that_stays_open_in_a_header_does_not_stop_a_followed_file() {
    let (_dir, dir) = folder();
    let path = dir.join("rows.csv");
    append(&path, "\"id,name\n1,a\n");
    let clock = Arc::new(ManualClock::new(0));
    let context = SourceContext { clock: clock.clone(), ..SourceContext::new("in", csv()) };
    let (mut source, said) = telling(&following(&path), context);
    let mut stored = Stored::default();
    stored.drain(&mut source).await;
    clock.advance_us(31_000_000);
    stored.drain(&mut source).await;
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["1,a"]);
    assert!(!said.lock().is_empty());
}

/// A user who may read everything has no unreadable files; a name that can't be looked at does for both.
fn unreadable(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("m-secret.log");
    append(&path, "secret\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
    }
    path
}

#[tokio::test]
async fn a_file_that_cant_be_read_is_said_and_the_others_are_read() {
    let (_dir, dir) = folder();
    append(&dir.join("a.log"), "a\n");
    append(&dir.join("z.log"), "z\n");
    let path = unreadable(&dir);
    std::os::unix::fs::symlink("nowhere", dir.join("dangling.log")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket.log")).unwrap();
    for config in [bounded(&dir), bounded(&dir.join("*.log")), following(&dir)] {
        let (mut source, said) = telling(&config, SourceContext::new("in", Framing::Lines));
        let mut stored = Stored::default();
        stored.drain(&mut source).await;
        stored.drain_again(&config, &mut source).await;
        assert_eq!(stored.lines(), ["a", "z"]);
        let said = said.lock();
        for part in ["m-secret.log", "dangling.log: the link leads to nothing", "socket.log: it is neither"] {
            assert_eq!(said.iter().filter(|text| text.contains(part)).count(), 1, "{part}: {said:?}");
        }
    }
    // It is tried again for as long as the source follows.
    let mut stored = Stored::default();
    let mut source = open(&following(&dir), Framing::Lines, &Cursor::new());
    stored.drain(&mut source).await;
    fs::remove_file(&path).unwrap();
    append(&path, "readable\n");
    stored.drain(&mut source).await;
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["a", "z", "readable"]);
}

impl Stored {
    /// A second round, where there is one.
    async fn drain_again(&mut self, config: &FileSourceConfig, source: &mut FileSource) {
        if config.follow {
            self.drain(source).await;
        }
    }
}

#[tokio::test]
async fn a_followed_folder_that_goes_away_and_comes_back_loses_and_repeats_nothing() {
    let (_dir, dir) = folder();
    let logs = dir.join("logs");
    fs::create_dir(&logs).unwrap();
    append(&logs.join("a.log"), "1\n");
    let mut stored = Stored::default();
    let mut source = open(&following(&logs), Framing::Lines, &Cursor::new());
    stored.drain(&mut source).await;
    fs::rename(&logs, dir.join("away")).unwrap();
    for _ in 0..15 {
        stored.drain(&mut source).await;
    }
    fs::rename(dir.join("away"), &logs).unwrap();
    append(&logs.join("a.log"), "2\n");
    stored.drain(&mut source).await;
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["1", "2"]);
}

fn long(from: usize, to: usize) -> String {
    (from..to).map(|i| format!("line {i} {}\n", "-".repeat(50))).collect()
}

fn numbers(stored: &Stored) -> Vec<usize> {
    stored.lines().iter().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn a_file_cut_and_written_anew_with_the_same_beginning_is_read_from_its_beginning() {
    let (_dir, dir) = folder();
    let path = dir.join("app.log");
    append(&path, long(0, 100));
    let mut stored = Stored::default();
    let mut source = open(&following(&path), Framing::Lines, &Cursor::new());
    stored.drain(&mut source).await;
    let mut anew: Vec<usize> = (0..50).chain(500..600).collect();
    let text: String = anew.iter().map(|i| long(*i, i + 1)).collect();
    fs::write(&path, &text).unwrap();
    stored.drain(&mut source).await;
    let mut expected: Vec<usize> = (0..100).collect();
    expected.append(&mut anew);
    assert_eq!(numbers(&stored), expected, "longer, with the same first KiB");
    // The same while the source is stopped.
    drop(source);
    fs::write(&path, long(0, 40) + &long(700, 900)).unwrap();
    stored.read_all(&following(&path), Framing::Lines).await;
    expected.extend((0..40).chain(700..900));
    assert_eq!(numbers(&stored), expected);
}

#[tokio::test]
async fn log_rotation_by_copy_and_truncation_neither_loses_nor_repeats() {
    for lines in [3, 100] {
        let (_dir, dir) = folder();
        let path = dir.join("app.log");
        let mut stored = Stored::default();
        append(&path, long(0, lines));
        let mut source = open(&following(&dir), Framing::Lines, &Cursor::new());
        stored.drain(&mut source).await;
        // Lines that come between the last look and the copy are read out of the copy.
        append(&path, long(lines, lines + 2));
        fs::copy(&path, dir.join("app.log.1")).unwrap();
        if lines == 3 {
            // The copy is seen before the cut.
            stored.store(source.next_batch().await.unwrap());
        }
        fs::write(&path, long(lines + 2, lines + 4)).unwrap();
        for _ in 0..4 {
            stored.drain(&mut source).await;
        }
        assert_eq!(numbers(&stored), (0..lines + 4).collect::<Vec<_>>(), "{lines} lines");
    }
}

#[tokio::test]
async fn a_copy_of_a_file_that_was_read_is_not_read_again() {
    let (_dir, dir) = folder();
    append(&dir.join("a.log"), long(0, 100));
    append(&dir.join("short.log"), "one\n");
    let mut stored = Stored::default();
    stored.read_all(&bounded(&dir), Framing::Lines).await;
    fs::copy(dir.join("a.log"), dir.join("b.log")).unwrap();
    append(&dir.join("b.log"), long(100, 110));
    fs::copy(dir.join("short.log"), dir.join("short2.log")).unwrap();
    stored.read_all(&bounded(&dir), Framing::Lines).await;
    assert_eq!(stored.lines()[101..].len(), 11, "what was added to the copy; and the short one, which may be none");
    stored.read_all(&bounded(&dir), Framing::Lines).await;
    assert_eq!(stored.records.len(), 112);
    // Told so, it goes by the content alone, or not at all.
    fs::copy(dir.join("short.log"), dir.join("short3.log")).unwrap();
    let by_content = FileSourceConfig { identity: Identity::Content, ..bounded(&dir) };
    stored.read_all(&by_content, Framing::Lines).await;
    assert_eq!(stored.records.len(), 112);
    fs::copy(dir.join("a.log"), dir.join("c.log")).unwrap();
    let by_inode = FileSourceConfig { identity: Identity::Inode, ..bounded(&dir) };
    stored.read_all(&by_inode, Framing::Lines).await;
    assert_eq!(stored.records.len(), 212);
}

#[tokio::test]
async fn a_file_restored_from_a_backup_is_read_on() {
    for (follow, text) in [(false, "1\n2\n".to_owned()), (true, "1\n2\n".to_owned()), (true, long(0, 100))] {
        let (_dir, dir) = folder();
        let path = dir.join("app.log");
        let config = if follow { following(&path) } else { bounded(&path) };
        append(&path, &text);
        let mut stored = Stored::default();
        stored.read_all(&config, Framing::Lines).await;
        let before = stored.records.len();
        let backup = dir.join(".backup");
        fs::copy(&path, &backup).unwrap();
        // So that the inode is not given to the restored file again.
        let _held = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::copy(&backup, &path).unwrap();
        append(&path, "new\n");
        stored.read_all(&config, Framing::Lines).await;
        assert_eq!(stored.lines()[before..], ["new"], "follow: {follow}");
    }
}

#[tokio::test]
async fn two_whole_files_with_one_content_are_one_where_they_are_long() {
    let (_dir, dir) = folder();
    append(&dir.join("a.xml"), "x".repeat(2000));
    append(&dir.join("b.xml"), "<a/>");
    let mut stored = Stored::default();
    stored.read_all(&bounded(&dir), Framing::Whole).await;
    fs::copy(dir.join("a.xml"), dir.join("c.xml")).unwrap();
    fs::copy(dir.join("b.xml"), dir.join("d.xml")).unwrap();
    stored.read_all(&bounded(&dir), Framing::Whole).await;
    assert_eq!(stored.records.iter().map(Vec::len).collect::<Vec<_>>(), [2000, 4, 4]);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn context(framing: Framing, encoding: &str, cursor: &Cursor) -> SourceContext {
    let encoding = Some(TextEncoding::named(encoding).unwrap());
    SourceContext { encoding, cursor: cursor.clone(), ..SourceContext::new("in", framing) }
}

#[tokio::test]
async fn text_in_other_encodings_is_followed_by_its_bytes_in_the_file() {
    let (_dir, dir) = folder();
    let path = dir.join("log");
    append(&path, b"\xff\xfe");
    append(&path, utf16("añ🎈\r\nzw"));
    let mut stored = Stored::default();
    // The mark says what it is, whatever the setting is.
    for piece in ["ei\n", "drei\nv", "ier\n"] {
        let mut source = FileSource::new(
            &following(&path).checked(Path::new("")).unwrap(),
            context(Framing::Lines, "latin1", &stored.cursor),
        )
        .unwrap();
        stored.drain(&mut source).await;
        append(&path, utf16(piece));
        stored.drain(&mut source).await;
    }
    assert_eq!(stored.lines(), ["añ🎈", "zwei", "drei", "vier"]);
    let positions: Vec<u64> = stored.batches.iter().flat_map(|batch| batch.positions.clone()).collect();
    assert_eq!(positions, [2, 14, 24, 34]);

    let path = dir.join("latin.csv");
    append(&path, b"id;n\xe4me\n1;\xe9\n2;\"\xfc\n\xdf\"\n");
    let dialect = CsvDialect { delimiter: b';', ..CsvDialect::default() };
    let mut stored = Stored::default();
    let mut source = FileSource::new(
        &bounded(&path).checked(Path::new("")).unwrap(),
        context(Framing::Csv(dialect), "latin1", &Cursor::new()),
    )
    .unwrap();
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["1;é", "2;\"ü\nß\""]);
    assert_eq!(stored.batches[0].header.as_deref(), Some("id;näme".as_bytes()));
    assert_eq!(stored.batches[0].positions, [8, 12]);
}

#[tokio::test]
async fn bytes_that_are_nothing_in_their_encoding_are_refused_as_they_came() {
    let (_dir, dir) = folder();
    let path = dir.join("log");
    append(&path, [utf16("gut\n"), vec![0x00, 0xd8, b'x', 0], utf16("\nauch gut\n")].concat());
    let mut stored = Stored::default();
    let mut source = FileSource::new(
        &bounded(&path).checked(Path::new("")).unwrap(),
        context(Framing::Lines, "utf-16le", &Cursor::new()),
    )
    .unwrap();
    stored.drain(&mut source).await;
    assert_eq!(stored.records, [b"gut".to_vec(), vec![0x00, 0xd8, b'x', 0], b"auch gut".to_vec()]);
    assert_eq!(refusals(&stored), [FailureKind::Encoding]);
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn gzip_files_are_read_and_a_restart_goes_on_inside() {
    let (_dir, dir) = folder();
    let path = dir.join("a.gz");
    append(&path, [gzip(&long(0, 20_000)), gzip(&long(20_000, 30_000))].concat());
    append(&dir.join("b.log"), long(30_000, 30_010));
    let mut stored = Stored::default();
    loop {
        // A new source for each batch; the one it reads ahead is thrown away.
        let mut source = open(&bounded(&dir), Framing::Lines, &stored.cursor);
        match source.next_batch().await {
            Some(batch) => stored.store(batch),
            None => break,
        }
    }
    assert!(stored.batches.len() > 3);
    assert!(numbers(&stored) == (0..30_010).collect::<Vec<_>>());
    stored.read_all(&bounded(&dir), Framing::Lines).await;
    assert_eq!(stored.records.len(), 30_010, "nothing is new");
    append(&path, gzip(&long(40_000, 40_001)));
    stored.read_all(&bounded(&dir), Framing::Lines).await;
    assert_eq!(numbers(&stored)[30_010..], [40_000], "another member");
    // A log that was compressed when it was rotated holds nothing new.
    append(&dir.join("b.log.1.gz"), gzip(&(long(30_000, 30_010) + &"x".repeat(0))));
    let config = FileSourceConfig { identity: Identity::Content, ..bounded(&dir) };
    stored.read_all(&config, Framing::Lines).await;
    assert_eq!(stored.records.len(), 30_011);
    let plain = FileSourceConfig { compression: Compression::None, ..bounded(&path) };
    let mut stored = Stored::default();
    stored.read_all(&plain, Framing::Whole).await;
    assert!(stored.records[0].starts_with(b"\x1f\x8b"));
}

impl FileSource {
    async fn next_batch(&mut self) -> Option<millstream_core::SourceBatch> {
        match millstream_core::Source::next(self).await.unwrap() {
            SourceRead::Batch(batch) => Some(batch),
            SourceRead::Idle | SourceRead::Finished => None,
        }
    }
}

#[tokio::test]
async fn a_gzip_file_that_is_cut_off_or_damaged_gives_what_it_can_and_says_so() {
    let (_dir, dir) = folder();
    let path = dir.join("a.gz");
    let whole = gzip(&long(0, 3000));
    append(&path, &whole[..whole.len() / 2]);
    let (mut source, said) = telling(&bounded(&path), SourceContext::new("in", Framing::Lines));
    let mut stored = Stored::default();
    stored.drain(&mut source).await;
    let good = stored.records.len() - 1;
    assert!(good > 100 && numbers(&stored)[..good] == (0..good).collect::<Vec<_>>());
    assert_eq!(refusals(&stored), [FailureKind::Malformed]);
    assert!(said.lock()[0].contains("cut off"), "{:?}", said.lock());

    let mut damaged = gzip(&long(0, 10));
    let end = damaged.len() - 8;
    damaged[end] ^= 1;
    let path = dir.join("b.gz");
    append(&path, damaged);
    let (mut source, said) = telling(&bounded(&path), SourceContext::new("in", Framing::Lines));
    let mut stored = Stored::default();
    stored.drain(&mut source).await;
    assert_eq!((stored.records.len(), refusals(&stored).len()), (11, 1));
    assert!(said.lock()[0].contains("damaged"), "{:?}", said.lock());

    // While it is followed, the rest may still come.
    let path = dir.join("c.gz");
    append(&path, &whole[..whole.len() / 2]);
    let mut stored = Stored::default();
    let mut source = open(&following(&path), Framing::Lines, &Cursor::new());
    stored.drain(&mut source).await;
    append(&path, &whole[whole.len() / 2..]);
    stored.drain(&mut source).await;
    stored.drain(&mut source).await;
    assert!(numbers(&stored) == (0..3000).collect::<Vec<_>>());
}

#[tokio::test]
async fn json_documents_of_every_layout_are_read_across_batches_and_restarts() {
    let (_dir, dir) = folder();
    let path = dir.join("a.json");
    let documents: Vec<serde_json::Value> =
        (0..20_000).map(|i| serde_json::json!({"id": i, "deep": {"list": [{"x": i}, "}{"]}})).collect();
    append(&path, serde_json::to_string_pretty(&documents).unwrap());
    append(&path, documents.iter().take(10).map(ToString::to_string).collect::<String>());
    let mut stored = Stored::default();
    loop {
        let mut source = open(&bounded(&path), Framing::Json, &stored.cursor);
        match source.next_batch().await {
            Some(batch) => stored.store(batch),
            None => break,
        }
    }
    let read: Vec<serde_json::Value> = stored.records.iter().map(|r| serde_json::from_slice(r).unwrap()).collect();
    assert_eq!(read.len(), 20_010);
    assert!(read[..20_000] == documents[..] && read[20_000..] == documents[..10]);

    let huge = FileSourceConfig { max_record: millstream_core::ByteSize(100), ..bounded(&dir.join("b.json")) };
    append(&dir.join("b.json"), format!("[\n{{\"a\":\"{}\"}},\n{{\"b\":1}}]", "x".repeat(3 << 20)));
    let mut stored = Stored::default();
    stored.read_all(&huge, Framing::Json).await;
    assert_eq!(refusals(&stored), [FailureKind::TooLarge]);
    assert_eq!(stored.lines()[1], "{\"b\":1}");
}

#[tokio::test]
async fn start_at_the_end_of_json_goes_behind_the_last_document() {
    let (_dir, dir) = folder();
    let path = dir.join("a.json");
    append(&path, "{\"a\":1}\n{\n  \"a\": 2\n}\n{\"a\":");
    let config = FileSourceConfig {
        start: super::StartAt::End,
        poll_interval: HumanDuration(Duration::from_millis(2)),
        ..following(&path)
    };
    let mut stored = Stored::default();
    let mut source = open(&config, Framing::Json, &Cursor::new());
    stored.drain(&mut source).await;
    append(&path, "3}");
    stored.drain(&mut source).await;
    assert_eq!(stored.lines(), ["{\"a\":3}"]);
}
