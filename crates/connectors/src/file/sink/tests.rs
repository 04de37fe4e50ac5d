//! Files as a crash leaves them, and as readers read them.

use arrow::datatypes::SchemaRef;
use millstream_core::{ErrorKind, ManualClock};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::payload::tests::{NOW_US, change_schema, changes, context, ids, row_schema, rows};

fn sink(folder: &TempDir, settings: serde_json::Value) -> FileSink {
    named("out", folder, settings)
}

fn named(name: &str, folder: &TempDir, mut settings: serde_json::Value) -> FileSink {
    settings["folder"] = folder.path().join("files").to_str().unwrap().into();
    let context = SinkContext { name: name.into(), ..context() };
    FileSink::new(&checked(settings, &row_schema()), context).unwrap()
}

fn checked(settings: serde_json::Value, schema: &SchemaRef) -> FileSinkSpec {
    let config: FileSinkConfig = serde_json::from_value(settings).unwrap();
    config.checked(Path::new(""), schema).unwrap()
}

/// A sink for change streams.
fn of_changes(folder: &TempDir, mut settings: serde_json::Value) -> FileSink {
    settings["folder"] = folder.path().join("files").to_str().unwrap().into();
    settings["name"] = "n".into();
    FileSink::new(&checked(settings, &change_schema()), context()).unwrap()
}

/// Every file, hidden ones too, with its text.
fn files(folder: &TempDir) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(folder.path().join("files")) else { return Vec::new() };
    let mut all: Vec<_> = entries
        .map(|e| e.unwrap())
        .map(|e| {
            (e.file_name().into_string().unwrap(), String::from_utf8_lossy(&fs::read(e.path()).unwrap()).into_owned())
        })
        .collect();
    all.sort();
    all
}

fn names(folder: &TempDir) -> Vec<String> {
    files(folder).into_iter().map(|(name, _)| name).collect()
}

fn line(id: u64) -> String {
    format!("{{\"id\":{id},\"headline\":null,\"at\":null,\"sentiment\":null}}\n")
}

#[tokio::test]
async fn a_file_appears_only_when_whole() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(&folder, json!({}));
    sink.recover(None).await.unwrap();
    assert_eq!(sink.seal(NOW_US).await.unwrap(), None);
    sink.stage(&ids(5, 2)).await.unwrap();
    sink.stage(&ids(7, 1)).await.unwrap();
    assert_eq!(names(&folder), [".p~out~0-000000000005.part"]);
    let token = sink.seal(NOW_US).await.unwrap().unwrap();
    assert_eq!(names(&folder), [".p~out~0-000000000005.part"]);
    sink.publish(token.clone()).await.unwrap();
    let expected = [("out-2024-05-01-0-000000000005.jsonl".to_owned(), line(5) + &line(6) + &line(7))];
    assert_eq!(files(&folder), expected);
    sink.publish(token).await.unwrap();
    assert_eq!(files(&folder), expected);
    assert_eq!(sink.seal(NOW_US).await.unwrap(), None);
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing_and_doubles_nothing() {
    // What the caller has stored when it is killed, by the step before which it is.
    for step in ["stage", "seal", "store", "publish", "forget", "done"] {
        let folder = TempDir::new().unwrap();
        let (mut stored, mut next) = (None, 0);
        let mut first = sink(&folder, json!({}));
        first.recover(None).await.unwrap();
        'run: {
            if step == "stage" {
                break 'run;
            }
            first.stage(&ids(0, 3)).await.unwrap();
            if step == "seal" {
                break 'run;
            }
            let token = first.seal(NOW_US).await.unwrap().unwrap();
            if step == "store" {
                break 'run;
            }
            (stored, next) = (Some(token.clone()), 3);
            if step == "publish" {
                break 'run;
            }
            first.publish(token).await.unwrap();
            if step == "done" {
                first.stage(&ids(3, 1)).await.unwrap();
            }
        }
        drop(first);

        let mut second = sink(&folder, json!({}));
        second.recover(stored.clone()).await.unwrap();
        assert!(names(&folder).iter().all(|n| !n.starts_with('.')), "{step}: {:?}", names(&folder));
        // Killed again before anything new was stored.
        drop(second);
        let mut third = sink(&folder, json!({}));
        third.recover(stored).await.unwrap();
        third.stage(&ids(next, 5 - next)).await.unwrap();
        let token = third.seal(NOW_US).await.unwrap().unwrap();
        third.publish(token).await.unwrap();
        let text: String = files(&folder).into_iter().map(|(_, text)| text).collect();
        assert_eq!(text, (0..5).map(line).collect::<String>(), "{step}");
    }
}

#[tokio::test]
async fn recovery_leaves_the_files_of_others_alone() {
    let folder = TempDir::new().unwrap();
    let mut other = named("out~2", &folder, json!({}));
    other.stage(&ids(0, 1)).await.unwrap();
    let mut longer = named("outer", &folder, json!({}));
    longer.stage(&ids(0, 1)).await.unwrap();
    let here = folder.path().join("files");
    fs::write(here.join(".p~out~notes.part"), "").unwrap();
    fs::write(here.join("data.part"), "").unwrap();
    fs::write(here.join(".p~out~0-000000000001.part"), "").unwrap();
    sink(&folder, json!({})).recover(None).await.unwrap();
    assert_eq!(
        names(&folder),
        [".p~outer~0-000000000000.part", ".p~out~2~0-000000000000.part", ".p~out~notes.part", "data.part"]
            .map(str::to_owned)
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let folder = TempDir::new().unwrap();
    for _ in 0..3 {
        let mut sink = sink(&folder, json!({"name": "a"}));
        sink.stage(&ids(0, 1)).await.unwrap();
        let token = sink.seal(NOW_US).await.unwrap().unwrap();
        sink.publish(token).await.unwrap();
    }
    assert_eq!(names(&folder), ["a-0-000000000000-2.jsonl", "a-0-000000000000-3.jsonl", "a-0-000000000000.jsonl"]);
    let mut late = sink(&folder, json!({"name": "b"}));
    late.stage(&ids(0, 1)).await.unwrap();
    let token = late.seal(NOW_US).await.unwrap().unwrap();
    fs::write(folder.path().join("files/b-0-000000000000.jsonl"), "others").unwrap();
    let error = late.publish(token).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("exists already"), "{error}");
}

#[tokio::test]
async fn names_take_the_moment_of_closing_and_may_make_subfolders() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(&folder, json!({"name": "date=%Y-%m-%d/hour=%H/news-%M%S"}));
    sink.stage(&ids(0, 1)).await.unwrap();
    let token = sink.seal(NOW_US).await.unwrap().unwrap();
    sink.publish(token).await.unwrap();
    let path = folder.path().join("files/date=2024-05-01/hour=12/news-0010-0-000000000000.jsonl");
    assert_eq!(fs::read_to_string(path).unwrap(), line(0));
}

#[tokio::test]
async fn a_file_is_due_by_size_or_by_age() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::new(NOW_US));
    let settings = json!({"folder": folder.path().to_str().unwrap(), "roll": {"size": "1KiB", "interval": "60s"}});
    let context = SinkContext { clock: clock.clone(), ..context() };
    let mut sink = FileSink::new(&checked(settings, &row_schema()), context).unwrap();
    assert!(!sink.due(NOW_US + 3_600_000_000));
    sink.stage(&ids(0, 1)).await.unwrap();
    assert!(!sink.due(NOW_US + 59_999_999));
    assert!(sink.due(NOW_US + 60_000_000));
    sink.stage(&ids(1, 30)).await.unwrap();
    assert!(sink.due(NOW_US));
    sink.seal(NOW_US).await.unwrap();
    assert!(!sink.due(NOW_US + 3_600_000_000));
}

#[tokio::test]
async fn csv_reads_back() {
    let folder = TempDir::new().unwrap();
    let mut sink = of_changes(&folder, json!({"encode": "csv", "image": "new"}));
    sink.stage(&changes()).await.unwrap();
    sink.stage(&changes()).await.unwrap();
    let token = sink.seal(NOW_US).await.unwrap().unwrap();
    sink.publish(token).await.unwrap();
    assert_eq!(names(&folder), ["n-2-000000000007.csv"]);
    let mut reader = csv::Reader::from_path(folder.path().join("files/n-2-000000000007.csv")).unwrap();
    assert_eq!(reader.headers().unwrap(), vec!["id", "headline", "at", "sentiment"]);
    let records: Vec<_> = reader.records().map(|r| r.unwrap()).collect();
    assert_eq!(records.len(), 4);
    assert_eq!(records[1], vec!["1", "\"1\", ü", "2024-05-01T12:00:00Z", r#"{"label":"negative","score":0.5}"#]);
}

#[tokio::test]
async fn parquet_reads_back_the_same_rows() {
    let folder = TempDir::new().unwrap();
    let mut sink = of_changes(&folder, json!({"encode": "parquet"}));
    let batch = changes();
    sink.stage(&batch).await.unwrap();
    let token = sink.seal(NOW_US).await.unwrap().unwrap();
    sink.publish(token).await.unwrap();
    let file = File::open(folder.path().join("files/n-2-000000000007.parquet")).unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    assert_eq!(reader.next().unwrap().unwrap(), batch.batch);
    assert!(reader.next().is_none());
}

#[tokio::test]
async fn json_lines_hold_the_whole_change() {
    let folder = TempDir::new().unwrap();
    let mut sink = of_changes(&folder, json!({}));
    sink.stage(&changes()).await.unwrap();
    let token = sink.seal(NOW_US).await.unwrap().unwrap();
    sink.publish(token).await.unwrap();
    let text = files(&folder).remove(0).1;
    let values: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(values[2]["op"], "delete");
    assert_eq!(values[2]["new"], serde_json::Value::Null);
    assert_eq!(values[1]["old"]["sentiment"]["label"], "positive");
    assert_eq!(values[1]["ts"], "2024-05-01T12:00:02Z");
    assert_eq!(values[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["op", "ts", "key", "old", "new"]);
}

#[tokio::test]
async fn a_batch_of_deletes_makes_no_file_of_new_images() {
    let folder = TempDir::new().unwrap();
    let mut sink = of_changes(&folder, json!({"image": "new"}));
    let all = changes();
    let delete = SinkBatch { offsets: vec![10], batch: all.batch.slice(2, 1), ..all };
    sink.stage(&delete).await.unwrap();
    assert_eq!(sink.seal(NOW_US).await.unwrap(), None);
    assert_eq!(names(&folder), [] as [String; 0]);
}

#[tokio::test]
async fn what_the_disk_refuses_says_where_and_what_to_do() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("files"), "not a folder").unwrap();
    let mut sink = sink(&folder, json!({}));
    let error = sink.stage(&ids(0, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("sink out: make folder"), "{error}");
    // What the file would hold is not known any more, so nothing can be sealed by mistake.
    assert_eq!(sink.seal(NOW_US).await.unwrap_err().kind(), ErrorKind::Bug);
}

/// Opening `/dev/full` works, writing does not: the same error as on a full disk.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_an_error_with_advice() {
    for format in ["json", "csv", "parquet"] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let sink = sink(&TempDir::new().unwrap(), json!({"encode": format}));
        let (piece, _, _) = sink.piece(&ids(0, 1000)).unwrap();
        let mut writer = Writer::new(full, &piece).unwrap();
        let error = match writer.write(&piece) {
            Ok(()) => writer.finish().unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::Environment, "{format}: {error}");
        assert!(error.to_string().contains("the disk is full: free some space"), "{format}: {error}");
    }
}

#[tokio::test]
async fn a_sealed_file_whose_folder_is_gone_stops_the_recovery() {
    let folder = TempDir::new().unwrap();
    let mut first = sink(&folder, json!({}));
    first.stage(&ids(0, 1)).await.unwrap();
    let token = first.seal(NOW_US).await.unwrap();
    fs::rename(folder.path().join("files"), folder.path().join("elsewhere")).unwrap();
    let error = sink(&folder, json!({})).recover(token.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("bring it back"), "{error}");
    fs::rename(folder.path().join("elsewhere"), folder.path().join("files")).unwrap();
    // Found in its old place even where the settings name another by now.
    let spec = checked(json!({"folder": folder.path().join("new").to_str().unwrap()}), &row_schema());
    FileSink::new(&spec, context()).unwrap().recover(token).await.unwrap();
    assert_eq!(names(&folder), ["out-2024-05-01-0-000000000000.jsonl"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_laid_where_a_file_will_be_is_not_written_through() {
    let folder = TempDir::new().unwrap();
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let mut sink = sink(&folder, json!({}));
    sink.recover(None).await.unwrap();
    fs::create_dir(folder.path().join("files")).unwrap();
    for name in [".p~out~0-000000000005.part", "out-2024-05-01-0-000000000005.jsonl"] {
        std::os::unix::fs::symlink(&victim, folder.path().join("files").join(name)).unwrap();
    }
    sink.stage(&ids(5, 1)).await.unwrap();
    let token = sink.seal(NOW_US).await.unwrap().unwrap();
    sink.publish(token).await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let copy = folder.path().join("files/out-2024-05-01-0-000000000005-2.jsonl");
    assert_eq!(fs::read_to_string(&copy).unwrap(), line(5), "beside the one that is there");
    assert!(!fs::symlink_metadata(&copy).unwrap().is_symlink());
}

#[tokio::test]
async fn a_row_that_is_no_record_is_a_failure_of_its_own_and_the_others_are_written() {
    let folder = TempDir::new().unwrap();
    let batch =
        rows(0, &[json!({"id": 1, "headline": "one"}), json!({"id": 2}), json!({"id": 3, "headline": "two\nlines"})]);
    let mut raw = sink(&folder, json!({"encode": {"format": "raw", "column": "headline"}, "name": "raw"}));
    let failures = raw.stage(&batch).await.unwrap();
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [1]);
    assert!(failures[0].failure.message.contains("`headline` is null"), "{failures:?}");
    let token = raw.seal(NOW_US).await.unwrap().unwrap();
    raw.publish(token).await.unwrap();
    let template = json!({"format": "text", "template": "{id}: {headline}"});
    let mut text = sink(&folder, json!({"encode": template, "name": "text"}));
    let failures = text.stage(&batch).await.unwrap();
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [2]);
    assert!(failures[0].failure.message.contains("line break"), "{failures:?}");
    let token = text.seal(NOW_US).await.unwrap().unwrap();
    text.publish(token).await.unwrap();
    let found = files(&folder);
    let found: Vec<_> = found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let expected = [("raw-0-000000000000.bin", "onetwo\nlines"), ("text-0-000000000000.txt", "1: one\n2: null\n")];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_batch_of_which_nothing_is_a_record_makes_no_file() {
    let folder = TempDir::new().unwrap();
    let mut sink = sink(&folder, json!({"encode": {"format": "raw", "column": "headline"}}));
    assert_eq!(sink.stage(&ids(0, 2)).await.unwrap().len(), 2);
    assert_eq!(sink.seal(NOW_US).await.unwrap(), None);
}
